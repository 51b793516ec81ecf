"""The diffusion U-Net is MONAI's, taken apart."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from allograft.errors import SpecError
from allograft.networks import build, reheaded
from allograft.networks.load import matched
from allograft.networks.network import Network, rebuilt

SMALL = {"spatial_dims": 2, "channels": [4, 8], "attention": [False, True], "num_res_blocks": 1}
SMALL |= {"head_channels": 8, "norm_groups": 4}


def small(**outputs: int) -> Network:
    torch.manual_seed(0)
    network = build({"build": {"diffusion_unet": {"in_channels": 1, "outputs": outputs, **SMALL}}})
    assert isinstance(network, Network)
    for parameter in network.parameters():  # MONAI begins some at 0
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_it_is_monais_at_every_time_and_takes_its_weights() -> None:
    network = small(paired=1)
    whole = DiffusionModelUNet(2, 1, 1, 1, (4, 8), (False, True), 4, num_head_channels=8)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    found = matched(network, whole.state_dict(), {})
    assert not found.report.missing
    assert not found.report.skipped
    network.load_state_dict(found.loaded)
    image, time = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    features = network.encoder(image, time)
    assert network.decoder is not None
    ours = network.heads["paired"](features, network.decoder(features, time))
    torch.testing.assert_close(ours, whole(image, time), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(image)["paired"], whole(image, torch.zeros(2).long()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, network(image)["paired"])


def test_copies_and_networks_built_again_embed_time_by_their_own_weights() -> None:
    network = small(paired=1)
    image, time = torch.randn(1, 1, 8, 8), torch.tensor([9])
    for twin in (copy.deepcopy(network), rebuilt(network.spec, network.state_dict())):
        assert twin.decoder.encoders[0] is twin.encoder
        features = network.encoder(image, time)
        torch.testing.assert_close(twin.decoder(features, time), network.decoder(features, time))
    names = [name for name, _ in network.named_parameters() if "time_embed" in name]
    assert all(name.startswith("encoder.") for name in names)


def test_it_takes_other_heads_in_two_and_three_dimensions() -> None:
    tuned, report = reheaded(small(paired=1), {"mask": 3, "label": 2})
    made = tuned(torch.zeros(2, 1, 8, 8))
    assert (made["mask"].shape, made["label"].shape) == ((2, 3, 8, 8), (2, 2))
    assert all(name.startswith("heads.") for name in report.missing)
    whole = build({"build": {"diffusion_unet": {"in_channels": 1, "outputs": {"mask": 2}, **SMALL, "spatial_dims": 3}}})
    assert whole(torch.zeros(1, 1, 4, 4, 4))["mask"].shape == (1, 2, 4, 4, 4)
    assert build({"build": {"diffusion_unet": {"in_channels": 1, "outputs": {"label": 2}, **SMALL}}}).decoder is None


def test_the_defaults_are_the_papers() -> None:
    network = build({"build": {"diffusion_unet": {"in_channels": 1, "outputs": {"paired": 1}}}})
    assert network.multiple == 4
    levels = network.levels()  # convolution, 2 blocks and a step down twice, 2 blocks with attention, the bottom
    assert [level.attention is not None for level in levels] == [False] * 7 + [True] * 2 + [False]
    assert [level.block.out_channels for level in levels[1:3]] == [32, 32]
    assert levels[-1].block.attention.attn.num_heads == levels[-2].attention.attn.num_heads == 1


def test_what_it_refuses() -> None:
    def made(**changes: object) -> None:
        build({"build": {"diffusion_unet": {"in_channels": 1, "outputs": {"mask": 2}, **SMALL, **changes}}})

    with pytest.raises(SpecError, match="expected as many of both, and multiples of norm_groups"):
        made(attention=[True])
    with pytest.raises(SpecError, match="multiples of norm_groups"):
        made(channels=[4, 9])
    with pytest.raises(SpecError, match="head_channels 64 do not divide"):
        made(head_channels=64)
