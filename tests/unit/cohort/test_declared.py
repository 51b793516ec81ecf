"""What a library hands over is what the header declares: samples, bits, alpha, palette, steps,
checksums, turns."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from allograft.cohort.doctor import examine
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import ImageError

DRAWN = np.zeros((6, 7), np.uint8)
DRAWN[2:4, 3:6] = 255


# ---------------------------------------------------------- TIFF
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("count", [3, 4, 5, 6])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_every_sample_of_a_tiff_is_read(tmp_path: Path, kind: type, count: int, planar: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, (count, 8, 9)).astype(kind)
    stored = pixels if planar == "separate" else pixels.transpose(1, 2, 0)
    extra = ["unspecified"] * (count - 3)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=extra, planarconfig=planar)
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array, pixels)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12])
def test_packed_bits_keep_their_numbers_in_masks(tmp_path: Path, bits: int) -> None:
    steps = (np.arange(56).reshape(7, 8) % 2**bits).astype(np.uint16 if bits > 8 else np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", steps, bitspersample=bits, photometric="minisblack")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif").array[0], steps)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "jpeg2000", "lzma"])
def test_compressed_tiff_of_four_samples(tmp_path: Path, compression: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 250, (32, 32, 4), np.uint8)
    options = {"compressionargs": {"level": 0, "reversible": True}} if compression == "jpeg2000" else {}
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"], compression=compression, **options
    )
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array, pixels.transpose(2, 0, 1))


def test_a_tiff_of_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    smooth = np.stack([np.add.outer(np.arange(64), np.arange(64))] * 3, -1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="ycbcr", compression="jpeg", subsampling=(2, 2))
    wanted = np.asarray(Image.open(tmp_path / "a.tif").convert("RGB")).transpose(2, 0, 1)
    assert np.abs(read_image([tmp_path / "a.tif"]).array.astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
def test_planes_of_a_stack_in_one_directory_are_refused(tmp_path: Path, suffix: str) -> None:
    tifffile.imwrite(tmp_path / f"a{suffix}", np.zeros((5, 32, 32), np.uint16), imagej=True)
    with pytest.raises(ImageError, match="5 pages"):
        read_image([tmp_path / f"a{suffix}"])


# ---------------------------------------------------------- alpha
def rgba(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([np.repeat(colour[..., None], 3, -1), alpha[..., None]], -1).astype(np.uint8)


def keep(path: Path, pixels: np.ndarray) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(
            path, pixels, photometric="rgb" if pixels.shape[-1] > 2 else "minisblack", extrasamples=["unassalpha"]
        )
    else:
        Image.fromarray(pixels).save(path, lossless=True) if path.suffix == ".webp" else Image.fromarray(pixels).save(
            path
        )
    return path


FULL, NOTHING = np.full_like(DRAWN, 255), np.zeros_like(DRAWN)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("colour", "alpha"),
    [(NOTHING, DRAWN), (FULL, DRAWN), (FULL, DRAWN // 2), (DRAWN, NOTHING), (DRAWN, DRAWN[:, ::-1])],
)
def test_a_mask_drawn_in_alpha_is_refused(tmp_path: Path, suffix: str, colour: np.ndarray, alpha: np.ndarray) -> None:
    with pytest.raises(ImageError, match="alpha channel"):
        read_mask(keep(tmp_path / f"a{suffix}", rgba(colour, alpha)))


def test_a_mask_drawn_in_the_alpha_of_a_webp_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="drawn in alpha"):
        read_mask(keep(tmp_path / "a.webp", rgba(NOTHING, DRAWN)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [FULL, FULL // 2, DRAWN])
def test_an_alpha_that_says_nothing_more_is_dropped(tmp_path: Path, suffix: str, alpha: np.ndarray) -> None:
    np.testing.assert_array_equal(read_mask(keep(tmp_path / f"a{suffix}", rgba(DRAWN, alpha))).array[0], DRAWN)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_an_image_whose_alpha_varies_is_refused(tmp_path: Path, suffix: str) -> None:
    path = keep(tmp_path / f"a{suffix}", rgba(DRAWN, DRAWN))
    with pytest.raises(ImageError, match="flatten the image"):
        read_image([path])


@pytest.mark.parametrize("rest", [DRAWN, FULL])
def test_the_fourth_sample_of_a_bmp(tmp_path: Path, rest: np.ndarray) -> None:
    Image.fromarray(rgba(DRAWN, FULL)).save(tmp_path / "a.bmp")
    raw = bytearray((tmp_path / "a.bmp").read_bytes())
    start = int.from_bytes(raw[10:14], "little")
    plain = (
        raw[:14] + (40).to_bytes(4, "little") + raw[18:30] + bytes(4) + raw[34:54]
    )  # BI_RGB: the fourth byte is not declared
    plain[10:14] = (54).to_bytes(4, "little")
    pixels = np.frombuffer(bytes(raw[start:]), np.uint8).reshape(6, 7, 4).copy()
    pixels[..., 3] = rest[::-1]
    (tmp_path / "a.bmp").write_bytes(bytes(plain) + pixels.tobytes())
    if rest is FULL:
        np.testing.assert_array_equal(read_mask(tmp_path / "a.bmp").array[0], DRAWN)
    else:
        with pytest.raises(ImageError, match="fourth sample from 0 to 255"):
            read_mask(tmp_path / "a.bmp")


def test_grey_with_alpha(tmp_path: Path) -> None:
    Image.fromarray(np.stack([NOTHING, DRAWN], -1)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="drawn in alpha"):
        read_mask(tmp_path / "a.png")


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.frombytes("P", (7, 6), (DRAWN // 255).tobytes())
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    # its indices say it all
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").array[0], DRAWN // 255)
    with pytest.raises(ImageError, match="alpha channel"):
        read_image([tmp_path / "a.png"])


# ---------------------------------------------------------- steps
@pytest.mark.parametrize("top", [1, 3, 7, 15, 100, 255, 1000, 65535])
def test_a_pgm_of_any_maximum_keeps_its_numbers_in_masks(tmp_path: Path, top: int) -> None:
    steps = np.linspace(0, top, 20).round().astype(">u2" if top > 255 else "u1").reshape(4, 5)
    (tmp_path / "a.pgm").write_bytes(b"P5\n# a comment\n5 4\n%d\n" % top + steps.tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "a.pgm").array[0], steps)


# ---------------------------------------------------------- checksums
def test_one_flipped_bit_of_a_png_is_found(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (64, 64), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for at in range(45, len(whole) - 16, 37):
        (tmp_path / "b.png").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(ImageError):
            read_image([tmp_path / "b.png"])


@pytest.mark.parametrize("name", ["a.npz", "a.tif"])
def test_one_flipped_bit_of_other_packed_pixels_is_found(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (64, 64), np.uint8)
    if name == "a.npz":
        np.savez_compressed(tmp_path / name, image=pixels)
    else:
        tifffile.imwrite(tmp_path / name, pixels, compression="zlib")
    whole, silent = (tmp_path / name).read_bytes(), 0
    start = tifffile.TiffFile(tmp_path / name).pages[0].dataoffsets[0] if name == "a.tif" else 200
    for at in range(start, start + 700, 37):
        (tmp_path / f"b{name}").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with contextlib.suppress(ImageError):
            silent += bool((read_image([tmp_path / f"b{name}"]).array[0] != pixels).any())
    assert silent == 0


# ---------------------------------------------------------- turns
@pytest.mark.parametrize("what", ["mask", "region", "paired"])
@pytest.mark.parametrize("turn", [2, 3, 4])
def test_a_turn_that_only_the_image_has_is_a_finding(tmp_path: Path, turn: int, what: str) -> None:
    exif = Image.Exif()
    exif[274] = turn
    grey = np.random.default_rng(turn).integers(1, 255, DRAWN.shape, np.uint8)
    for name, options in (("turned", {"exif": exif}), ("plain", {})):
        Image.fromarray(grey).save(tmp_path / f"{name}.png", **options)
        Image.fromarray(DRAWN).save(tmp_path / f"{name}_m.png", **options)
    lines = ["turned.png,turned_m.png,1", "turned.png;turned.png,plain_m.png,2", "plain.png,plain_m.png,3"]
    (tmp_path / "manifest.csv").write_text(f"image,{what},subject,site\n" + "".join(f"{line},a\n" for line in lines))
    (found,) = [one for one in examine(tmp_path / "manifest.csv").findings if one.topic == "turn"]
    assert (found.severity, [one.row for one in found.cases]) == ("warning", [3])
    assert f"EXIF orientation {turn}, its {what} 1" in found.cases[0].detail


def test_a_turn_beside_boxes_is_a_finding(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(DRAWN).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.json").write_text('{"boxes": [[0, 0, 2, 2]], "labels": ["n"]}')
    (tmp_path / "manifest.csv").write_text("image,boxes,subject,site\na.png,a.json,1,a\n")
    assert any(one.topic == "turn" for one in examine(tmp_path / "manifest.csv").findings)
