"""DICOM and array files: values, geometry, privacy, and every refusal."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, SecondaryCaptureImageStorage, generate_uid

from allograft.cohort import Preprocessing
from allograft.cohort.geometry import geometry, to_grid
from allograft.cohort.readers import Picture, read_image, read_mask
from allograft.cohort.readers.dicom import is_dicom, read_dicom
from allograft.cohort.writers import write_mask
from allograft.errors import ImageError

SERIES, OTHER = generate_uid(entropy_srcs=["one"]), generate_uid(entropy_srcs=["other"])
SECRETS = ("Doe^Jane", "HOSP-4711", "19700101", "Secret-Clinic")
ROWS, COLUMNS = 4, 6
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)  # a coronal plane, turned about the long axis


def dicom(
    path: Path, pixels: np.ndarray, *, kind: str = "MONOCHROME2", syntax: str = ExplicitVRLittleEndian, **tags: object
) -> Path:
    """A DICOM file with a patient's name in it; ``tags`` are set last, None removes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.InstitutionName = SECRETS
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = (
        SecondaryCaptureImageStorage,
        generate_uid(),
        SERIES,
    )
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (1 if pixels.ndim == 2 else 3), kind
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for key, value in tags.items():
        setattr(dataset, key, value)
        if value is None:
            delattr(dataset, key)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.PixelData = pydicom.encaps.encapsulate([b"\x01\x02" * 20])
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def place(
    height: float, directions: tuple[float, ...] = (1, 0, 0, 0, 1, 0), origin: tuple[float, ...] = (-10, 20, 5)
) -> dict[str, object]:
    across, down = np.reshape(directions, (2, 3))
    position = np.array(origin, float) + height * np.cross(across, down)
    return {
        "ImageOrientationPatient": list(directions),
        "ImagePositionPatient": list(position),
        "PixelSpacing": [0.5, 0.75],
    }


def values(index: int) -> np.ndarray:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) + 100 * index).astype(np.int16)


def series(
    folder: Path, heights: tuple[float, ...] = (0, 2.5, 5), directions: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
) -> Path:
    """Slices whose names stand in the opposite order of their places."""
    folder.mkdir()
    for index, height in enumerate(heights):
        dicom(folder / f"{len(heights) - index:03d}.dcm", values(index), **place(height, directions))
    return folder


def refusal(path: Path, mask: bool = False) -> str:
    with pytest.raises(ImageError) as caught:
        read_mask(path) if mask else read_image([path])
    assert str(path) in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (*SECRETS, SERIES, OTHER))
    return str(caught.value)


