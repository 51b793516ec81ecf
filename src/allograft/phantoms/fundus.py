"""Synthetic fundus photographs: the eyes have the same distribution at every site, only the camera
differs.

Research and testing only: vessels are grown by a random branching process, from no patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from allograft.phantoms.parts import (
    Row,
    blurred,
    check_instrument,
    check_request,
    draws,
    places,
    smooth_field,
    subjects_of,
    to_bytes,
    write_cohort,
)

RETINA, DISC = (0.80, 0.40, 0.20), (0.98, 0.82, 0.55)
"""Colours of the retina and of the optic disc, as shares of white in red, green and blue."""
ARTERY, VEIN = (0.10, 0.42, 0.30), (0.24, 0.62, 0.42)
"""The share of red, green and blue that a vessel takes away."""
VIEW = 0.94
"""Radius of the field of view in half image sides."""
STEP, STEPS, THINNEST = 0.035, 56, 0.009
"""Length of a step of growth, their number, and the half-width at which a vessel ends, in half
image sides."""


@dataclass(frozen=True)
class Camera:
    """How a site turns an eye into pixels. ``SpecError`` for a value out of range.

    >>> Camera(blur=1.0).noise
    0.01
    """

    illumination: float = 0.1  # largest absolute log gain of the smooth illumination field
    vignette: float = 0.15  # share of the light that is lost at the rim of the field of view
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gains of red, green and blue
    contrast: float = 1.0  # factor on what vessels take away
    blur: float = 0.3  # standard deviation of the point spread function, pixels
    noise: float = 0.01  # standard deviation in each channel, as a share of white

    def __post_init__(self) -> None:
        check_instrument("camera", asdict(self))


SHIFTS: Mapping[str, Camera] = MappingProxyType(
    {
        "none": Camera(),
        "subtle": Camera(illumination=0.2, vignette=0.25, tint=(0.95, 0.9, 0.85), contrast=0.9, blur=0.4, noise=0.012),
        "severe": Camera(illumination=0.45, vignette=0.4, tint=(0.8, 0.65, 0.45), contrast=0.7, blur=0.6, noise=0.02),
    }
)

# "a" is the source; "d" is the control: another site with the source's camera
SITES: Mapping[str, str] = MappingProxyType({"a": "none", "b": "severe", "c": "subtle", "d": "none"})


@dataclass(frozen=True, eq=False)
class Eye:
    """One eye on a grid of (size, size): what there is, before any camera.

    Args:
        artery, vein: how much of each pixel a vessel covers, 0 to 1.
        disc: the same for the optic disc.
        pigment: log brightness of the retina, smooth.
        view: the field of view, bool.
    """

    artery: NDArray[np.float64]
    vein: NDArray[np.float64]
    disc: NDArray[np.float64]
    pigment: NDArray[np.float64]
    view: NDArray[np.bool_]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """1 where at least half of a pixel of the field of view is vessel."""
        return ((np.maximum(self.artery, self.vein) >= 0.5) & self.view).astype(np.uint8)


def grow_tree(rng: np.random.Generator, disc: NDArray[np.float64], side: float, width: float) -> NDArray[np.float64]:
    """Grow the vessels of one kind out of the optic disc, all tips at once.

    A tip goes on for a short step, turns a little at random, the first four also along the arcades
    around the macula, and now and then parts in two, whose half-widths keep the sum of their cubes
    (Murray 1926). It ends when it is too thin, leaves the field of view, or comes near the centre
    of the macula.

    Args:
        disc: (2,) centre of the optic disc, (down, right) in half image sides.
        side: 1.0 where the disc lies to the right of the macula, -1.0 to the left.
        width: half-width of the first four branches.

    Returns:
        (S, 2, 3) segments: down, right and half-width of either end, in half image sides.

    >>> grow_tree(np.random.default_rng(0), np.array([0.0, 0.4]), 1.0, 0.03).shape[1:]
    (2, 3)
    """
    ups, outs = (
        np.array([-1.0, -1.0, 1.0, 1.0]),
        np.array([-1.0, 1.0, -1.0, 1.0]),
    )  # up or down; towards the macula or away from it
    # of (down, right) = (cos, sin)
    heading = np.arctan2(side * outs * 0.45, ups) + rng.normal(0, 0.15, 4)
    bend = side * ups * outs * np.array([0.9, 0.4, 0.9, 0.4])
    half = width * rng.uniform(0.85, 1.15, 4) * np.where(outs < 0, 1.0, 0.8)
    start = disc[:, None] + 0.03 * rng.uniform(0.2, 1.0, 4) * np.stack([np.cos(heading), np.sin(heading)])
    tips = np.stack([*start, half, heading, bend])  # (5, tips)
    centre, segments = macula(disc, side), []
    for _ in range(STEPS):
        before = tips[:3].copy()
        number: int = tips.shape[1]
        tips[3] += STEP * tips[4] + rng.normal(0, 0.13, number)
        tips[0] += STEP * np.cos(tips[3])
        tips[1] += STEP * np.sin(tips[3])
        segments.append(np.stack([before.T, np.stack([tips[0], tips[1], before[2]], 1)], 1))
        parts, share, turn = rng.random(number) < 0.09, rng.uniform(0.25, 0.5, number), rng.uniform(-0.5, 0.5, number)
        turn = (turn + np.copysign(0.5, turn)) * parts  # half a radian to one, to either side
        child = tips[:, parts].copy()
        child[2] *= share[parts] ** (1 / 3)  # the share of the cube that goes to the thinner one
        child[3] += turn[parts]
        child[4] = 0
        tips[2] *= 0.992 * np.where(parts, (1 - share) ** (1 / 3), 1.0)
        tips[3] -= 0.25 * turn
        tips = np.concatenate([tips, child], 1)
        near = (tips[0] - centre[0]) ** 2 + (tips[1] - centre[1]) ** 2 < 0.17**2
        tips = tips[:, (tips[2] > THINNEST) & (tips[0] ** 2 + tips[1] ** 2 < VIEW**2) & ~near]
        if not tips.shape[1]:
            break
    return np.concatenate(segments)


def macula(disc: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """(2,) centre of the macula of the optic disc at ``disc``, (down, right) in half image
    sides."""
    return disc + np.array([0.05, -0.55 * side])


def draw_vessels(segments: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Rasterise (S, 2, 3) segments: (size, size) coverage from 0 to 1, each pixel by its distance
    to the nearest centre line.

    A vessel is at least one pixel wide.

    >>> bool(draw_vessels(np.array([[[0.0, -0.5, 0.1], [0.0, 0.5, 0.1]]]), 40)[20, 20] == 1)
    True
    """
    dense = max(2, int(np.ceil(STEP * size)) + 1)
    along = np.linspace(0, 1, dense)[None, :, None]
    points = (segments[:, :1] * (1 - along) + segments[:, 1:] * along).reshape(-1, 3)
    centre, radius = (points[:, :2] + 1) / 2 * size - 0.5, np.maximum(points[:, 2] * size / 2, 0.5)
    reach = int(np.ceil(radius.max())) + 1
    window = np.arange(-reach, reach + 1)
    down, right = (np.rint(centre[:, axis])[:, None].astype(int) + window for axis in (0, 1))
    apart = np.hypot((down - centre[:, :1])[:, :, None], (right - centre[:, 1:])[:, None, :])
    cover = (radius[:, None, None] - apart + 0.5).clip(0, 1)
    padded = np.zeros((size + 2 * reach + 2,) * 2)
    inside = [(axis + reach + 1).clip(0, len(padded) - 1) for axis in (down, right)]
    np.maximum.at(padded, (inside[0][:, :, None], inside[1][:, None, :]), cover)
    return padded[reach + 1 : reach + 1 + size, reach + 1 : reach + 1 + size]


