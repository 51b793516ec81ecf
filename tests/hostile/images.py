"""Malformed images."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from tests.hostile.world import Bomb, Hostile

GREY = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)


def image(name: str, write: Callable[[Path], Any]) -> Callable[[Path], list[Any]]:
    """A file that is to be predicted."""

    def make(world: Path) -> list[Any]:
        write(world / name)
        return ["predict", world / "model", world / name, "-o", world / "out"]

    return make


def mask(name: str, write: Callable[[Path], Any]) -> Callable[[Path], list[Any]]:
    """A file that is a mask of the cohort."""

    def make(world: Path) -> list[Any]:
        write(world / "cohort" / name)
        path = world / "cohort" / "manifest.csv"
        path.write_text(path.read_text().replace("masks/a-000.png", name))
        return ["study", world / "cohort" / "study.yaml", "--out", world / "out"]

    return make


def data(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, rows: bytes = b"", depth: int = 8) -> bytes:
    """A PNG of this header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def nifti(shape: tuple[int, ...], pixels: bytes = b"", **header: Any) -> bytes:
    """A NIfTI file of this header, whatever follows it."""
    told = nibabel.Nifti1Header()
    told.set_data_dtype(np.float32)
    raw = bytearray(told.binaryblock)
    struct.pack_into("<8h", raw, 40, *(len(shape), *shape, *(1,) * (7 - len(shape))))
    struct.pack_into("<8f", raw, 76, *(1.0,) * 8)
    struct.pack_into("<f", raw, 108, header.get("offset", 352.0))
    raw[344:348] = header.get("magic", b"n+1\0")
    return bytes(raw) + bytes(4) + pixels


def volume(array: np.ndarray, affine: np.ndarray) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        made = nibabel.Nifti1Image(array, np.eye(4))
        made.header["srow_x"], made.header["srow_y"], made.header["srow_z"] = affine[:3]
        made.header["sform_code"] = 1
        path.write_bytes(made.header.binaryblock + bytes(4) + array.tobytes(order="F"))

    return write


def npy(text: str | bytes, pixels: bytes = b"") -> bytes:
    """An array of this header."""
    head = text.encode() if isinstance(text, str) else text
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) % 2**16) + head + pixels


def told(shape: Any, kind: str = "<f4") -> str:
    return str({"descr": kind, "fortran_order": False, "shape": shape}) + "\n"


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/") + ".npy", content)
    return file.getvalue()


def lying_archive() -> bytes:
    """A member whose directory entry tells of as many bytes as its header, and which holds
    sixteen."""
    content = bytearray(archive(image=npy(told((40_000, 20_000)), bytes(16))))
    place = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, place + 24, 3_200_000_128)
    return bytes(content)


