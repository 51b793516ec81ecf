"""Synthetic chest radiographs for classification: the chests have the same distribution at every
site, only the machine differs.

Research and testing only: chests are drawn from ellipses, bands and smooth noise, from no patient.
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

CLASSES = ("no-finding", "pneumonia")
LUNG, OPACITY = 1, 2
"""Mask values: a lung, and the part of it that an opacity darkens least by half."""
FAINTEST = 0.13
"""What the faintest opacity adds where it is densest; the display runs from 0, air, to 1, bone over
the heart."""


@dataclass(frozen=True)
class Machine:
    """How a site turns a chest into pixels. ``SpecError`` for a value out of range.

    >>> Machine(gamma=1.5).noise
    0.02
    """

    contrast: float = 1.0  # factor on the deviation from middle grey
    gamma: float = 1.0  # exponent of the display curve; above 1 = darker
    # standard deviation of a coarse grain, as of old film, as a share of white
    texture: float = 0.0
    noise: float = 0.02  # standard deviation in each pixel, as a share of white
    blur: float = 0.4  # standard deviation of the point spread function, pixels
    border: float = 0.0  # largest width of the black frame of a collimator, as a share of the side
    # brightness of the letter that a side is marked with, in a corner; 0 = none
    marker: float = 0.0

    def __post_init__(self) -> None:
        check_instrument("machine", asdict(self))


SHIFTS: Mapping[str, Machine] = MappingProxyType(
    {
        "none": Machine(),
        "subtle": Machine(contrast=0.9, gamma=1.15, texture=0.01, noise=0.025, marker=0.8),
        "severe": Machine(contrast=0.75, gamma=1.6, texture=0.02, noise=0.03, blur=0.7, border=0.08, marker=1.0),
    }
)

# "a" is the source; "d" is the control: another site with the source's machine
SITES: Mapping[str, str] = MappingProxyType({"a": "none", "b": "severe", "c": "subtle", "d": "none"})


@dataclass(frozen=True, eq=False)
class Chest:
    """One chest on a grid of (size, size): what there is, before any machine.

    Args:
        density: what is seen through, from 0, air, to about 1, bone over the heart; opacities
            included.
        lungs: bool.
        opacity: what the opacities add to the density; zeros without a finding.
    """

    density: NDArray[np.float64]
    lungs: NDArray[np.bool_]
    opacity: NDArray[np.float64]

    @property
    def label(self) -> str:
        """Pneumonia where there is an opacity."""
        return CLASSES[int(self.opacity.any())]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """``LUNG`` and ``OPACITY``, where the opacities add at least half of what the faintest one
        does at its densest."""
        return np.where(self.lungs & (self.opacity >= FAINTEST / 2), OPACITY, np.where(self.lungs, LUNG, 0)).astype(
            np.uint8
        )


def draw_chest(rng: np.random.Generator, size: int, *, pneumonia: bool) -> Chest:
    """Draw one chest. Without pneumonia the same draws give the same chest without its opacities.

    >>> draw_chest(np.random.default_rng(0), 48, pneumonia=True).label
    'pneumonia'
    """
    down, right = places(size)
    down, right = down - rng.uniform(-0.05, 0.05), right - rng.uniform(-0.05, 0.05)
    scale, warp = rng.uniform(0.92, 1.06), 0.02 * smooth_field(rng, size, 4)
    y, x = (down / scale + warp), (right / scale + 0.02 * smooth_field(rng, size, 4))
    heart = _edge(1 - np.hypot((y - 0.22) / rng.uniform(0.34, 0.42), (x - 0.14) / rng.uniform(0.28, 0.36)), size / 6)
    lungs = _draw_lungs(rng, y, x, size) * (1 - heart)
    body = _edge(1 - np.hypot(y / 1.6, x / rng.uniform(0.88, 0.96)) ** 4, size / 3) * np.ones_like(lungs)
    spine = np.exp(-((x / 0.09) ** 2)) * (0.85 + 0.15 * np.cos(2 * np.pi * y / 0.16))
    hila = np.exp(-(((y - 0.02) / 0.16) ** 2 + ((np.abs(x) - 0.17) / 0.07) ** 2))
    tissue = 0.62 + 0.06 * heart + 0.10 * spine + 0.03 * smooth_field(rng, size, 3)
    air = 0.44 - 0.12 * hila - 0.03 * smooth_field(rng, size, 16) - 0.02 * smooth_field(rng, size, 5)
    density = body * (tissue - lungs * air) + body * _draw_bones(rng, y, x)
    opacity = _draw_opacities(rng, y, x, lungs)
    return Chest(
        density + (opacity if pneumonia else 0), lungs >= 0.5, opacity if pneumonia else np.zeros_like(opacity)
    )


def _draw_lungs(
    rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Two lungs, 0 to 1: narrow above, cut below by the domes of the diaphragm."""
    apart, height, width = rng.uniform(0.40, 0.45), rng.uniform(0.72, 0.82), rng.uniform(0.29, 0.34)
    across = (np.abs(x) - apart) / (width * (0.78 + 0.30 * y).clip(0.35, 1.05))
    lung = _edge(1 - np.hypot((y + 0.02) / height, across) ** 2.4, size / 5)
    dome = rng.uniform(0.44, 0.54) + np.where(x < 0, -0.05, 0.0) + 0.9 * (np.abs(x) - apart - 0.02) ** 2
    return np.asarray(lung * _edge(dome - y, size / 3))


