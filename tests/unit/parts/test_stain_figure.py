"""Stained images in their colours, and what a decoder makes of each."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import read, write_photographs
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.parts.stain_figure import restored_images, stained_images


def test_images_of_every_cohort_stand_above_their_views_in_their_own_colours(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path, {"a": 1, "b": 2}, size=(12, 8))
    rng = np.random.default_rng(0)
    for name in ("a0", "b0", "b1"):
        Image.fromarray(rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    cohort = read(manifest)

    def darker(cases: Any) -> list[Tensor]:
        assert all(isinstance(case, Batch) and not case.labels for case in cases)
        return [case.image / 2 for case in cases]

    figure = stained_images("toys", [cohort.site("a"), cohort.site("b")], {"darker": darker}, 255.0)
    assert figure.names == ("as it is", "darker")
    assert figure.subjects == (("a0", "b0", "b1"),) * 2
    for row, factor in zip(figure.rows, (1.0, 0.5), strict=True):
        for png, number in zip(row, range(3), strict=True):
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=float)
            expected = cohort.case(number).image[0].permute(1, 2, 0).numpy() * factor
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).mean() < 20  # whatever the figure does to keep colours small


class Half(nn.Module):
    """An encoder and a decoder that by a normalisation need two values, in training mode by their batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False, track_running_stats=False)

    def encoder(self, image: Tensor) -> list[Tensor]:
        assert not self.training
        return [image * 9, image / 2]

    def forward(self, feature: Tensor, size: torch.Size) -> Tensor:
        assert not self.training
        assert feature.shape[2:] == size
        self.norm(feature[:, :, :1, :1])
        return feature + 1


@pytest.mark.parametrize("sizes", [[(4, 3)] * 3, [(4, 3), (5, 3)]])
def test_each_image_is_restored_in_its_place_whatever_the_sizes(sizes: list[tuple[int, int]]) -> None:
    network: Any = Half().train()
    decoder: Any = Half().train()
    images = [torch.rand(1, 3, *size) for size in sizes]
    made = restored_images(network, decoder, images)
    for image, restored in zip(images, made, strict=True):
        torch.testing.assert_close(restored, image / 2 + 1)
    assert network.training
    assert decoder.training
