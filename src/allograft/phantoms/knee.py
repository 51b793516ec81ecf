"""Synthetic knees, followed over years: maps of cartilage thickness, and radiographs that show the
space between the bones.

Research and testing only: knees are drawn from smooth noise and bumps, from no patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allograft.phantoms.chest import SHIFTS, Machine
from allograft.phantoms.parts import (
    FILE,
    Row,
    blurred,
    check_request,
    draws,
    places,
    smooth_field,
    subjects_of,
    to_bytes,
    write_cohort,
)

SITES: Mapping[str, str] = {"a": "none", "b": "severe", "d": "none"}
THICKEST = 4.0
"""Millimetres that white stands for in a map of thickness."""
YEARS = (0, 2, 4)
HORIZON = 6
"""Years within which a grade must rise for a knee to progress."""
LIMITS = (0.25, 0.5, 0.75)
"""Severity from which on the grade is 2, 3 and 4; below the first it is 0 or 1, which count as
one."""
GRADES = ("01", "2", "3", "4")


@dataclass(frozen=True, eq=False)
class Knee:
    """One knee: what stays the same over the years.

    Args:
        femoral, tibial: thickness without disease in mm, (size // 2, size): rows from front to
            back, columns from the outer side to the inner one.
        place: row and column, from -1 to 1, about which cartilage is lost.
        bones: brightness of the bones about their mean, (size, size).
        start, rate: severity at the first visit, and how much it rises in a year.
    """

    femoral: NDArray[np.float64]
    tibial: NDArray[np.float64]
    place: tuple[float, float]
    bones: NDArray[np.float64]
    start: float
    rate: float

    def severity(self, years: float) -> float:
        """From 0 to 1."""
        return float(np.clip(self.start + self.rate * years, 0, 1))

    def grade(self, years: float) -> str:
        """One of ``GRADES``."""
        return GRADES[int(np.searchsorted(LIMITS, self.severity(years), side="right"))]

    def progresses(self, years: float) -> bool:
        """Whether the grade rises within ``HORIZON`` years."""
        return self.grade(years + HORIZON) != self.grade(years)

    def thickness(self, years: float) -> NDArray[np.float64]:
        """The femoral map above the tibial one, (size, size) in mm."""
        half, size = self.femoral.shape
        row, column = np.linspace(-1, 1, half)[:, None], places(size)[1]
        lost = np.exp(-(((row - self.place[0]) / 0.6) ** 2 + ((column - self.place[1]) / 0.45) ** 2))
        left = 1 - 0.95 * self.severity(years) * lost
        return np.concatenate([self.femoral * left, self.tibial * left])


def draw_knee(rng: np.random.Generator, size: int) -> Knee:
    """Draw one knee.

    >>> draw_knee(np.random.default_rng(0), 32).thickness(0).shape
    (32, 32)
    """
    half, across = size // 2, places(size)[1]
    plates = []
    for mean, dip in ((2.4, 0.5), (2.0, 0.3)):
        field = smooth_field(rng, size, 5)[:half]
        plates.append((mean + rng.normal(0, 0.15) - dip * across**2 + 0.18 * field).clip(0.5, THICKEST))
    place = (rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.6))
    bones = 0.05 * smooth_field(rng, size, 8) + 0.02 * smooth_field(rng, size, 16)
    return Knee(plates[0], plates[1], place, bones, rng.beta(1.2, 2.2), rng.exponential(0.03))


def expose(
    knee: Knee, years: float, machine: Machine, rng: np.random.Generator, *, tilt: float = 0.0
) -> NDArray[np.uint8]:
    """Take a radiograph: (size, size) uint8, bone white, the space between the bones as high as the
    cartilage is thick on the mean from front to back.

    >>> knee = draw_knee(np.random.default_rng(0), 32)
    >>> expose(knee, 0, SHIFTS["none"], np.random.default_rng(1)).shape
    (32, 32)
    """
    size = len(knee.bones)
    both = knee.thickness(years)
    femoral, tibial = (part.mean(0) for part in (both[: size // 2], both[size // 2 :]))
    down, right = places(size)
    above = 0.30 * femoral[None] / THICKEST + 0.05 * right**2 + tilt * right
    below = 0.30 * tibial[None] / THICKEST - 0.03 * right**2 - tilt * right
    sharp = size / 3
    bone = 0.5 - 0.5 * np.tanh((down + above) * sharp) + 0.5 + 0.5 * np.tanh((down - below) * sharp)
    spur = 0.12 * knee.severity(years) * np.exp(-(((np.abs(right) - 0.85) / 0.1) ** 2 + (down / 0.25) ** 2))
    seen = 0.2 + bone * (0.45 + knee.bones) + spur
    noise, grain = rng.standard_normal((size, size)), smooth_field(rng, size, max(8, size // 3))
    seen = (0.5 + machine.contrast * (blurred(seen, machine.blur) - 0.5)).clip(0, 1) ** machine.gamma
    return to_bytes(seen + machine.noise * noise + machine.texture * grain)


def write_knee(
    out: Path, *, dims: int = 2, sites: Mapping[str, str] = SITES, subjects: int = 12, size: int = 64, seed: int = 0
) -> Path:
    """Write a cohort of knees, both sides of each subject at three visits: a radiograph and the map
    of thickness that cannot be seen on it; the same arguments write the same bytes.

    8-bit grey PNG; 255 in a map is 4 mm (``task: {synthesis: {range: [0, 255]}}``). Right knees are
    drawn as left ones. ``label`` is the grade, 0 and 1 as one; ``progresses`` whether it rises
    within six years. ``shift.json`` states each site's machine.

    Args:
        out: folder, made if absent. ``OutputError`` when it cannot be written.
        dims: 2.
        sites: site name -> name in `SHIFTS` of the chest phantom.
        subjects: subjects per site, six rows each.
        size: pixels along each axis, at least 32 and even.
        seed: of all draws. A subject depends on (seed, site, number) only.

    Returns the path of ``manifest.csv``. ``SpecError`` for an unknown shift, a bad site name or
    number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = write_knee(Path(folder), sites={"a": "none"}, subjects=1, size=32)
    ...     print(manifest.read_text().splitlines()[2])
    images/a-000-left-2.png,paireds/a-000-left-2.png,2,a-000,a,left,2,yes
    """
    check_request("knee", dims, sites, SHIFTS, (subjects, size))

    def rows() -> Iterator[Row]:
        for site, shift, _, subject in subjects_of(sites, subjects):
            for side in ("left", "right"):
                knee = draw_knee(draws(seed, "knee", site, subject, side), size // 2 * 2)
                for years in YEARS:
                    rng = draws(seed, "radiograph", site, subject, side, str(years))
                    image = expose(knee, years, SHIFTS[shift], rng, tilt=rng.normal(0, 0.01))
                    yield {
                        FILE: f"{subject}-{side}-{years}",
                        "image": image,
                        "paired": to_bytes(knee.thickness(years) / THICKEST),
                        "label": knee.grade(years),
                        "subject": subject,
                        "site": site,
                        "side": side,
                        "timepoint": str(years),
                        "progresses": "yes" if knee.progresses(years) else "no",
                    }

    machines = {site: {"shift": shift, **asdict(SHIFTS[shift])} for site, shift in sites.items()}
    facts = {"phantom": "knee", "dims": dims, "size": size, "subjects": subjects, "seed": seed, "sites": machines}
    return write_cohort(Path(out), rows(), facts)
