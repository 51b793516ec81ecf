"""Formats that people bring, compared with SimpleITK, nibabel and pynrrd."""

from __future__ import annotations

import contextlib
import gzip
import shutil
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from allograft.cohort import Case, Coding, Preprocessing
from allograft.cohort.alignment import aligned
from allograft.cohort.picture import Grid
from allograft.cohort.prepared_images import PreparedImages, file_hash
from allograft.cohort.readers import read_image, read_mask
from allograft.cohort.readers.files import UNREAD, companions
from allograft.cohort.readers.listing import images_below
from allograft.errors import AllograftError, ImageError, MissingExtraError

sitk = pytest.importorskip("SimpleITK")
NUMBERS = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
TURN = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -3], [0, 0, -1, 7], [0, 0, 0, 1]]) @ np.diag([0.5, 1, 3, 1])
OF_NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"


def with_itk(path: Path, array: np.ndarray = NUMBERS, **options: object) -> Path:
    """Voxels (i, j, k) written by SimpleITK at TURN, whose world is LPS."""
    image = sitk.GetImageFromArray(array.transpose(*range(array.ndim)[::-1]))
    lps = np.diag([-1, -1, 1, 1]) @ TURN
    if array.ndim == 3:
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
    else:
        image.SetSpacing([0.5, 0.7])
    sitk.WriteImage(image, str(path), **options)
    return path


# ---------------------------------------------------------- what SimpleITK writes
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".nii", ".nii.gz", ".hdr", ".img"])
def test_voxels_and_places_are_those_of_simpleitk(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = with_itk(tmp_path / f"a{suffix}", useCompression=packed)
    if suffix == ".img" and not path.exists():
        pytest.skip("SimpleITK has written img.gz")
    picture = read_image([path])
    np.testing.assert_array_equal(picture.array[0], NUMBERS)
    np.testing.assert_allclose(picture.affine, TURN, atol=1e-5)
    image = sitk.ReadImage(str(path))
    for at in ((0, 0, 0), (3, 1, 5)):
        there = np.array(image.TransformIndexToPhysicalPoint(at)) * (-1, -1, 1)
        np.testing.assert_allclose((picture.affine @ [*at, 1])[:3], there, atol=1e-5)
    np.testing.assert_array_equal(read_mask(path).array[0], NUMBERS)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("axis", range(3))
def test_one_slice_is_a_plane(tmp_path: Path, suffix: str, axis: int) -> None:
    picture = read_image([with_itk(tmp_path / f"a{suffix}", NUMBERS.take([1], axis))])
    np.testing.assert_array_equal(picture.array[0], NUMBERS.take(1, axis))
    sides = np.linalg.norm(TURN[:3, :3], axis=0)
    assert picture.spacing == pytest.approx(np.delete(sides, axis))
    assert (picture.dropped, picture.thickness) == (axis, pytest.approx(sides[axis]))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_two_axes_and_several_components(tmp_path: Path, suffix: str) -> None:
    picture = read_image([with_itk(tmp_path / f"a{suffix}", NUMBERS[0])])
    assert (picture.spatial, picture.spacing, picture.grid.voxel) == ((5, 6), (0.5, 0.7), (0.35, "mm2"))
    vector = sitk.GetImageFromArray(np.stack([NUMBERS, NUMBERS + 1], -1).transpose(2, 1, 0, 3), isVector=True)
    sitk.WriteImage(vector, str(tmp_path / f"v{suffix}"))
    np.testing.assert_array_equal(read_image([tmp_path / f"v{suffix}"]).array, [NUMBERS, NUMBERS + 1])


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_one_flipped_bit_is_found(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 50, (16, 16, 16)).astype(np.int16)
    whole = with_itk(tmp_path / f"a{suffix}", noise, useCompression=True).read_bytes()
    silent = 0
    for at in range(len(whole) // 4, len(whole) - 12, 211):
        (tmp_path / f"b{suffix}").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with contextlib.suppress(AllograftError):
            silent += bool((read_image([tmp_path / f"b{suffix}"]).array[0] != noise).any())
    assert silent == 0


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_half_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = with_itk(tmp_path / f"a{suffix}").read_bytes()
    for name, kept in (("half", whole[:-100]), ("text", b"hello"), ("nothing", b"")):
        (tmp_path / f"{name}{suffix}").write_bytes(kept)
        with pytest.raises(ImageError, match=name):
            read_image([tmp_path / f"{name}{suffix}"])


# ---------------------------------------------------------- NRRD by itself
@pytest.mark.parametrize(
    ("space", "signs"), [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1))]
)
def test_spaces_of_nrrd(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    turn = np.diag([*signs, 1]) @ TURN
    header = {"space": space, "space directions": turn[:3, :3].T, "space origin": turn[:3, 3], "kinds": ["domain"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), NUMBERS, header)
    picture = read_image([tmp_path / "a.nrrd"])
    np.testing.assert_allclose(picture.affine, TURN)
    np.testing.assert_array_equal(picture.array[0], NUMBERS)


@pytest.mark.parametrize("first", [True, False])
def test_channels_of_nrrd(tmp_path: Path, first: bool) -> None:
    both = np.stack([NUMBERS, NUMBERS * 2], 0 if first else -1)
    none, rows = [np.full(3, np.nan)], list((np.diag([-1, -1, 1]) @ TURN[:3, :3]).T)
    kinds = ["list", "domain", "domain", "domain"] if first else ["domain", "domain", "domain", "list"]
    header = {"space": "LPS", "space directions": np.array([*none, *rows] if first else [*rows, *none]), "kinds": kinds}
    nrrd.write(str(tmp_path / "a.nrrd"), both, header)
    np.testing.assert_array_equal(read_image([tmp_path / "a.nrrd"]).array, [NUMBERS, NUMBERS * 2])


def test_nrrd_without_a_space_says_so(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), NUMBERS, {"spacings": [0.5, 1.0, 3.0]})
    picture = read_image([tmp_path / "a.nrrd"])
    assert picture.spacing == (0.5, 1.0, 3.0)
    assert "orientation" in picture.notes
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_allclose(picture.affine[:3, :3] @ [1, 1, 1], np.array(image.GetSpacing()) * (-1, -1, 1))


