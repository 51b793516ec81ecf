"""A critic's logits."""

from __future__ import annotations

import pytest
import torch

from allograft.errors import SpecError
from allograft.nn.critic import Critic


@pytest.mark.parametrize("dims", [2, 3])
def test_an_image_has_the_same_logit_in_any_batch(dims: int) -> None:
    critic = Critic(2, dims, [3, 4])
    images = torch.randn(3, 2, *(9,) * dims)
    torch.testing.assert_close(critic(images)[1:2], critic(images[1:2]))
    assert critic(images).shape == (3, 1)


def test_each_width_halves_the_image() -> None:
    critic = Critic(1, 2, [3, 4, 5])
    assert critic.layers(torch.zeros(1, 1, 16, 24)).shape == (1, 5, 2, 3)


def test_what_it_refuses() -> None:
    with pytest.raises(SpecError, match="spatial_dims 1 and 1 widths"):
        Critic(1, 1, [4])
