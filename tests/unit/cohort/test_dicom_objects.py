"""DICOM objects whose meaning is elsewhere than in the plain tags: frames, segmentations, kinds,
bits and codecs."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    MRSpectroscopyStorage,
    ParametricMapStorage,
    RawDataStorage,
    RLELossless,
    RTDoseStorage,
    SegmentationStorage,
    VLWholeSlideMicroscopyImageStorage,
)
from tests.unit.cohort.test_dicom import OBLIQUE, dicom, place, series, values

from allograft.cohort import Coding, Cohort, Preprocessing
from allograft.cohort.alignment import aligned
from allograft.cohort.readers import dicom_codecs, read_image, read_mask
from allograft.errors import ImageError, MissingExtraError


def item(**elements: object) -> list[Dataset]:
    made = Dataset()
    for key, value in elements.items():
        setattr(made, key, value)
    return [made]


def enhanced(
    path: Path, frames: int, kind: str = EnhancedCTImageStorage, *, own_scale: bool = False, **tags: object
) -> Path:
    """Frames in the opposite order of their places; pixels ``values(frame)``, 2 x - 1000, 0.5 x
    0.75 x 2.5 mm, oblique."""
    shared = {
        "PixelMeasuresSequence": item(PixelSpacing=[0.5, 0.75], SliceThickness=2.5),
        "PlaneOrientationSequence": item(ImageOrientationPatient=list(OBLIQUE)),
    }
    scale = [item(RescaleSlope=2 + own_scale * number, RescaleIntercept=-1000) for number in range(frames)]
    shared["PixelValueTransformationSequence"] = item(RescaleSlope=9, RescaleIntercept=9) if own_scale else scale[0]
    per_frame = []
    for number in range(frames):
        position = place(2.5 * (frames - number), OBLIQUE)["ImagePositionPatient"]
        own = {"PlanePositionSequence": item(ImagePositionPatient=position)}
        per_frame += item(**own, **({"PixelValueTransformationSequence": scale[number]} if own_scale else {}))
    pixels = np.concatenate([values(number) for number in range(frames)])
    groups = {"SharedFunctionalGroupsSequence": item(**shared), "PerFrameFunctionalGroupsSequence": per_frame}
    frame = {"FrameOfReferenceUID": pydicom.uid.generate_uid(entropy_srcs=["frame"])}
    return dicom(path, pixels, Rows=4, NumberOfFrames=frames, SOPClassUID=kind, **frame, **groups, **tags)


# ---------------------------------------------------------- frames
@pytest.mark.parametrize("kind", [EnhancedCTImageStorage, EnhancedMRImageStorage])
def test_frames_are_the_slices_of_a_series(tmp_path: Path, kind: str) -> None:
    picture = read_image([enhanced(tmp_path / "a.dcm", 3, kind)])
    assert picture.array.shape == (1, 6, 4, 3)
    assert picture.spacing == (0.75, 0.5, 2.5)
    folder = series(tmp_path / "s", (2.5, 5, 7.5), OBLIQUE)
    np.testing.assert_allclose(picture.affine, read_image([folder]).affine, atol=1e-5)
    for index in range(3):
        np.testing.assert_array_equal(picture.array[0, :, :, 2 - index].T, 2 * values(index).astype(int) - 1000)


def test_frames_have_their_own_scale(tmp_path: Path) -> None:
    array = read_image([enhanced(tmp_path / "a.dcm", 3, own_scale=True)]).array
    for index in range(3):
        np.testing.assert_array_equal(array[0, :, :, 2 - index].T, (2 + index) * values(index).astype(int) - 1000)


def test_one_frame_is_a_plane(tmp_path: Path) -> None:
    picture = read_image([enhanced(tmp_path / "a.dcm", 1)])
    assert (picture.spatial, picture.spacing, picture.grid.voxel) == ((4, 6), (0.5, 0.75), (0.9375, "mm3"))
    np.testing.assert_array_equal(picture.array[0], 2 * values(0).astype(int) - 1000)


def test_highdicom_reads_the_same_volume(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    path = enhanced(tmp_path / "a.dcm", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = highdicom.imread(path).get_volume()
    picture = read_image([path])
    ours = {tuple(np.round(picture.affine @ [*at, 1], 3)[:3]): value for at, value in np.ndenumerate(picture.array[0])}
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    theirs = {tuple(np.round(lps @ [*at, 1], 3)[:3]): value for at, value in np.ndenumerate(volume.array)}
    assert ours == theirs


@pytest.mark.parametrize("which", ["missing", "doubled", "lost", "count"])
def test_frames_that_are_no_volume_are_refused(tmp_path: Path, which: str) -> None:
    path = enhanced(tmp_path / "a.dcm", 4)
    dataset = pydicom.dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames]
    if which == "missing":
        frames[0].PlanePositionSequence[0].ImagePositionPatient = [
            2 * a - b for a, b in zip(positions[0], positions[1], strict=True)
        ]
    elif which == "doubled":
        frames[0].PlanePositionSequence[0].ImagePositionPatient = positions[1]
    elif which == "lost":
        del frames[2].PlanePositionSequence
    else:
        del dataset.PerFrameFunctionalGroupsSequence[3]
    dataset.save_as(path)
    words = {"missing": "a slice is missing", "doubled": "frame 2 lie at one place|frame 1 lie at one place"}
    with pytest.raises(ImageError, match=words.get(which, "frames")):
        read_image([path])


# ---------------------------------------------------------- kinds
KINDS = {
    "dose": (RTDoseStorage, {"DoseGridScaling": "0.001"}, "found a dose"),
    "segmentation": (SegmentationStorage, {}, "column mask"),
    "map": (ParametricMapStorage, {}, "computed numbers"),
    "slide": (VLWholeSlideMicroscopyImageStorage, {}, "OpenSlide"),
    "spectrum": (MRSpectroscopyStorage, {}, "MR Spectroscopy, no picture"),
    "raw data": (RawDataStorage, {}, "Raw Data, no picture"),
    "mosaic": (MRImageStorage, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "Siemens mosaic"),
    "dose table": (CTImageStorage, {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "table of doses"),
    "protocol": (CTImageStorage, {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "a protocol"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_picture_of_tissue_is_refused_by_its_kind(tmp_path: Path, name: str) -> None:
    kind, tags, words = KINDS[name]
    path = dicom(tmp_path / "a.dcm", values(0), SOPClassUID=kind, **place(0), **tags)
    with pytest.raises(ImageError, match=words):
        read_image([path])


def test_a_mosaic_is_known_by_its_private_tag_too(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", values(0), SOPClassUID=MRImageStorage, **place(0))
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", 32)
    dataset.save_as(path)
    with pytest.raises(ImageError, match="Siemens mosaic"):
        read_image([path])


# ---------------------------------------------------------- bits
def test_more_bits_than_declared_are_refused(tmp_path: Path) -> None:
    pixels = np.array([[5, 70], [4000, 5000]], np.uint16)
    with pytest.raises(ImageError, match=r"pixels up to 5000, but its header declares 12 bits \(up to 4095\)"):
        read_image([dicom(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)])
    with pytest.raises(ImageError, match="expected the highest at 11"):
        read_image([dicom(tmp_path / "b.dcm", pixels, BitsStored=12, HighBit=15)])


def test_an_overlay_in_the_upper_bits_is_left_out(tmp_path: Path) -> None:
    pixels = np.array([[5, 70], [4000, 4095]], np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels | np.uint16(1 << 12), BitsStored=12, HighBit=11)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 12)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_image([path]).array[0], pixels)


def test_signed_pixels_of_twelve_bits(tmp_path: Path) -> None:
    wanted = np.array([[-2048, -1], [0, 2047]], np.int16)
    path = dicom(tmp_path / "a.dcm", wanted & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image([path]).array[0], wanted)


# ---------------------------------------------------------- codecs
def test_only_what_has_a_decoder_is_available() -> None:
    assert dicom_codecs.is_available(JPEG2000Lossless)
    assert not dicom_codecs.is_available(RLELossless)
    assert not dicom_codecs.is_available(ExplicitVRLittleEndian)


GREY = np.random.default_rng(0).integers(0, 4096, (16, 24)).astype(np.uint16)
CODECS = {
    "JPEG-LS": (JPEGLSLossless, lambda pixels: imagecodecs.jpegls_encode(pixels), GREY),
    "JPEG-LS, signed": (
        JPEGLSLossless,
        lambda pixels: imagecodecs.jpegls_encode(pixels.view(np.uint16)),
        GREY.view(np.int16) - 2048,
    ),
    "JPEG lossless": (JPEGLosslessSV1, lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=16), GREY),
    "JPEG 2000": (
        JPEG2000Lossless,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
        GREY,
    ),
    "JPEG 2000, signed": (
        JPEG2000Lossless,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
        GREY.view(np.int16) - 2048,
    ),
}


@pytest.mark.parametrize("name", CODECS)
def test_imagecodecs_decodes_what_it_encoded(tmp_path: Path, name: str) -> None:
    syntax, encode, pixels = CODECS[name]
    path = dicom(tmp_path / "a.dcm", pixels)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([encode(pixels)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    dicom_codecs.register()
    np.testing.assert_array_equal(pixel_array(pydicom.dcmread(path), decoding_plugin="imagecodecs"), pixels)
    np.testing.assert_array_equal(read_image([path]).array[0], pixels)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_imagecodecs_agrees_with_the_decoders_of_pydicom_on_its_own_files() -> None:
    compared = set()
    dicom_codecs.register()
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        dataset = pydicom.dcmread(path, force=True)
        syntax = dataset.get("file_meta", Dataset()).get("TransferSyntaxUID")
        if syntax not in dicom_codecs.DECODER_DEPENDENCIES or path.stat().st_size > 100_000:
            continue
        decoded = []
        for plugin in get_decoder(syntax).available_plugins:
            try:
                decoded.append(pixel_array(dataset, decoding_plugin=plugin))
            except Exception:  # each has files that it cannot read
                continue
        for one, other in pairwise(decoded):
            np.testing.assert_array_equal(one, other)
            compared.add(path.name)
    assert len(compared) >= 10


# ---------------------------------------------------------- segmentations
@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, list[Dataset]]:
    """A CT series of six slices, complete enough for highdicom."""
    study, frame = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    folder = tmp_path / "ct"
    folder.mkdir()
    for index in range(6):
        tags = {
            "StudyInstanceUID": study,
            "FrameOfReferenceUID": frame,
            "SOPClassUID": CTImageStorage,
            "Modality": "CT",
        }
        names = ("PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
        dicom(
            folder / f"{index}.dcm",
            values(index),
            **place(2.5 * index),
            **tags,
            **dict.fromkeys(names, ""),
            SliceThickness=2.5,
        )
    return folder, [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def segmentation(path: Path, slices: list[Dataset], drawn: np.ndarray, kind: str = "BINARY") -> Path:
    """``drawn``: (slices, rows, columns) numbers of segments; or (..., segments) shares."""
    highdicom = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    count = drawn.shape[-1] if drawn.ndim == 4 else int(drawn.max())
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"s{number}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type="MANUAL",
        )
        for number in range(1, count + 1)
    ]
    made = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=drawn,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=pydicom.uid.generate_uid(),
        series_number=2,
        sop_instance_uid=pydicom.uid.generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    made.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("slices", [[0], [5], [2, 3], [1, 4], [0, 1, 2, 3, 4, 5]])
def test_a_segmentation_is_a_mask_on_its_image(
    tmp_path: Path, scan: tuple[Path, list[Dataset]], kind: str, slices: list[int]
) -> None:
    folder, datasets = scan
    drawn = np.zeros((6, 4, 6), np.uint8)
    for index in slices:
        drawn[index, 1:3, 2:5] = 1
        drawn[index, 3, 0] = 2
    wanted = drawn.transpose(2, 1, 0)
    if kind == "FRACTIONAL":
        drawn = np.stack([drawn == 1, drawn == 2], -1).astype(np.float32)
    path = segmentation(tmp_path / "seg.dcm", datasets, drawn, kind)
    image = read_image([folder])
    np.testing.assert_array_equal(aligned(read_mask(path), image.grid, "seg", "ct").array[0], wanted)
    (tmp_path / "manifest.csv").write_text("image,mask,subject,site\nct,seg.dcm,1,a\n")
    coding = Coding(mask={"one": (1,), "two": (2,)})
    cohort = Cohort.read(tmp_path / "manifest.csv", coding, preprocessing=Preprocessing(orientation=None))
    np.testing.assert_array_equal(cohort.whole(0).mask, wanted)


def test_a_segmentation_of_one_slice_lies_on_that_slice(tmp_path: Path, scan: tuple[Path, list[Dataset]]) -> None:
    folder, datasets = scan
    drawn = np.zeros((6, 4, 6), np.uint8)
    drawn[3, 1:3, 2:5] = 1
    path = segmentation(tmp_path / "seg.dcm", datasets, drawn)
    plane = read_image([folder / "3.dcm"])
    np.testing.assert_array_equal(aligned(read_mask(path), plane.grid, "seg", "3.dcm").array[0], drawn[3])
    with pytest.raises(ImageError, match="lie outside"):
        aligned(read_mask(path), read_image([folder / "2.dcm"]).grid, "seg", "2.dcm")


def test_segmentations_that_are_no_mask_of_the_image_are_refused(
    tmp_path: Path, scan: tuple[Path, list[Dataset]]
) -> None:
    _, datasets = scan
    shares = np.zeros((6, 4, 6, 2), np.float32)
    shares[2, 1] = 1
    with pytest.raises(ImageError, match="overlap"):
        read_mask(segmentation(tmp_path / "overlap.dcm", datasets, (shares > 0).astype(np.uint8)))
    with pytest.raises(ImageError, match="yes or no"):
        read_mask(segmentation(tmp_path / "shares.dcm", datasets, shares[..., :1] / 2, "FRACTIONAL"))
    path = segmentation(tmp_path / "seg.dcm", datasets, (shares[..., 0] > 0).astype(np.uint8))
    moved = read_image([series(tmp_path / "other", tuple(2.5 * index + 1 for index in range(6)))])
    with pytest.raises(ImageError, match=r"up to 1\.0 mm"):
        aligned(read_mask(path), moved.grid, "seg.dcm", "other")


def test_the_pip_line_is_said_where_highdicom_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dicom(tmp_path / "a.dcm", values(0), SOPClassUID=SegmentationStorage)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"allograft\[dicom\]"):
        read_mask(path)
