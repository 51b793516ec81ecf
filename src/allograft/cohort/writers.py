"""Masks and maps to files: NIfTI with an affine, PNG without. A file appears whole or not at
all."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from allograft.errors import ImageError, OutputError

NIFTI = (".nii.gz", ".nii")


def write_mask(path: Path, labels: np.ndarray, affine: np.ndarray | None, *, axis: int | None = 2) -> None:
    """Write class numbers (*spatial): NIfTI (``.nii.gz``, ``.nii``) with an affine, an 8-bit PNG
    without.

    The file appears whole or not at all, and its bytes depend on the arguments alone.

    Args:
        affine: (4, 4), as of ``Grid``.
        axis: of a plane with an affine, which axis of the file has length one; None = the file has
            two axes.

    Raises:
        ImageError: labels that the format cannot hold.
        OutputError: the place cannot be written.

    >>> import tempfile
    >>> from allograft.cohort.readers import read_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "mask.nii.gz", np.ones((2, 3, 4), int), np.eye(4))
    ...     read_mask(Path(folder) / "mask.nii.gz").spatial
    (2, 3, 4)
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "bui":
        raise ImageError(
            f"{path}: labels of type {labels.dtype}; expected integers; take the argmax of probabilities first"
        )
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    fits = next(
        (kind for kind in (np.uint8, np.int16, np.int32) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max),
        None,
    )
    if fits is None or (affine is None and fits is not np.uint8):
        limit = "0 to 255 in a PNG" if affine is None else "32 bits"
        raise ImageError(f"{path}: labels from {low} to {high}; expected {limit}; renumber the classes")
    _write(Path(path), labels.astype(fits), affine, axis)


def write_image(path: Path, values: np.ndarray, affine: np.ndarray | None, *, axis: int | None = 2) -> None:
    """Write one map of probabilities (*spatial): float32 NIfTI with an affine; without, a 16-bit
    PNG of round(65535 p).

    One file per class; otherwise as ``write_mask``.

    Raises:
        ImageError: values that are not finite, or outside [0, 1] for a PNG.
        OutputError: the place cannot be written.

    >>> import tempfile
    >>> from allograft.cohort.readers import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(Path(folder) / "vessel.png", np.array([[0.0, 1.0]]), None)
    ...     read_image([Path(folder) / "vessel.png"]).array.tolist()
    [[[0, 65535]]]
    """
    values = np.asarray(values, np.float32)
    good = np.isfinite(values) if affine is not None else (values >= 0) & (values <= 1)
    if not good.all():
        wanted = "finite numbers" if affine is not None else "probabilities from 0 to 1 for a PNG"
        raise ImageError(
            f"{path}: {int((~good).sum())} of {values.size} values are not {wanted}; apply softmax or sigmoid"
        )
    if affine is None:
        values = np.rint(values.astype(np.float64) * 65535).astype(np.uint16)
    _write(Path(path), values, affine, axis)


def _write(path: Path, array: np.ndarray, affine: np.ndarray | None, axis: int | None) -> None:
    suffixes, dimensions = ((".png",), (2,)) if affine is None else (NIFTI, (2, 3))
    if not path.name.lower().endswith(suffixes) or array.ndim not in dimensions or not array.size:
        wanted = (
            f"{' or '.join(suffixes)} of {' or '.join(map(str, dimensions))} axes "
            f"{'without' if affine is None else 'with'} an affine"
        )
        raise ImageError(
            f"{path}: cannot hold an array of shape {array.shape}; expected {wanted}; rename the file or pass its "
            "affine"
        )
    if affine is not None and array.ndim == 2 and axis is not None:
        array, affine = _stored(array, affine, axis)
    content = _encoded(array, affine, compressed=path.name.lower().endswith(".gz"))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"{path}: cannot be written ({error}); choose another folder, or free space") from error


def _stored(plane: np.ndarray, affine: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A plane as a volume of one slice across ``axis``, and the affine with its columns in that
    order."""
    order = [*(other for other in range(3) if other != axis), axis]
    stored = np.array(affine, np.float64)
    stored[:, order] = affine[:, :3]
    return np.expand_dims(plane, axis), stored


def _encoded(array: np.ndarray, affine: np.ndarray | None, *, compressed: bool) -> bytes:
    if affine is None:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()
    import nibabel

    image: Any = nibabel.Nifti1Image(array, np.asarray(affine, np.float64))
    image.header.set_xyzt_units("mm")
    return (
        gzip.compress(image.to_bytes(), 6, mtime=0) if compressed else bytes(image.to_bytes())
    )  # no time: same mask, same bytes
