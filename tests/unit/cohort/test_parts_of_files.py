"""Files of which a reader would take a part, or numbers in another order, without a word: refused
by name, and what looks alike is read as it is."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, CTImageStorage, JPEGBaseline8Bit, JPEGLosslessSV1
from tests.unit.cohort.test_dicom import dicom, place
from tests.unit.cohort.test_dicom_objects import item

from allograft.cohort.picture import Grid
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import ImageError

GREY = (np.arange(600).reshape(20, 30) * 7 % 251).astype(np.uint8)
COLOURS = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])


def refused(path: Path, words: str, *, mask: bool = False) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_mask(path) if mask else read_image([path])
    assert path.name in str(caught.value)


# ---------------------------------------------------------- fewer pixels than declared
def png(path: Path, raw: bytes, colour: int = 0, more: bytes = b"") -> Path:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 30, 20, 8, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *([chunk(b"PLTE", more)] if more else []), chunk(b"IDAT", zlib.compress(raw))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")]))
    return path


def rows(count: int) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.concatenate([GREY, GREY])[:count])


def test_a_png_holds_every_row_and_no_more(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image([png(tmp_path / "a.png", rows(20))]).array[0], GREY)
    refused(png(tmp_path / "b.png", rows(12)), "declares 620 bytes of pixels, and which holds 372")
    refused(png(tmp_path / "c.png", rows(21)), "declares 620 bytes of pixels, and which holds 651")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_an_interlaced_png_is_whole(tmp_path: Path, depth: int) -> None:
    array = (GREY.astype(int) * 257 & (2**depth - 1)).astype(np.uint16)
    raw = b""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for x, y, across, down in passes:
        for row in array[y::down, x::across]:
            bits = "".join(format(value, f"0{depth}b") for value in row)
            raw += b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    path = png(tmp_path / "a.png", raw)
    content = bytearray(path.read_bytes())
    content[24], content[28] = depth, 1
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(read_mask(path).array[0], array)


def test_a_strip_of_a_tiff_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, rowsperstrip=4)
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = list(file.pages[0].databytecounts)
        file.pages[0].tags[279].overwrite([*counts[:2], 0, *counts[3:]])
    refused(path, "1 of its 5 strips or tiles hold nothing")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_refused(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, progressive=progressive, exif=_thumbnail())
    whole = path.read_bytes()
    assert read_image([path]).array.shape == (3, 20, 30)
    path.write_bytes(whole + b"and what a camera puts behind")
    assert read_image([path]).array.shape == (3, 20, 30)
    path.write_bytes(whole[: len(whole) * 3 // 4] + bytes(len(whole)))  # as where a disk lost the rest
    refused(path, "without its end")


def _thumbnail() -> bytes:
    """A JPEG, with an end of its own, in the header of another."""
    import io

    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "JPEG")
    return b"Exif\0\0" + file.getvalue()


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1])
def test_a_jpeg_in_dicom_that_was_cut_short_is_refused(tmp_path: Path, syntax: str) -> None:
    import imagecodecs

    encode = imagecodecs.jpeg8_encode if syntax == JPEGBaseline8Bit else imagecodecs.ljpeg_encode
    frame = encode(GREY)
    for name, stored in (("whole", frame), ("half", frame[: len(frame) // 2])):
        path = dicom(tmp_path / f"{name}.dcm", GREY, SOPClassUID=CTImageStorage)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([stored])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
    assert np.abs(read_image([tmp_path / "whole.dcm"]).array[0].astype(int) - GREY).max() < 40
    refused(tmp_path / "half.dcm", "frame 1: a JPEG of .* without its end")


def test_a_metaimage_with_more_pixels_than_declared_is_refused(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    volume = np.arange(8 * 20 * 30, dtype=np.int16).reshape(8, 20, 30)
    for suffix, held in ((".mha", "a.mha"), (".mhd", "a.raw")):
        sitk.WriteImage(sitk.GetImageFromArray(volume), tmp_path / f"a{suffix}")
        with (tmp_path / held).open("ab") as file:
            file.write(bytes(100))  # fills up a block
        np.testing.assert_array_equal(read_image([tmp_path / f"a{suffix}"]).array[0], volume.T)
        with (tmp_path / held).open("ab") as file:
            file.write(bytes(volume[0].nbytes))
        refused(tmp_path / f"a{suffix}", "holds 1300 bytes more than the 9600 of pixels")


# ---------------------------------------------------------- numbers in another order
@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif"])
def test_a_mask_whose_palette_shows_the_background_bright_is_refused(tmp_path: Path, suffix: str) -> None:
    index = (GREY > 100).astype(np.uint8)
    for name, greys in (("bright", [255, 0]), ("dark", [0, 255]), ("two", [7, 9])):
        path = tmp_path / f"{name}{suffix}"
        table = np.repeat(np.array(greys + [255] * 254, np.uint8), 3)
        if suffix == ".tif":
            colours = table.reshape(-1, 3).T.astype(np.uint16) * 257
            tifffile.imwrite(path, index, photometric="palette", colormap=colours)
        else:
            picture = Image.fromarray(index, mode="P")
            picture.putpalette(table.tobytes())
            picture.save(path)
        if name == "bright":
            refused(path, "shows 0 as grey 255, 1 as grey 0", mask=True)
        else:
            np.testing.assert_array_equal(read_mask(path).array[0], index)


def test_a_colour_beyond_the_palette_is_refused_in_an_image(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", rows(20), colour=3, more=bytes(range(30)))  # ten colours
    refused(path, rf"{int((GREY >= 10).sum())} pixels with a colour beyond the 10 of its palette")
    np.testing.assert_array_equal(read_mask(path).array[0], GREY)


def test_an_inverted_radiograph_with_a_table_is_inverted_behind_the_table(tmp_path: Path) -> None:
    table = (np.arange(256) ** 2).astype(np.uint16)
    lut = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="OD", LUTData=table.tobytes())
    path = dicom(
        tmp_path / "a.dcm",
        GREY,
        kind="MONOCHROME1",
        SOPClassUID=ComputedRadiographyImageStorage,
        ModalityLUTSequence=lut,
    )
    np.testing.assert_array_equal(read_image([path]).array[0], 65535 - table[GREY])


def test_slices_of_which_one_is_not_rescaled_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        scale = {} if number == 1 else {"RescaleSlope": 1, "RescaleIntercept": -1024}
        dicom(tmp_path / f"{number}.dcm", GREY.astype(np.int16), SOPClassUID=CTImageStorage, **place(number), **scale)
    refused(tmp_path, r"0\.dcm states how its numbers are rescaled, 1\.dcm does not")
    dataset = pydicom.dcmread(tmp_path / "1.dcm")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.save_as(tmp_path / "1.dcm")
    array = read_image([tmp_path]).array[0]
    np.testing.assert_array_equal(array[:, :, 1] - array[:, :, 0], 1024)


def test_dicom_without_its_preamble_names_a_tool(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", GREY)
    path.write_bytes(path.read_bytes()[132:])
    refused(path, "dcmconv")


def test_a_slice_that_leans_has_the_volume_of_the_determinant() -> None:
    leaning = np.array([[0.5, 0, 1, 0], [0, 0.7, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1.0]])
    thickness = float(np.hypot(1, 2.5))  # the edge, as a header states it
    assert Grid((4, 5), leaning, 2, thickness).voxel == (0.875, "mm3")  # 0.5 * 0.7 * 2.5
