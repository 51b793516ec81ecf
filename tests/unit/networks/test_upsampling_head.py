"""An added up-sampling layer: every scope tunes it, and no share counts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allograft.errors import SpecError
from allograft.networks import Network, build, reheaded, scope_parameters
from allograft.networks.lora import add_lora
from allograft.networks.network import rebuilt
from allograft.networks.upsampling_head import UpsamplingHead

BODY = {"dynunet": {"channels": [8, 16, 16]}}


def added(body: Any = None, **outputs: int) -> Network:
    arguments = {"in_channels": 1, "outputs": outputs, "network": body or BODY}
    network = build({"build": {"upsampling_head": arguments}})
    assert isinstance(network, Network)
    return network


def plain(**outputs: int) -> Network:
    network = build({"build": {"dynunet": {"in_channels": 1, "outputs": outputs, **BODY["dynunet"]}}})
    assert isinstance(network, Network)
    return network


def test_it_takes_the_place_of_the_dense_head_alone() -> None:
    network = added(mask=3, label=2)
    assert isinstance(network.heads["mask"], UpsamplingHead)
    assert network(torch.zeros(2, 1, 16, 16))["mask"].shape == (2, 3, 16, 16)
    body = {name for name in network.state_dict() if not name.startswith("heads.mask")}
    assert body == {name for name in plain(mask=3, label=2).state_dict() if not name.startswith("heads.mask")}
    again = rebuilt(network.spec, network.state_dict())
    assert again.heads_are_added
    image = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(again.eval()(image), network.eval()(image))


def test_a_pretext_has_the_networks_own_head_and_hands_its_body_on() -> None:
    restorer, _ = reheaded(added(mask=3, label=2), {"paired": 1})
    assert set(restorer.state_dict()) == set(plain(paired=1).state_dict())
    back, report = reheaded(restorer, {"mask": 3, "label": 2})
    assert isinstance(back.heads["mask"], UpsamplingHead)
    assert back.heads_are_added
    assert all(name.startswith("heads.") for name in report.missing)
    assert torch.equal(back.encoder.levels[0].conv1.conv.weight, restorer.encoder.levels[0].conv1.conv.weight)


def test_what_was_added_is_tuned_under_every_scope_and_counts_in_none() -> None:
    network = added(mask=3, label=2)
    heads = {name for name, _ in network.named_parameters() if name.startswith("heads.")}
    body = sum(p.numel() for name, p in network.named_parameters() if name not in heads)
    for scope in ("full", "decoder", "top", "first"):
        assert heads <= {name for name, _ in scope_parameters(network, scope)}
    top = [p for name, p in scope_parameters(network, "top") if name not in heads]
    share = sum(p.numel() for p in top) / body
    assert 0 < share <= 0.1
    ordered = [p for part in (network.encoder, network.decoder) for p in part.parameters()]
    following = ordered[-len(top) - 1]
    assert all(a is b for a, b in zip(ordered[-len(top) :], top, strict=True))
    assert share + following.numel() / body > 0.1  # the longest suffix
    decoder = {name for name, _ in scope_parameters(network, "decoder")}
    assert decoder == {name for name, _ in network.named_parameters() if not name.startswith("encoder.")}


def test_heads_that_a_network_came_with_count_as_before() -> None:
    network = plain(mask=3, label=2)
    total = sum(p.numel() for p in network.parameters())
    top = scope_parameters(network, "top")
    assert sum(p.numel() for _, p in top) <= 0.1 * total
    assert not any(name.startswith("heads.") for name, _ in scope_parameters(network, "first"))


@pytest.mark.parametrize(
    "body", [BODY, {"segresnet": {"spatial_dims": 3, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}]
)
def test_lora_tunes_adapters_and_what_was_added(body: Any) -> None:
    network = add_lora(added(body, mask=3, label=2), rank=2)
    tuned = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, _ in network.named_parameters() if name.startswith("heads.")} <= tuned
    assert all("lora_" in name or name.startswith("heads.") for name in tuned)


def test_networks_that_end_in_an_up_sampling_keep_it() -> None:
    unet = added({"unet": {"channels": [4, 8]}}, mask=2)
    assert not isinstance(unet.heads["mask"], UpsamplingHead)
    assert unet.heads_are_added
    assert unet(torch.zeros(1, 1, 8, 8))["mask"].shape == (1, 2, 8, 8)


@pytest.mark.parametrize("body", [{}, {"unet": {}, "dynunet": {}}, {"monai.UNet": {}}, {"upsampling_head": BODY}])
def test_what_it_refuses(body: Any) -> None:
    with pytest.raises(SpecError, match=r"expected one \{name: \{...\}\} of our table, found"):
        build({"build": {"upsampling_head": {"in_channels": 1, "outputs": {"mask": 2}, "network": body}}})
