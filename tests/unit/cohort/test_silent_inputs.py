"""Inputs that people bring, of which a reader could lose a part, or make another number, without a
word: each is read right, refused by name, or a finding of the doctor."""

from __future__ import annotations

import csv
import gzip
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, PositronEmissionTomographyImageStorage
from tests.unit.cohort.test_dicom import dicom, place

from allograft.apply.evaluate import evaluate
from allograft.cohort import Coding, Cohort, Preprocessing
from allograft.cohort.cells import read_cells
from allograft.cohort.doctor import examine
from allograft.cohort.doctor_text import to_text
from allograft.cohort.importers import import_bids, import_table
from allograft.cohort.manifest import read_manifest
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import ImageError, ManifestError, ModelError

AFFINE = np.diag([1.0, 1, 3, 1])
MASK = np.zeros((8, 9, 7), np.uint8)
MASK[2:5, 3:7, 1:4] = 1
IMAGE = (np.arange(MASK.size).reshape(MASK.shape) % 97 + 90 * MASK).astype(np.int16)
GREY = (np.arange(99).reshape(9, 11) * 661 % 65536).astype(np.uint16)
TASK = {"segmentation": {"classes": ["blob"]}}


def volume(path: Path, array: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), affine), path)
    return path


def flipped(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    affine = AFFINE.copy()
    affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
    affine[:3, axis] *= -1
    return np.flip(array, axis), affine


def moved(*mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE


# ---------------------------------------------------------- two files meet
def flip(axis: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return lambda array: flipped(array, axis)


def at(affine: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return lambda array: (array, affine)


PLACES: Mapping[str, tuple[Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], str]] = {
    "as it is": (at(AFFINE), ""),
    "first axis flipped": (flip(0), ""),
    "second axis flipped": (flip(1), ""),
    "third axis flipped": (flip(2), ""),
    "two axes exchanged": (lambda array: (array.transpose(1, 0, 2), AFFINE[:, [1, 0, 2, 3]]), ""),
    "half a metre away": (at(moved(500, 0, 0)), "found up to 500.0 mm from"),
    "half a voxel away": (at(moved(0.5, 0, 0)), "found up to 0.5 mm from"),
    "turned by 17 degrees": (at(turned(17)), "mm from"),
    "other voxels": (at(np.eye(4)), "found voxels of 1 x 1 x 1 mm, expected 1 x 1 x 3 mm"),
    "a slice short": (lambda array: (array[:, :, :6], AFFINE), r"has shape \(8, 9, 6\), expected \(8, 9, 7\)"),
    "padded": (lambda array: (np.pad(array, 1), moved(-1, -1, -3)), "mm from|has shape"),
}


def prediction(folder: Path, array: np.ndarray, affine: np.ndarray) -> float | None:
    volume(folder / "found" / "c.nii.gz", array, affine)
    return evaluate(folder / "found", folder / "manifest.csv", task=TASK).metrics["a"]["dice"]


def region(folder: Path, array: np.ndarray, affine: np.ndarray) -> float:
    volume(folder / "region.nii.gz", array, affine)
    (folder / "region.csv").write_text(
        "image,mask,region,subject,site\nc.nii.gz,m.nii.gz,region.nii.gz,1,a\n", encoding="utf-8"
    )
    cohort = Cohort.read(folder / "region.csv", Coding(mask={"blob": (1,)}))
    both = cohort.prepared.region(cohort.cases[0]) & (cohort.prepared.mask(cohort.cases[0]) == 1)
    return both.sum() / MASK.sum()


def pair(folder: Path, array: np.ndarray, affine: np.ndarray) -> float:
    volume(folder / "pair.nii.gz", array.astype(np.int16), affine)
    (folder / "pair.csv").write_text("image,paired,subject,site\nm.nii.gz,pair.nii.gz,1,a\n", encoding="utf-8")
    cohort = Cohort.read(folder / "pair.csv", Coding(paired=1), preprocessing=Preprocessing(intensity="none"))
    case = cohort.cases[0]
    return float((cohort.prepared.paired(case)[0] * cohort.prepared.image(case)[0][0]).sum()) / MASK.sum()


def channels(folder: Path, array: np.ndarray, affine: np.ndarray) -> float:
    volume(folder / "second.nii.gz", array, affine)
    read = read_image([folder / "c.nii.gz", folder / "second.nii.gz"]).array
    return (read[1] * MASK).sum() / MASK.sum()


@pytest.mark.parametrize("meet", [prediction, region, pair, channels])
@pytest.mark.parametrize("name", PLACES)
def test_a_second_file_is_turned_onto_its_image_or_refused(tmp_path: Path, meet: Any, name: str) -> None:
    volume(tmp_path / "c.nii.gz", IMAGE), volume(tmp_path / "m.nii.gz", MASK)
    (tmp_path / "manifest.csv").write_text("image,mask,subject,site\nc.nii.gz,m.nii.gz,1,a\n")
    make, refusal = PLACES[name]
    if refusal:
        with pytest.raises(ImageError, match=refusal):
            meet(tmp_path, *make(MASK))
    else:
        assert meet(tmp_path, *make(MASK)) == 1.0


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (MASK * 0.7, "not whole"),
        (MASK * 3, "stands for no class"),
        (np.stack([MASK, 0 * MASK], -1), "channels that differ"),
    ],
    ids=["probabilities", "another class", "one channel a class"],
)
def test_predictions_that_are_no_mask_of_these_classes_are_refused(
    tmp_path: Path, array: np.ndarray, words: str
) -> None:
    volume(tmp_path / "c.nii.gz", IMAGE), volume(tmp_path / "m.nii.gz", MASK)
    (tmp_path / "manifest.csv").write_text("image,mask,subject,site\nc.nii.gz,m.nii.gz,1,a\n")
    with pytest.raises(ImageError, match=words):
        prediction(tmp_path, array, AFFINE)


def test_predictions_of_nnunet_lack_the_channel_s_number(tmp_path: Path) -> None:
    volume(tmp_path / "case1_0000.nii.gz", IMAGE), volume(tmp_path / "m.nii.gz", MASK)
    (tmp_path / "manifest.csv").write_text("image,mask,subject,site\ncase1_0000.nii.gz,m.nii.gz,1,a\n")
    volume(tmp_path / "found" / "case1.nii.gz", MASK)
    found = evaluate(tmp_path / "found", tmp_path / "manifest.csv", task=TASK)
    assert found.metrics["a"]["dice"] == 1.0
    volume(tmp_path / "b" / "case1_0000.nii.gz", IMAGE)
    (tmp_path / "two.csv").write_text(
        "image,mask,subject,site\ncase1_0000.nii.gz,m.nii.gz,1,a\nb/case1_0000.nii.gz,m.nii.gz,2,a\n"
    )
    with pytest.raises(ModelError, match="2 cases"):
        evaluate(tmp_path / "found", tmp_path / "two.csv", task=TASK)


def test_volumes_of_a_subject_that_share_no_point_are_a_finding(tmp_path: Path) -> None:
    for name, affine in (("x", AFFINE), ("y", moved(500, 0, 0)), ("z", moved(3, 0, 0)), ("w", moved(500, 0, 0))):
        volume(tmp_path / f"{name}.nii.gz", IMAGE + len(name), affine)
    # w lies where y does, but is of another patient
    rows = "".join(f"{name}.nii.gz,{2 if name == 'w' else 1},a\n" for name in "xyzw")
    (tmp_path / "manifest.csv").write_text("image,subject,site\n" + rows)
    (found,) = (one for one in examine(tmp_path / "manifest.csv").findings if one.topic == "place")
    assert found.text.startswith("1 subject with volumes that do not overlap")
    # 8 voxels of 1 mm
    assert [(one.row, one.detail) for one in found.cases] == [(3, "492 mm from x.nii.gz")]


# ---------------------------------------------------------- millimetres
@pytest.mark.parametrize(
    ("shape", "sides", "expected"),
    [
        ((8, 9, 7), (0.5, 0.5, 3), (0.75, "mm3")),
        ((8, 1, 7), (0.5, 4, 0.5), (1.0, "mm3")),
        ((1, 8, 7), (5, 0.5, 0.5), (1.25, "mm3")),
        ((8, 9, 1), (0.5, 0.5, 5), (1.25, "mm3")),
        ((8, 9), (0.5, 0.25), (0.125, "mm2")),
    ],
)
def test_a_voxel_has_the_volume_that_its_file_states(
    tmp_path: Path, shape: tuple[int, ...], sides: tuple[float, ...], expected: tuple[float, str]
) -> None:
    image = nibabel.Nifti1Image(np.arange(np.prod(shape)).reshape(shape).astype(np.int16), None)
    image.header.set_zooms(sides)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert read_image([tmp_path / "a.nii.gz"]).grid.voxel == expected


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1.0)])
def test_other_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    image = nibabel.Nifti1Image(IMAGE, np.diag([*(AFFINE.diagonal()[:3] * factor), 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_image([tmp_path / "a.nii"]).grid.voxel == (pytest.approx(3.0), "mm3")


@pytest.mark.parametrize("affine", [np.diag([-1.0, -1, 3, 1]), np.diag([-1.0, 1, 3, 1]), turned(30)])
def test_mirrored_and_oblique_axes_keep_the_volume(tmp_path: Path, affine: np.ndarray) -> None:
    assert read_image([volume(tmp_path / "a.nii.gz", IMAGE, affine)]).grid.voxel == (pytest.approx(3.0), "mm3")


def stored(path: Path, image: Any, **places: tuple[int, bytes]) -> Path:
    """A NIfTI file with bytes of its header changed."""
    data = bytearray(image.to_bytes())
    for start, value in places.values():
        data[start : start + len(value)] = value
    path.write_bytes(bytes(data))
    return path


def test_two_sizes_in_one_header_are_a_finding(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.nii", nibabel.Nifti1Image(IMAGE, AFFINE), sides=(80, np.full(3, 2, "<f4").tobytes()))
    picture = read_image([path])
    assert picture.grid.voxel == (3.0, "mm3")
    assert picture.notes["sform"] == "voxels of 1 x 1 x 3 mm by the sform, of 2 x 2 x 2 mm by pixdim; the sform is used"


def test_two_places_that_share_two_corners_are_told_apart(tmp_path: Path) -> None:
    """The axes of a cube in another order: first and last voxel are where they were."""
    cube = nibabel.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4))
    cube.set_sform(np.eye(4), 1)
    cube.set_qform(np.eye(4)[:, [1, 2, 0, 3]], 1)
    nibabel.save(cube, tmp_path / "a.nii.gz")
    assert "sform and qform disagree" in read_image([tmp_path / "a.nii.gz"]).notes["sform"]


# ---------------------------------------------------------- what the header declares
def png(path: Path, kind: int, rows: np.ndarray) -> Path:
    """A PNG of 16 bits per sample, which Pillow would read as 8."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.mark.parametrize(("kind", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_sixteen_bits_in_several_samples_is_refused(tmp_path: Path, kind: int, samples: int) -> None:
    with pytest.raises(ImageError, match="16 bits per channel"):
        read_image([png(tmp_path / "a.png", kind, np.stack([GREY] * samples, -1))])
    assert (read_image([png(tmp_path / "b.png", 0, GREY)]).array == GREY).all()


TIFFS: Mapping[str, tuple[Mapping[str, Any], np.ndarray, np.ndarray]] = {
    "white is 0": ({"photometric": "miniswhite"}, GREY, 65535 - GREY),
    "signed": ({}, GREY.astype(np.int16), GREY.astype(np.int16)),
    "big endian": ({"byteorder": ">"}, GREY, GREY),
    "a predictor": ({"compression": "zlib", "predictor": True}, GREY, GREY),
    "tiles": ({"tile": (16, 16)}, GREY, GREY),
    "halves": ({}, (GREY / 65536).astype(np.float16), (GREY / 65536).astype(np.float16)),
    "a turn of 90 degrees": ({"extratags": [(274, 3, 1, 6, True)]}, GREY, np.rot90(GREY, -1)),
}


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_is_read_as_it_says(tmp_path: Path, name: str) -> None:
    options, pixels, expected = TIFFS[name]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array[0], expected)


@pytest.mark.parametrize("kind", ["cielab", "separated", "complex", "two pages"])
def test_a_tiff_that_is_no_grey_or_colour_is_refused(tmp_path: Path, kind: str) -> None:
    pixels: dict[str, tuple[np.ndarray, str | None]] = {
        "cielab": (np.zeros((9, 11, 3), np.uint8), "cielab"),
        "separated": (np.zeros((9, 11, 4), np.uint8), "separated"),
        "complex": (GREY.astype(np.complex64), None),
        "two pages": (np.stack([GREY, GREY]), "minisblack"),
    }
    array, photometric = pixels[kind]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric)
    with pytest.raises(ImageError):
        read_image([tmp_path / "a.tif"])


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_second_frame_is_never_dropped(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.fromarray(array.astype(np.uint8)) for array in (GREY >> 8, 255 - (GREY >> 8)))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="2 frames"):
        read_image([tmp_path / f"a{suffix}"])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_with_more_pixels_than_declared_is_refused(tmp_path: Path, suffix: str) -> None:
    """A fourth axis that was forgotten, and numbers of half their width."""
    four = nibabel.Nifti1Image(np.stack([IMAGE, IMAGE], -1), AFFINE)
    path = stored(tmp_path / "a.nii", four, axes=(40, struct.pack("<h", 3)))
    narrow = stored(tmp_path / "b.nii", nibabel.Nifti1Image(IMAGE, AFFINE), kind=(70, struct.pack("<h", 256)))
    for one, words in (
        (path, "holds more than the 1008 bytes"),
        (narrow, "of 8 bits .datatype 256. and of 16 .bitpix"),
    ):
        if suffix == ".nii.gz":
            packed = one.with_suffix(".nii.gz")
            packed.write_bytes(gzip.compress(one.read_bytes()))
            one = packed
        with pytest.raises(ImageError, match=words):
            read_image([one])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_stands_before_the_pixels_is_none_of_them(tmp_path: Path, suffix: str) -> None:
    image = nibabel.Nifti1Image(IMAGE, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / f"a{suffix}")
    assert (read_image([tmp_path / f"a{suffix}"]).array[0] == IMAGE).all()


def test_bytes_that_fill_up_a_block_are_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nibabel.Nifti1Image(IMAGE, AFFINE).to_bytes() + bytes(100))
    assert (read_image([path]).array[0] == IMAGE).all()


def test_an_infinite_scale_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(IMAGE, AFFINE)
    with pytest.raises(ImageError, match="a scale of inf"):
        read_image([stored(tmp_path / "a.nii", image, slope=(112, struct.pack("<f", np.inf)))])


def test_colours_of_nifti_are_channels_and_no_mask(tmp_path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours = np.zeros(MASK.shape, kind)
    colours["R"], colours["G"], colours["B"] = IMAGE, IMAGE // 2, 7
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(
        read_image([tmp_path / "a.nii.gz"]).array, np.stack([IMAGE, IMAGE // 2, 0 * IMAGE + 7])
    )
    with pytest.raises(ImageError, match="a mask of 3 channels that differ"):
        read_mask(tmp_path / "a.nii.gz")


def table_of_values(path: Path) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new(0x00283002, "US", [10, 5, 16])
    item.add_new(0x00283006, "US", list(range(100, 110)))
    item.ModalityLUTType = "US"
    return DicomSequence([item])


PLANE = np.arange(24, dtype=np.uint16).reshape(4, 6)
OBJECTS: Mapping[str, tuple[Mapping[str, Any], np.ndarray]] = {
    "only an intercept": ({"RescaleIntercept": -1024}, PLANE.astype(int) - 1024),
    "a part of a unit": ({"RescaleSlope": "0.25", "RescaleIntercept": 0}, PLANE / 4),
    "a CT shown inverted": (
        {"kind": "MONOCHROME1", "SOPClassUID": CTImageStorage, "RescaleSlope": 2, "RescaleIntercept": -10},
        PLANE.astype(int) * 2 - 10,
    ),
    "a PET shown inverted": (
        {"kind": "MONOCHROME1", "SOPClassUID": PositronEmissionTomographyImageStorage, "RescaleSlope": "0.5"},
        PLANE / 2,
    ),
    "a radiograph shown inverted": ({"kind": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}, 4095 - PLANE),
    "deflated": ({"syntax": DeflatedExplicitVRLittleEndian}, PLANE),
    "a window": ({"WindowCenter": 5, "WindowWidth": 4}, PLANE),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_numbers_of_dicom_are_those_of_the_modality(tmp_path: Path, name: str) -> None:
    tags, expected = OBJECTS[name]
    np.testing.assert_array_equal(read_image([dicom(tmp_path / "a.dcm", PLANE, **tags)]).array[0], expected)


def test_a_table_of_the_modality_is_applied(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", PLANE, ModalityLUTSequence=table_of_values(tmp_path))
    np.testing.assert_array_equal(read_image([path]).array[0], 100 + np.clip(PLANE.astype(int) - 5, 0, 9))


def slices(folder: Path, change: Callable[[int], Mapping[str, Any]]) -> Path:
    folder.mkdir()
    for number in range(5):
        dicom(folder / f"{number}.dcm", PLANE + number, **{**place(2.0 * number), **change(number)})
    return folder


def test_slices_each_have_their_own_scale(tmp_path: Path) -> None:
    read = read_image([slices(tmp_path / "ct", lambda n: {"RescaleSlope": 1 + n, "RescaleIntercept": 0})]).array
    for number in range(5):
        np.testing.assert_array_equal(read[0, :, :, number], ((PLANE + number) * (1 + number)).T)


BROKEN: Mapping[str, tuple[Callable[[int], Mapping[str, Any]], str]] = {
    "moved within the plane": (
        lambda n: {"ImagePositionPatient": [-10 + 3 * (n == 2), 20, 5 + 2 * n]},
        "2.dcm lies 3 mm off the line of the other slices",
    ),
    "shown inverted": (lambda n: {"kind": "MONOCHROME1" if n == 3 else "MONOCHROME2"}, "3.dcm is MONOCHROME1"),
    "other pixels": (lambda n: {"PixelSpacing": [0.5, 0.75] if n else [1, 1]}, "pixel spacing"),
    "two at one place": (lambda n: {"ImagePositionPatient": [-10, 20, 5 + 2 * min(n, 3)]}, "lie at one place"),
    "one missing": (lambda n: {"ImagePositionPatient": [-10, 20, 5 + 2 * (n + (n > 2))]}, "a slice is missing"),
    "a scout": (lambda n: {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1] if n == 4 else [1, 0, 0, 0, 1, 0]}, "scout"),
    "of two series": (lambda n: {"SeriesInstanceUID": f"1.2.{n // 3}"}, "holds 2 series"),
    "without places": (lambda n: {"ImagePositionPatient": None} if n == 1 else {}, "without position"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_slices_that_are_no_one_volume_are_refused(tmp_path: Path, name: str) -> None:
    change, words = BROKEN[name]
    with pytest.raises(ImageError, match=words):
        read_image([slices(tmp_path / "ct", change)])


def test_pixels_that_are_not_square_are_a_finding(tmp_path: Path) -> None:
    dicom(tmp_path / "a.dcm", PLANE, PixelAspectRatio=[2, 1])
    assert read_image([tmp_path / "a.dcm"]).notes["aspect"] == "its pixels are 2 high and 1 wide"
    (tmp_path / "manifest.csv").write_text("image,subject,site\na.dcm,1,a\n")
    assert "1 case with pixels that are not square" in to_text(examine(tmp_path / "manifest.csv"))


# ---------------------------------------------------------- a part of a table
@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in "abcd":
        Image.fromarray(np.roll(GREY >> 8, ord(name)).astype(np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray((GREY > 2**15).astype(np.uint8)).save(tmp_path / f"{name}_m.png")
    return tmp_path


TABLES: Mapping[str, tuple[str, str]] = {
    "a row cut short": ("image,subject,site,mask\na.png,1,x\n", "row 2: has fewer cells than the header, 3 of 4"),
    "a row too long": ("image,subject,site\na.png,1,x,y\n", "row 2: has more cells than the header"),
    "an open quote": ('image,subject,site,note\na.png,1,x,"open\nb.png,2,x,ok\n', "double quote is not closed"),
    "a quote over two rows": (
        'image,subject,site,note\na.png,1,x,"open\nb.png,2,x,ok"\nc.png,3,x,ok\n',
        "row 2: a cell holds a line break",
    ),
    "semicolons": ("image;subject;site\na.png;1;x\n", "expected commas between columns"),
    "tabs": ("image\tsubject\tsite\na.png\t1\tx\n", "expected commas between columns"),
    "a column twice": ("image,subject,site,mask,mask\na.png,1,x,a_m.png,\n", "is in the header twice"),
    "a label's name in capitals": ("image,subject,site,Mask\na.png,1,x,a_m.png\n", "rename it 'mask'"),
    "a patient that pandas did not know": ("image,subject,site\na.png,nan,x\nb.png,NaN,x\n", "subject is 'nan'"),
    "a site that pandas did not know": ("image,subject,site\na.png,1,nan\n", "site is 'nan'"),
    "a mask that pandas did not know": ("image,subject,site,mask\na.png,1,x,nan\n", "no file 'nan'"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_manifest_that_would_lose_something_is_refused(pictures: Path, name: str) -> None:
    text, words = TABLES[name]
    (pictures / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=words):
        read_manifest(pictures / "m.csv")


def test_spaces_around_the_names_of_columns_and_cells_say_nothing(pictures: Path) -> None:
    (pictures / "m.csv").write_text("image , subject, site, mask\n a.png,1 , x, a_m.png \n\nb.png,2,x,\n")
    first, second = read_manifest(pictures / "m.csv")
    assert (first.name, first.subject, first.site) == ("a.png", "1", "x")
    assert first.labels == {"mask": pictures / "a_m.png"}
    assert second.labels == {}


def test_empty_cells_behind_the_last_column_are_dropped_and_lines_in_a_report_kept(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id;report;;\n1;"two\nlines";;\n2;one\n', encoding="utf-8")
    with pytest.raises(ManifestError, match="fewer cells"):
        read_cells(tmp_path / "t.csv", ";", one_line=False)
    (tmp_path / "t.csv").write_text('id;report\n1;"two\nlines";;\n2;one\n', encoding="utf-8")
    assert read_cells(tmp_path / "t.csv", ";", one_line=False) == (
        ["id", "report"],
        [["1", "two\nlines"], ["2", "one"]],
    )


COLUMNS: dict[str, Any] = {"image": "path", "subject": "pid", "site": "h", "label": "dx"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,pid,h,h,dx\na.png,1,x,y,ill\n", "column 'h' is in the header twice"),
        ("path,pid,h,dx\na.png,1,x\n", "row 2: has fewer cells"),
        ("path,pid,h,dx\na.png,1,x,ill,5\n", "row 2: has more cells"),
        ('path,pid,h,dx\na.png,1,x,"ill\nb.png,2,x,ill\n', "cannot be read as CSV"),
    ],
)
def test_a_table_of_ones_own_that_would_lose_something_is_refused(pictures: Path, text: str, words: str) -> None:
    (pictures / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=words):
        import_table(pictures / "t.csv", pictures, **COLUMNS)


def test_words_that_only_look_like_none_stay_classes(pictures: Path) -> None:
    (pictures / "t.csv").write_text("path,pid,h,dx\na.png,1,x,?\nb.png,2,x,-\nc.png,3,x,NULL\n", encoding="utf-8")
    made = import_table(pictures / "t.csv", pictures, **COLUMNS)
    with open(made.manifest, newline="", encoding="utf-8") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["?", "-", ""]
    assert "classes: -, ?" in str(made)
    assert "dx 'NULL' 1 time" in str(made)


def test_a_site_that_bids_does_not_know_is_no_site(tmp_path: Path) -> None:
    for name in ("01", "02"):
        volume(tmp_path / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz", IMAGE)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nsub-01\tx\nsub-02\tn/a\n")
    with pytest.raises(ManifestError, match="has no site"):
        import_bids(tmp_path, tmp_path, site_column="site")


@pytest.mark.parametrize("name", ["a.png", "b.nii.gz", "c.tif"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ImageError, match=r"Git LFS|export it again"):
        read_image([tmp_path / name])


def test_half_of_a_file_is_refused_whatever_its_kind(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii", IMAGE), volume(tmp_path / "b.nii.gz", IMAGE)
    Image.fromarray((GREY >> 8).astype(np.uint8)).save(tmp_path / "c.png")
    tifffile.imwrite(tmp_path / "d.tif", np.tile(GREY, (9, 9)))
    np.save(tmp_path / "e.npy", GREY)
    dicom(tmp_path / "f.dcm", PLANE)
    for path in sorted(tmp_path.iterdir()):
        read_image([path])
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 8])
        with pytest.raises(ImageError):
            read_image([path])
