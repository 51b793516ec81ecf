"""The U-Net with a transformer at its bottom: what the transformer sees, and what it is made for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.networks.tiny import images, made
from torch import nn

from allograft.errors import SpecError
from allograft.networks import build
from allograft.networks.transformer_unet import TransformerLevel

SMALL = {"channels": [4, 8], "image_size": 16, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2, "depth": 1}


def network(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build({"build": {"transformer_unet": {"in_channels": 1, "outputs": {"paired": 1}, **SMALL, **changes}}})


def test_every_place_of_the_bottom_sees_every_other_through_the_transformer_alone() -> None:
    network = made("transformer_unet").eval()
    image = images("transformer_unet", 1).requires_grad_()
    last = network.encoder(image)[-1]
    (reached,) = torch.autograd.grad(last[0, :, 0, 0].sum(), image)
    assert (reached != 0).all()
    (level,) = (module for module in network.modules() if isinstance(module, TransformerLevel))
    assert len(level.blocks) == 3  # two blocks and a norm


def test_positions_are_resampled_for_other_grids() -> None:
    tuned = network(dropout=0.0).eval()
    level = tuned.levels()[-1]
    assert level.positions.shape == (1, 12, 8, 8)
    with torch.no_grad():
        level.positions.normal_()
        assert tuned(torch.zeros(2, 1, 24, 16))["paired"].shape == (2, 1, 24, 16)
        torch.testing.assert_close(level._positions((8, 8)), level.positions)
        assert level._positions((12, 8)).shape == (1, 12, 12, 8)


def test_positions_alone_tell_the_places_of_a_flat_feature_apart() -> None:
    torch.manual_seed(0)
    level = TransformerLevel(nn.Identity(), 4, (3, 2), hidden_size=8, mlp_dim=8, num_heads=2, depth=1, dropout=0.0)
    flat = torch.ones(1, 4, 3, 2)
    with torch.no_grad():
        level.positions.normal_()
        mixed = level(flat)
        assert mixed.std((2, 3)).min() > 1e-3
        level.positions.copy_(level.positions.flip(2))
        torch.testing.assert_close(level(flat), mixed.flip(2))


def test_weights_of_a_u_net_go_where_they_belong() -> None:
    ours = network()
    unet = build({"build": {"unet": {"in_channels": 1, "outputs": {"paired": 1}, "channels": [4, 8]}}})
    assert set(unet.aliases) == set(ours.aliases)
    own = ours.state_dict()
    assert all(own[name].shape == unet.state_dict()[unet.aliases[key]].shape for key, name in ours.aliases.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 15}, "image_size is 15; expected 2 multiples of 2"),
        ({"image_size": [16, 16, 16]}, "expected 2 multiples of 2"),
        ({"num_heads": 5}, "a width that the heads divide"),
        ({"depth": 0}, "at least one block"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        network(**changes)
