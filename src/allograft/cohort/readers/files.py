"""Which files are images: suffixes, files that go together, and what to do with the formats that
are not read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allograft.errors import ImageError

NIBABEL = (".nii.gz", ".nii", ".mgz", ".mgh", ".mnc", ".par", ".img", ".hdr")
NRRD, METAIMAGE = (".nrrd", ".nhdr"), (".mha", ".mhd")
VOLUMES = (*NIBABEL, *NRRD, *METAIMAGE)
PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp")
PAIRED = {".img": (".hdr", ".mat"), ".hdr": (".img", ".mat"), ".par": (".rec",)}
"""Formats of several files, one of which is named; the first of the others has to be there."""
TIFF, ARRAYS = (".tif", ".tiff"), (".npz", ".npy")
SUFFIXES = (*VOLUMES, ".dcm", *PHOTOGRAPHS, *TIFF, *ARRAYS)  # upper case too

_TOOLS = {
    (".jp2", ".j2k", ".jpx"): "convert it to TIFF, with opj_decompress for example",
    (
        ".dcm.gz",
        ".img.gz",
        ".hdr.gz",
        ".tif.gz",
        ".nrrd.gz",
        ".mha.gz",
        ".gz",
        ".bz2",
        ".xz",
    ): "decompress it, with gunzip for example",
    (
        ".svs",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".vms",
        ".bif",
    ): "it is a slide of many sizes; cut tiles from it, with OpenSlide for example",
    (
        ".czi",
        ".lif",
        ".nd2",
        ".vsi",
        ".oib",
        ".oif",
        ".lsm",
        ".ims",
        ".zvi",
    ): "convert it to TIFF, with Bio-Formats' bfconvert for example",
    (".heic", ".heif", ".avif", ".dng", ".cr2", ".nef"): "convert it to PNG, with ImageMagick for example",
    (".gii",): "it holds surfaces; bring them to voxels, with wb_command -metric-to-volume-mapping for example",
    (".vtk", ".vti", ".gipl", ".ima"): "convert it to NIfTI, with SimpleITK, c3d or dcm2niix for example",
    (".head", ".brik", ".brik.gz"): "convert it to NIfTI, with 3dAFNItoNIFTI for example",
    (".mat", ".h5", ".hdf5", ".pt", ".pkl"): "save the array as .npy, or with its voxel size as NIfTI",
    (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"): "unpack it",
    (".rec", ".raw", ".zraw"): "name the file with its header, .par or .mhd, in its place",
}
UNREAD = tuple(suffix for suffixes in list(_TOOLS)[:5] for suffix in suffixes if suffix not in (".gz", ".bz2", ".xz"))
"""Formats of images that are not read."""

NOT_FETCHED = "a link to a file that is not there (datalad get or git annex get fetch it)"


@dataclass(frozen=True)
class Series:
    """Files of one DICOM series, wherever they lie.

    >>> str(Series("p1", (Path("p1/IM0"), Path("p1/IM1"))))
    'p1'
    """

    name: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return self.name


def suffix_of(path: Path) -> str:
    """The suffix of an image, read or not; empty for other files, and for one that belongs to
    another.

    >>> suffix_of(Path("a.b.NII.gz")), suffix_of(Path("a.jp2")), suffix_of(Path("notes.txt"))
    ('.nii.gz', '.jp2', '')
    """
    name = path.name.lower()
    return (
        ""
        if is_second(path)
        else max((suffix for suffix in (*SUFFIXES, *UNREAD) if name.endswith(suffix)), key=len, default="")
    )


def refusal(path: Path) -> str:
    """What to say of a file whose suffix is not known.

    >>> refusal(Path("a.gii"))
    'cannot read .gii; it holds surfaces; bring them to voxels, with wb_command -metric-to-volume-mapping for example'
    """
    fixes = {suffix: fix for suffixes, fix in _TOOLS.items() for suffix in suffixes}
    unread = max((suffix for suffix in fixes if path.name.lower().endswith(suffix)), key=len, default=None)
    if unread is not None:
        return f"cannot read {unread}; {fixes[unread]}"
    return f"unknown suffix; can read {', '.join(SUFFIXES)}; convert the file"


def companions(path: Path) -> tuple[Path, ...]:
    """The further files that an image consists of: pixels beside a header, or a header beside
    pixels.

    Raises:
        ImageError: a header that names its pixels by a path out of its folder, or as a list of
            files.
    """
    suffix = path.suffix.lower()
    if suffix in PAIRED:
        return tuple(sorted(sibling for sibling in _siblings(path) if sibling.suffix.lower() in PAIRED[suffix]))
    if suffix in (*NRRD, *METAIMAGE):
        named = detached(path)
        return () if named is None else (named,)
    return ()


def _siblings(path: Path) -> Iterator[Path]:
    return (
        sibling
        for sibling in path.parent.glob(f"{_escaped(path.stem)}.*")
        if sibling.stem == path.stem and sibling != path
    )


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def detached(path: Path) -> Path | None:
    """The file that holds the pixels of a MetaImage or NRRD header; None when they follow the
    header."""
    with path.open("rb") as file:
        # a NRRD's header ends there
        head = re.split(rb"\r?\n\r?\n", file.read(2**16), maxsplit=1)[0]
    matched = re.search(rb"^(?:ElementDataFile\s*[=:]|data ?file:)[ \t]*([^\r\n]*)", head, re.MULTILINE | re.IGNORECASE)
    if matched is None and path.suffix.lower() in METAIMAGE:
        raise ImageError(f"{path}: a header that does not say where its pixels are (ElementDataFile); export it again")
    if matched is None:
        return None
    name = matched[1].decode("utf-8", "replace").strip()
    if name.upper() == "LOCAL":
        return None
    if not name or Path(name).name != name or "\\" in name or re.search(r"%|^LIST\b", name):
        raise ImageError(
            f"{path}: names its pixels as {name[:80]!r}; expected one file next to it; store image and header in one "
            "file"
        )
    return path.with_name(name)


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link to a file that is not there, as git-annex and DataLad leave where
    content was not fetched."""
    return path.is_symlink() and not path.exists()


def is_second(path: Path) -> bool:
    """Whether a file belongs to another one that a listing of a folder has already: a ``.hdr``
    beside its ``.img``.

    >>> is_second(Path("nowhere/a.hdr"))
    False
    """
    return path.suffix.lower() == ".hdr" and any(sibling.suffix.lower() == ".img" for sibling in _siblings(path))