# ---------------------------------------------------------- geometry
@pytest.mark.parametrize("directions", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), OBLIQUE])
def test_a_voxel_of_a_series_lands_where_the_standard_says(tmp_path: Path, directions: tuple[float, ...]) -> None:
    picture = read_image([series(tmp_path / "ct", directions=directions)])
    assert picture.array.shape == (1, COLUMNS, ROWS, 3)
    assert picture.array.dtype == np.int16
    assert picture.spacing == (0.75, 0.5, 2.5)
    across, down = np.reshape(directions, (2, 3)).astype(float)
    for column, row, index in ((0, 0, 0), (5, 1, 0), (2, 3, 2)):
        # DICOM PS3.3 C.7.6.2.1.1: P = S + X * (column spacing) * column + Y * (row spacing) * row
        start = np.array([-10, 20, 5]) + 2.5 * index * np.cross(across, down)
        lps = start + across * 0.75 * column + down * 0.5 * row
        np.testing.assert_allclose(picture.affine @ [column, row, index, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-6)
        assert picture.array[0, column, row, index] == values(index)[row, column]


def test_an_axial_series_by_hand(tmp_path: Path) -> None:
    affine = read_dicom(series(tmp_path / "ct")).affine
    np.testing.assert_allclose(affine, [[-0.75, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]])


def test_one_file_with_a_position_is_a_plane_of_the_same_world(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    volume, plane = read_dicom(folder), read_image([folder / "003.dcm"])
    np.testing.assert_array_equal(plane.array[0], volume.array[0, :, :, 0].T)
    assert plane.spacing == (0.5, 0.75)
    np.testing.assert_allclose(plane.affine @ [3, 4, 0, 1], volume.affine @ [4, 3, 0, 1])
    ras = [to_grid(each.array, geometry(each, Preprocessing(), "a"), nearest=True) for each in (volume, plane)]
    np.testing.assert_array_equal(ras[0][..., 0], ras[1])
    (folder / "001.dcm").unlink(), (folder / "002.dcm").unlink()
    np.testing.assert_array_equal(read_image([folder]).array, plane.array)


def test_a_nifti_of_the_series_has_the_same_grid(tmp_path: Path) -> None:
    picture = read_dicom(series(tmp_path / "ct", directions=OBLIQUE))
    write_mask(tmp_path / "mask.nii.gz", np.ones(picture.spatial, int), picture.affine)
    back = read_mask(tmp_path / "mask.nii.gz")
    assert back.spatial == picture.spatial
    np.testing.assert_allclose(back.affine, picture.affine, atol=1e-5)


def test_rounded_positions_are_one_grid(tmp_path: Path) -> None:
    heights = tuple(round(0.625 * i, 1) for i in range(9))
    assert read_dicom(series(tmp_path / "ct", heights)).spacing[2] == pytest.approx(0.625)


def test_names_without_suffix_and_other_files_beside(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for file in list(folder.iterdir()):
        file.rename(folder / f"1.2.840.{file.stem}")
    (folder / "notes.txt").write_text("left side")
    (folder / ".hidden.dcm").write_bytes(b"no")
    assert read_image([folder]).spatial == (COLUMNS, ROWS, 3)
    assert is_dicom(folder / "1.2.840.001")
    assert read_image([folder / "1.2.840.001"]).spatial == (ROWS, COLUMNS)


# ---------------------------------------------------------- intensities
def test_monochrome1_is_inverted_within_the_stored_bits(tmp_path: Path) -> None:
    stored = np.array([[0, 1], [4094, 4095]], np.uint16)
    path = dicom(tmp_path / "a.dcm", stored, kind="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image([path]).array, [[[4095, 4094], [1, 0]]])
    signed = dicom(tmp_path / "b.dcm", np.array([[-128, 127]], np.int8), kind="MONOCHROME1")
    np.testing.assert_array_equal(read_image([signed]).array, [[[127, -128]]])


def test_rescaling(tmp_path: Path) -> None:
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    hounsfield = read_image([dicom(tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024)]).array
    assert hounsfield.dtype == np.int32
    np.testing.assert_array_equal(hounsfield[0], stored.astype(int) - 1024)
    half = read_image([dicom(tmp_path / "b.dcm", stored, RescaleSlope="0.5", RescaleIntercept=-1)]).array
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half[0], stored / 2 - 1)
    both = read_image(
        [
            dicom(
                tmp_path / "c.dcm",
                stored,
                kind="MONOCHROME1",
                BitsStored=12,
                HighBit=11,
                RescaleSlope=2,
                RescaleIntercept=3,
            )
        ]
    )
    np.testing.assert_array_equal(both.array[0], (4095 - stored.astype(int)) * 2 + 3)
    assert "slope 0" in refusal(dicom(tmp_path / "d.dcm", stored, RescaleSlope=0, RescaleIntercept=0))


def test_each_slice_is_scaled_by_itself(tmp_path: Path) -> None:
    (tmp_path / "pet").mkdir()
    for index, slope in enumerate((1.5, 0.5)):
        dicom(tmp_path / "pet" / f"{index}.dcm", values(0), RescaleSlope=slope, RescaleIntercept=0, **place(index))
    array = read_image([tmp_path / "pet"]).array
    np.testing.assert_array_equal(array[0, :, :, 0], 3 * array[0, :, :, 1])


def test_a_plane_states_its_thickness_and_that_it_is_shown_as_stored(tmp_path: Path) -> None:
    thick = read_image([dicom(tmp_path / "a.dcm", values(0), SliceThickness=4.0, **place(1))])
    assert (thick.thickness, thick.shown, thick.grid.axis) == (4.0, True, 2)
    assert np.linalg.norm(thick.affine[:3], axis=0)[:3].tolist() == [0.5, 0.75, 4.0]
    for tags in ({}, {"SliceThickness": 0.0}):
        bare = read_image([dicom(tmp_path / "a.dcm", values(0), **tags, **place(1))])
        assert (bare.thickness, np.linalg.norm(bare.affine[:3, 2])) == (None, 1.0)


def test_pixels_of_a_radiograph_are_as_high_and_wide_as_the_header_says(tmp_path: Path) -> None:
    odd = read_image([dicom(tmp_path / "a.dcm", values(0), PixelAspectRatio=[2, 3])])
    assert odd.notes == {"aspect": "its pixels are 2 high and 3 wide"}
    assert read_image([dicom(tmp_path / "a.dcm", values(0), PixelAspectRatio=[3, 3])]).notes == {}


def test_twelve_stored_bits_are_inverted_within_twelve(tmp_path: Path) -> None:
    pixels = np.array([[0, 5, 4095]], np.uint16)
    stored = {"BitsStored": 12, "HighBit": 11, "kind": "MONOCHROME1"}
    found = read_image([dicom(tmp_path / "a.dcm", pixels, **stored)])
    assert found.array[0].tolist() == [[4095, 4090, 0]]
    signed = np.array([[-2048, 0, 2047]], np.int16)
    assert read_image([dicom(tmp_path / "b.dcm", signed, **stored)]).array[0].tolist() == [[2047, -1, -2048]]
    intercept = read_image([dicom(tmp_path / "c.dcm", pixels, RescaleIntercept=-7, BitsStored=12, HighBit=11)])
    assert intercept.array[0].tolist() == [[-7, -2, 4088]]


def test_the_slice_that_is_off_the_line_is_named_however_files_are_called(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for number, height in enumerate((7.5, 2.5, 0, 10, 5)):
        off = 0.3 if height == 5 else 0.0  # of pixels of 0.5 x 0.75 mm more than half the smaller side
        dicom(folder / f"{number}.dcm", values(number), **place(height, origin=(-10 + off, 20, 5)))
    (folder / "DICOMDIR").write_bytes((folder / "0.dcm").read_bytes())
    with pytest.raises(ImageError, match=r"4\.dcm lies 0\.3 mm off the line .* half a pixel, 0\.25 mm"):
        read_image([folder])
    dicom(folder / "4.dcm", values(4), **place(5, origin=(-9.8, 20, 5)))
    found = read_image([folder])
    assert found.array[0, 0, 0].tolist() == [200, 100, 400, 0, 300]
    dicom(folder / "4.dcm", values(4), **place(4, origin=(-10, 20, 5)))
    with pytest.raises(ImageError, match=r"found 3\.5 mm between 4\.dcm and 0\.dcm|1\.5 mm between 1\.dcm and 4\.dcm"):
        read_image([folder])


def test_slices_closer_than_a_tenth_of_a_step_are_copies(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"lie at one place \(0\.1 mm apart; the usual step is 2\.45\).*remove the copy"
    ):
        read_image([series(tmp_path / "s", (0, 2.5, 2.6, 5, 7.5))])


def test_a_radiograph_is_a_photograph(tmp_path: Path) -> None:
    picture = read_image([dicom(tmp_path / "a.dcm", values(0), PixelSpacing=[0.1, 0.1])])
    assert picture.affine is None
    assert picture.spatial == (ROWS, COLUMNS)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.dcm").array[0], values(0))


def test_colour_is_rgb(tmp_path: Path) -> None:
    red = np.zeros((3, 5, 3), np.uint8)
    red[..., 0] = 255
    picture = read_image([dicom(tmp_path / "rgb.dcm", red, kind="RGB", **place(0))])
    assert picture.affine is None
    np.testing.assert_array_equal(picture.array, red.transpose(2, 0, 1))
    # ITU-R BT.601, full range, of pure red
    ybr = np.broadcast_to(np.array([76, 85, 255], np.uint8), (3, 5, 3))
    converted = read_image([dicom(tmp_path / "ybr.dcm", np.ascontiguousarray(ybr), kind="YBR_FULL")]).array
    assert np.abs(converted.astype(int) - red.transpose(2, 0, 1)).max() <= 2


def test_a_palette_is_colours_to_an_image_and_indices_to_a_mask(tmp_path: Path) -> None:
    tags: dict[str, object] = {}
    for colour, numbers in (("Red", [9, 200]), ("Green", [8, 100]), ("Blue", [7, 50])):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [2, 0, 8]
        tags[f"{colour}PaletteColorLookupTableData"] = bytes(numbers)
    path = dicom(tmp_path / "a.dcm", np.array([[0, 1]], np.uint8), kind="PALETTE COLOR", **tags)
    np.testing.assert_array_equal(read_image([path]).array[:, 0], [[9, 200], [8, 100], [7, 50]])
    np.testing.assert_array_equal(read_mask(path).array, [[[0, 1]]])


def test_run_lengths_are_decoded(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", values(0))
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_image([tmp_path / "rle.dcm"]).array[0], values(0))


# ---------------------------------------------------------- privacy
def test_nothing_of_the_header_is_kept(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    picture = read_image([folder])
    assert not {key for key, value in vars(picture).items() if np.any(value)} - {"array", "affine", "turn"}
    write_mask(tmp_path / "mask.nii", np.ones(picture.spatial, int), picture.affine)
    written = (tmp_path / "mask.nii").read_bytes()
    for secret in (*SECRETS, SERIES):
        assert secret not in repr(picture)
        assert secret.encode() not in written
    header = nibabel.load(tmp_path / "mask.nii").header
    assert bytes(header["descrip"]).strip(b"\0") == bytes(header["db_name"]).strip(b"\0") == b""


def test_a_header_that_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", values(0), RescaleSlope=2, RescaleIntercept=0)
    # a slope that is no number
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x002.0 ", b"DS\x04\x00xyxy"))
    message = refusal(path)
    assert "xy" not in message.replace(str(path), "")
    assert "export it again" in message


# ---------------------------------------------------------- refusals
def test_missing_unequal_and_doubled_slices(tmp_path: Path) -> None:
    message = refusal(series(tmp_path / "missing", (0, 2, 4, 8, 10)))
    assert "a slice is missing: found 4 mm between 003.dcm and 002.dcm" in message
    assert "expected 2 mm" in message
    assert "unequally" in refusal(series(tmp_path / "unequal", (0, 2, 4, 6.6, 8.6)))
    assert "001.dcm and 002.dcm lie at one place" in refusal(series(tmp_path / "doubled", (0, 2, 4, 4)))


@pytest.mark.parametrize("gap", range(1, 30))
def test_a_gap_anywhere_is_found(tmp_path: Path, gap: int) -> None:
    from allograft.cohort.readers.dicom import _check_steps
    from allograft.cohort.readers.dicom_plane import Plane

    heights = np.array([float(i) for i in range(31) if i != gap])
    planes = [Plane(str(i), np.zeros((1, 1, 1)), None) for i in range(30)]
    with pytest.raises(ImageError, match="a slice is missing"):
        _check_steps(tmp_path, planes, heights)


def test_unlike_slices_name_the_odd_one(tmp_path: Path) -> None:
    for what, pixels, tags in (
        ("shape", np.zeros((ROWS, 9), np.int16), place(9)),
        ("orientation", values(0), place(9, (0, 1, 0, 0, 0, -1))),
        ("pixel spacing", values(0), place(9) | {"PixelSpacing": [0.5, 0.5]}),
    ):
        folder = series(tmp_path / what)
        with pytest.raises(ImageError, match=rf"odd\.dcm: {what} \(.*expected that of 001\.dcm"):
            read_image([dicom(folder / "odd.dcm", pixels, **tags).parent])


def test_several_series_a_tilted_gantry_and_no_position(tmp_path: Path) -> None:
    folder = series(tmp_path / "two")
    dicom(folder / "b.dcm", values(0), SeriesInstanceUID=OTHER, **place(7.5))
    assert "2 series (001.dcm and b.dcm" in refusal(folder)
    (tmp_path / "tilt").mkdir()
    for index in range(4):
        dicom(tmp_path / "tilt" / f"{index}.dcm", values(0), **place(2 * index, origin=(-10, 20 + index, 5)))
    assert "straighten it" in refusal(tmp_path / "tilt")
    folder = series(tmp_path / "bare")
    dicom(folder / "x.dcm", values(0))
    with pytest.raises(ImageError, match=r"x\.dcm: a slice without position"):
        read_image([folder])


def test_folders_without_slices(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "missing (a folder)" in refusal(tmp_path / "empty")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no")
    assert "none of them DICOM" in refusal(tmp_path / "notes")


def test_frames_objects_kinds_and_codecs(tmp_path: Path) -> None:
    several = dicom(tmp_path / "frames.dcm", np.zeros((8, 6), np.uint8), NumberOfFrames=2, Rows=4)
    assert "2 frames" in refusal(several)
    assert "dcm2img --frame" in refusal(several, mask=True)
    assert "without pixels" in refusal(dicom(tmp_path / "report.dcm", values(0), PixelData=None))
    assert "'HSV'" in refusal(dicom(tmp_path / "hsv.dcm", np.zeros((2, 2, 3), np.uint8), kind="HSV"))
    compressed = refusal(dicom(tmp_path / "jpegls.dcm", np.zeros((4, 4), np.uint8), syntax=JPEGLSLossless))
    assert "JPEG-LS" in compressed
    assert "gdcmconv" in compressed
    assert "gdcmconv" in refusal(
        dicom(tmp_path / "jpeg.dcm", np.zeros((4, 4), np.uint8), syntax="1.2.840.10008.1.2.4.50")
    )
    assert "gdcmconv" in refusal(
        dicom(tmp_path / "video.dcm", np.zeros((4, 4), np.uint8), syntax="1.2.840.10008.1.2.4.100")
    )


def test_damaged_files(tmp_path: Path) -> None:
    whole = dicom(tmp_path / "whole.dcm", values(0)).read_bytes()
    for name, content in (
        ("short.dcm", whole[:-20]),
        ("head.dcm", whole[:200]),
        ("text.dcm", b"no DICOM at all"),
        ("none.dcm", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert "export it again" in refusal(tmp_path / name)
    assert "unit vectors" in refusal(dicom(tmp_path / "a.dcm", values(0), **place(0, (1, 0, 0, 1, 0, 0))))
    path = dicom(tmp_path / "b.dcm", values(0), **place(0) | {"PixelSpacing": [0.5]})
    assert "PixelSpacing is not 2 finite numbers" in refusal(path)


# ---------------------------------------------------------- arrays
def test_arrays_have_their_channels_first(tmp_path: Path) -> None:
    for shape, wanted in (
        ((4, 5), (1, 4, 5)),
        ((3, 4, 5), (3, 4, 5)),
        ((1, 4, 5, 6), (1, 4, 5, 6)),
        ((2, 4, 5, 6), (2, 4, 5, 6)),
    ):
        array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        np.save(tmp_path / "a.npy", array)
        np.savez_compressed(tmp_path / "a.npz", anything=array)
        for name in ("a.npy", "a.npz"):
            picture = read_image([tmp_path / name])
            assert isinstance(picture, Picture)
            assert picture.affine is None
            assert picture.array.dtype == np.int16
            np.testing.assert_array_equal(picture.array, array.reshape(wanted))


def test_masks_need_no_channel_axis(tmp_path: Path) -> None:
    for shape, wanted in (((4, 5), (4, 5)), ((1, 4, 5), (4, 5)), ((4, 5, 6), (4, 5, 6)), ((1, 4, 5, 6), (4, 5, 6))):
        np.save(tmp_path / "a.npy", np.ones(shape, bool))
        assert read_mask(tmp_path / "a.npy").spatial == wanted
    np.save(tmp_path / "a.npy", np.ones((2, 4, 5, 6), int))
    assert "argmax" in refusal(tmp_path / "a.npy", mask=True)


def test_an_archive_of_image_and_mask(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((3, 4, 5), np.float64), mask=np.full((4, 5), 2))
    assert read_image([tmp_path / "a.npz"]).array.dtype == np.float32
    assert (read_mask(tmp_path / "a.npz").array == 2).all()
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 5)), y=np.zeros((4, 5)))
    assert "holds 2 arrays (x, y)" in refusal(tmp_path / "b.npz")


def test_array_refusals(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((9, 10, 11)))
    assert "array[None] for a volume" in refusal(tmp_path / "volume.npy")
    np.save(tmp_path / "last.npy", np.zeros((9, 10, 3)))
    assert "np.moveaxis" in refusal(tmp_path / "last.npy")
    np.save(tmp_path / "line.npy", np.zeros(5))
    assert "shape (5,)" in refusal(tmp_path / "line.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    assert "allow_pickle" in refusal(tmp_path / "pickle.npy")
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    assert "type <U1" in refusal(tmp_path / "words.npy")
    np.save(tmp_path / "hole.npy", np.array([[0.0, np.nan]]))
    assert "NaN" in refusal(tmp_path / "hole.npy")
    for name, content in (("cut.npz", b"PK\x03\x04 and no more"), ("text.npy", b"hello"), ("none.npz", b"")):
        (tmp_path / name).write_bytes(content)
        assert "export it again" in refusal(tmp_path / name)
    huge = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 99999999, 99999999), }".ljust(117)
        + b"\n"
    )
    (tmp_path / "huge.npy").write_bytes(huge)
    assert "export it again" in refusal(tmp_path / "huge.npy")
