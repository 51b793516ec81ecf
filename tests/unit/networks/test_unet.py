"""The U-Net is MONAI's, taken apart; specs build it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from allograft.errors import ModelError, SpecError
from allograft.networks import Network, Wrapped, build, count_parameters, rebuilt, scope_parameters
from allograft.networks.network import spec_of
from allograft.seeds import Seeds

UNET = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}, "surgery": []}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("more", [{}, {"num_res_units": 0}, {"norm": "batch"}, {"channels": (4, 8), "strides": (1,)}])
def test_same_draws_same_function_as_monai(dims: int, more: dict[str, Any]) -> None:
    arguments = {
        "channels": (4, 5, 6, 8),
        "num_res_units": 2,
        **more,
    }  # four levels: two inner skips, whose order matters
    with Seeds(0).everything():
        network = build(
            {"build": {"unet": {"in_channels": 2, "outputs": {"mask": 3}, "spatial_dims": dims, **arguments}}}
        ).eval()
    arguments.setdefault("strides", (2,) * (len(arguments["channels"]) - 1))
    if "norm" not in arguments:
        arguments["norm"] = "instance"
    with Seeds(0).everything():
        reference = UNet(dims, 2, 3, dropout=0.0, **arguments).eval()
    image = torch.randn(2, 2, *(16,) * dims, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(image)["mask"], reference(image))
    assert count_parameters(network) == sum(p.numel() for p in reference.parameters())
    features = network.encoder(image)
    assert [feature.shape[1] for feature in features] == list(arguments["channels"])
    assert len(network.encoder.levels) == len(features)
    assert network.multiple == 2 ** arguments["strides"].count(2)


def test_a_spec_builds_the_same_network_again() -> None:
    network = build(UNET)
    before = torch.get_rng_state()
    again = rebuilt(network.spec, network.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert again.spec == network.spec == UNET
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(again.eval()(image)["mask"], network.eval()(image)["mask"])


def test_weights_are_drawn_from_the_global_generators() -> None:
    with Seeds(1).everything():
        one = build(UNET)
    with Seeds(1).everything():
        same = build(UNET)
    with Seeds(2).everything():
        other = build(UNET)
    first = [next(net.parameters()) for net in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"build": {"unnet": {}}}, "unknown network 'unnet'; did you mean 'unet'"),
        (
            {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channel": [4, 8]}}},
            r"network\.unet\.channel: unknown key 'channel'; did you mean 'channels'",
        ),
        (
            {"build": {"monai.SwinUNETTR": {"key": "mask"}}},
            "unknown MONAI network 'SwinUNETTR'; did you mean 'SwinUNETR'",
        ),
        ({"build": {"monai.UNet": {"key": "mask", "in_channels": 1}}}, "network: monai.UNet: .*missing"),
        ({**UNET, "surgery": [{"no-such": {}}]}, "unknown surgery 'no-such'"),
    ],
)
def test_what_cannot_be_built(spec: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        build(spec)


def test_monai_by_name() -> None:
    request = {"monai.AttentionUnet": {"spatial_dims": 2, "channels": [4, 8], "strides": [2]}}
    spec = spec_of(request, 1, {"mask": 3})
    network = build(spec)
    assert isinstance(network, Wrapped)
    assert type(network.module).__name__ == "AttentionUnet"
    assert network(torch.zeros(1, 1, 8, 8))["mask"].shape == (1, 3, 8, 8)
    assert rebuilt(network.spec, network.state_dict()).spec == network.spec
    with pytest.raises(SpecError, match="gives one output, the task asks for mask, label"):
        spec_of(request, 1, {"mask": 3, "label": 2})


def test_spec_of_adds_channels_and_outputs() -> None:
    assert spec_of({"unet": None}, 3, {"mask": 2}) == {
        "build": {"unet": {"in_channels": 3, "outputs": {"mask": 2}}},
        "surgery": [],
    }


def test_a_users_own_module() -> None:
    module = nn.Conv2d(1, 2, 3, padding=1)
    spec = {"build": {"custom": {"class": "torch:Conv2d", "key": "mask"}}, "surgery": []}
    network = build(spec, module)
    image = torch.randn(1, 1, 4, 4)
    assert torch.equal(network(image)["mask"], module(image))
    next(network.parameters()).data.zero_()
    assert next(module.parameters()).abs().sum() > 0  # a copy
    with pytest.raises(
        ModelError, match=r"user's own network torch:Conv2d; hand it over: load\(folder, network=MODULE\)"
    ):
        build(spec)


def test_a_module_that_answers_with_a_mapping_keeps_its_keys() -> None:
    class Two(nn.Module):
        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"mask": image, "label": image.mean((1, 2, 3))}

    assert set(Wrapped(Two(), "mask")(torch.zeros(1, 1, 2, 2))) == {"mask", "label"}


def test_the_network_is_encoder_decoder_heads() -> None:
    network = build(UNET)
    assert isinstance(network, Network)
    assert [name for name, _ in network.parts()] == ["encoder", "decoder", "heads"]
    assert len(scope_parameters(network, "full")) == len(list(network.parameters()))


@pytest.mark.parametrize("dims", [2, 3])
def test_group_normalisation_is_monais_where_its_groups_divide_every_layer(dims: int) -> None:
    with Seeds(0).everything():
        network = build({"build": {"unet": _group(dims, {"mask": 8}, (8, 16))}}).eval()
    with Seeds(0).everything():
        reference = UNet(dims, 1, 8, (8, 16), (2,), num_res_units=2, norm=("group", {"num_groups": 8})).eval()
    image = torch.randn(2, 1, *(8,) * dims, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(image)["mask"], reference(image))
    assert count_parameters(network) == sum(p.numel() for p in reference.parameters())


def test_group_normalisation_divides_what_it_can_and_does_not_see_the_batch() -> None:
    network = build({"build": {"unet": _group(2, {"mask": 3}, (6, 16))}})
    groups = {
        module.num_channels: module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)
    }
    assert groups == {6: 2, 16: 8, 3: 1}
    assert not any("BatchNorm" in type(module).__name__ for module in network.modules())
    image = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.train()(image)["mask"][1:2], network.eval()(image[1:2])["mask"])


def _group(dims: int, outputs: dict[str, int], channels: tuple[int, ...]) -> dict[str, Any]:
    return {"in_channels": 1, "outputs": outputs, "spatial_dims": dims, "channels": channels, "norm": "group"}
