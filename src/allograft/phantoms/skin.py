"""Synthetic photographs of skin lesions on skin of a known tone; which lesions stand on which skin
may be confounded on purpose.

Research and testing only: lesions are drawn from random outlines, from no patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError
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

CLASSES = ("naevus", "melanoma")
ANGLES = ((57.0, 68.0), (43.0, 53.0), (30.0, 39.0), (20.5, 26.5), (11.5, 17.5), (-35.0, 5.0))
"""Typology angles that skin of Fitzpatrick type 1 to 6 is drawn from, degrees: inside the limits
55, 41, 28, 19 and 10 (Bevan and Atapour-Abarghouei 2022, eq. 2)."""
LIGHT = 3
"""Types up to this one count as light."""
BENIGN, MALIGNANT = (0.0, 0.35), (0.65, 1.0)
"""Irregularity of outlines: it alone decides the label."""


@dataclass(frozen=True)
class Dermatoscope:
    """How a site turns skin into pixels. ``SpecError`` for a value out of range.

    >>> Dermatoscope(blur=1.0).noise
    0.01
    """

    vignette: float = 0.1  # share of the light that is lost in the darkest corner
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gains of red, green and blue
    contrast: float = 1.0  # factor on the deviation from the image's mean colour
    blur: float = 0.3  # standard deviation of the point spread function, pixels
    noise: float = 0.01  # standard deviation in each channel, as a share of white

    def __post_init__(self) -> None:
        check_instrument("dermatoscope", asdict(self))


SHIFTS: Mapping[str, Dermatoscope] = MappingProxyType(
    {
        "none": Dermatoscope(),
        "subtle": Dermatoscope(vignette=0.2, cast=(0.97, 0.95, 1.0), contrast=0.9, blur=0.5, noise=0.015),
        "severe": Dermatoscope(vignette=0.45, cast=(0.88, 0.9, 1.0), contrast=0.7, blur=0.8, noise=0.03),
    }
)

# "a" is the source; "d" is the control: another site with the source's dermatoscope
SITES: Mapping[str, str] = MappingProxyType({"a": "none", "b": "severe", "c": "subtle", "d": "none"})


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion on skin on a grid of (size, size): what there is, before any camera.

    Args:
        colour: (size, size, 3) CIELAB, hairs included.
        cover: (size, size) how much of a pixel is lesion, 0 to 1.
        irregularity: of the outline, 0 to 1.
        angle: individual typology angle of the skin, degrees.
    """

    colour: NDArray[np.float64]
    cover: NDArray[np.float64]
    irregularity: float
    angle: float

    @property
    def label(self) -> str:
        """Melanoma where the outline is irregular."""
        return CLASSES[int(self.irregularity > 0.5)]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """1 where at least half of a pixel is lesion."""
        return (self.cover >= 0.5).astype(np.uint8)


def skin_colour(angle: float, redness: float = 11.0) -> NDArray[np.float64]:
    """(3,) CIELAB of skin of a typology angle: b is that of usual skin, L such that
    ``arctan((L - 50) / b)`` is the angle in degrees.

    >>> lightness, _, b = skin_colour(45.0)
    >>> round(float(np.degrees(np.arctan2(lightness - 50, b))), 6)
    45.0
    """
    b = np.interp(angle, (-40, 20, 70), (13, 20, 10))
    return np.array([50 + b * np.tan(np.radians(angle)), redness, b])


