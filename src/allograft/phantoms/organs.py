"""Synthetic volumes of organs of different shapes, an organ per site: a ball, a tube, lobes and a
shell, each among small structures that look like it.

Research and testing only: organs are drawn from spheres and smooth noise, from no patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError, nearest
from allograft.phantoms.parts import (
    Row,
    blurred,
    check_instrument,
    check_request,
    draws,
    stretched,
    subjects_of,
    to_bytes,
    write_cohort,
)

BODY = 0.45
"""Brightness of the tissue around an organ, as a share of white."""
Coordinates = Sequence[NDArray[np.float64]]
"""Where each voxel lies from an organ's centre, an array (*shape) an axis, in half image sides."""


@dataclass(frozen=True, eq=False)
class Form:
    """The random parameters of one organ, lengths in half image sides. A shape uses some of them.

    Args:
        centre: (3,).
        warp: (3, *coarse) displacement, which makes the shape irregular.
        radii: (3,) semi-axes of a ball and of a shell.
        wall: thickness of a shell, as a share of its radii.
        width, length: radius and half length of a tube.
        bends: (2, 2) amplitude and phase of a tube's way along the first two axes.
        lobes: (N, 4) centre and radius of each lobe, the first in the middle.
        neighbours: (N, 4) centre and radius of each small structure.
    """

    centre: NDArray[np.float64]
    warp: NDArray[np.float64]
    radii: NDArray[np.float64]
    wall: float
    width: float
    length: float
    bends: NDArray[np.float64]
    lobes: NDArray[np.float64]
    neighbours: NDArray[np.float64]


def draw_form(rng: np.random.Generator) -> Form:
    """Draw one organ.

    >>> draw_form(np.random.default_rng(0)).lobes.shape
    (4, 4)
    """
    around = rng.uniform(0, 2 * np.pi) + np.arange(3) * 2 * np.pi / 3 + rng.uniform(-0.3, 0.3, 3)
    outwards = np.stack([np.cos(around), np.sin(around), rng.uniform(-0.8, 0.8, 3)], 1)
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    radius = rng.uniform(0.2, 0.28, 4)
    outer = outwards * 0.75 * (radius[0] + radius[1:, None])  # they overlap the one in the middle
    centres = np.concatenate([np.zeros((1, 3)), outer])
    away = rng.standard_normal((3, 3))
    away *= rng.uniform(0.75, 0.9, (3, 1)) / np.linalg.norm(away, axis=1, keepdims=True)
    return Form(
        centre=rng.uniform(-0.12, 0.12, 3),
        warp=0.04 * rng.standard_normal((3, 4, 4, 4)),
        radii=rng.uniform(0.38, 0.52, 3),
        wall=float(rng.uniform(0.25, 0.35)),
        width=float(rng.uniform(0.13, 0.19)),
        length=float(rng.uniform(0.65, 0.8)),
        bends=np.stack([rng.uniform(0.15, 0.3, 2), rng.uniform(0, 2 * np.pi, 2)], 1),
        lobes=np.concatenate([centres, radius[:, None]], 1),
        neighbours=np.concatenate([away, rng.uniform(0.09, 0.14, (3, 1))], 1),
    )


def within_organ(form: Form, shape: tuple[int, int, int]) -> list[NDArray[np.float64]]:
    """Where each voxel lies from the centre of an organ, one array (*shape) an axis, in half image
    sides.

    >>> len(within_organ(draw_form(np.random.default_rng(0)), (8, 8, 8)))
    3
    """
    axes = np.meshgrid(*((np.arange(n) + 0.5) / n * 2 - 1 for n in shape), indexing="ij", sparse=True)
    return [axes[axis] - form.centre[axis] + stretched(form.warp[axis], shape) for axis in range(3)]