def test_a_segmentation_of_slicer_is_filled_up(tmp_path: Path) -> None:
    whole = (NUMBERS % 5 == 0).astype(np.uint8)
    whole[0], whole[:, :, 0], whole[:, :, -1] = 0, 0, 0
    part, place = whole[1:, :, 1:-1], TURN.copy()
    place[:3, 3] += TURN[:3, :3] @ (1, 0, 1)
    header = {
        "space": "RAS",
        "space directions": place[:3, :3].T,
        "space origin": place[:3, 3],
        "Segmentation_MasterRepresentation": "x",
    }
    nrrd.write(str(tmp_path / "a.seg.nrrd"), part, header)
    found = aligned(read_mask(tmp_path / "a.seg.nrrd"), Grid(whole.shape, TURN), "a.seg.nrrd", "image")
    np.testing.assert_array_equal(found.array[0], whole)
    with pytest.raises(ImageError, match="lie outside"):
        aligned(read_mask(tmp_path / "a.seg.nrrd"), Grid((3, 5, 6), TURN), "a.seg.nrrd", "image")


def test_nrrd_refusals(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), NUMBERS, {"encoding": "bzip2"})
    with pytest.raises(ImageError, match="expected raw or gzip"):
        read_image([tmp_path / "a.nrrd"])
    tilted = TURN.copy()
    tilted[1, 2] = 1.0
    nrrd.write(str(tmp_path / "b.nrrd"), np.zeros((30, 40, 20)), {"space": "RAS", "space directions": tilted[:3, :3].T})
    with pytest.raises(ImageError, match="right angle"):
        read_image([tmp_path / "b.nrrd"])


# ---------------------------------------------------------- detached pixels
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr", ".img"])
def test_pixels_beside_a_header_are_part_of_its_hash(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "data").mkdir()
    path = with_itk(tmp_path / "data" / f"a{suffix}", useCompression=False)
    (other,) = companions(path)
    before = file_hash(path)
    case = Case("a", "1", "", (path,))
    first = PreparedImages(Preprocessing(), Coding(), tmp_path / "cache").image(case)[0].copy()
    with_itk(path, NUMBERS[::-1].copy(), useCompression=False)
    assert file_hash(path) != before
    assert (PreparedImages(Preprocessing(), Coding(), tmp_path / "cache").image(case)[0] != first).any()
    assert len(images_below(tmp_path / "data")) == 1
    other.unlink()
    with pytest.raises(ImageError):
        read_image([path])


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/etc/passwd", "LIST", "slice%03d.raw 1 9 1", "sub/a.raw", "..\\a.raw"]
)
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_pixels_elsewhere_are_refused(tmp_path: Path, suffix: str, name: str) -> None:
    path = with_itk(tmp_path / f"a{suffix}", useCompression=False)
    (other,) = companions(path)
    path.write_bytes(path.read_bytes().replace(other.name.encode(), name.encode()))
    with pytest.raises(ImageError, match="expected one file next to it"):
        read_image([path])
    with pytest.raises(ImageError, match="expected one file next to it"):
        file_hash(path)