def draw_lesion(rng: np.random.Generator, size: int, *, tone: int, melanoma: bool, hairy: bool = False) -> Lesion:
    """Draw one lesion on skin of Fitzpatrick type ``tone`` (1 to 6). But for the outline, tone and
    label change nothing but what they say.

    >>> draw_lesion(np.random.default_rng(0), 48, tone=6, melanoma=True).label
    'melanoma'
    """
    angle, share = float(rng.uniform(*ANGLES[tone - 1])), rng.random()
    low, high = MALIGNANT if melanoma else BENIGN
    irregularity = low + (high - low) * share
    skin = skin_colour(angle, rng.uniform(9, 13))
    inside, cover = _draw_outline(rng, size, irregularity)
    # darker and browner than the skin around it, in the same steps on any skin
    depth, brown = rng.uniform(0.35, 0.55), np.array([0.0, rng.uniform(2, 6), rng.uniform(-2, 3)])
    network = 0.05 * smooth_field(rng, size, max(8, size // 5)) + 0.08 * smooth_field(rng, size, 5)
    lesion = skin * np.array([1 - depth, 0.9, 0.75]) + brown
    lesion = np.broadcast_to(lesion, (size, size, 3)) * (1 + network * np.clip(inside, 0, 1))[..., None]
    pores = 0.5 * smooth_field(rng, size, max(8, size // 2)) + 0.6 * smooth_field(rng, size, 6)
    ground = np.broadcast_to(skin, (size, size, 3)) + np.stack(
        [pores.clip(-2, 1), 0.5 * smooth_field(rng, size, 5), 0 * pores], 2
    )
    colour = ground + cover[..., None] * (lesion - ground)
    hair = _draw_hairs(rng, size)
    if hairy:
        colour = colour + hair[..., None] * (np.array([12.0, 2.0, 3.0]) - colour)
    return Lesion(colour, cover, irregularity, angle)


def _draw_outline(
    rng: np.random.Generator, size: int, irregularity: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A round outline with waves: long ones make it asymmetric, short ones ragged.

    Returns how deep inside a pixel lies, 0 at the rim and 1 in the middle, and how much of it is
    lesion, both (size, size).
    """
    down, right = places(size)
    y, x = down - rng.uniform(-0.1, 0.1), right - rng.uniform(-0.1, 0.1)
    turn, stretch, radius = rng.uniform(0, np.pi), rng.uniform(1.0, 1.25), rng.uniform(0.32, 0.46)
    y, x = (np.cos(turn) * y - np.sin(turn) * x) * stretch, np.sin(turn) * y + np.cos(turn) * x
    numbers = np.arange(2, 10)
    heights = irregularity * np.where(numbers <= 3, 0.22, 0.09) * rng.uniform(0.5, 1.0, len(numbers))
    waves = np.cos(numbers * np.arctan2(y, x)[..., None] + rng.uniform(0, 2 * np.pi, len(numbers))) @ heights
    radius = radius / np.sqrt(1 + (heights**2).sum() / 2)  # the area says nothing of the outline
    inside = 1 - np.hypot(y, x) / (radius * (1 + waves).clip(0.35))
    return inside, (0.5 + inside * radius * size / 2 / rng.uniform(1.0, 1.8)).clip(0, 1)


def _draw_hairs(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Up to nine dark, slightly bent hairs, (size, size) from 0 to 1."""
    down, right = places(size)
    hair = np.zeros((size, size))
    for _ in range(int(rng.integers(3, 10))):
        turn, off, bend, half = (
            rng.uniform(0, np.pi),
            rng.uniform(-0.9, 0.9),
            rng.uniform(-0.3, 0.3),
            rng.uniform(0.008, 0.014),
        )
        along, across = np.cos(turn) * down + np.sin(turn) * right, -np.sin(turn) * down + np.cos(turn) * right
        apart = np.abs(across - off - bend * along**2) - max(half, 0.8 / size)
        hair = np.maximum(hair, 0.9 * (0.5 - apart * size / 2).clip(0, 1))
    return hair


def photograph(lesion: Lesion, camera: Dermatoscope, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Photograph a lesion: (size, size, 3) uint8. The draws are the same for every camera.

    Light falls off from one place of the rim, where it is full: so the lightest skin is the skin's
    own colour.

    >>> photograph(draw_lesion(np.random.default_rng(0), 48, tone=2, melanoma=False), SHIFTS["none"],
    ...     np.random.default_rng(1)).shape
    (48, 48, 3)
    """
    from skimage.color import lab2rgb

    size = len(lesion.cover)
    down, right = places(size)
    lit = rng.uniform(0, 2 * np.pi)
    far = (
        1 - (np.cos(lit) * down + np.sin(lit) * right) / (abs(np.cos(lit)) + abs(np.sin(lit)))
    ) / 2  # 0 in the lightest corner
    seen = lab2rgb(lesion.colour) * (1 - camera.vignette * far**2)[..., None] * np.asarray(camera.cast)
    middle = seen.mean((0, 1))
    seen = blurred(middle + camera.contrast * (seen - middle), camera.blur)
    return to_bytes(seen + camera.noise * rng.standard_normal(seen.shape))


def write_skin(
    out: Path,
    *,
    dims: int = 2,
    sites: Mapping[str, str] = SITES,
    subjects: int = 12,
    size: int = 64,
    seed: int = 0,
    confounding: float | Mapping[str, float] = 0.0,
    hairy: float = 0.25,
) -> Path:
    """Write a cohort of lesions whose sites differ in appearance, and if asked in what goes with
    what; the same arguments, the same bytes.

    8-bit RGB PNG. Every second subject has a melanoma, told from a naevus by its outline alone;
    masks of the lesions (1). ``tone`` is the Fitzpatrick type, 1 to 6, ``ita`` the skin's typology
    angle in degrees, both before any camera. ``shift.json`` beside the manifest states each site's
    camera and confounding.

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
        confounding: the expected correlation of melanoma with light skin (types 1 to 3), -1 to 1,
            at every site, or by site, 0 where not named: a melanoma is on light skin, and a naevus
            on dark skin, with probability (1 + confounding) / 2.
        hairy: share of images with hairs, expected.

    Returns the path of ``manifest.csv`` (``image,mask,label,subject,site,tone,ita``). ``SpecError``
    for an unknown shift, bad site name or number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_skin(Path(folder), sites={"a": "none"}, subjects=1, size=32).read_text().splitlines()[0])
    image,mask,label,subject,site,tone,ita
    """
    check_request("skin", dims, sites, SHIFTS, (subjects, size))
    strength = _by_site(confounding, sites)
    if not 0 <= hairy <= 1:
        raise SpecError(f"skin phantom: hairy is {hairy}; expected a share from 0 to 1")

    def rows() -> Iterator[Row]:
        for site, shift, number, subject in subjects_of(sites, subjects):
            melanoma, chosen = number % 2 == 1, draws(seed, "patient", site, subject)
            tone, hair = _skin_and_hair(chosen, melanoma, strength[site], hairy)
            lesion = draw_lesion(draws(seed, "lesion", site, subject), size, tone=tone, melanoma=melanoma, hairy=hair)
            image = photograph(lesion, SHIFTS[shift], draws(seed, "photograph", site, subject))
            attributes = {
                "label": lesion.label,
                "subject": subject,
                "site": site,
                "tone": str(tone),
                "ita": f"{lesion.angle:.2f}",
            }
            yield {"image": image, "mask": lesion.mask, **attributes}

    cameras = {
        site: {"shift": shift, "confounding": strength[site], **asdict(SHIFTS[shift])} for site, shift in sites.items()
    }
    facts = {
        "phantom": "skin",
        "dims": dims,
        "size": size,
        "subjects": subjects,
        "seed": seed,
        "hairy": hairy,
        "sites": cameras,
    }
    return write_cohort(Path(out), rows(), facts)


def _skin_and_hair(rng: np.random.Generator, melanoma: bool, confounding: float, hairy: float) -> tuple[int, bool]:
    """Draw a patient's Fitzpatrick type, 1 to 6, and whether there are hairs."""
    light = melanoma == (rng.random() < (1 + confounding) / 2)
    tone = int(rng.integers(1, LIGHT + 1)) + (0 if light else LIGHT)
    return tone, bool(rng.random() < hairy)


def _by_site(confounding: float | Mapping[str, float], sites: Mapping[str, str]) -> dict[str, float]:
    given = confounding if isinstance(confounding, Mapping) else dict.fromkeys(sites, confounding)
    for site, value in given.items():
        if site not in sites:
            raise SpecError(f"skin phantom: confounding: no site '{site}'; found {', '.join(sites)}")
        if not -1 <= value <= 1:
            raise SpecError(
                f"skin phantom: confounding of site '{site}' is {value}; expected a correlation from -1 to 1"
            )
    return {site: float(given.get(site, 0.0)) for site in sites}
