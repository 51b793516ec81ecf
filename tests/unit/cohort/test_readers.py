"""Every kind of file that can be read, and every kind that must be refused with a mend."""

import os
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from allograft.cohort.readers import SUFFIXES, read_image, read_mask
from allograft.cohort.writers import write_image, write_mask
from allograft.errors import ImageError, OutputError

GREY = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
AFFINE = np.array([[0.0, 0, 2, -7], [-1.5, 0, 0, 3], [0, 0.5, 0, 11], [0, 0, 0, 1]])


def nifti(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def png(path, rows, depth, colour, width):
    """A PNG by hand, for the depths that Pillow does not write; ``rows``: bytes of each line."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    return path


def refusal(*paths, read=read_image):
    with pytest.raises(ImageError) as caught:
        read(list(paths)) if read is read_image else read(paths[0])
    assert str(paths[-1]) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_photographs_come_back_as_stored(tmp_path, suffix):
    for name, pixels in (("grey", GREY), ("colour", COLOUR)):
        path = tmp_path / (name + suffix)
        Image.fromarray(pixels).save(path)
        picture = read_image([path])
        wanted = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        assert picture.array.dtype == np.uint8
        assert picture.array.flags.c_contiguous
        np.testing.assert_array_equal(picture.array, wanted)
        assert picture.affine is None
        assert picture.spacing == (1.0, 1.0)
        assert picture.spatial == (5, 6)


def test_other_photograph_formats(tmp_path):
    for name, pixels in (("a.gif", GREY), ("a.pgm", GREY), ("a.ppm", COLOUR)):
        Image.fromarray(pixels).save(tmp_path / name)
        assert read_image([tmp_path / name]).spatial == (5, 6)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.pgm").array[0], GREY)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image([tmp_path / "a.jpg"]).array.transpose(1, 2, 0).astype(int) - smooth).max() <= 3


def test_a_jpeg_named_png_is_read_by_its_content(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.jpeg")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.jpeg").read_bytes())
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array, read_image([tmp_path / "a.jpeg"]).array)


def upright(orientation, pixels):
    """What a viewer shows, told by the EXIF standard: where row 0 and column 0 of the stored pixels
    belong."""
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.T, 2),
        8: lambda a: np.rot90(a, 1),
    }
    return turns[orientation](pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "eight.tif", GREY, extratags=tag)
    tifffile.imwrite(tmp_path / "sixteen.tif", GREY.astype(np.uint16) * 200, extratags=tag)
    wanted = upright(orientation, GREY)
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[0], wanted)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").array[0], wanted)
    np.testing.assert_array_equal(read_image([tmp_path / "eight.tif"]).array[0], wanted)
    np.testing.assert_array_equal(read_image([tmp_path / "sixteen.tif"]).array[0], wanted.astype(np.uint16) * 200)
    for photometric, bits in (("minisblack", GREY > 100), ("miniswhite", GREY <= 100)):
        tifffile.imwrite(tmp_path / "one.tif", bits, photometric=photometric, extratags=tag)
        np.testing.assert_array_equal(read_mask(tmp_path / "one.tif").array[0], upright(orientation, GREY > 100))


@pytest.mark.parametrize("opacity", [255, 100])
def test_alpha_is_dropped_whatever_it_holds(tmp_path, opacity):
    alpha = np.full((5, 6, 1), opacity, np.uint8)
    Image.fromarray(np.concatenate([COLOUR, alpha], -1)).save(tmp_path / "colour.png")
    Image.fromarray(np.concatenate([GREY[..., None], alpha], -1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image([tmp_path / "colour.png"]).array, COLOUR.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image([tmp_path / "grey.png"]).array, GREY[None])
    deep = np.concatenate([COLOUR, alpha], -1).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image([tmp_path / "deep.tif"]).array, deep[..., :3].transpose(2, 0, 1))


def test_sixteen_bits_stay_sixteen(tmp_path):
    deep = GREY.astype(np.uint16) * 257 + 3
    Image.fromarray(deep).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", deep, byteorder=">")
    tifffile.imwrite(tmp_path / "colour.tif", COLOUR.astype(np.uint16) * 257 + 1, photometric="rgb")
    for name in ("a.png", "a.tif"):
        picture = read_image([tmp_path / name])
        assert picture.array.dtype == np.uint16
        assert picture.array.dtype.isnative
        np.testing.assert_array_equal(picture.array[0], deep)
    np.testing.assert_array_equal(
        read_image([tmp_path / "colour.tif"]).array, COLOUR.transpose(2, 0, 1).astype(np.uint16) * 257 + 1
    )


def test_colour_png_of_sixteen_bits_is_refused_rather_than_cut(tmp_path):
    path = png(tmp_path / "a.png", [bytes(range(12))] * 2, 16, 2, 2)
    assert "store it as TIFF" in refusal(path)


def test_floating_and_many_channel_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", GREY.astype(np.float64) / 7)
    picture = read_image([tmp_path / "f.tif"])
    assert picture.array.dtype == np.float32
    np.testing.assert_allclose(picture.array[0], GREY / 7, rtol=1e-6)
    stack = np.random.default_rng(1).integers(0, 255, (5, 30, 40), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", stack, photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read_image([tmp_path / "c.tif"]).array, stack)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(kind), photometric="miniswhite")
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array[0], np.iinfo(kind).max - GREY.astype(kind))
    with pytest.raises(ImageError, match="a mask with white as zero"):  # an empty one would be all foreground
        read_mask(tmp_path / "a.tif")


def test_palette_gives_indices_to_masks_and_colours_to_images(tmp_path):
    labels = (GREY // 100).astype(np.uint8)
    image = Image.fromarray(labels, "L")
    image = Image.frombytes("P", image.size, labels.tobytes())
    palette = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    image.putpalette([value for entry in palette for value in entry])
    for name in ("a.png", "a.tif", "a.gif"):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_image([tmp_path / name]).array.transpose(1, 2, 0), np.array(palette)[labels])
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name).array[0], labels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_masks_are_zero_and_one(tmp_path, suffix):
    Image.fromarray(GREY > 100).save(tmp_path / f"a{suffix}")
    mask = read_mask(tmp_path / f"a{suffix}").array
    assert mask.dtype == np.uint8
    if suffix != ".bmp":  # which stores one bit as a palette of black and white: indices as well
        np.testing.assert_array_equal(mask[0], GREY > 100)
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize(("depth", "row", "wanted"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])])
def test_masks_of_two_and_four_bits_keep_their_numbers(tmp_path, depth, row, wanted):
    path = png(tmp_path / "a.png", [row], depth, 0, 4)
    assert read_mask(path).array[0, 0].tolist() == wanted


def test_mask_in_equal_channels_is_one_and_in_colours_is_refused(tmp_path):
    Image.fromarray(np.repeat(GREY[..., None], 3, -1)).save(tmp_path / "equal.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "equal.png").array, GREY[None])
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    assert "3 channels that differ" in refusal(tmp_path / "colour.png", read=read_mask)


def test_floating_masks_must_be_whole(tmp_path):
    labels = np.arange(24.0).reshape(2, 3, 4)
    mask = read_mask(nifti(tmp_path / "whole.nii.gz", labels + 5e-5))
    assert mask.array.dtype == np.int32
    np.testing.assert_array_equal(mask.array[0], labels)
    labels[0, 0, :2] += 0.5
    assert "2 of 24 mask values are not whole numbers" in refusal(nifti(tmp_path / "half.nii", labels), read=read_mask)
    assert "class numbers" in refusal(nifti(tmp_path / "large.nii", labels * 0 + 1e12), read=read_mask)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_nifti_keeps_type_and_affine(tmp_path, suffix, kind):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    picture = read_image([nifti(tmp_path / f"a{suffix}", array)])
    assert picture.array.dtype == kind
    assert picture.array.flags.c_contiguous
    np.testing.assert_array_equal(picture.array[0], array)
    np.testing.assert_array_equal(picture.affine, AFFINE)
    assert picture.spacing == (1.5, 0.5, 2.0)


def test_nifti_slope_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    # nibabel keeps the given slope only when it writes integers with it; read what it says is
    # there.
    wanted = nibabel.load(tmp_path / "a.nii").get_fdata()
    raw = (tmp_path / "a.nii").read_bytes()
    scaled = raw[:112] + struct.pack("<ff", 0.5, -3.0) + raw[120:]
    (tmp_path / "b.nii").write_bytes(scaled)
    picture = read_image([tmp_path / "b.nii"])
    assert picture.array.dtype == np.float32
    np.testing.assert_allclose(picture.array[0], np.arange(24).reshape(2, 3, 4) * 0.5 - 3)
    np.testing.assert_allclose(read_image([tmp_path / "a.nii"]).array[0], wanted)


def test_nifti_channels_and_dropped_axes(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    np.testing.assert_array_equal(read_image([nifti(tmp_path / "c.nii", array)]).array, array.transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(
        read_image([nifti(tmp_path / "t.nii", array[..., None, :])]).array, array.transpose(3, 0, 1, 2)
    )
    for axis in range(3):
        flat = read_image([nifti(tmp_path / f"{axis}.nii", array.take([0], axis))])
        kept = [each for each in range(3) if each != axis]
        np.testing.assert_array_equal(flat.array, array.take(0, axis).transpose(2, 0, 1))
        assert flat.spacing == tuple(np.linalg.norm(AFFINE[:3, kept], axis=0))
        np.testing.assert_array_equal(flat.affine, AFFINE[:, [*kept, axis, 3]])
    assert "at most one of channels" in refusal(nifti(tmp_path / "five.nii", np.zeros((3, 4, 5, 2, 2), np.float32)))
    assert "2 or 3 spatial" in refusal(nifti(tmp_path / "line.nii", np.zeros((3, 1, 1), np.float32)))


def test_nifti_units_become_mm(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([500.0, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_image([tmp_path / "a.nii"]).spacing == (0.5, 0.5, 2.0)


def test_nifti_refusals(tmp_path):
    volume = np.zeros((2, 3, 4), np.float32)
    assert "complex64" in refusal(nifti(tmp_path / "complex.nii", volume.astype(np.complex64)))
    whole = nifti(tmp_path / "whole.nii", volume).read_bytes()
    # srow_x of the header, which nibabel will not write
    for row in ([np.nan, 0, 2, -7], [0, 0, 0, 0]):
        (tmp_path / "affine.nii").write_bytes(whole[:280] + struct.pack("<4f", *row) + whole[296:])
        assert "voxel size" in refusal(tmp_path / "affine.nii")
    volume[0, 0, :3] = np.nan, np.inf, -np.inf
    assert "3 of 24 pixels" in refusal(nifti(tmp_path / "pixels.nii.gz", volume))
    colours = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert read_image([nifti(tmp_path / "rgb.nii", colours)]).array.shape == (3, 2, 2, 2)
    assert "empty" in refusal(nifti(tmp_path / "empty.nii", np.zeros((2, 0, 4), np.uint8)))
    tifffile.imwrite(tmp_path / "nan.tif", np.full((3, 3), np.nan, np.float32))
    assert "9 of 9 pixels" in refusal(tmp_path / "nan.tif")


def test_damaged_files_are_refused_with_what_was_found(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    Image.open(tmp_path / "whole.png").save(tmp_path / "whole.jpg")
    tifffile.imwrite(tmp_path / "whole.tif", np.ones((64, 64), np.uint16))
    nifti(tmp_path / "whole.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    nifti(tmp_path / "whole.nii", np.ones((9, 9, 9)))
    for suffix in (".png", ".jpg", ".tif", ".nii.gz", ".nii"):
        content = (tmp_path / f"whole{suffix}").read_bytes()
        read_image([tmp_path / f"whole{suffix}"])
        for name, kept in (("half", content[: len(content) // 2]), ("text", b"hello, I am text"), ("nothing", b"")):
            path = tmp_path / f"{name}{suffix}"
            path.write_bytes(kept)
            message = refusal(path)
            assert f"{len(kept)} bytes" in message
            assert "export it again" in message


def test_missing_folder_suffix_and_no_files(tmp_path):
    assert "missing" in refusal(tmp_path / "absent.png")
    (tmp_path / "folder.png").mkdir()
    assert "missing (a folder)" in refusal(tmp_path / "folder.png")
    (tmp_path / "a.docx").write_text("no")
    message = refusal(tmp_path / "a.docx")
    assert all(suffix in message for suffix in SUFFIXES)
    with pytest.raises(ImageError, match="no files"):
        read_image([])


def test_several_frames_and_odd_modes_are_refused(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    for name in ("a.gif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert "2 frames" in refusal(tmp_path / name)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint16), photometric="minisblack")
    assert "4 pages" in refusal(tmp_path / "a.tif")
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a.jpg")
    assert "CMYK" in refusal(tmp_path / "a.jpg")


def test_too_many_pixels_is_our_error(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.uint16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "cut it into tiles" in refusal(tmp_path / "a.png")
    assert "cut it into tiles" in refusal(tmp_path / "a.tif")


def test_several_files_are_channels(tmp_path):
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    one, two = nifti(tmp_path / "one.nii.gz", volume), nifti(tmp_path / "two.nii.gz", volume * 2)
    picture = read_image([one, two])
    np.testing.assert_array_equal(picture.array, [volume, volume * 2])
    np.testing.assert_array_equal(picture.affine, AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 1
    assert "up to 1.0 mm" in refusal(one, nifti(tmp_path / "moved.nii", volume, moved))
    assert "shape" in refusal(one, nifti(tmp_path / "short.nii", volume[:, :2]))
    Image.fromarray(GREY).save(tmp_path / "a.png")
    flat = nifti(tmp_path / "flat.nii", GREY[..., None])
    assert "one affine" in refusal(flat, tmp_path / "a.png")
    assert "one affine" in refusal(tmp_path / "a.png", flat)


@pytest.mark.parametrize(("top", "kind"), [(255, np.uint8), (256, np.int16), (70_000, np.int32)])
def test_masks_in_nifti_keep_values_affine_and_bytes(tmp_path, top, kind):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    labels[0, 0, 0] = top
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        write_mask(tmp_path / "new" / name, labels, AFFINE)
    mask = read_mask(tmp_path / "new" / "c.nii")
    assert mask.array.dtype == kind
    np.testing.assert_array_equal(mask.array[0], labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "new" / "a.nii.gz").affine, AFFINE)
    assert (tmp_path / "new" / "a.nii.gz").read_bytes() == (tmp_path / "new" / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.nii.gz", "b.nii.gz", "c.nii"]


def test_a_plane_goes_out_and_comes_back_in_place(tmp_path):
    plane = read_image([nifti(tmp_path / "in.nii", np.arange(12, dtype=np.uint8).reshape(3, 1, 4))])
    write_mask(tmp_path / "out.nii.gz", plane.array[0], plane.affine)
    back = read_mask(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(back.array, plane.array)
    np.testing.assert_array_equal(back.affine, plane.affine)


def test_png_masks(tmp_path):
    write_mask(tmp_path / "a.png", GREY > 100, None)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").array[0], GREY > 100)
    for labels in (GREY.astype(int) + 255, GREY.astype(int) - 1, GREY.astype(float), GREY[None], GREY[:0]):
        with pytest.raises(ImageError):
            write_mask(tmp_path / "b.png", labels, None)
    with pytest.raises(ImageError, match="affine"):
        write_mask(tmp_path / "b.png", GREY, AFFINE)
    with pytest.raises(ImageError, match="affine"):
        write_mask(tmp_path / "b.nii.gz", GREY, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_probabilities(tmp_path):
    values = np.random.default_rng(0).random((5, 6))
    write_image(tmp_path / "a.png", values, None)
    stored = read_image([tmp_path / "a.png"]).array
    assert stored.dtype == np.uint16
    np.testing.assert_allclose(stored[0] / 65535, values, atol=0.51 / 65535)
    volume = np.random.default_rng(0).normal(size=(3, 4, 5))
    write_image(tmp_path / "a.nii.gz", volume, AFFINE)
    picture = read_image([tmp_path / "a.nii.gz"])
    assert picture.array.dtype == np.float32
    np.testing.assert_array_equal(picture.array[0], volume.astype(np.float32))
    with pytest.raises(ImageError, match="1 of 2 values"):
        write_image(tmp_path / "b.png", np.array([[0.5, 1.5]]), None)
    with pytest.raises(ImageError, match="finite"):
        write_image(tmp_path / "b.nii", volume * np.nan, AFFINE)


def test_a_place_that_cannot_be_written_is_our_error_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another folder"):
        write_mask(tmp_path / "file" / "a.png", GREY, None)
    write_mask(tmp_path / "a.png", GREY, None)
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space"):
        write_mask(tmp_path / "a.png", GREY // 2, None)
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def test_real_files():
    if "ALLOGRAFT_DATA" not in os.environ:
        pytest.skip("ALLOGRAFT_DATA is not set: no real data here")
    data = Path(os.environ["ALLOGRAFT_DATA"])
    photograph = sorted((data / "vessels" / "images").iterdir())[0]
    image = read_image([photograph])
    mask = read_mask(data / "vessels" / "masks" / f"{photograph.stem}.png")
    assert image.array.shape == (3, *mask.spatial)
    assert image.array.dtype == np.uint8
    assert set(np.unique(mask.array)) == {0, 255}
    volume = sorted((data / "hippocampus" / "images").iterdir())[0]
    brain, labels = read_image([volume]), read_mask(data / "hippocampus" / "masks" / volume.name)
    assert brain.spacing == (1.0, 1.0, 1.0)
    assert len(brain.spatial) == 3
    assert set(np.unique(labels.array)) == {0, 1, 2}
    np.testing.assert_allclose(brain.affine, labels.affine)


def test_every_channel_is_named_filled_and_compared(tmp_path):
    for name, values in (("a", [[1, 2]]), ("b", [[np.nan, 4]]), ("c", [[5, 6, 7]])):
        np.save(tmp_path / f"{name}.npy", np.array(values, np.float32))
    paths = [tmp_path / f"{name}.npy" for name in "abc"]
    assert read_image(paths[:2], nan=9.0).array.tolist() == [[[1, 2]], [[9, 4]]]
    with pytest.raises(ImageError, match=r"c\.npy: has shape \(1, 3\), expected \(1, 2\), that of .*a\.npy"):
        read_image([paths[0], paths[2]])
    np.save(paths[0], np.array([[np.nan, np.inf]], np.float32))
    with pytest.raises(ImageError, match="1 of 2 pixels are NaN or infinite"):
        read_image(paths[:1], nan=9.0)
    for channels in (((1, 2), (1, 3), (1, 2)), ((1, 2), (1, 2), (1, 3))):
        Image.fromarray(np.array(channels, np.uint8).T[None].repeat(2, 0)).save(tmp_path / "d.png")
        with pytest.raises(ImageError, match="a mask of 3 channels that differ"):
            read_mask(tmp_path / "d.png")


def test_a_turned_tiff_says_by_what_and_a_plane_is_written_across_its_axis(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(6, dtype=np.uint8).reshape(2, 3), extratags=[(274, "H", 1, 6, True)])
    turned = read_image([tmp_path / "a.tif"])
    assert (turned.turn, turned.array.tolist()) == (6, [[[3, 0], [4, 1], [5, 2]]])
    plane, affine = np.arange(12).reshape(3, 4), np.diag([2.0, 3.0, 7.0, 1.0])
    for axis, shape in ((0, (1, 3, 4)), (1, (3, 1, 4)), (2, (3, 4, 1)), (None, (3, 4))):
        for write, values in ((write_mask, plane), (write_image, plane / 7)):
            write(tmp_path / "m.nii.gz", values, affine, axis=axis)
            assert nibabel.load(tmp_path / "m.nii.gz").shape == shape
            found = read_image([tmp_path / "m.nii.gz"])
            np.testing.assert_allclose(found.array[0], values, rtol=1e-6)
            if axis is not None:
                assert (found.dropped, found.thickness) == (axis, 7.0)
                np.testing.assert_allclose(found.affine, affine)