# ---------------------------------------------------------- what nibabel reads
@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_freesurfer(tmp_path: Path, suffix: str) -> None:
    nibabel.save(nibabel.MGHImage(NUMBERS, TURN), tmp_path / f"a{suffix}")
    picture = read_image([tmp_path / f"a{suffix}"])
    np.testing.assert_array_equal(picture.array[0], NUMBERS)
    np.testing.assert_allclose(picture.affine, TURN, atol=1e-5)
    whole = bytearray((tmp_path / f"a{suffix}").read_bytes())
    if suffix == ".mgz":
        whole[-6] ^= 1
        (tmp_path / "b.mgz").write_bytes(bytes(whole))
        with pytest.raises(ImageError, match="CRC"):
            read_image([tmp_path / "b.mgz"])


@pytest.mark.parametrize(
    "name", ["tiny.mnc", "minc1_1_scale.mnc", "phantom_EPI_asc_CLEAR_2_1.PAR", "phantom_varscale.PAR"]
)
def test_files_of_nibabel(name: str) -> None:
    if not (OF_NIBABEL / name).exists():
        pytest.skip("nibabel was installed without its files for tests")
    picture, image = read_image([OF_NIBABEL / name]), nibabel.load(OF_NIBABEL / name)
    wanted = np.atleast_1d(image.get_fdata())
    wanted = wanted[None] if wanted.ndim == 3 else np.moveaxis(wanted, -1, 0)
    np.testing.assert_allclose(picture.array, wanted, rtol=1e-6)
    np.testing.assert_allclose(picture.affine, image.affine)


