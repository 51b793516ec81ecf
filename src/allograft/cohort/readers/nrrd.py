"""NRRD volumes: the header by pynrrd, the pixels read to the end of their checksum."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from allograft.cohort.alignment import check_right_angles
from allograft.cohort.picture import Picture, check_pixels
from allograft.cohort.readers.files import detached
from allograft.errors import ImageError

_SPACES = {
    ("left-posterior-superior", "lps"): (-1.0, -1.0, 1.0),
    ("right-anterior-superior", "ras"): (1.0, 1.0, 1.0),
    ("left-anterior-superior", "las"): (-1.0, 1.0, 1.0),
}
_MILLIMETRES = {"mm": 1.0, "": 1.0, "m": 1e3, "cm": 10.0, "um": 1e-3, "\N{MICRO SIGN}m": 1e-3, "microns": 1e-3}


def read_nrrd(path: Path, *, mask: bool = False) -> Picture:
    """(C, *spatial) with its affine in mm and RAS; the axis without a direction is channels.

    Where no direction is stated, axes are taken as ITK does: along left, posterior and superior. A
    segmentation of 3D Slicer is sparse: what lies outside of it is background.

    Raises:
        ImageError: encodings other than raw and gzip, pixels in several files, more than one axis
            of channels, a sheared grid.
    """
    import nrrd

    pixels = detached(path)
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        sizes = tuple(int(size) for size in header["sizes"])
        check_pixels(path, sizes)
        if pixels is None and (header.get("data file") or header.get("datafile")):
            raise ImageError(
                f"{path}: names its pixels where they are not looked for; store image and header in one file"
            )
        if pixels is None:
            array = _array(path, header, file, sizes)
        else:
            with pixels.open("rb") as other:
                array = _array(path, header, other, sizes)
    channels, spatial = _axes(path, header, sizes)
    affine, notes = _affine(path, header, spatial)
    kept = [axis for axis in spatial if sizes[axis] != 1]
    if len(kept) < 2:
        raise ImageError(
            f"{path}: shape {sizes}; expected 2 or 3 spatial axes that are longer than one; split the file"
        )
    order = [*kept, *(axis for axis in spatial if axis not in kept)]
    columns = [spatial.index(axis) for axis in order]
    affine = affine[:, [*columns, *range(len(columns), 3), 3]]
    dropped = columns[2] if len(kept) == 2 and len(columns) == 3 else None
    thickness = None if dropped is None else float(np.linalg.norm(affine[:3, 2]))
    array = array.transpose(*channels, *order).reshape(
        *([sizes[axis] for axis in channels] or [1]), *(sizes[axis] for axis in kept)
    )
    check_right_angles(path, affine, array.shape[1:])
    # 3D Slicer, which cuts off empty borders
    sparse = any(str(key).startswith("Segmentation_") for key in header)
    return Picture(array, affine, dropped, thickness, sparse=sparse, notes=notes)


def _array(path: Path, header: Any, file: IO[bytes], sizes: tuple[int, ...]) -> np.ndarray:
    import nrrd

    encoding = str(header.get("encoding", "raw")).lower()
    if encoding not in ("raw", "gzip", "gz") or int(header.get("line skip", 0)) or int(header.get("byte skip", 0)) > 0:
        raise ImageError(
            f"{path}: encoding {encoding}, or bytes to skip; expected raw or gzip; store it again with gzip"
        )
    kind = np.dtype(nrrd.reader._determine_datatype(header))
    count = math.prod(sizes) * kind.itemsize
    held = os.fstat(file.fileno()).st_size
    if count > held * (1 if encoding == "raw" else 1100):  # gzip packs a thousand to one at most
        raise ImageError(
            f"{path}: its header asks for {count} bytes of pixels, the file has {held} bytes; export it again"
        )
    with gzip.GzipFile(fileobj=file) if encoding != "raw" else file as stream:
        content = stream.read(count)
        left = stream.read(1)  # of gzip: compares the checksum
    if len(content) != count or left:
        raise ImageError(
            f"{path}: its header declares {count} bytes of pixels, found {'more' if left else len(content)}; export "
            "it again"
        )
    return np.frombuffer(content, kind).reshape(sizes, order="F")


def _axes(path: Path, header: Any, sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The axes of channels, one at most, and of space."""
    directions, kinds = header.get("space directions"), header.get("kinds") or ["domain"] * len(sizes)
    if directions is None:
        space = [
            axis for axis, kind in enumerate(kinds) if str(kind).lower() in ("domain", "space", "none", "???", "time")
        ]
    else:
        space = [
            axis for axis, row in enumerate(directions) if row is not None and np.isfinite(np.asarray(row, float)).all()
        ]
    channels = [axis for axis in range(len(sizes)) if axis not in space]
    if len(space) not in (2, 3) or len(channels) > 1:
        found = f"{len(space)} axes of space and {len(channels)} of channels in shape {sizes}"
        raise ImageError(f"{path}: {found}; expected 2 or 3 and at most one; split the file")
    return channels, space


def _affine(path: Path, header: Any, space: list[int]) -> tuple[np.ndarray, dict[str, str]]:
    directions, named = header.get("space directions"), str(header.get("space", "")).lower()
    signs = next((signs for names, signs in _SPACES.items() if named in names), None)
    notes = (
        {}
        if signs and directions is not None
        else {"orientation": "the header does not state which way its axes point"}
    )
    rows = np.zeros((3, 3))
    if directions is None:
        spacings = header.get("spacings")
        steps = [
            1.0 if spacings is None or not np.isfinite(spacings[axis]) else abs(float(spacings[axis])) for axis in space
        ]
        rows[range(len(space)), range(len(space))] = steps
    else:
        for number, axis in enumerate(space):
            row = np.asarray(directions[axis], float)
            rows[number, : len(row)] = row
    if len(space) == 2:
        rows[2] = np.cross(rows[0], rows[1]) / (np.linalg.norm(np.cross(rows[0], rows[1])) or 1.0)
    origin = np.zeros(3)
    if header.get("space origin") is not None:
        stated = np.asarray(header["space origin"], float)
        origin[: len(stated)] = stated
    units = {str(unit).strip() for unit in header.get("space units") or ["mm"]}
    if not units <= set(_MILLIMETRES) or len({_MILLIMETRES[unit] for unit in units}) > 1:
        raise ImageError(f"{path}: space units {sorted(units)}; expected mm; store it in mm")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rows.T, origin
    affine[:3] *= _MILLIMETRES[units.pop()]
    affine = np.diag([*(signs or (-1.0, -1.0, 1.0)), 1.0]) @ affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * math.prod(
        np.linalg.norm(affine[:3, :3], axis=0)
    ):
        raise ImageError(
            f"{path}: its space directions are not finite or have a zero voxel size; store the image with its voxel "
            "size"
        )
    return affine, notes