def _draw_bones(rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ribs, which fall outwards behind and inwards in front, and clavicles."""
    gap, start, strength = rng.uniform(0.15, 0.18), rng.uniform(-0.05, 0.05), rng.uniform(0.08, 0.11)
    behind = y - 0.55 * np.abs(x) + 0.62 * np.abs(x) ** 2
    front = y + 0.75 * (np.abs(x) - 0.55) - 0.4
    ribs = np.exp(-(((((behind - start) / gap + 0.5) % 1 - 0.5) * gap / 0.026) ** 2)) * (np.abs(x) > 0.06)
    ribs = ribs + 0.45 * np.exp(-(((((front - start) / (1.2 * gap) + 0.5) % 1 - 0.5) * 1.2 * gap / 0.03) ** 2)) * (
        np.abs(x) > 0.3
    )
    inside = 1 / (1 + np.exp((np.hypot(y / 0.98, x / 0.80) - 0.97) / 0.03))
    clavicle = np.exp(-(((y + 0.66 + 0.22 * (np.abs(x) - 0.1)) / 0.035) ** 2)) * (np.abs(x) > 0.1) * (np.abs(x) < 0.75)
    return np.asarray(strength * ribs * inside * (y > -0.8) + 0.12 * clavicle)


def _draw_opacities(
    rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64], lungs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One to three cloudy patches, each around a place inside a lung."""
    inside = np.argwhere(lungs > 0.9)
    opacities = np.zeros_like(lungs)
    for _ in range(int(rng.integers(1, 4))):
        row, column = inside[int(rng.random() * len(inside))]
        reach, strength = rng.uniform(0.12, 0.22, 2), rng.uniform(FAINTEST, 0.26)
        cloud = np.exp(-(((y - y[row, column]) / reach[0]) ** 2 + ((x - x[row, column]) / reach[1]) ** 2))
        opacities = np.maximum(opacities, strength * cloud)
    rough = (1 + 0.2 * smooth_field(rng, len(opacities), 10)).clip(0.7, 1.3)
    return np.asarray(np.where(opacities > 0.01, opacities, 0.0) * rough * lungs)


def _edge(height: NDArray[np.float64], steepness: float) -> NDArray[np.float64]:
    """0 below zero and 1 above, over about a pixel."""
    return np.asarray(0.5 + 0.5 * np.tanh(height * steepness))


def expose(chest: Chest, machine: Machine, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Take a radiograph: contrast and gamma, blur, texture and noise, a letter and a frame: (size,
    size) uint8, bone white.

    The draws are the same for every machine.

    >>> expose(draw_chest(np.random.default_rng(0), 48, pneumonia=False), SHIFTS["severe"],
    ...     np.random.default_rng(1)).shape
    (48, 48)
    """
    size = len(chest.density)
    dose = 0.03 * rng.standard_normal()
    noise, grain = rng.standard_normal((size, size)), smooth_field(rng, size, max(8, size // 3))
    width, corner, shift = rng.uniform(0.4, 1), rng.integers(2), rng.integers(0, 3, 2)
    seen = (0.5 + machine.contrast * (blurred(chest.density, machine.blur) + dose - 0.5)).clip(0, 1) ** machine.gamma
    seen = seen + machine.noise * noise + machine.texture * grain
    if machine.marker:
        _mark(seen, machine.marker, int(corner), shift)
    frame = round(machine.border * width * size)
    if frame:
        inner = seen[frame:-frame, frame:-frame].copy()
        seen[:] = 0
        seen[frame:-frame, frame:-frame] = inner
    return to_bytes(seen)


def _mark(image: NDArray[np.float64], brightness: float, corner: int, shift: NDArray[np.int64]) -> None:
    """An L in the upper left or right corner, a twelfth of the side high."""
    size = len(image)
    height, stroke = max(4, size // 10), max(1, size // 48)
    top, left = size // 8 + int(shift[0]), (size // 9 if corner else size - size // 6) + int(shift[1]) - 1
    image[top : top + height, left : left + stroke] = brightness
    image[top + height - stroke : top + height, left : left + (2 * height) // 3] = brightness


def write_chest(
    out: Path, *, dims: int = 2, sites: Mapping[str, str] = SITES, subjects: int = 12, size: int = 64, seed: int = 0
) -> Path:
    """Write a cohort of radiographs whose sites differ in appearance alone; the same arguments
    write the same bytes.

    8-bit grey PNG. Every second subject has pneumonia: opacities in the lungs, which alone decide
    the label. The masks, 1 = lung and 2 = opacity, serve tasks that ask where. ``shift.json``
    beside the manifest states each site's machine.

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

    Returns the path of ``manifest.csv`` (``image,mask,label,subject,site``). ``SpecError`` for an
    unknown shift, a bad site name or number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_chest(Path(folder), sites={"a": "none"}, subjects=2, size=32).read_text().splitlines()[2])
    images/a-001.png,masks/a-001.png,pneumonia,a-001,a
    """
    check_request("chest", dims, sites, SHIFTS, (subjects, size))

    def rows() -> Iterator[Row]:
        for site, shift, number, subject in subjects_of(sites, subjects):
            chest = draw_chest(draws(seed, "chest", site, subject), size, pneumonia=number % 2 == 1)
            image = expose(chest, SHIFTS[shift], draws(seed, "radiograph", site, subject))
            yield {"image": image, "mask": chest.mask, "label": chest.label, "subject": subject, "site": site}

    machines = {site: {"shift": shift, **asdict(SHIFTS[shift])} for site, shift in sites.items()}
    facts = {"phantom": "chest", "dims": dims, "size": size, "subjects": subjects, "seed": seed, "sites": machines}
    return write_cohort(Path(out), rows(), facts)