def test_minc_of_several_times_is_refused_and_minc_2_names_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (OF_NIBABEL / "minc1_4d.mnc").exists():
        pytest.skip("nibabel was installed without its files for tests")
    with pytest.raises(ImageError, match="mincreshape"):
        read_image([OF_NIBABEL / "minc1_4d.mnc"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"allograft\[minc\]"):
        read_image([OF_NIBABEL / "small.mnc"])


def test_analyze_says_that_it_has_no_sides(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(NUMBERS, np.diag([-0.5, 1, 3, 1])), tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        picture = read_image([tmp_path / name])
        np.testing.assert_array_equal(picture.array[0], NUMBERS)
        assert (picture.spacing, list(picture.notes)) == ((0.5, 1.0, 3.0), ["orientation"])
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(ImageError, match=r"\.hdr next to it is missing"):
        read_image([tmp_path / "a.img"])


def test_cifti_is_refused_with_a_tool() -> None:
    if not (OF_NIBABEL / "row_major.dconn.nii").exists():
        pytest.skip("nibabel was installed without its files for tests")
    with pytest.raises(ImageError, match="wb_command"):
        read_image([OF_NIBABEL / "row_major.dconn.nii"])


# ---------------------------------------------------------- the rest
@pytest.mark.parametrize("quality", [80, None])
def test_webp(tmp_path: Path, quality: int | None) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    options = {"lossless": True} if quality is None else {"quality": quality}
    Image.fromarray(grey).save(tmp_path / "a.webp", **options)
    wanted = np.asarray(Image.open(tmp_path / "a.webp").convert("RGB"))
    np.testing.assert_array_equal(read_image([tmp_path / "a.webp"]).array, wanted.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("suffix", "tool"),
    [
        (".gii", "wb_command"),
        (".jp2", "opj_decompress"),
        (".dcm.gz", "gunzip"),
        (".svs", "OpenSlide"),
        (".czi", "bfconvert"),
        (".heic", "ImageMagick"),
        (".mat", ".npy"),
        (".zip", "unpack"),
        (".raw", "its header"),
        (".BRIK.gz", "3dAFNItoNIFTI"),
        (".vtk", "SimpleITK"),
    ],
)
def test_what_is_not_read_names_a_tool(tmp_path: Path, suffix: str, tool: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"something")
    with pytest.raises(ImageError, match=f"cannot read {suffix.lower()}.*{tool}"):
        read_image([tmp_path / f"a{suffix}"])


def test_images_that_are_not_read_are_listed_so_that_they_are_not_left_out(tmp_path: Path) -> None:
    for name in ("a.jp2", "b.dcm.gz", "c.png", "d.txt", "e.zip"):
        (tmp_path / name).write_bytes(b"x")
    assert [name for name, _ in images_below(tmp_path)] == ["a.jp2", "b.dcm.gz", "c.png"]
    assert ".jp2" in UNREAD


# ---------------------------------------------------------- a checksum at the end
@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".nrrd"])
@pytest.mark.parametrize("where", ["size", "checksum", "cut", "more"])
def test_the_end_of_a_gzip_stream_is_looked_at(tmp_path: Path, suffix: str, where: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        nrrd.write(str(path), NUMBERS, {"encoding": "gzip"})
    else:
        nibabel.save((nibabel.MGHImage if suffix == ".mgz" else nibabel.Nifti1Image)(NUMBERS, TURN), path)
    whole = bytearray(path.read_bytes())
    if where == "size":
        whole[-1] ^= 1
    elif where == "checksum":
        whole[-6] ^= 1
    elif where == "cut":
        del whole[-4:]
    else:
        whole += gzip.compress(bytes(3 * 2**20))
    path.write_bytes(bytes(whole))
    with pytest.raises(ImageError):
        read_image([path])


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_one_flipped_bit_of_a_volume_is_found(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).normal(0, 60, (24, 24, 12)).cumsum(0).astype(np.int16)
    path = tmp_path / f"a{suffix}"
    nibabel.save((nibabel.MGHImage if suffix == ".mgz" else nibabel.Nifti1Image)(noise, TURN), path)
    whole, silent = path.read_bytes(), 0
    for at in range(300, len(whole) - 20, 401):
        (tmp_path / f"b{suffix}").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with contextlib.suppress(ImageError):
            silent += bool((read_image([tmp_path / f"b{suffix}"]).array[0] != noise).any())
    assert silent == 0
    shutil.copy(path, tmp_path / f"c{suffix}")
    np.testing.assert_array_equal(read_image([tmp_path / f"c{suffix}"]).array[0], noise)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_has_the_thickness_and_place_of_the_axis_that_is_left_out(
    tmp_path: Path, suffix: str, axis: int
) -> None:
    """Voxels of 2 x 3 x 7 mm at (4, 5, 6) mm."""
    array, sizes, path = np.take(NUMBERS, [0], axis), np.array([2.0, 3.0, 7.0]), tmp_path / f"a{suffix}"
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = 4, 5, 6
    if suffix == ".nii":
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    elif suffix == ".nrrd":
        nrrd.write(
            str(path), array, {"space": "RAS", "space directions": np.diag(sizes), "space origin": [4.0, 5.0, 6.0]}
        )
    else:
        image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        image.SetSpacing(sizes.tolist())
        image.SetDirection(np.diag([-1.0, -1.0, 1.0]).ravel().tolist())
        image.SetOrigin([-4.0, -5.0, 6.0])
        sitk.WriteImage(image, str(path))
    found, kept = read_image([path]), [other for other in range(3) if other != axis]
    np.testing.assert_array_equal(found.array[0], np.take(NUMBERS, 0, axis))
    assert (found.dropped, found.thickness, found.spacing) == (axis, sizes[axis], tuple(sizes[kept]))
    np.testing.assert_allclose(found.affine, affine[:, [*kept, axis, 3]])


def test_units_scale_the_place_too(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.25, 0.125, 1.0])
    affine[:3, 3] = 1, 2, 4
    image = nibabel.Nifti1Image(NUMBERS, affine)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    nrrd.write(
        str(tmp_path / "a.nrrd"),
        NUMBERS,
        {"space": "RAS", "space directions": affine[:3, :3], "space origin": affine[:3, 3], "space units": ["m"] * 3},
    )
    for name in ("a.nii", "a.nrrd"):
        np.testing.assert_allclose(read_image([tmp_path / name]).affine[:3], 1000 * affine[:3])