def _distance(x: Coordinates, centre: NDArray[np.float64], radii: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """From ``centre``, in ``radii``: 1 on the surface."""
    scale = np.broadcast_to(radii, 3)
    return np.asarray(np.sqrt(sum(((x[axis] - centre[axis]) / scale[axis]) ** 2 for axis in range(3))))


def _balls(x: Coordinates, spheres: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The voxels of any of (N, 4) spheres."""
    return np.logical_or.reduce([_distance(x, sphere[:3], sphere[3]) < 1 for sphere in spheres])


def _ball(form: Form, x: Coordinates) -> NDArray[np.bool_]:
    return _distance(x, np.zeros(3), form.radii) < 1


def _tube(form: Form, x: Coordinates) -> NDArray[np.bool_]:
    way = [amplitude * np.sin(2.5 * x[2] + phase) for amplitude, phase in form.bends]
    return np.asarray((np.hypot(x[0] - way[0], x[1] - way[1]) < form.width) & (np.abs(x[2]) < form.length))


def _lobed(form: Form, x: Coordinates) -> NDArray[np.bool_]:
    return _balls(x, form.lobes)


def _shell(form: Form, x: Coordinates) -> NDArray[np.bool_]:
    distance = _distance(x, np.zeros(3), form.radii)
    return np.asarray((distance < 1) & (distance > 1 - form.wall))


SHAPES: Mapping[str, Callable[[Form, Coordinates], NDArray[np.bool_]]] = MappingProxyType(
    {"ball": _ball, "tube": _tube, "lobed": _lobed, "shell": _shell}
)
"""Shape -> the voxels of an organ of that shape."""


@dataclass(frozen=True)
class Organ:
    """What the organ of a site looks like. ``SpecError`` for an unknown shape or a value out of
    range.

    >>> Organ("tube").contrast
    0.2
    """

    shape: str
    contrast: float = 0.2  # brightness above that of the tissue around it, a share of white; may be below 0
    texture: float = 0.06  # standard deviation of the smooth brightness of all tissue
    blur: float = 0.6  # standard deviation of the point spread function, voxels
    noise: float = 0.06  # standard deviation, a share of white

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise SpecError(f"organ: {nearest(self.shape, SHAPES, 'shape')}")
        if not np.isfinite(self.contrast):
            raise SpecError(f"organ: contrast is {self.contrast}; expected a finite number")
        check_instrument("organ", {"texture": self.texture, "blur": self.blur, "noise": self.noise})


# the lobes are darker than what is around them, as an organ of another modality may be
ORGANS: Mapping[str, Organ] = MappingProxyType(
    {"ball": Organ("ball"), "tube": Organ("tube"), "lobed": Organ("lobed", contrast=-0.2), "shell": Organ("shell")}
)

SITES: Mapping[str, str] = MappingProxyType({name: name for name in ORGANS})


def label_organ(form: Form, shape: str, size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Rasterise an organ: (*size), 1 = organ.

    >>> np.unique(label_organ(draw_form(np.random.default_rng(0)), "ball", (16, 16, 16))).tolist()
    [0, 1]
    """
    return SHAPES[shape](form, within_organ(form, size)).astype(np.uint8)


def scan(form: Form, organ: Organ, rng: np.random.Generator, size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Scan an organ and the small structures around it, which have its brightness: (*size) grey
    values.

    >>> scan(draw_form(np.random.default_rng(0)), ORGANS["shell"], np.random.default_rng(1), (16, 16, 16)).dtype
    dtype('uint8')
    """
    coarse, noise = rng.standard_normal((6, 6, 6)), rng.standard_normal(size)
    x = within_organ(form, size)
    bright = SHAPES[organ.shape](form, x) | _balls(x, form.neighbours)
    seen = BODY + organ.texture * stretched(coarse, size) + organ.contrast * bright
    return to_bytes(blurred(seen, organ.blur) + organ.noise * noise)


def write_organs(
    out: Path, *, dims: int = 3, sites: Mapping[str, str] = SITES, subjects: int = 12, size: int = 48, seed: int = 0
) -> Path:
    """Write a cohort of volumes whose sites hold organs of different shapes; the same arguments
    write the same bytes.

    8-bit ``.nii.gz``, identity affine (1 mm, RAS); masks of the organ (1). ``shift.json`` beside
    the manifest states each site's organ. Slices are cut with ``slices: {axis: 2}``.

    Args:
        out: folder, made if absent; files of the same names are replaced. ``OutputError`` when it
            cannot be written.
        dims: 3.
        sites: site name -> name in `ORGANS`. Default: one site for each.
        subjects: subjects per site, one volume each. No subject is at two sites.
        size: voxels along each axis, at least 32.
        seed: of all draws. A subject depends on (seed, site, number) only: more sites or subjects
            leave the others as they are.

    Returns the path of ``manifest.csv`` (``image,mask,subject,site``). ``SpecError`` for an unknown
    organ, a bad site name or number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = write_organs(Path(folder), sites={"a": "tube"}, subjects=1, size=32)
    ...     print(manifest.read_text().splitlines()[1])
    images/a-000.nii.gz,masks/a-000.nii.gz,a-000,a
    """
    check_request("organs", dims, sites, ORGANS, (subjects, size), possible=(3,))
    grid = (size, size, size)

    def rows() -> Iterator[Row]:
        for site, name, _, subject in subjects_of(sites, subjects):
            form, organ = draw_form(draws(seed, "form", site, subject)), ORGANS[name]
            image = scan(form, organ, draws(seed, "scan", site, subject), grid)
            mask = label_organ(form, organ.shape, grid)
            yield {"image": image, "mask": mask, "subject": subject, "site": site}

    organs = {site: {"organ": name, **asdict(ORGANS[name])} for site, name in sites.items()}
    facts = {"phantom": "organs", "dims": dims, "size": size, "subjects": subjects, "seed": seed, "sites": organs}
    return write_cohort(Path(out), rows(), facts, ".nii.gz")
