"""Distances and overlap of the masks of a restoration."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from allograft.errors import SpecError
from allograft.metrics.restoration import hausdorff, otsu_threshold, restoration_metrics
from allograft.metrics.segmentation import dice


@pytest.mark.parametrize("shape", [(12, 14), (9, 8, 7)])
def test_the_full_hausdorff_distance_is_monais(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, *shape, generator=rng) > 0.9).unbind()
    spacing = (1.0, 0.5, 2.0)[: len(shape)]
    theirs = compute_hausdorff_distance(a[None, None].float(), b[None, None].float(), True, spacing=spacing)
    assert hausdorff(a, b, spacing) == pytest.approx(theirs.item(), rel=1e-5)


def test_it_is_the_worst_place_in_either_direction() -> None:
    line = torch.zeros(1, 12, dtype=torch.bool)
    short, long = line.clone(), line.clone()
    short[0, 0], long[0, [0, 7]] = True, True
    assert hausdorff(short, long, (1, 0.5)) == hausdorff(long, short, (1, 0.5)) == 3.5
    assert math.isnan(hausdorff(line, long, (1, 1)))


def test_one_threshold_cuts_both_images() -> None:
    image = 0.2 * torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    image[0, 2:4, 2:4] += 0.8
    threshold = otsu_threshold(image[0])
    assert 0.1 < threshold < 0.8
    for factor in (0.3, 0.7, 1.5):
        expected = dice(factor * image[0] > threshold, image[0] > threshold)
        assert restoration_metrics(factor * image, image)["dice"] == expected
    assert restoration_metrics(0.1 * image, image)["dice"] == 0.0
    assert math.isnan(restoration_metrics(0.1 * image, image)["hausdorff"])
    image = image.round()
    moved = restoration_metrics(image.roll(1, 2), image, (1.0, 3.0))
    assert moved["dice"] == 0.5
    assert moved["hausdorff"] == 3.0
    with pytest.raises(SpecError, match="bring them to one grid"):
        restoration_metrics(image, image[..., 1:])
