"""One pass over the files of a cohort: what each case holds, whatever its files are like."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.alignment import aligned
from allograft.cohort.coding import Coding
from allograft.cohort.geometry import geometry, to_grid
from allograft.cohort.manifest import Case
from allograft.cohort.near_duplicates import Fingerprint, fingerprint, standardised, thumbnail
from allograft.cohort.picture import Picture
from allograft.cohort.preprocessing import Preprocessing, normalise, windowed
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import AllograftError, ImageError
from allograft.seeds import Seeds

STYLED = 40
"""Images of a site whose style is measured, drawn by name; all images are read."""
LEVELS = np.linspace(0.02, 0.98, 25)


@dataclass(frozen=True, eq=False)
class Style:
    """How an image looks: ``intensity`` quantiles, ``spectrum`` (log10 amplitude by radius),
    ``layout`` (bright and dark, 8 x 8)."""

    intensity: np.ndarray
    spectrum: np.ndarray
    layout: np.ndarray
    spread: float


@dataclass(frozen=True, eq=False)
class Look:
    """What one case's files hold; ``problems`` and ``notes`` are (what kind, what was found) pairs.

    A case whose image is unreadable has only problems. ``box``: lowest and highest corner of a
    volume in mm.
    """

    case: Case
    row: int
    problems: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    print: Fingerprint | None = None
    size: tuple[int, ...] = ()
    prepared: tuple[int, ...] | None = None
    channels: int = 0
    kind: str = ""
    orientation: str = ""
    spacing: tuple[float, ...] | None = None
    box: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    scale: float = 0.0
    scale_after: float | None = None
    codes: Mapping[int, int] = field(default_factory=dict)
    boxes: Mapping[str, int] = field(default_factory=dict)
    before: Style | None = None
    after: Style | None = None


def survey(cases: Sequence[Case], preprocessing: Preprocessing, coding: Coding | None = None) -> list[Look]:
    """Look at every case once; nothing that a file holds raises."""
    turn = sorted(range(len(cases)), key=lambda number: Seeds(0, ("style",)).number(cases[number].name))
    left: dict[str, int] = {}
    styled = set()
    for number in turn:  # drawn by name, so that neighbours in a folder are not all there is
        site = cases[number].site
        left[site] = left.get(site, 0) + 1
        if left[site] <= STYLED:
            styled.add(number)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(
            pool.map(
                lambda item: _look(item[1], item[0] + 2, preprocessing, coding, item[0] in styled), enumerate(cases)
            )
        )  # row 1 is the header


def _look(case: Case, row: int, preprocessing: Preprocessing, coding: Coding | None, styled: bool) -> Look:
    try:
        # what NaN becomes is for the preprocessing to say
        picture = read_image(case.image, nan=0.0)
    except AllograftError as error:
        return Look(case, row, (("unreadable", str(error)),))
    problems: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = list(picture.notes.items())
    facts = _on_other_files(case, picture, coding, problems, notes)
    try:
        laid = geometry(picture, preprocessing, case.name)
        facts["prepared"] = laid.size
        if styled:
            after = to_grid(
                normalise(windowed(picture.array.astype(np.float32), preprocessing.window), preprocessing.intensity),
                laid,
                nearest=False,
            )
            facts |= {"before": style(picture.array), "after": style(after), "scale_after": _scale(after)}
    except AllograftError as error:
        problems.append(("preprocessing", str(error)))
    return Look(
        case,
        row,
        tuple(problems),
        tuple(notes),
        fingerprint(picture),
        picture.spatial,
        channels=len(picture.array),
        kind=picture.array.dtype.name,
        orientation=_orientation(picture),
        spacing=None if picture.affine is None else tuple(round(mm, 3) for mm in picture.spacing),
        box=_box(picture),
        scale=_scale(picture.array),
        **facts,
    )


def _on_other_files(
    case: Case,
    picture: Picture,
    coding: Coding | None,
    problems: list[tuple[str, str]],
    notes: list[tuple[str, str]],
) -> dict[str, Any]:
    """What the mask and the boxes of a case hold; what is wrong with these and its other files is
    added to ``problems``, and what is odd to ``notes``."""
    facts: dict[str, Any] = {}
    if "mask" in case.labels:
        facts["codes"] = _codes(Path(case.labels["mask"]), picture, coding, problems, notes)
    if "boxes" in case.labels:
        facts["boxes"] = _boxes(Path(case.labels["boxes"]), picture, problems)
        for column in case.further_readers.values():
            _boxes(Path(case.labels[column]), picture, problems)
        if picture.turn != 1:
            notes.append(
                ("turn", f"EXIF orientation {picture.turn}, and boxes that may be those of the pixels as stored")
            )
    if case.region is not None:
        _on_image("region", case.region, picture, problems, notes)
    if "paired" in case.labels:
        _on_image("paired", Path(case.labels["paired"]), picture, problems, notes)
    return facts


def style(array: np.ndarray) -> Style:
    """(C, *spatial) -> its style; a volume's spectrum and layout are those of its middle plane.

    >>> style(np.arange(256.0).reshape(1, 16, 16)).layout.shape
    (8, 8)
    """
    values = _some(array)
    plane = array if array.ndim == 3 else array[..., array.shape[-1] // 2]
    small = thumbnail(plane.astype(np.float32))
    amplitude = np.abs(np.fft.fft2(small))
    radius = np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(len(small)) * len(small)] * 2))).astype(int)
    rings = [amplitude[radius == ring].mean() for ring in range(1, 25)]
    floor = 1e-6 * max(float(np.abs(small).max()), 1e-30) * small.size**0.5
    # mean 0 and standard deviation 1 over the 64 places
    layout = 8 * standardised(thumbnail(plane, 8))
    return Style(np.quantile(values, LEVELS), np.log10(np.maximum(rings, floor)), layout, float(values.std()))


def _some(array: np.ndarray) -> np.ndarray:
    flat = array.reshape(-1)
    return np.asarray(flat[:: max(1, flat.size // 50_000)], np.float64)


def _scale(array: np.ndarray) -> float:
    return float(np.quantile(np.abs(_some(array)), 0.99))


def _orientation(picture: Picture) -> str:
    if picture.affine is None:
        return ""
    from nibabel.orientations import aff2axcodes

    return "".join(letter or "?" for letter in aff2axcodes(picture.affine)[: len(picture.spatial)])


def _codes(
    path: Path, picture: Picture, coding: Coding | None, problems: list[tuple[str, str]], notes: list[tuple[str, str]]
) -> dict[int, int]:
    """Mask value -> pixels."""
    mask = _on_image("mask", path, picture, problems, notes)
    if mask is None:
        return {}
    if coding is not None and coding.mask:
        try:
            coding.mask_to_index(mask.array, str(path))
        except AllograftError as error:
            problems.append(("codes", str(error)))
    if mask.array.dtype == np.uint8:
        counts = np.bincount(mask.array.reshape(-1), minlength=1)
        return {int(code): int(counts[code]) for code in np.flatnonzero(counts)}
    return {int(code): int(count) for code, count in zip(*np.unique(mask.array, return_counts=True), strict=True)}


def _box(picture: Picture) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The box in mm, along the patient's axes, that holds a volume."""
    if picture.affine is None or len(picture.spatial) != 3:
        return None
    corners = np.array(list(product(*((-0.5, length - 0.5) for length in picture.spatial), (1.0,))))
    places = (corners @ picture.affine.T)[:, :3]
    return tuple(map(float, places.min(0))), tuple(map(float, places.max(0)))


