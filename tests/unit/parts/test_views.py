"""Which chance moves a patch, and which distorts a view."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allograft.batch import Batch
from allograft.parts.views import SECOND, UNDISTORTED, Views


@pytest.mark.parametrize(("moved", "distorted"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("size", [(12, 9), (8, 6, 7)])
def test_movement_is_shared_and_each_view_is_distorted_by_itself(
    moved: float, distorted: float, size: tuple[int, ...]
) -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, *size, generator=rng)
    case = Batch(image, torch.zeros(1).long(), ("a",), {"mask": (image > 0.5).long()}, region=image > 0)
    made = Views(lambda batch, rng: replace(batch, subjects=("s",)), moved, distorted)(case, rng)
    second, still = made.views[SECOND], made.views[UNDISTORTED]
    assert (made.subjects, made.region) == (("s",), None)
    assert set(made.labels) == {"mask"}
    assert torch.equal(still, image) is (moved == 0)
    assert torch.equal(made.labels["mask"], case.labels["mask"]) is (moved == 0)  # type: ignore[arg-type]
    assert torch.equal(made.image, still) is torch.equal(second, still) is (distorted == 0)
    assert torch.equal(made.image, second) is (distorted == 0)


def test_distortions_lie_in_their_ranges() -> None:
    draws = [Views(lambda batch, rng: batch, 0, 1)._intensity(torch.Generator().manual_seed(n)) for n in range(300)]
    ranges = {"brightness": (-0.5, 0.5), "gamma": (0.7, 1.5), "blur_sigma": (0.5, 1.0), "noise_sd": (0.0, 0.1)}
    for name, (low, high) in ranges.items():
        values = [getattr(draw, name) for draw in draws]
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