def draw_eye(rng: np.random.Generator, size: int) -> Eye:
    """Draw one eye, left or right.

    >>> sorted(np.unique(draw_eye(np.random.default_rng(0), 64).mask).tolist())
    [0, 1]
    """
    side = float(rng.choice([-1.0, 1.0]))
    disc = np.array([rng.uniform(-0.08, 0.08), side * rng.uniform(0.38, 0.50)])
    radius = rng.uniform(0.12, 0.16)
    width = rng.uniform(0.024, 0.032)
    vein, artery = (draw_vessels(grow_tree(rng, disc, side, factor * width), size) for factor in (1.2, 0.9))
    down, right = places(size)
    edge = np.hypot(down - disc[0], (right - disc[1]) * rng.uniform(0.95, 1.15)) - radius
    centre = macula(disc, side)
    dark = np.exp(-((down - centre[0]) ** 2 + (right - centre[1]) ** 2) / (2 * 0.14**2))
    pigment = 0.05 * smooth_field(rng, size, 12) + 0.10 * smooth_field(rng, size, 4) - rng.uniform(0.25, 0.45) * dark
    return Eye(artery, vein, (0.5 - edge * size / 4).clip(0, 1), pigment, np.hypot(down, right) < VIEW)


def photograph(eye: Eye, camera: Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Photograph an eye (size, size): (size, size, 3) uint8, black outside the field of view. The
    draws are the same for every camera.

    >>> photograph(draw_eye(np.random.default_rng(0), 48), SHIFTS["severe"], np.random.default_rng(1)).shape
    (48, 48, 3)
    """
    size = len(eye.disc)
    field = smooth_field(rng, size, 3)
    field = field - field.mean()
    down, right = places(size)
    light = np.exp(camera.illumination * field / np.abs(field).max() + 0.1 * rng.standard_normal())
    light = light * (1 - camera.vignette * (down**2 + right**2) / VIEW**2).clip(0)
    colour = np.asarray(RETINA) * np.exp(eye.pigment)[..., None]
    colour = colour + eye.disc[..., None] * (np.asarray(DISC) - colour)
    for cover, taken in ((eye.artery, ARTERY), (eye.vein, VEIN)):
        colour = colour * (1 - camera.contrast * cover[..., None] * np.asarray(taken)).clip(0)
    seen = blurred(colour * light[..., None] * np.asarray(camera.tint), camera.blur)
    noisy = seen + camera.noise * rng.standard_normal(seen.shape)
    return to_bytes(noisy * eye.view[..., None])


def write_fundus(
    out: Path, *, dims: int = 2, sites: Mapping[str, str] = SITES, subjects: int = 12, size: int = 64, seed: int = 0
) -> Path:
    """Write a cohort of fundus photographs whose sites differ in appearance alone; the same
    arguments write the same bytes.

    8-bit RGB PNG; masks of the vessels (1) and regions, the field of view (1). ``shift.json``
    beside the manifest states each site's camera.

    Args:
        out: folder, made if absent; files of the same names are replaced. ``OutputError`` when it
            cannot be written.
        dims: 2.
        sites: site name -> name in `SHIFTS`. Default: ``a`` the source, ``b`` severe, ``c`` subtle,
            ``d`` a control without a shift.
        subjects: subjects per site, one image each. No subject is at two sites.
        size: pixels along each axis, at least 32.
        seed: of all draws. A subject depends on (seed, site, number) only: more sites or subjects
            leave the others as they are.

    Returns the path of ``manifest.csv`` (``image,mask,region,subject,site``). ``SpecError`` for an
    unknown shift, bad site name or number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_fundus(Path(folder), sites={"a": "none"}, subjects=1, size=32).read_text().splitlines()[1])
    images/a-000.png,masks/a-000.png,regions/a-000.png,a-000,a
    """
    check_request("fundus", dims, sites, SHIFTS, (subjects, size))

    def rows() -> Iterator[Row]:
        for site, shift, _, subject in subjects_of(sites, subjects):
            eye = draw_eye(draws(seed, "eye", site, subject), size)
            image = photograph(eye, SHIFTS[shift], draws(seed, "photograph", site, subject))
            yield {
                "image": image,
                "mask": eye.mask,
                "region": eye.view.astype(np.uint8),
                "subject": subject,
                "site": site,
            }

    cameras = {site: {"shift": shift, **asdict(SHIFTS[shift])} for site, shift in sites.items()}
    facts = {"phantom": "fundus", "dims": dims, "size": size, "subjects": subjects, "seed": seed, "sites": cameras}
    return write_cohort(Path(out), rows(), facts)
