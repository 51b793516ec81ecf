"""Which files of a folder are images: no hidden ones, one of each pair ``a.nii`` and ``a.nii.gz``,
and the others counted."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from allograft.cohort.readers import SUFFIXES
from allograft.cohort.readers.dicom import is_dicom
from allograft.cohort.readers.files import NOT_FETCHED, is_broken_link, is_second
from allograft.errors import ManifestError

_TEXTS = ("", ".json", ".csv", ".tsv", ".txt", ".xml", ".md", ".yaml", ".yml", ".html", ".pdf", ".bval", ".bvec")
"""What lies beside images and was never meant as one."""


def is_image(path: Path) -> bool:
    """Whether a file can be read as an image by its name, or is DICOM; folders are taken to be
    series."""
    return path.is_dir() or (path.name.lower().endswith(SUFFIXES) and not is_second(path)) or is_dicom(path)


def visible(paths: Iterable[Path]) -> list[Path]:
    """Paths in order, without hidden ones such as ``._a.png``, which macOS leaves beside a file."""
    return sorted(path for path in paths if not path.name.startswith("."))


def images_among(paths: Iterable[Path], folder: Path, unmatched: list[str]) -> list[Path]:
    """The images among the files of a folder, one of each pair ``a.nii`` and ``a.nii.gz``; the
    other files are counted by suffix."""
    seen = visible(paths)
    unmatched += [f"{path.name}: {NOT_FETCHED}, left out" for path in seen if is_broken_link(path)]
    files = [path for path in seen if path.is_file()]
    images = [path for path in files if is_image(path)]
    others = (path for path in set(files) - set(images) if path.suffix.lower() not in _TEXTS)
    unmatched += [f"{folder.name or folder}: {text}, which is not read as an image" for text in counted(others)]
    return one_of_twins(images, unmatched, folder)


def counted(files: Iterable[Path]) -> list[str]:
    """Files by suffix.

    >>> counted([Path("a.mnc.gz"), Path("b.mnc.gz"), Path("README")])
    ['2 files of .mnc.gz', '1 file of no suffix']
    """
    endings = Counter(
        "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix or "no suffix" for path in files
    )
    return [f"{number} file{'s' * (number > 1)} of {ending}" for ending, number in sorted(endings.items())]


def one_of_twins(images: Sequence[Path], unmatched: list[str], folder: Path | None = None) -> list[Path]:
    """Without each ``a.nii`` (named as it lies below ``folder``) whose ``a.nii.gz`` is there too.

    Raises:
        ManifestError: the two hold different bytes.
    """
    packed = {path for path in images if path.name.endswith(".nii.gz")}
    twins = {path for path in images if path.name.endswith(".nii") and path.with_name(f"{path.name}.gz") in packed}
    for path in sorted(twins):
        _check_same(path, path.with_name(f"{path.name}.gz"))
        unmatched.append(
            f"{path.relative_to(folder).as_posix() if folder else path.name}: the same image as {path.name}.gz, left "
            "out"
        )
    return [path for path in images if path not in twins]


def other_suffix(path: Path) -> str:
    """``, but a.nii is there`` for a file ``a.nii.gz`` that is not there, else nothing."""
    name = path.name.split(".")[0]
    try:
        beside = (
            [sibling.name for sibling in visible(path.parent.iterdir()) if sibling.name.split(".")[0] == name]
            if name
            else []
        )
    except (OSError, ValueError):  # a hostile name is no path
        return ""
    return f", but {', '.join(beside[:3])} is there" if beside else ""


def _check_same(plain: Path, packed: Path) -> None:
    try:
        with open(plain, "rb") as plain_file, gzip.open(packed) as other:
            same = all(
                left == right
                for left, right in iter(lambda: (plain_file.read(1 << 20), other.read(1 << 20)), (b"", b""))
            )
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(
            f"{packed}: cannot be read ({error}) and compared with {plain.name}; remove one of them"
        ) from error
    if not same:
        raise ManifestError(
            f"{plain}: differs from {packed.name}, so which is the image is unknown; remove one of them"
        )
