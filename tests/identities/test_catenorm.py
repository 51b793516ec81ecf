"""What categorical normalisation must leave equal."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from allograft.errors import SpecError
from allograft.nn.catenorm import CategoricalNorm2d


def layer(channels: int = 6, classes: int = 3, **options: object) -> CategoricalNorm2d:
    torch.manual_seed(0)
    return CategoricalNorm2d(channels, classes, **options).double()  # type: ignore[arg-type]


def inputs(classes: int = 3, size: tuple[int, int] = (14, 10)) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(4, 6, 7, 5, generator=rng, dtype=torch.float64) * 3 + 2
    return x, torch.randn(4, classes, *size, generator=rng, dtype=torch.float64).softmax(1)


def silence(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_says_nothing_is_batch_normalisation(training: bool) -> None:
    made, plain = layer().train(training), nn.BatchNorm2d(6, affine=False).double().train(training)
    silence(made.gamma)
    silence(made.beta)
    x, mask = inputs()
    assert torch.equal(made(x, mask), plain(x))
    assert torch.equal(made.norm.running_var, plain.running_var)


def test_constant_modulation_is_batch_normalisation_with_parameters() -> None:
    made, plain = layer(), nn.BatchNorm2d(6).double()
    silence(made.gamma)
    silence(made.beta)
    with torch.no_grad():
        made.gamma.bias.copy_(torch.arange(6))
        made.beta.bias.copy_(-torch.arange(6))
        plain.weight.copy_(1 + torch.arange(6))
        plain.bias.copy_(-torch.arange(6))
    x, mask = inputs()
    torch.testing.assert_close(made(x, mask), plain(x))


def test_a_uniform_map_is_the_same_at_every_size_away_from_the_border() -> None:
    made = layer()
    x, _ = inputs()
    one = made(x, torch.full((4, 3, 7, 5), 1 / 3, dtype=torch.float64))
    other = made(x, torch.full((4, 3, 30, 1), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(one, other)


def test_a_class_acts_only_where_it_is() -> None:
    """Two convolutions of 3 x 3 reach two pixels."""
    made = layer().eval()
    x, mask = inputs(size=(7, 5))
    changed = mask.clone()
    changed[:, :, 0] = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    before, after = made(x, mask), made(x, changed)
    assert torch.equal(before[:, :, 3:], after[:, :, 3:])
    assert not torch.isclose(before[:, :, :3], after[:, :, :3]).all()


def test_the_map_is_read_with_its_corners_aligned() -> None:
    """A map that is linear along an axis has the same values at both ends, whatever its size."""
    made = layer(classes=1)
    ramp = torch.linspace(0, 1, 13, dtype=torch.float64).expand(1, 1, 9, 13)
    fine, coarse = made.modulation(ramp, torch.Size((9, 13))), made.modulation(ramp, torch.Size((9, 4)))
    resized = made.modulation(torch.linspace(0, 1, 4, dtype=torch.float64).expand(1, 1, 9, 4), torch.Size((9, 4)))
    torch.testing.assert_close(coarse, resized)
    assert fine[0].shape == (1, 6, 9, 13)


def test_a_batch_is_a_loop_of_singles_in_evaluation() -> None:
    made = layer().eval()
    x, mask = inputs()
    whole = made(x, mask)
    for i in range(4):
        torch.testing.assert_close(made(x[i : i + 1], mask[i : i + 1]), whole[i : i + 1])


def test_gradients_reach_the_feature_and_the_map() -> None:
    made = layer().train()
    x, mask = inputs(size=(4, 4))
    x, mask = x[:2, :, :3, :3].clone().requires_grad_(), mask[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(made, (x, mask))


def test_an_absent_class_is_no_trouble() -> None:
    x, mask = inputs()
    mask[:, 1] = 0
    assert layer()(x, mask).isfinite().all()


def test_hidden_channels_are_half_by_default() -> None:
    assert layer().shared.out_channels == 3
    assert layer(1).shared.out_channels == 1
    assert layer(hidden=5).shared.out_channels == 5


def test_what_does_not_fit_is_refused() -> None:
    x, mask = inputs(classes=4)
    with pytest.raises(SpecError, match="class map"):
        layer()(x, mask)
    with pytest.raises(SpecError, match="class map"):
        layer()(x, mask[:1, :3])
    with pytest.raises(SpecError, match="positive"):
        CategoricalNorm2d(4, 0)
