"""Losses of the GANs against the formulas, and the penalty against gradients by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tests.unit.pretraining import rng
from torch import Tensor, nn

from allograft.nn.gan import critic_loss, generator_loss, gradient_penalty


def test_the_log_gan_is_equation_3() -> None:
    real, fake = (torch.randn(4, 1, generator=rng(seed), dtype=torch.float64) for seed in (0, 1))
    total = 0.0
    for logit in real.flatten().tolist():
        total += math.log(1 / (1 + math.exp(-logit))) / 4
    for logit in fake.flatten().tolist():
        total += math.log(1 - 1 / (1 + math.exp(-logit))) / 4
    assert float(critic_loss(real, fake, "log")) == pytest.approx(-total, rel=1e-12)
    fooled = sum(math.log(1 / (1 + math.exp(-logit))) / 4 for logit in fake.flatten().tolist())
    assert float(generator_loss(fake, "log")) == pytest.approx(-fooled, rel=1e-12)


def test_the_wasserstein_gan_is_a_difference_of_means() -> None:
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [0.0]])
    assert float(critic_loss(real, fake, "wasserstein")) == 2.5 - 2.0
    assert float(generator_loss(fake, "wasserstein")) == -2.5


@pytest.mark.parametrize("kind", ["log", "wasserstein"])
def test_critic_and_generator_pull_against_each_other(kind: str) -> None:
    fake = torch.zeros(3, 1, requires_grad=True)
    (by_critic,) = torch.autograd.grad(critic_loss(torch.zeros(3, 1), fake, kind), fake)  # type: ignore[arg-type]
    (by_generator,) = torch.autograd.grad(generator_loss(fake, kind), fake)  # type: ignore[arg-type]
    assert (by_critic > 0).all()
    torch.testing.assert_close(by_generator, -by_critic)


class Smooth(nn.Module):
    """A critic with a gradient that depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 3, generator=rng(5), dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight).flatten(1).sum(1, keepdim=True).tanh() + image.square().flatten(1).sum(1)[:, None]


def test_the_penalty_is_that_of_gradients_by_hand() -> None:
    """d/dx tanh(w x) + x^2 = w (1 - tanh(w x)^2) + 2 x, at the mixed pair, image by image."""
    critic, mix = Smooth(), torch.tensor([0.25, 0.0, 1.0])
    real, fake = (torch.randn(3, 2, 3, 3, generator=rng(seed), dtype=torch.float64) for seed in (0, 1))
    expected = 0.0
    for image in range(3):
        share = float(mix[image])
        squares = 0.0
        at = [share * r + (1 - share) * f for r, f in zip(real[image].flatten(), fake[image].flatten(), strict=True)]
        inner = sum(float(w * x) for w, x in zip(critic.weight.flatten().tolist(), at, strict=True))
        for w, x in zip(critic.weight.flatten().tolist(), at, strict=True):
            squares += (w * (1 - math.tanh(inner) ** 2) + 2 * float(x)) ** 2
        expected += (math.sqrt(squares) - 1) ** 2 / 3
    assert gradient_penalty(critic, real, fake, mix).item() == pytest.approx(expected, rel=1e-12)


def test_the_penalty_teaches_the_critic() -> None:
    """Its gradient by the critic's weights is that of central differences."""
    critic, mix = Smooth(), torch.tensor([0.3, 0.6])
    real, fake = (torch.randn(2, 2, 3, 3, generator=rng(seed), dtype=torch.float64) for seed in (2, 3))
    gradient_penalty(critic, real, fake, mix).backward()
    assert critic.weight.grad is not None
    for place in ((0, 1, 2), (1, 0, 0)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                critic.weight[place] += step
            values.append(float(gradient_penalty(critic, real, fake, mix)))
            with torch.no_grad():
                critic.weight[place] -= step
        assert float(critic.weight.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
