"""Synthetic H&E patches: the tissue has the same distribution at every laboratory, only its stains,
its lamp and its camera differ.

Research and testing only: nuclei and red cells are drawn from ellipses and smooth noise, from no
patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allograft.errors import SpecError
from allograft.phantoms.parts import (
    Row,
    check_instrument,
    check_request,
    draws,
    smooth_field,
    subjects_of,
    to_bytes,
    write_cohort,
)

CLASSES = ("small", "large")
"""Of the nuclei. Their share of the area is the same in both, so that no mean colour tells the
class."""

RADII: Mapping[str, tuple[float, float]] = MappingProxyType({"small": (2.0, 2.7), "large": (3.6, 4.6)})
"""Geometric mean of a nucleus's semi-axes in pixels, from and to."""

SHARE = (0.14, 0.20)
"""Share of the patch that nuclei cover, from and to; red cells cover as much, with radii of either
class."""


@dataclass(frozen=True)
class Laboratory:
    """How a site turns tissue into colours. ``SpecError`` for a value out of range.

    >>> Laboratory(eosin_amount=1.5).noise
    0.01
    """

    haematoxylin: tuple[float, float, float] = (
        0.65,
        0.70,
        0.29,
    )  # optical density in red, green, blue; scaled to length 1
    eosin: tuple[float, float, float] = (0.07, 0.99, 0.11)
    haematoxylin_amount: float = 1.0
    eosin_amount: float = 1.0
    spread: float = 0.06  # standard deviation of either amount's logarithm from slide to slide
    lamp: tuple[float, float, float] = (0.96, 0.96, 0.96)  # colour of empty glass, 1 = white
    noise: float = 0.01  # standard deviation in each channel, 1 = white

    def __post_init__(self) -> None:
        check_instrument("laboratory", asdict(self))
        for name in ("haematoxylin", "eosin", "lamp"):
            if not any(getattr(self, name)):
                raise SpecError(f"laboratory: {name} is {getattr(self, name)}; expected a colour that is not all 0")

    @property
    def stains(self) -> NDArray[np.float64]:
        """(2, 3) optical density of one unit of haematoxylin and eosin, rows of length 1."""
        rows = np.array([self.haematoxylin, self.eosin])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


# Away from the source: another dye lot, more or less of either stain, a warmer lamp. In each,
# haematoxylin stays the bluer of the two.
SHIFTS: Mapping[str, Laboratory] = MappingProxyType(
    {
        "none": Laboratory(),
        "subtle": Laboratory(
            (0.62, 0.72, 0.32), (0.10, 0.97, 0.20), haematoxylin_amount=0.85, eosin_amount=1.2, lamp=(0.97, 0.95, 0.92)
        ),
        "severe": Laboratory(
            (0.52, 0.78, 0.34), (0.22, 0.90, 0.36), haematoxylin_amount=0.7, eosin_amount=1.6, lamp=(0.97, 0.92, 0.86)
        ),
    }
)

# "a" is the source; "d" is the control: another site with the source's laboratory
SITES: Mapping[str, str] = MappingProxyType({"a": "none", "b": "severe", "c": "subtle", "d": "none"})


def absorb(amounts: ArrayLike, stains: ArrayLike, lamp: ArrayLike) -> NDArray[np.float64]:
    """Beer and Lambert: ``lamp * exp(-amounts @ stains)``, (..., S) amounts and (S, 3) optical
    densities -> (..., 3) colours.

    >>> absorb([[0.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]], [1.0, 1.0, 1.0]).tolist()
    [[1.0, 1.0, 1.0]]
    """
    return np.asarray(lamp) * np.exp(-np.asarray(amounts) @ np.asarray(stains))