def arrays(*items: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    if named:
        np.savez(file, **named)
    else:
        np.save(file, items[0], allow_pickle=True)
    return file.getvalue()


def dicom(**changes: Any) -> bytes:
    """A photograph of 32 x 32 as DICOM, with other tags."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = changes.pop("syntax", ExplicitVRLittleEndian)
    made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.PatientName = "Secret^Name"
    made.Rows = made.Columns = 32
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = GREY.tobytes()
    for key, value in changes.items():
        if value is None:
            delattr(made, key)
        else:
            setattr(made, key, value)
    if made.file_meta.TransferSyntaxUID == RLELossless:
        made["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def tiff(array: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    return lambda path: tifffile.imwrite(path, array, **options)


def tiff_told(tag: int, value: int) -> Callable[[Path], Any]:
    """A TIFF whose tag says something else."""

    def write(path: Path) -> None:
        tifffile.imwrite(path, GREY.astype(np.uint16))
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages[0].tags[tag].overwrite(value)

    return write


def folder(**files: bytes) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return write


def frames(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, kind, save_all=True, append_images=[Image.fromarray(255 - GREY)])
    return file.getvalue()


def nrrd(sizes: str, pixels: bytes = b"", encoding: str = "raw", more: str = "") -> bytes:
    """An NRRD file of this header."""
    return (
        f"NRRD0004\ntype: float\ndimension: {len(sizes.split())}\nsizes: {sizes}\nendian: little\nencoding: "
        f"{encoding}\n{more}\n".encode()
        + pixels
    )


def metaimage(size: str, pixels: bytes = b"", where: str = "LOCAL", more: str = "") -> bytes:
    """A MetaImage of this header."""
    head = (
        f"ObjectType = Image\nNDims = {len(size.split())}\nDimSize = {size}\nElementType = "
        f"MET_FLOAT\n{more}ElementDataFile = {where}\n"
    )
    return head.encode() + pixels


def mgh(shape: tuple[int, int, int], pixels: bytes = b"") -> bytes:
    """An MGH file of this header."""
    return struct.pack(">iiiiiii", 1, *shape, 1, 3, 0) + bytes(256) + pixels


ZEROS = gzip.compress(bytes(2**24))
BOMB = gzip.compress(nifti((1024, 1024, 1200))) + ZEROS * 300
NAN = np.full((32, 32), np.nan, np.float32)
FLAT, ENDLESS = np.zeros((4, 4)), np.full((4, 4), np.nan)
FILES: dict[str, tuple[str, Callable[[Path], Any], tuple[str, ...]]] = {
    "half a PNG": ("x.png", data(encoded("PNG")[:200]), ("x.png", "200 bytes")),
    "half a JPEG": ("x.jpg", data(encoded("JPEG")[:300]), ("x.jpg", "300 bytes")),
    "half a TIFF": ("x.tif", data(encoded("TIFF")[:100]), ("x.tif",)),
    "half a BMP": ("x.bmp", data(encoded("BMP")[:500]), ("x.bmp",)),
    "half a GIF": ("x.gif", data(encoded("GIF")[:40]), ("x.gif",)),
    "half a NIfTI": ("x.nii", data(nifti((32, 32), bytes(2000))), ("x.nii",)),
    "half a compressed NIfTI": (
        "x.nii.gz",
        data(gzip.compress(nifti((32, 32), os.urandom(4096)))[:2000]),
        ("x.nii.gz",),
    ),
    "half an array": ("x.npy", data(arrays(GREY)[:600]), ("x.npy",)),
    "half an archive": ("x.npz", data(arrays(image=GREY)[:700]), ("x.npz",)),
    "half a DICOM": ("x.dcm", data(dicom()[:700]), ("x.dcm",)),
    **{
        f"an empty {end}": (f"x.{end}", data(b""), (f"x.{end}",))
        for end in ("png", "jpg", "tif", "nii", "nii.gz", "npy", "npz", "dcm", "gif")
    },
    **{
        f"noise called {end}": (f"x.{end}", data(bytes(range(256)) * 9), (f"x.{end}",))
        for end in ("png", "tif", "nii", "nii.gz", "npy", "npz", "dcm", "ppm")
    },
    "no pixels": ("x.png", data(png(0, 0)), ("x.png",)),
    "no rows": ("x.npy", data(arrays(np.zeros((0, 5)))), ("x.npy", "empty image")),
    "a PNG of ten billion pixels": ("x.png", data(png(100_000, 100_000)), ("x.png", "tiles")),
    "a PNG of four billion by four billion": ("x.png", data(png(2**31 - 1, 2**31 - 1)), ("x.png",)),
    "a BMP of ten billion pixels": (
        "x.bmp",
        data(encoded("BMP")[:18] + struct.pack("<ii", 100_000, 100_000) + encoded("BMP")[26:]),
        ("x.bmp",),
    ),
    "a PPM of a trillion pixels": ("x.pgm", data(b"P5 999999 999999 255\n" + bytes(9)), ("x.pgm",)),
    "a TIFF of ten billion pixels": ("x.tif", tiff_told(256, 2**31 - 1), ("x.tif",)),
    "a TIFF of 60,000 channels": ("x.tif", tiff_told(277, 60_000), ("x.tif",)),
    "a NIfTI of 30 terapixels": ("x.nii", data(nifti((30_000, 30_000, 30_000))), ("x.nii", "pixels")),
    "a NIfTI of 4 gigabytes": ("x.nii", data(nifti((1000, 1000, 1000), bytes(64))), ("x.nii", "4000000000 bytes")),
    "a compressed NIfTI of 4 gigabytes": (
        "x.nii.gz",
        data(gzip.compress(nifti((1000, 1000, 1000), bytes(64)))),
        ("x.nii.gz", "4000000000 bytes"),
    ),
    "a NIfTI that unfolds": ("x.nii.gz", data(BOMB), ("x.nii.gz", "pixels")),
    "a NIfTI of negative lengths": ("x.nii", data(nifti((-5, 32, 32))), ("x.nii",)),
    "a NIfTI of five axes": (
        "x.nii",
        data(nifti((4, 4, 4, 2, 2), bytes(4 * 4 * 4 * 4 * 4))),
        ("x.nii", "shape (4, 4, 4, 2, 2)"),
    ),
    "a NIfTI of one axis": ("x.nii", data(nifti((32,), bytes(128))), ("x.nii", "shape")),
    "a NIfTI with pixels at infinity": ("x.nii", data(nifti((4, 4), bytes(64), offset=float("inf"))), ("x.nii",)),
    "a NIfTI with pixels before its header": ("x.nii", data(nifti((4, 4), bytes(64), offset=-4e6)), ("x.nii",)),
    "a NIfTI of another magic": ("x.nii", data(nifti((4, 4), bytes(64), magic=b"abcd")), ("x.nii",)),
    "a NIfTI header without its image": ("x.nii", data(nifti((4, 4), magic=b"ni1\0")), ("x.nii",)),
    "a NIfTI without voxel size": ("x.nii", volume(GREY[:, :, None], FLAT), ("x.nii", "zero voxel size")),
    "a NIfTI that lies nowhere": ("x.nii", volume(GREY[:, :, None], ENDLESS), ("x.nii",)),
    "a NIfTI that is text": ("x.nii.gz", data(gzip.compress(b"hello" * 100)), ("x.nii.gz",)),
    "a NRRD of terabytes": ("x.nrrd", data(nrrd("30000 30000 30000")), ("x.nrrd", "pixels")),
    "a NRRD of 4 gigabytes": ("x.nrrd", data(nrrd("1000 1000 1000", bytes(64))), ("x.nrrd", "4000000000 bytes")),
    "a NRRD that unfolds": (
        "x.nrrd",
        data(nrrd("16 16 16", gzip.compress(bytes(2**28)), "gzip")),
        ("x.nrrd", "found more"),
    ),
    "a NRRD of another file": ("x.nhdr", data(nrrd("4 4", more="data file: /etc/passwd\n")), ("x.nhdr", "next to it")),
    "a NRRD of negative sizes": ("x.nrrd", data(nrrd("-4 4", bytes(64))), ("x.nrrd",)),
    "a NRRD of words": ("x.nrrd", data(nrrd("a b", bytes(64))), ("x.nrrd",)),
    "a NRRD that is text": ("x.nrrd", data(b"hello\n\nworld"), ("x.nrrd",)),
    "a MetaImage of terabytes": ("x.mha", data(metaimage("30000 30000 30000")), ("x.mha", "pixels")),
    "a MetaImage of 4 gigabytes": ("x.mha", data(metaimage("1000 1000 1000", bytes(64))), ("x.mha",)),
    "a MetaImage of another file": ("x.mhd", data(metaimage("4 4", where="../../etc/passwd")), ("x.mhd", "next to it")),
    "a MetaImage of many files": ("x.mhd", data(metaimage("4 4", where="LIST\na\nb")), ("x.mhd", "next to it")),
    "a MetaImage that is text": ("x.mha", data(b"hello"), ("x.mha",)),
    "half a MetaImage": ("x.mha", data(metaimage("8 8 8", bytes(1000))), ("x.mha",)),
    "an MGH of terabytes": ("x.mgh", data(mgh((30_000, 30_000, 30_000))), ("x.mgh",)),
    "half an MGH": ("x.mgh", data(mgh((8, 8, 8), bytes(100))), ("x.mgh",)),
    "a compressed MGH that unfolds": ("x.mgz", data(gzip.compress(mgh((8, 8, 8), bytes(2**28)))), ("x.mgz",)),
    "a MINC that is text": ("x.mnc", data(b"CDF\1 and no more"), ("x.mnc",)),
    "a PAR without its REC": ("x.par", data(b"# nothing"), ("x.par", ".rec next to it is missing")),
    "a header without its image": ("x.hdr", data(bytes(348)), ("x.hdr", ".img next to it is missing")),
    "a WebP cut short": ("x.webp", data(encoded("WEBP")[:60]), ("x.webp",)),
    "a slide": ("x.svs", data(bytes(64)), ("x.svs", "OpenSlide")),
    "a volume for a network of planes": (
        "x.nii",
        volume(np.zeros((8, 8, 8), np.uint8), np.eye(4)),
        ("x.nii", "cannot predict"),
    ),
    "NaN alone": ("x.tif", tiff(NAN), ("x.tif", "1024 of 1024 pixels are NaN")),
    "infinity alone": ("x.npy", data(arrays(np.full((4, 4), np.inf))), ("x.npy", "16 of 16 pixels")),
    "pickled objects": ("x.npy", data(arrays(np.array([Bomb()], object))), ("x.npy",)),
    "pickled objects in an archive": ("x.npz", data(arrays(image=np.array([[Bomb()]], object))), ("x.npz",)),
    "a header that calls": ("x.npy", data(npy("__import__('os').mkdir('canary')\n")), ("x.npy",)),
    "a header nested ten thousand deep": ("x.npy", data(npy("(" * 9000 + "\n")), ("x.npy",)),
    "a header longer than its file": (
        "x.npy",
        data(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{"),
        ("x.npy",),
    ),
    "an unknown version": ("x.npy", data(b"\x93NUMPY\x63\x00" + bytes(100)), ("x.npy",)),
    "an array of terabytes": ("x.npy", data(npy(told((10**6, 10**6)), bytes(64))), ("x.npy", "pixels")),
    "an array of gigabytes": (
        "x.npy",
        data(npy(told((30_000, 30_000)), bytes(64))),
        ("x.npy", "more than the file holds"),
    ),
    "an array of a negative shape": ("x.npy", data(npy(told((-4, 4)), bytes(64))), ("x.npy",)),
    "an array of a shape of text": ("x.npy", data(npy(told("x"), bytes(64))), ("x.npy",)),
    "an archive of terabytes": (
        "x.npz",
        data(archive(image=npy(told((10**6, 10**6)), bytes(64)))),
        ("x.npz", "pixels"),
    ),
    "an archive that lies in its directory": ("x.npz", data(lying_archive()), ("x.npz",)),
    "an archive that holds a path": ("x.npz", data(archive(**{"..__..__canary": arrays(GREY)})[:-4]), ("x.npz",)),
    "an archive of two arrays": ("x.npz", data(arrays(a=GREY, b=GREY)), ("x.npz", "2 arrays")),
    "an archive of text": ("x.npz", data(archive(image=b"hello")), ("x.npz",)),
    "complex numbers": ("x.npy", data(arrays(GREY.astype(complex))), ("x.npy", "complex")),
    "words": ("x.npy", data(arrays(np.array([["a", "b"]]))), ("x.npy",)),
    "records": ("x.npy", data(arrays(np.zeros((4, 4), [("a", int)]))), ("x.npy",)),
    "dates": ("x.npy", data(arrays(np.zeros((4, 4), "datetime64[s]"))), ("x.npy",)),
    "a single number": ("x.npy", data(arrays(np.float32(3))), ("x.npy", "shape ()")),
    "six axes": ("x.npy", data(arrays(np.zeros((1,) * 6))), ("x.npy", "shape")),
    "a film": ("x.gif", data(frames("GIF")), ("x.gif", "2 frames")),
    "a TIFF of two pages": ("x.tif", tiff(np.zeros((2, 32, 32), np.uint8)), ("x.tif",)),
    "colour for a grey model": ("x.png", lambda path: Image.new("RGB", (32, 32)).save(path), ("x.png", "3 channels")),
    "CMYK": ("x.jpg", lambda path: Image.new("CMYK", (32, 32)).save(path), ("x.jpg", "CMYK")),
    "a PNG called NIfTI": ("x.nii.gz", data(encoded("PNG")), ("x.nii.gz",)),
    "an archive called DICOM": ("x.dcm", data(arrays(image=GREY)), ("x.dcm",)),
    "a script called PNG": ("x.png", data(b"#!/bin/sh\nmkdir canary\n"), ("x.png",)),
    "PostScript called PNG": (
        "x.png",
        data(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) run\n"),
        ("x.png",),
    ),
    "SVG called PNG": ("x.png", data(b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'), ("x.png",)),
    "an unknown suffix": ("x.exe", data(encoded("PNG")), ("x.exe", "unknown suffix")),
    "a DICOM without pixels": ("x.dcm", data(dicom(PixelData=None)), ("x.dcm", "without pixels")),
    "a DICOM of four gigapixels": ("x.dcm", data(dicom(Rows=65_535, Columns=65_535)), ("x.dcm", "pixels")),
    "a DICOM larger than its pixels": ("x.dcm", data(dicom(Rows=20_000, Columns=20_000)), ("x.dcm",)),
    "a compressed DICOM larger than its pixels": (
        "x.dcm",
        data(dicom(Rows=30_000, Columns=30_000, syntax=RLELossless, PixelData=pydicom.encaps.encapsulate([bytes(64)]))),
        ("x.dcm",),
    ),
    "a DICOM of no rows": ("x.dcm", data(dicom(Rows=0)), ("x.dcm",)),
    "a DICOM without rows": ("x.dcm", data(dicom(Rows=None)), ("x.dcm",)),
    "a DICOM of many frames": ("x.dcm", data(dicom(NumberOfFrames=10**9)), ("x.dcm", "frames")),
    "a DICOM of three bits": ("x.dcm", data(dicom(BitsAllocated=3)), ("x.dcm",)),
    "a DICOM with a slope of zero": ("x.dcm", data(dicom(RescaleSlope=0, RescaleIntercept=0)), ("x.dcm", "slope")),
    "a DICOM with a video": (
        "x.dcm",
        data(dicom(syntax="1.2.840.10008.1.2.4.102", PixelData=pydicom.encaps.encapsulate([bytes(8)]))),
        ("x.dcm",),
    ),
    "a folder of text": ("x", folder(readme__txt=b"hello"), ("x",)),
    "an empty folder": ("x", folder(), ("x",)),
    "a folder of half a series": ("x", folder(a__dcm=dicom(), b__dcm=dicom()[:300]), ("x",)),
    "a pipe": ("x.png", os.mkfifo, ("x.png",)),
    "a link to nothing": ("x.png", lambda path: path.symlink_to("nothing"), ("x.png",)),
    "a link to itself": ("x.png", lambda path: path.symlink_to("x.png"), ("x.png",)),
}
MASKS: dict[str, tuple[str, Callable[[Path], Any], tuple[str, ...]]] = {
    "half a PNG": ("x.png", data(encoded("PNG")[:200]), ("x.png",)),
    "numbers that are not whole": ("x.npy", data(arrays(np.full((32, 32), 0.5, np.float32))), ("x.npy", "not whole")),
    "a billion classes": ("x.npy", data(arrays(np.full((32, 32), 2**31 - 1))), ("x.npy", "stands for no class")),
    "negative classes": ("x.npy", data(arrays(np.full((32, 32), -1))), ("x.npy", "stands for no class")),
    "another shape": ("x.npy", data(arrays(np.zeros((31, 32), int))), ("x.npy", "(31, 32)")),
    "colours": (
        "x.png",
        lambda path: Image.effect_noise((32, 32), 90).convert("RGB").point(range(768)).save(path),
        ("x.png",),
    ),
    "pickled objects": ("x.npy", data(arrays(np.array([[Bomb()]], object))), ("x.npy",)),
    "terabytes": ("x.npy", data(npy(told((10**6, 10**6)))), ("x.npy", "pixels")),
}
IMAGES: dict[str, Hostile] = {
    **{f"image: {name}": Hostile(image(file, write), words) for name, (file, write, words) in FILES.items()},
    **{f"mask: {name}": Hostile(mask(file, write), words) for name, (file, write, words) in MASKS.items()},
    "image: a PNG called JPEG": Hostile(image("x.jpg", data(encoded("PNG"))), success=True),
    "image: one pixel": Hostile(image("x.png", data(png(1, 1, b"\0\7"))), ("x.png", "cannot predict")),
    "image: one colour": Hostile(image("x.npy", data(arrays(np.zeros((32, 32))))), success=True),
    "image: a name of 5,000 characters": Hostile(
        lambda world: ["predict", world / "model", "x" * 5000, "-o", world / "out"], ("no such file",)
    ),
    "image: a name with markup": Hostile(image("<img src=x onerror=alert(1)>.png", data(encoded("PNG"))), success=True),
}
