"""The DICOM series of a prediction, and what DICOM objects that are made of it have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allograft import __version__
from allograft.apply.model import Predicted
from allograft.cohort.readers import Series
from allograft.cohort.readers.dicom import is_dicom
from allograft.errors import ImageError

USE = "Research use only, not a medical device"
COMMON: dict[str, Any] = {
    "specific_character_set": "ISO_IR 192",  # UTF-8, for classes in any letters
    "manufacturer": "Allograft",
    "manufacturer_model_name": "Allograft",
    "software_versions": __version__,
    "device_serial_number": "0",
}


@dataclass(frozen=True)
class Algorithm:
    """What made a result.

    Args:
        name: of the model.
        checksum: of the model's card.
    """

    name: str
    checksum: str


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Args:
        name: in words.
        option: of the command line that asks for it.
        needs: what it repeats of its series.
    """

    name: str
    option: str
    needs: str


def slices_of(predicted: Predicted, kind: Kind) -> list[Any]:
    """The files of the series of an image, without their pixels.

    Raises:
        ImageError: the image is no DICOM.
    """
    import pydicom

    first = predicted.files[0]
    if isinstance(first, Series):
        files = list(first.files)
    else:
        files = sorted(file for file in first.iterdir() if file.is_file()) if first.is_dir() else [first]
    files = [file for file in files if is_dicom(file)]
    if not files:
        raise ImageError(
            f"{predicted.name}: is not DICOM, and a {kind.name} belongs to a DICOM series; give the folder of the "
            f"series, or leave {kind.option} out"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]


def save(path: Path, make: Callable[[], Any], predicted: Predicted, kind: Kind) -> None:
    """Make an object and write it, or leave nothing.

    Args:
        make: returns the object.

    Raises:
        ImageError: the series lacks what the object must repeat.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make().save_as(path)
    # highdicom's words may quote the header; the name of a tag is all that is passed on
    except Exception as error:
        path.unlink(missing_ok=True)
        lacks = f" (it lacks {error.name})" if isinstance(error, AttributeError) and error.name else ""
        raise ImageError(
            f"{predicted.name}: a {kind.name} cannot be made of this series{lacks}; expected one with {kind.needs}; "
            f"export the series again, or leave {kind.option} out"
        ) from None
