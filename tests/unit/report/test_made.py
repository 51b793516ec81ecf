"""Pictures of made images: each panel shows its own image, and the error is where it is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from allograft.errors import SpecError
from allograft.report.made import GAP, HIGHEST, draw_made


def panels(png: bytes, count: int) -> list[np.ndarray]:
    """The panels of a strip, (256, 256, 3) each."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert pixels.shape == (256, count * 256 + (count - 1) * GAP, 3)
    return [pixels[:, number * (256 + GAP) : number * (256 + GAP) + 256] for number in range(count)]


def test_image_truth_made_image_and_error_are_side_by_side() -> None:
    image = np.zeros((16, 16))
    image[:, 8:] = 900
    truth, made = np.full((16, 16), 0.5), np.full((16, 16), 0.5)
    made[:8, :8] += HIGHEST
    truth[8:, :8] = np.nan
    seen, true, drawn, error = panels(draw_made(image, made, truth), 4)
    assert seen[128, 20].max() < 12
    assert seen[128, 230].min() > 240
    assert np.abs(true[60:64, 60:64] - 127).max() < 12
    assert true[200, 60].max() < 12  # not known
    assert drawn[60, 60].min() > true[60, 60].max() + 40
    assert error[60, 60].sum() > 600  # the light end of the scale
    assert error[60, 200].max() < 12
    assert error[200, 60].max() < 12


def test_without_a_truth_there_is_no_error() -> None:
    seen, drawn = panels(draw_made(np.eye(16), np.full((16, 16), 0.25)), 2)
    assert len(np.unique(seen)) > 2
    assert np.abs(drawn - 64).max() < 12


def test_colours_and_windows() -> None:
    made = np.zeros((16, 16, 3))
    assert panels(draw_made(np.zeros((16, 16, 3)), made, made), 4)[3].max() == 0
    dark, *_ = panels(draw_made(np.full((16, 16), 10.0), made[..., 0], window=(10.0, 50.0)), 2)
    light, *_ = panels(draw_made(np.full((16, 16), 50.0), made[..., 0], window=(10.0, 50.0)), 2)
    assert dark.max() < 12
    assert light.min() > 240


@pytest.mark.parametrize("shape", [(8, 16), (16, 16, 3)])
def test_what_lies_on_another_grid_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"made image: image \(16, 16\), made \(16, 16\), truth .* expected one grid"):
        draw_made(np.zeros((16, 16)), np.zeros((16, 16)), np.zeros(shape))
