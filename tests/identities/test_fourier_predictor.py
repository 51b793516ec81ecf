"""What the Fourier predictor must equal: doing nothing, one swap by hand, and the plain mean over donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.methods.fourier import FourierPredictor
from allograft.transforms.fourier import low_amplitude, swap_amplitude


@dataclass(frozen=True)
class Linear:
    """Two logits a pixel that depend on the image."""

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"mask": torch.cat([batch.image, -0.5 * batch.image + 0.1], dim=1)}


@pytest.fixture
def batch() -> Batch:
    image = torch.randn(2, 1, 16, 12, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.zeros(2, dtype=torch.int64), ("a", "b"))


@pytest.fixture
def donors() -> Tensor:
    return 3.0 + 2.0 * torch.randn(3, 1, 16, 12, generator=torch.Generator().manual_seed(1))


def test_beta_zero_is_doing_nothing(batch: Batch, donors: Tensor) -> None:
    found = FourierPredictor(Linear(), low_amplitude(donors, 0.0), 0.0)(batch)
    assert torch.equal(found["mask"], Linear()(batch)["mask"])


def test_the_image_as_its_own_donor_changes_nothing(batch: Batch) -> None:
    one = batch[:1]
    found = FourierPredictor(Linear(), low_amplitude(one.image, 0.3), 0.3)(one)["mask"].softmax(1)
    torch.testing.assert_close(found, Linear()(one)["mask"].softmax(1))


@pytest.mark.parametrize("contains_images", [False, True])
def test_it_is_the_mean_probability_over_donors(contains_images: bool, batch: Batch, donors: Tensor) -> None:
    style = donors if contains_images else low_amplitude(donors, 0.3)
    found = FourierPredictor(Linear(), style, 0.3, contains_images=contains_images)(batch)["mask"].softmax(1)
    each = [Linear()(replace(batch, image=swap_amplitude(batch.image, donor, 0.3)))["mask"].softmax(1) for donor in donors]
    torch.testing.assert_close(found, sum(each) / len(each))
    assert (found - Linear()(batch)["mask"].softmax(1)).abs().max() > 0.01
