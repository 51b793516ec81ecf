"""Synthetic cells under a microscope, with boxes: true ones for testing, and for the training
images of some sites the boxes of a careless reader.

Research and testing only: cells are drawn from ellipses and smooth noise, from no sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from allograft.errors import OutputError, SpecError
from allograft.phantoms.box_noise import BoxNoise
from allograft.phantoms.parts import (
    Row,
    blurred,
    check_instrument,
    check_request,
    draws,
    smooth_field,
    subjects_of,
    to_bytes,
    write_cohort,
)

RADII = (4.0, 6.5)
"""Geometric mean of a cell's semi-axes in pixels, from and to."""
CELLS = (10, 22)
"""Cells in an image of 64 x 64 pixels, from and to; as many more as the image is larger."""


@dataclass(frozen=True)
class Microscope:
    """How a site sees cells. ``SpecError`` for a value out of range."""

    background: float = 0.75  # 1 = white
    contrast: float = 0.45  # how much darker a cell is
    rim: float = 0.25  # how much darker its membrane is beyond that
    uneven: float = 0.04  # of the light over the field, standard deviation
    blur: float = 0.6  # pixels
    noise: float = 0.02

    def __post_init__(self) -> None:
        check_instrument("microscope", asdict(self))


SHIFTS: Mapping[str, Microscope] = MappingProxyType(
    {
        "none": Microscope(),
        "subtle": Microscope(background=0.65, contrast=0.35, uneven=0.06, blur=0.8),
        "severe": Microscope(background=0.5, contrast=0.18, rim=0.22, uneven=0.1, blur=1.2, noise=0.04),
    }
)
# "a" is the clean source, "b" the target whose training boxes are noisy, "d" the control: the
# target's microscope with clean boxes
SITES: Mapping[str, str] = MappingProxyType({"a": "none", "b": "severe", "d": "severe"})
NOISE: Mapping[str, BoxNoise] = MappingProxyType({"b": BoxNoise(drop=0.4, jitter=0.1)})
READERS: Mapping[str, BoxNoise] = MappingProxyType(
    {"reader2": BoxNoise(drop=0.03, jitter=0.05), "reader3": BoxNoise(drop=0.1, jitter=0.03, merge=0.03)}
)
"""Further readers of the test images: the first one's boxes are true, one who is less exact, and
one who finds fewer cells."""
TRUE = "reader_true"
"""The further reader of images whose boxes are wrong: the boxes that they should have."""


def cells(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64], list[list[float]]]:
    """Draw one field: bodies and membranes, (size, size) in [0, 1], and the boxes around the cells,
    (N, 4) xyxy.

    >>> len(cells(np.random.default_rng(0), 64)[2]) >= 5
    True
    """
    y, x = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5, indexing="ij")
    body, rim, boxes = np.zeros((size, size)), np.zeros((size, size)), list[list[float]]()
    wanted = round(rng.integers(*CELLS) * (size / 64) ** 2)
    for _ in range(40 * wanted):
        if len(boxes) == wanted:
            break
        radius, long, angle = rng.uniform(*RADII), rng.uniform(1, 1.3), rng.uniform(0, np.pi)
        row, column = rng.uniform(radius, size - radius, 2)
        across = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
        along = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
        depth = radius * (1 - np.hypot(across / (radius * long), along * long / radius))  # pixels inside the edge
        cell = (depth + 0.5).clip(0, 1)
        if (cell * body).sum() > 0.15 * cell.sum():
            continue
        body, rim = np.maximum(body, cell), np.maximum(rim, np.exp(-((depth - 0.8) ** 2)))
        rows, columns = np.nonzero(cell > 0.5)
        boxes.append([float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)])
    return body, rim, boxes


