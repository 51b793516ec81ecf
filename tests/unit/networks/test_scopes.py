"""Which parameters a scope holds, and that what is frozen neither moves nor costs memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from allograft.errors import SpecError
from allograft.networks import SCOPES, Network, Wrapped, build, count_parameters, scope_parameters, trainable
from allograft.networks.scopes import TOP_SHARE


def unet(**more: Any) -> Network:
    made = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [16, 32, 64, 128], **more}}})
    assert isinstance(made, Network)
    return made


def size(network: Any, scope: Any) -> int:
    return sum(p.numel() for _, p in scope_parameters(network, scope))


@pytest.mark.parametrize("dims", [2, 3])
def test_scopes_of_the_unet(dims: int) -> None:
    network = unet(spatial_dims=dims)
    names = {scope: [name for name, _ in scope_parameters(network, scope)] for scope in SCOPES}  # type: ignore[arg-type]
    assert size(network, "full") == count_parameters(network)
    assert names["decoder"] == [name for name in names["full"] if not name.startswith("encoder.")]
    assert names["first"] == [
        name for name in names["full"] if name.startswith(("encoder.levels.0.", "encoder.levels.1."))
    ]
    assert set(names["first"]).isdisjoint(names["decoder"])
    # a suffix of whole tensors, in order
    assert names["top"] == names["full"][-len(names["top"]) :]
    assert any(name.startswith("heads.") for name in names["top"])
    total, top = size(network, "full"), size(network, "top")
    following = dict(scope_parameters(network, "full"))[names["full"][-len(names["top"]) - 1]].numel()
    assert top <= TOP_SHARE * total < top + following  # the longest such suffix
    order = [name.split(".")[0] for name in names["full"]]
    assert [part for i, part in enumerate(order) if i == 0 or order[i - 1] != part] == ["encoder", "decoder", "heads"]


def test_top_holds_the_head_in_any_case() -> None:
    heavy = Network(nn.Conv2d(1, 1, 1), None, {"label": nn.Conv2d(1, 50, 3)})
    assert {name.split(".")[0] for name, _ in scope_parameters(heavy, "top")} == {"heads"}
    assert size(heavy, "top") == 50 * 9 + 50


def test_first_is_refused_where_the_encoder_has_no_levels() -> None:
    with pytest.raises(
        SpecError, match="scope 'first': the network's encoder is not made of levels; use full, decoder or top"
    ):
        scope_parameters(Network(nn.Conv2d(1, 1, 1), None, {"label": nn.Conv2d(1, 2, 3)}), "first")


def test_an_opaque_module_has_full_and_top_only() -> None:
    opaque = Wrapped(nn.Sequential(nn.Conv2d(1, 20, 3), nn.Conv2d(20, 2, 1)), "mask")
    assert size(opaque, "full") == count_parameters(opaque)
    assert 0 < size(opaque, "top") < count_parameters(opaque)
    for scope in ("decoder", "first"):
        with pytest.raises(SpecError, match=f"scope '{scope}'.*one opaque module.*full or top"):
            scope_parameters(opaque, scope)  # type: ignore[arg-type]


def test_an_unknown_scope() -> None:
    with pytest.raises(SpecError, match="unknown scope 'frist'; did you mean 'first'"):
        scope_parameters(unet(), "frist")  # type: ignore[arg-type]


def saved_bytes(network: Network, scope: Any) -> int:
    """What autograd keeps for backward in one forward pass, each storage once; parameters are there
    anyway."""
    own = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    held = []  # so that no storage is freed and its place used again
    with trainable(network, scope), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held.append(network(torch.randn(2, 1, 32, 32))["mask"].sum())
    return sum(kept.values())


def test_frozen_parts_keep_nothing_for_backward() -> None:
    network = unet()
    full, decoder, top = (saved_bytes(network, scope) for scope in ("full", "decoder", "top"))
    assert full > 5e5
    assert top <= 0.6 * full
    assert top <= decoder < full


@pytest.mark.parametrize("scope", SCOPES)
def test_only_the_scope_moves_and_frozen_statistics_do_not(scope: Any) -> None:
    network = unet(channels=[4, 8, 16], norm="batch")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tuned = {id(p) for _, p in scope_parameters(network, scope)}
    names = {id(p): name for name, p in network.named_parameters()}
    with trainable(network, scope) as parameters:
        assert {id(p) for p in parameters} == tuned
        optimizer = torch.optim.SGD(parameters, 0.1)
        network(torch.randn(2, 1, 16, 16))["mask"].square().sum().backward()
        optimizer.step()
    after = network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    allowed = {names[one] for one in tuned}
    assert moved & set(names.values()) <= allowed
    assert len(moved & allowed) > len(allowed) / 2
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            is_tuned = any(id(p) in tuned for p in module.parameters())
            assert (f"{name}.running_mean" in moved) == is_tuned, name


@pytest.mark.parametrize("scope", SCOPES)
def test_modes_and_flags_are_restored_also_after_an_error(scope: Any) -> None:
    network = unet(channels=[4, 8], norm="batch")
    network.eval()
    network.decoder.train()
    next(network.parameters()).requires_grad_(False)
    modes = [module.training for module in network.modules()]
    flags = [p.requires_grad for p in network.parameters()]
    with pytest.raises(ZeroDivisionError), trainable(network, scope):  # noqa: PT012 - leaving by an error is what is tested
        assert network.heads.training == (scope != "first")
        assert not next(network.parameters()).requires_grad  # frozen before, so frozen inside
        raise ZeroDivisionError
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == flags


def test_dropout_goes_with_the_block_it_stands_in() -> None:
    network = unet(channels=[4, 8], dropout=0.5)
    with trainable(network, "decoder"):
        drops = {name: module.training for name, module in network.named_modules() if isinstance(module, nn.Dropout)}
    assert {name.split(".")[0] for name in drops} >= {"encoder", "heads"}
    assert all(training == (not name.startswith("encoder.")) for name, training in drops.items())
