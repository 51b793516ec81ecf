"""What the phantoms share: draws keyed by content, smooth fields, checks, and the writing of a
cohort."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from allograft.errors import OutputError, SpecError, nearest

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Row = Mapping[str, str | Pixels]
"""Column -> its text, or an image that is written to ``COLUMNs/SUBJECT.png`` (or another ending);
``subject`` is text. Where a subject has several rows, ``FILE`` says what their images are called,
and is no column."""
FILE = "file"


def draws(seed: int, *path: str) -> np.random.Generator:
    """A generator keyed by content: the same words give the same draws whatever else is drawn.

    >>> draws(0, "anatomy", "a").random() == draws(0, "anatomy", "a").random() != draws(0, "anatomy", "b").random()
    True
    """
    text = json.dumps([seed, *path]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big"))


def places(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(size, 1) and (1, size): how far down and to the right the pixels lie, from -1 to 1 at the
    image's edges.

    >>> places(4)[0].ravel().tolist()
    [-0.75, -0.25, 0.25, 0.75]
    """
    line = (np.arange(size) + 0.5) / size * 2 - 1
    return line[:, None], line[None, :]


def smooth_field(rng: np.random.Generator, size: int, grid: int) -> NDArray[np.float64]:
    """Standard normal numbers on a coarse grid, laid over (size, size) by cubic splines.

    >>> smooth_field(np.random.default_rng(0), 32, 4).shape
    (32, 32)
    """
    return stretched(rng.standard_normal((grid, grid)), (size, size))


def stretched(coarse: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A coarse grid laid over an image by cubic splines."""
    factors = [n / c for n, c in zip(shape, coarse.shape, strict=True)]
    return np.asarray(ndimage.zoom(coarse, factors, order=3, mode="nearest", grid_mode=True))


def blurred(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """(H, W) or (H, W, C) under a Gaussian of ``sigma`` pixels; channels stay apart."""
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim])) if sigma else image


def to_bytes(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shares of white -> uint8, cut off outside 0 to 1."""
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


def check_instrument(instrument: str, values: Mapping[str, Any]) -> None:
    """Raise ``SpecError`` for a setting that is negative or not finite."""
    for name, value in values.items():
        if not (np.isfinite(value).all() and np.min(value) >= 0):
            raise SpecError(f"{instrument}: {name} is {value}; expected finite numbers of at least 0")


def check_request(
    phantom: str,
    dims: int,
    sites: Mapping[str, str],
    shifts: Iterable[str],
    numbers: tuple[int, int],
    *,
    possible: tuple[int, ...] = (2,),
) -> None:
    """Raise ``SpecError`` for what cannot be written; ``numbers`` are subjects a site and pixels a
    side, ``possible`` the dimensions that the phantom has."""
    subjects, size = numbers
    if dims not in possible:
        fixes: dict[tuple[int, ...], str] = {
            (2,): "it is a photograph, so 2; 'brain' has volumes",
            (3,): "its images are volumes, so 3",
        }
        mend = fixes.get(possible, "expected 2 or 3")
        raise SpecError(f"{phantom} phantom: dims is {dims}; {mend}")
    if size < 32:
        raise SpecError(
            f"{phantom} phantom: size is {size}; expected at least 32 pixels, or its structures are thinner than one"
        )
    if subjects < 1 or not sites:
        raise SpecError(f"{phantom} phantom: {subjects} subjects at {len(sites)} sites; expected at least one of each")
    for site, shift in sites.items():
        if not re.fullmatch(r"\w[\w-]*", site, re.ASCII):
            raise SpecError(f"{phantom} phantom: site '{site}' becomes a file name; use letters, digits, '_' and '-'")
        if shift not in shifts:
            raise SpecError(f"{phantom} phantom: site '{site}': {nearest(shift, shifts, 'shift')}")


def subjects_of(sites: Mapping[str, str], subjects: int) -> Iterator[tuple[str, str, int, str]]:
    """Site, what it is like, and the number and the name of a subject: those of each site in turn.

    >>> list(subjects_of({"a": "none"}, 2))
    [('a', 'none', 0, 'a-000'), ('a', 'none', 1, 'a-001')]
    """
    return ((site, like, number, f"{site}-{number:03d}") for site, like in sites.items() for number in range(subjects))


def write_cohort(out: Path, rows: Iterable[Row], facts: Mapping[str, Any], ending: str = ".png") -> Path:
    """Write images, ``shift.json`` with the facts, and ``manifest.csv``, whose path is returned.
    ``OutputError`` when it cannot be.

    Args:
        ending: one of ``FORMATS``.
    """
    out, lines = Path(out), list[list[str]]()
    try:
        for row in rows:
            columns = [column for column in row if column != FILE]
            if not lines:
                lines.append(columns)
            stem = str(row.get(FILE, row["subject"]))
            lines.append([_stored(out, column, stem, row[column], ending) for column in columns])
        (out / "shift.json").write_bytes((json.dumps(facts, indent=2) + "\n").encode())
        (out / "manifest.csv").write_bytes("".join(",".join(line) + "\n" for line in lines).encode())
    except OSError as error:
        message = (
            f"the {facts['phantom']} phantom cannot be written ({error.strerror}); give a folder that can be written"
        )
        raise OutputError(f"{out}: {message}") from error
    return out / "manifest.csv"


def _stored(out: Path, column: str, stem: str, value: str | Pixels, ending: str) -> str:
    if isinstance(value, str):
        return value
    name = f"{column}s/{stem}{ending}"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(FORMATS[ending](value))
    return name


def _png(array: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _nifti(array: Pixels) -> bytes:
    import nibabel

    volume: Any = nibabel.Nifti1Image(array, np.eye(4))
    return gzip.compress(
        volume.to_bytes(), compresslevel=6, mtime=0
    )  # no time stamp: the same volume is the same bytes


FORMATS: Mapping[str, Callable[[Pixels], bytes]] = MappingProxyType({".png": _png, ".nii.gz": _nifti})
"""Ending -> what makes the bytes of an image; volumes have an identity affine: 1 mm, RAS."""
