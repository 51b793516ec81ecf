"""NumPy arrays: ``.npy``, and ``.npz`` with one array, or with arrays named ``image`` and
``mask``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np

from allograft.cohort.picture import Picture, check_pixels
from allograft.errors import ImageError

_MOST_CHANNELS = 4  # a first axis that is longer is as likely rows or slices


def read_array(path: Path, *, mask: bool) -> Picture:
    """An array with the channels first and no affine.

    Images: (H, W), (C, H, W) or (C, i, j, k), with at most 4 channels. Masks: the same with one
    channel, or (i, j, k). Three axes of an image could be a volume or rows, columns and colours:
    what does not start with the channels is refused, never guessed. An ``.npz`` holds one array, or
    one called ``image`` and one called ``mask``. Nothing is unpickled.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "case.npz"), image=np.ones((3, 4, 5)), mask=np.zeros((4, 5), int))
    ...     [read_array(Path(folder, "case.npz"), mask=mask).array.shape for mask in (False, True)]
    [(3, 4, 5), (1, 4, 5)]
    """
    array = _stored(path, "mask" if mask else "image")
    shape = array.shape
    if len(shape) == 2 or (mask and len(shape) == 3 and shape[0] != 1):
        return Picture(array[None], None)
    if len(shape) not in (3, 4) or shape[0] > (1 if mask else _MOST_CHANNELS):
        if mask:
            wanted, fix = "(H, W) or (i, j, k) class numbers", "take the argmax of one-hot channels"
        else:
            wanted = f"(H, W), (C, H, W) or (C, i, j, k) with at most {_MOST_CHANNELS} channels first"
            fix = (
                "save array[None] for a volume, np.moveaxis(array, -1, 0) for colours last, one file per channel for "
                "more"
            )
        raise ImageError(f"{path}: an array of shape {shape}; expected {wanted}; {fix}")
    return Picture(array, None)


def _stored(path: Path, key: str) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            _check_header(path, file, path.stat().st_size)
        file.seek(0)
        held = np.load(file, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return held
        names = list(held.files)
        name = names[0] if len(names) == 1 else key
        if name not in names:
            found = f"{len(names)} arrays ({', '.join(names[:8])})"
            raise ImageError(
                f"{path}: holds {found}; expected one, or one called '{key}'; save each image in a file of its own"
            )
        with held.zip.open(f"{name}.npy") as member:
            member.read(6)
            _check_header(path, member, held.zip.getinfo(f"{name}.npy").file_size)
        return np.asarray(held[name])


def _check_header(path: Path, file: IO[bytes], size: int) -> None:
    """Refuse an array that is larger than what is stored of it, before it is made. ``file`` is
    behind the magic string."""
    version = tuple(file.read(2))
    if version != (1, 0):  # the length of the header is stored in four bytes
        length = int.from_bytes(file.read(4), "little")
        file.seek(-4, 1)
        if length > size:
            raise ImageError(
                f"{path}: its header declares a header of {length} bytes, more than the file holds; save it again"
            )
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    check_pixels(path, shape)
    if math.prod(shape) * dtype.itemsize > size:
        raise ImageError(
            f"{path}: its header declares an array {shape} of {dtype}, more than the file holds; save it again"
        )
