"""PBM, PGM and PPM: what Pillow would scale, cut or leave out, by files written byte by byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from allograft.cohort.readers import read_image, read_mask
from allograft.errors import ImageError


@pytest.mark.parametrize("top", [256, 1023, 4095, 32767, 65535])
def test_greys_of_more_than_eight_bits_keep_their_numbers(tmp_path: Path, top: int) -> None:
    numbers = np.array([[0, 1, 2], [top // 3, top - 1, top]])
    (tmp_path / "a.pgm").write_bytes(b"P5\n3 2\n%d\n" % top + numbers.astype(">u2").tobytes())
    (tmp_path / "b.pgm").write_text(f"P2\n3 2\n{top}\n{' '.join(map(str, numbers.ravel()))}\n")
    for name in ("a.pgm", "b.pgm"):
        for array in (read_image([tmp_path / name]).array, read_mask(tmp_path / name).array):
            assert array.dtype == np.uint16
            np.testing.assert_array_equal(array[0], numbers)


def test_colours_of_eight_bits_are_read(tmp_path: Path) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    (tmp_path / "a.ppm").write_bytes(b"P6 # by hand\n3 2\n255\n" + pixels.tobytes())
    np.testing.assert_array_equal(read_image([tmp_path / "a.ppm"]).array, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("top", [256, 65535])
@pytest.mark.parametrize("form", [3, 6])
def test_colours_of_sixteen_bits_are_refused(tmp_path: Path, form: int, top: int) -> None:
    body = b"1 2 3" if form == 3 else np.array([1, 2, 3], ">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P%d\n1 1\n%d\n" % (form, top) + body)
    with pytest.raises(ImageError, match=rf"a.ppm: colours up to {top}, .*store it as TIFF"):
        read_image([tmp_path / "a.ppm"])


@pytest.mark.parametrize(("form", "size"), [(4, 2), (5, 16), (6, 48)])
def test_a_second_image_behind_the_first_is_refused(tmp_path: Path, form: int, size: int) -> None:
    top = b"" if form == 4 else b"255\n"
    one = b"P%d\n8 2\n" % form + top + bytes(size)
    (tmp_path / "a.ppm").write_bytes(one)
    assert read_image([tmp_path / "a.ppm"]).spatial == (2, 8)
    (tmp_path / "a.ppm").write_bytes(one + b"\n")
    assert read_image([tmp_path / "a.ppm"]).spatial == (2, 8)
    (tmp_path / "a.ppm").write_bytes(one + one)
    with pytest.raises(ImageError, match=rf"{len(one)} bytes behind the image"):
        read_image([tmp_path / "a.ppm"])