def photograph(
    body: NDArray[np.float64], rim: NDArray[np.float64], microscope: Microscope, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(H, W) grey values in [0, 1], before they are cut off, of a field under a microscope."""
    light = microscope.background + microscope.uneven * smooth_field(rng, len(body), 3)
    seen = light - microscope.contrast * body * (0.8 + 0.2 * blurred(body, 2.0)) - microscope.rim * rim
    return np.asarray(blurred(seen, microscope.blur) + microscope.noise * rng.standard_normal(body.shape))


def write_cells(
    out: Path,
    *,
    dims: int = 2,
    sites: Mapping[str, str] = SITES,
    subjects: int = 20,
    size: int = 64,
    seed: int = 0,
    noise: Mapping[str, BoxNoise] = NOISE,
) -> Path:
    """Write a cohort of fields of cells, 8-bit grey PNG, with a file of boxes each; the same
    arguments write the same bytes.

    Three subjects of five train, one validates and one tests (column ``split``). The boxes of
    training and validation images at the sites of ``noise`` are wrong, and the true ones are listed
    as those of a further reader (``boxes_reader_true``), which no method sees. Those of test images
    are true, and two further readers drew theirs (``boxes_reader2``, ``boxes_reader3``).
    ``shift.json`` beside the manifest states each microscope, each noise and each reader.

    Args:
        sites: site name -> name in `SHIFTS`.
        subjects: per site, at least 5, one image each.
        size: pixels along each axis, at least 32.
        seed: of all draws; a subject depends on (seed, site, number) only.
        noise: site -> how wrong its boxes are.

    Returns the path of ``manifest.csv``
    (``image,boxes,boxes_reader2,boxes_reader3,boxes_reader_true,subject,site,split``).
    ``SpecError`` for a request that cannot be met, ``OutputError`` where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_cells(Path(folder), sites={"a": "none"}, subjects=5, size=32).read_text().splitlines()[1])
    images/a-000.png,boxes/a-000.json,,,,a-000,a,train
    """
    check_request("cells", dims, sites, SHIFTS, (subjects, size))
    if subjects < 5:
        raise SpecError(f"cells phantom: {subjects} subjects; expected at least 5, of which one tests")

    def rows() -> Iterator[Row]:
        for site, shift, number, subject in subjects_of(sites, subjects):
            split = PART_OF[number % 5]
            body, rim, boxes = cells(draws(seed, "cells", site, subject), size)
            image = photograph(body, rim, SHIFTS[shift], draws(seed, "photograph", site, subject))
            further = dict.fromkeys((f"boxes_{reader}" for reader in (*READERS, TRUE)), "")
            if split == "test":
                for reader, careless in READERS.items():
                    seen = careless(boxes, (size, size), draws(seed, reader, site, subject)).tolist()
                    further[f"boxes_{reader}"] = _write_boxes(Path(out), f"{subject}-{reader}", seen)
            elif site in noise:
                further[f"boxes_{TRUE}"] = _write_boxes(Path(out), f"{subject}-{TRUE}", boxes)
                boxes = noise[site](boxes, (size, size), draws(seed, "noise", site, subject)).tolist()
            file = _write_boxes(Path(out), subject, boxes)
            where: dict[str, str] = {"subject": subject, "site": site, "split": split}
            yield {"image": to_bytes(image), "boxes": file, **further, **where}

    facts = {
        "phantom": "cells",
        **{"dims": dims, "size": size, "subjects": subjects, "seed": seed},
        "sites": {site: {"shift": shift, **asdict(SHIFTS[shift])} for site, shift in sites.items()},
        "noise": {site: asdict(noise[site]) for site in sites if site in noise},
        "readers": {reader: asdict(careless) for reader, careless in {**READERS, TRUE: BoxNoise()}.items()},
    }
    return write_cohort(Path(out), rows(), facts)


PART_OF = ("train", "train", "train", "val", "test")
"""By the number of a subject, modulo 5."""


def _write_boxes(out: Path, subject: str, boxes: list[list[float]]) -> str:
    name = f"boxes/{subject}.json"
    try:
        (out / "boxes").mkdir(parents=True, exist_ok=True)
        text = json.dumps({"boxes": [[round(v, 2) for v in box] for box in boxes], "labels": ["cell"] * len(boxes)})
        (out / name).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{out}: the cells phantom cannot be written ({error.strerror}); give a folder that can be written"
        ) from error
    return name