def _on_image(
    what: str, path: Path, picture: Picture, problems: list[tuple[str, str]], notes: list[tuple[str, str]]
) -> Picture | None:
    """A mask, region or paired image, on the axes of its image where it lies there."""
    try:
        other = read_image([path], nan=0.0) if what == "paired" else read_mask(path)
    except AllograftError as error:
        problems.append(("unreadable", str(error)))
        return None
    notes.extend((topic, f"{what}: {text}") for topic, text in other.notes.items())
    if other.turn != picture.turn:
        notes.append(("turn", f"the image has EXIF orientation {picture.turn}, its {what} {other.turn}"))
    try:
        return aligned(other, picture.grid, path, "its image")
    except ImageError as error:
        problems.append(("geometry", f"{what} {error}"))
        return other


def _boxes(path: Path, picture: Picture, problems: list[tuple[str, str]]) -> dict[str, int]:
    """Box label -> how many."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        boxes, labels = np.asarray(tree["boxes"], float).reshape(-1, 4), [str(label) for label in tree["labels"]]
        if len(boxes) != len(labels):
            raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problems.append(
            (
                "unreadable",
                f"{path}: no boxes file ({type(error).__name__}: {error}); expected boxes and labels as JSON",
            )
        )
        return {}
    height, width = picture.spatial[-2:]
    limits = np.array([width, height, width, height])
    wrong = (
        int(((boxes < 0) | (boxes > limits)).any(1).sum() + (boxes[:, :2] >= boxes[:, 2:]).any(1).sum())
        if len(boxes)
        else 0
    )
    if wrong:
        problems.append(("geometry", f"{wrong} of {len(boxes)} boxes leave the image or are empty"))
    return {label: labels.count(label) for label in sorted(set(labels))}
