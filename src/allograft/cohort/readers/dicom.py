"""DICOM: one file, the frames of one file, or a folder that is a series."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from allograft.cohort.alignment import check_right_angles
from allograft.cohort.picture import Picture
from allograft.cohort.readers.dicom_plane import Place, Plane, planes_of
from allograft.cohort.readers.dicom_segmentation import is_segmentation, read_segmentation
from allograft.cohort.readers.files import NOT_FETCHED, Series, is_broken_link
from allograft.errors import ImageError

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's patient axes are LPS."""


def is_dicom(path: Path) -> bool:
    """Whether a file says of itself that it is DICOM, whatever its name.

    >>> is_dicom(Path(__file__))
    False
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def read_dicom(path: Path | Series, *, mask: bool = False) -> Picture:
    """Read one file, the files of a series, or a folder whose DICOM files are the slices of one
    series.

    A series, or an object of several frames that each have a place (enhanced CT and MR): (C,
    columns, rows, slices) as NIfTI converters write it, slices sorted by their position along the
    normal, affine in RAS. One plane with a position: (C, rows, columns) with its affine. One
    without (radiograph, ultrasound, dermoscopy), or in colour: a photograph, affine None.
    MONOCHROME1 is inverted within its stored bits, but for CT and PET, whose numbers have a unit
    however they are shown; then the modality's rescaling is applied: int32 if slope and intercept
    are whole numbers, else float32; unscaled pixels keep their type. A palette becomes RGB, or
    stays indices with ``mask``. With ``mask`` a segmentation object gives the numbers of its
    segments.

    Errors name files and never quote the header.

    Raises:
        ImageError: what is damaged, of a kind that is no picture of tissue, compressed in a way
            that cannot be decoded, a film, or of several series, and slices that are missing,
            doubled, tilted or unlike.
    """
    if isinstance(path, Path) and not path.is_dir():
        if mask and is_segmentation(path):
            return read_segmentation(path)
        planes = planes_of(path, mask=mask)
    else:
        files = path.files if isinstance(path, Series) else _slices(path)
        if mask and len(files) == 1 and is_segmentation(files[0]):
            return read_segmentation(files[0])
        planes = [plane for file in files for plane in planes_of(file, mask=mask)]
    return _picture(path, planes[0]) if len(planes) == 1 else _volume(path, planes)


def _slices(folder: Path) -> list[Path]:
    lost = sorted(entry for entry in folder.iterdir() if is_broken_link(entry))
    if lost:  # a slice perhaps
        raise ImageError(f"{lost[0]}: {NOT_FETCHED}; expected the slices of one series; fetch it, or remove the link")
    readable = sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_file() and entry.name != "DICOMDIR" and not entry.name.startswith(".")
    )
    files = [entry for entry in readable if entry.name.lower().endswith(".dcm") or is_dicom(entry)]
    if not files:
        what = f"a folder of {len(readable)} files, none of them DICOM"
        raise ImageError(f"{folder}: {what}; expected the slices of one series; correct the path")
    return files


def _picture(path: Path | Series, plane: Plane) -> Picture:
    place = plane.place
    if place is None or len(plane.array) > 1:
        high, wide = plane.ratio
        stretched = {"aspect": f"its pixels are {high} high and {wide} wide"} if place is None and high != wide else {}
        return Picture(plane.array, None, notes=stretched)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = place.directions[1] * place.spacing[0], place.directions[0] * place.spacing[1]
    affine[:3, 2], affine[:3, 3] = place.normal * (place.thickness or 1.0), place.position
    affine = TO_RAS @ affine
    check_right_angles(str(path), affine, plane.array.shape[1:])
    return Picture(plane.array, affine, thickness=place.thickness, shown=True)


def _volume(folder: Path | Series, planes: Sequence[Plane]) -> Picture:
    """Planes of one series, in any order -> (C, columns, rows, slices)."""
    first = planes[0]
    if (several := len({plane.series for plane in planes})) > 1:
        odd = next(plane.name for plane in planes if plane.series != first.series)
        found = f"{several} series ({first.name} and {odd} are of two)"
        raise ImageError(f"{folder}: holds {found}; expected one; give each series a folder of its own")
    odd_kind = next((plane for plane in planes if plane.kind != first.kind), None)
    if odd_kind is not None:
        found = f"{odd_kind.name} is {odd_kind.kind}, {first.name} {first.kind}"
        raise ImageError(f"{folder}: {found}; expected slices of one kind; export the series again")
    bare = next((plane for plane in planes if plane.is_rescaled is None), None)
    scaled = next((plane for plane in planes if plane.is_rescaled), None)
    if bare is not None and scaled is not None:
        found = f"{scaled.name} states how its numbers are rescaled, {bare.name} does not"
        raise ImageError(f"{folder}: {found}; expected it of every slice or of none; export the series again")
    places = [_same_grid(folder, plane, first) for plane in planes]
    normal = places[0].normal
    heights = np.array([position.position @ normal for position in places])
    order = np.argsort(heights, kind="stable")
    _check_steps(folder, [planes[i] for i in order], heights[order])
    low, high = places[order[0]], places[order[-1]]
    _check_line(folder, [planes[i] for i in order], [places[i] for i in order])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = low.directions[0] * low.spacing[1], low.directions[1] * low.spacing[0]
    affine[:3, 2], affine[:3, 3] = (high.position - low.position) / (len(planes) - 1), low.position
    array = np.stack([planes[i].array.swapaxes(1, 2) for i in order], -1)
    affine = TO_RAS @ affine
    check_right_angles(str(folder), affine, array.shape[1:])
    return Picture(array, affine)


def _same_grid(folder: Path | Series, plane: Plane, first: Plane) -> Place:
    """The place of a plane that has the shape, directions and spacing of the first."""
    where = folder / plane.name if isinstance(folder, Path) and folder.is_dir() else f"{folder}: {plane.name}"
    if plane.place is None or first.place is None:
        fix = "name the file itself if it is no part of a volume"
        odd = plane.name if plane.place is None else first.name
        raise ImageError(
            f"{folder}: {odd}: a slice without position, orientation or pixel spacing; expected all three in a "
            f"folder; {fix}"
        )
    for what, ours, other, tolerance in (
        ("shape", plane.array.shape, first.array.shape, 0.0),
        ("orientation", plane.place.directions.ravel(), first.place.directions.ravel(), 1e-3),
        ("pixel spacing", plane.place.spacing, first.place.spacing, 1e-3),
    ):
        if len(ours) != len(other) or not np.allclose(ours, other, rtol=0, atol=tolerance):
            found, expected = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (ours, other))
            fix = "move it to a folder of its own if it is a scout, or export the series again"
            raise ImageError(f"{where}: {what} ({found}); expected that of {first.name}, ({expected}); {fix}")
    return plane.place


def _check_steps(folder: Path | Series, planes: Sequence[Plane], heights: np.ndarray) -> None:
    """Sorted slices must be equally far apart. Rounded positions pass: no slice may be off the even
    grid by over a tenth of a step."""
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    closest = int(gaps.argmin())
    if gaps[closest] < 0.1 * step or gaps[closest] < 1e-4:
        names = f"{planes[closest].name} and {planes[closest + 1].name}"
        found = f"{names} lie at one place ({gaps[closest]:.3g} mm apart; the usual step is {step:.3g})"
        fix = "expected one file per slice; remove the copy, or give each time point or echo its own folder"
        if isinstance(folder, Path) and folder.is_file():
            fix = "expected one frame per slice; split the time points or echoes, dcm2niix does"
        raise ImageError(f"{folder}: {found}; {fix}")
    off = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if off.max() > 0.1 * step:
        worst = int(np.abs(gaps - step).argmax())
        names = f"{planes[worst].name} and {planes[worst + 1].name}"
        what = "a slice is missing" if gaps[worst] > 1.5 * step else "slices are unequally far apart"
        found = f"{gaps[worst]:.4g} mm between {names}, {len(planes)} slices in all"
        raise ImageError(
            f"{folder}: {what}: found {found}; expected {step:.4g} mm; copy the complete series, or resample it to "
            "equal steps"
        )


def _check_line(folder: Path | Series, planes: Sequence[Plane], places: Sequence[Place]) -> None:
    """Sorted slices must lie on one line: none may be off it by half a pixel or more."""
    positions = np.stack([position.position for position in places])
    share = np.linspace(0, 1, len(places))[:, None]
    off = positions - (positions[0] + share * (positions[-1] - positions[0]))
    off -= (off @ places[0].normal)[:, None] * places[0].normal  # along the normal is looked at elsewhere
    apart = np.linalg.norm(off, axis=1)
    worst = int(apart.argmax())
    limit = 0.5 * float(places[0].spacing.min())
    if apart[worst] >= limit:
        raise ImageError(
            f"{folder}: {planes[worst].name} lies {apart[worst]:.3g} mm off the line of the other slices; expected "
            f"less than half a pixel, {limit:.3g} mm; export the series again, or resample it to one grid"
        )
