"""LoRA and L2-SP: what must change nothing, and what must be equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.unit.networks import tiny
from torch import nn

from allograft.errors import MissingExtraError, SpecError
from allograft.methods.l2sp import Anchored, starting_point_penalty
from allograft.methods.lora import rest
from allograft.networks import Network, Wrapped, copied, count_parameters, rebuilt
from allograft.networks.lora import add_lora, fold
from allograft.networks.network import operate
from allograft.seeds import Seeds

pytest.importorskip("peft")


def made(key: str) -> Any:
    return copied(tiny.made(key)).eval()


def disturbed(network: Any) -> Any:
    """Adapters as if trained: the second factor is zero at first."""
    with torch.no_grad(), Seeds(3).everything():
        for key, p in network.named_parameters():
            if ".lora_B." in key:
                p.normal_(std=0.1)
    return network


def close(found: Any, expected: Any) -> None:
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", tiny.TINY)
def test_a_fresh_adapter_changes_nothing_and_freezes_all_but_itself_and_the_heads(key: str) -> None:
    network, x = made(key), tiny.images(key)
    expected, before = network(x), count_parameters(network)
    adapted = operate(network, "lora", rank=2)
    for name, value in adapted(x).items():  # a sum with zeros may lie otherwise in memory
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)
    moving = {key for key, p in adapted.named_parameters() if p.requires_grad}
    assert all(".lora_" in key or key.startswith("heads.") for key in moving)
    assert any(".lora_A." in key for key in moving)
    assert any(key.startswith("heads.") for key in moving)
    assert not any(".lora_" in key for key, _ in adapted.heads.named_parameters())
    assert count_parameters(adapted) > before


@pytest.mark.parametrize("key", tiny.TINY)
def test_folded_equals_unfolded_and_is_a_plain_network_again(key: str) -> None:
    plain, x = made(key), tiny.images(key)
    adapted = disturbed(operate(copy.deepcopy(plain), "lora", rank=2, alpha=3.0))
    expected = adapted(x)
    before = plain(x)  # a last convolution that begins with zeros answers 0 either way
    assert any(not torch.equal(value, before[name]) for name, value in expected.items())
    folded = fold(adapted)
    close(folded(x), expected)
    assert folded.spec == plain.spec
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert all(p.requires_grad for p in folded.parameters())
    close(rebuilt(folded.spec, folded.state_dict()).eval()(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(2, 3, 1),
        nn.Conv3d(2, 3, (1, 1, 3), padding=(0, 0, 1)),
        nn.Conv2d(2, 3, 3, dilation=2, padding=2),
        nn.Conv2d(2, 3, 3, 2, "valid", padding_mode="reflect"),
        nn.Conv2d(2, 3, (3, 5), padding="same", dilation=2, padding_mode="circular"),
        nn.Conv1d(2, 3, 3, padding=1, padding_mode="replicate"),
        nn.Linear(7, 3),
    ],
    ids=str,
)
def test_every_kind_of_layer_folds(layer: nn.Module) -> None:
    size = (2, 2, *(7,) * (layer.weight.ndim - 2)) if layer.weight.ndim > 2 else (2, 7)  # type: ignore[union-attr, operator]
    network, x = (
        Wrapped(nn.Sequential(copy.deepcopy(layer)), "mask"),
        torch.randn(size, generator=torch.Generator().manual_seed(1)),
    )
    network.spec = {"build": {}, "surgery": []}
    adapted = disturbed(add_lora(network, rank=2, alpha=3.0))
    expected = adapted(x)
    assert expected["mask"].shape == layer(x).shape
    assert not torch.allclose(expected["mask"], layer(x))
    close(fold(adapted)(x), expected)


def test_an_adapted_network_is_built_again_from_its_spec() -> None:
    adapted = disturbed(operate(made("unet"), "lora", rank=2))
    again = rebuilt(adapted.spec, adapted.state_dict()).eval()
    assert again.spec["surgery"] == [{"lora": {"rank": 2}}]
    assert torch.equal(again(tiny.images("unet"))["mask"], adapted(tiny.images("unet"))["mask"])
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in adapted.parameters()]


def test_transposed_convolutions_and_opaque_modules() -> None:
    adapted = add_lora(made("unet"), rank=2)
    kinds = {type(layer.get_base_layer()) for layer in adapted.modules() if hasattr(layer, "get_base_layer")}
    assert kinds == {nn.Conv2d}
    opaque = Wrapped(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), "mask")
    assert sum(p.requires_grad for p in add_lora(opaque, rank=1).parameters()) == 4
    with pytest.raises(SpecError, match="no linear layer"):
        add_lora(Network(nn.BatchNorm2d(1), None, {"label": nn.Linear(1, 1)}))
    with pytest.raises(SpecError, match="rank is 0"):
        add_lora(made("vit"), rank=0)


def test_without_peft_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'allograft\[lora\]'"):
        add_lora(made("vit"))


def test_frozen_statistics_rest() -> None:
    adapted = add_lora(made("unet"), rank=2).train()
    rest(adapted)
    for key, module in adapted.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == key.startswith("heads.")


def test_no_pull_at_the_start_and_a_gradient_of_alpha_times_the_distance() -> None:
    network = nn.Linear(3, 2)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    assert starting_point_penalty(network, start, 0.3).item() == 0
    with torch.no_grad():
        network.weight += torch.arange(6.0).view(2, 3)
    starting_point_penalty(network, start, 0.3).backward()
    torch.testing.assert_close(network.weight.grad, 0.3 * torch.arange(6.0).view(2, 3))
    assert (network.bias.grad == 0).all()  # type: ignore[union-attr]


def test_strength_zero_is_plain_fine_tuning() -> None:
    def inner(network: Any, batch: Any) -> dict[str, torch.Tensor]:
        return {"loss": network.weight.sum()}

    network = nn.Linear(1, 1)
    start = {"weight": network.weight.detach() - 1}
    assert set(Anchored(inner, start, 0.0)(network, None)) == {"loss"}  # type: ignore[arg-type]
    terms = Anchored(inner, start, 0.5)(network, None)  # type: ignore[arg-type]
    assert terms["starting_point"].item() == pytest.approx(0.25)