def tissue(rng: np.random.Generator, size: int, kind: str) -> NDArray[np.float64]:
    """Draw one patch: (size, size, 2) amounts of haematoxylin and eosin before any laboratory.

    Nuclei take haematoxylin; stroma and red cells take eosin. ``kind`` is one of `CLASSES` and
    decides the nuclei's size alone.

    >>> tissue(np.random.default_rng(0), 32, "large").shape
    (32, 32, 2)
    """
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
    stroma = 0.35 + 0.10 * smooth_field(rng, size, 6)
    red_kind = CLASSES[rng.integers(2)]
    cells = _cells(rng, grid, RADII[red_kind])
    nuclei = _cells(rng, grid, RADII[kind])
    chromatin = 1.1 + 0.15 * smooth_field(rng, size, size // 2)
    eosin = np.where(cells > 0, stroma + cells * (1.0 - stroma), stroma) * (1 - 0.8 * nuclei)
    return np.stack([nuclei * chromatin + 0.05, eosin], -1).clip(0)


def stain(amounts: NDArray[np.float64], laboratory: Laboratory, rng: np.random.Generator) -> NDArray[np.float64]:
    """Stain and photograph a patch: (H, W, 2) amounts -> (H, W, 3) colours in [0, 1]. Slides differ
    by ``spread``.

    >>> float(stain(np.zeros((4, 4, 2)), Laboratory(noise=0), np.random.default_rng(0)).max())
    0.96
    """
    slide = np.exp(laboratory.spread * rng.standard_normal(2)) * (
        laboratory.haematoxylin_amount,
        laboratory.eosin_amount,
    )
    colours = absorb(amounts * slide, laboratory.stains, laboratory.lamp)
    return np.asarray((colours + laboratory.noise * rng.standard_normal(colours.shape)).clip(0, 1))


def write_histology(
    out: Path, *, dims: int = 2, sites: Mapping[str, str] = SITES, subjects: int = 24, size: int = 64, seed: int = 0
) -> Path:
    """Write a cohort of H&E patches whose laboratories differ in colour alone; the same arguments
    write the same bytes.

    8-bit RGB PNG; ``label`` is the size of the nuclei, `CLASSES`, by turns. ``shift.json`` beside
    the manifest states each laboratory.

    Args:
        out: folder, made if absent; files of the same names are replaced. ``OutputError`` when it
            cannot be written.
        sites: site name -> name in `SHIFTS`. Default: ``a`` the source, ``b`` severe, ``c`` subtle,
            ``d`` a control without a shift.
        subjects: subjects per site, one patch each. No subject is at two sites.
        size: pixels along each axis, at least 32.
        seed: of all draws. A subject depends on (seed, site, number) only: more sites or subjects
            leave the others as they are.

    Returns the path of ``manifest.csv`` (``image,label,subject,site``). ``SpecError`` for an
    unknown shift, a bad site name or number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_histology(Path(folder), sites={"a": "none"}, subjects=1, size=32).read_text().splitlines()[1])
    images/a-000.png,small,a-000,a
    """
    check_request("histology", dims, sites, SHIFTS, (subjects, size))

    def rows() -> Iterator[Row]:
        for site, shift, number, subject in subjects_of(sites, subjects):
            kind = CLASSES[number % 2]
            amounts = tissue(draws(seed, "tissue", site, subject), size, kind)
            image = stain(amounts, SHIFTS[shift], draws(seed, "stain", site, subject))
            yield {"image": to_bytes(image), "label": kind, "subject": subject, "site": site}

    laboratories = {site: {"shift": shift, **asdict(SHIFTS[shift])} for site, shift in sites.items()}
    facts = {
        "phantom": "histology",
        "dims": dims,
        "size": size,
        "subjects": subjects,
        "seed": seed,
        "sites": laboratories,
    }
    return write_cohort(Path(out), rows(), facts)


def _cells(rng: np.random.Generator, grid: NDArray[np.int64], radii: tuple[float, float]) -> NDArray[np.float64]:
    """Ellipses that seldom overlap, until they cover a share drawn from `SHARE`: (size, size) in
    [0, 1], edges half a pixel soft."""
    wanted = rng.uniform(*SHARE) * grid[0].size
    nuclei = np.zeros(grid.shape[1:])
    for _ in range(2000):
        if nuclei.sum() >= wanted:
            break
        radius, long, angle = rng.uniform(*radii), rng.uniform(1, 1.35), rng.uniform(0, np.pi)
        centre = rng.uniform(0, grid.shape[1], 2)
        y, x = grid - centre[:, None, None]
        across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        # about pixels inside the edge
        depth = radius * (1 - np.hypot(across / (radius * long), along * long / radius))
        cell = (depth + 0.5).clip(0, 1)
        if (cell * nuclei).sum() <= 0.05 * cell.sum():
            nuclei = np.maximum(nuclei, cell)
    return nuclei
