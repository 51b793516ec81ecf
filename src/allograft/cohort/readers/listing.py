"""The images below a folder: every file that can be read, and every DICOM series as one, whatever
its files are called."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from allograft.cohort.readers.dicom import is_dicom
from allograft.cohort.readers.files import SUFFIXES, UNREAD, Series, is_broken_link, is_second

_TAGS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "NumberOfFrames",
    "Rows",
)


def images_below(folder: Path, *, planes: bool = False) -> list[tuple[str, Path | Series]]:
    """Name -> image, in order of their names, at any depth.

    DICOM files are grouped by their series, with or without suffix; those without a place in the
    patient (radiographs, photographs) and those of several frames are images of their own, and
    objects that are no images (plans, reports) are left out. A series is named after its folder, or
    after its first file where a folder holds several. Image formats that cannot be read are listed
    too, so that reading them says what to do.

    Args:
        planes: take every slice of a series as an image of its own.
    """
    images: dict[str, Path | Series] = {}
    series: dict[str, list[Path]] = {}
    for path in _files(folder):
        known = path.name.lower().endswith(tuple(suffix for suffix in SUFFIXES if suffix != ".dcm"))
        if known and not is_second(path):
            images[path.relative_to(folder).as_posix()] = path
        elif not known and (path.name.lower().endswith(".dcm") or is_dicom(path)):
            key = _series(path)
            if key is not None:
                series.setdefault(str(path) if planes or not key else key, []).append(path)
        elif path.name.lower().endswith(UNREAD):
            images[path.relative_to(folder).as_posix()] = path
    return sorted((images | _named(list(series.values()), folder)).items())


def _files(folder: Path) -> list[Path]:
    hidden = (
        path
        for path in folder.rglob("*")
        if (path.is_file() or is_broken_link(path)) and path.name != "DICOMDIR"  # reading the link says what it is
    )
    return sorted(path for path in hidden if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _named(series: list[list[Path]], folder: Path) -> dict[str, Path | Series]:
    """A series by the folder that holds it alone, otherwise by its first file."""
    homes = [Path(os.path.commonpath([path.parent for path in files])) for files in series]
    shared = Counter(home for home, files in zip(homes, series, strict=True) if len(files) > 1)
    named: dict[str, Path | Series] = {}
    for files, home in zip(series, homes, strict=True):
        named_by = home if shared[home] == 1 and len(files) > 1 else files[0]
        name = folder.name if named_by == folder else named_by.relative_to(folder).as_posix()
        named[name] = Series(str(named_by), tuple(files)) if len(files) > 1 else files[0]
    return named


def _series(path: Path) -> str | None:
    """What slices of one volume share; empty for an image of its own, None for what is no image."""
    import pydicom
    from pydicom.uid import UID

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset: Any = pydicom.dcmread(path, specific_tags=list(_TAGS), stop_before_pixels=True)
    except Exception:  # reading it will say what is wrong
        return ""
    kind = UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))).name
    known = kind.endswith(" Storage")
    if (known and "Image" not in kind) or (kind and not known and "Rows" not in dataset):
        return None  # an image without rows was cut short, which reading it says
    placed = all(dataset.get(key) for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    if not placed or int(dataset.get("NumberOfFrames") or 1) > 1:
        return ""
    return str(dataset.get("SeriesInstanceUID") or path.parent)
