"""Which part of a network is tuned: ``full``, ``decoder``, ``top`` or ``first``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork, Network

Scope = Literal["full", "decoder", "top", "first"]
SCOPES: tuple[str, ...] = ("full", "decoder", "top", "first")
TOP_SHARE = 0.10


def scope_parameters(network: AnyNetwork, scope: Scope) -> list[tuple[str, nn.Parameter]]:
    """The named parameters of a scope, in the order encoder, decoder, heads.

    ``decoder`` is decoder and heads. ``top`` is the longest suffix of whole parameter tensors whose
    count does not exceed 10 % of the network, and the heads in any case. ``first`` is the first two
    levels of the encoder, its stem included (Shirokikh et al. 2020 tune the first layers). Heads
    that were added to a body (``Network.heads_are_added``) are part of every scope, and do not
    count in the 10 % of ``top``.

    Raises:
        SpecError: a network without such a part, or an unknown scope.
    """
    if scope not in SCOPES:
        from allograft.errors import nearest

        raise SpecError(nearest(scope, SCOPES, "scope"))
    ordered = [(f"{part}.{name}", p) for part, module in network.parts() for name, p in module.named_parameters()]
    if scope == "full":
        return ordered
    added = [(name, p) for name, p in ordered if getattr(network, "heads_are_added", False) and _is_head(name)]
    if scope == "top":
        return [*_top(ordered[: len(ordered) - len(added)]), *added]
    if not isinstance(network, Network):
        raise SpecError(
            f"scope '{scope}': the network is one opaque module without encoder and decoder; use full or top"
        )
    if scope == "decoder":
        return [(name, p) for name, p in ordered if not name.startswith("encoder.")]
    stem = getattr(network.encoder, "stem", None)
    modules = ([stem] if stem is not None else []) + network.levels()[:2]
    if not modules:
        raise SpecError("scope 'first': the network's encoder is not made of levels; use full, decoder or top")
    wanted = {id(p) for module in modules for p in module.parameters()}
    return [*((name, p) for name, p in ordered if id(p) in wanted), *added]


def _is_head(name: str) -> bool:
    return name.startswith("heads.")


def _top(ordered: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    room = TOP_SHARE * sum(p.numel() for _, p in ordered)
    taken: list[tuple[str, nn.Parameter]] = []
    for name, p in reversed(ordered):
        room -= p.numel()
        if room < 0 and not _is_head(name):
            break
        taken.insert(0, (name, p))
    return taken or ordered[-1:]


@contextmanager
def trainable(network: AnyNetwork, scope: Scope) -> Iterator[list[nn.Parameter]]:
    """Inside, only the scope's parameters require gradients, and parts without any of them are in
    evaluation mode.

    Below the first tuned tensor autograd then keeps nothing for backward, and frozen running
    statistics do not move. Outside, all is as it was. Parameters that were frozen before (the base
    of an adapter) stay frozen.
    """
    before = [(p, p.requires_grad) for p in network.parameters()]
    modes = [(module, module.training) for module in network.modules()]
    wanted = {id(p) for _, p in scope_parameters(network, scope)}
    network.train()
    for p, was in before:
        p.requires_grad_(was and id(p) in wanted)
    if scope != "full":
        for module in network.modules():
            own = list(
                module.parameters()
            )  # a module without any, dropout for example, goes with the block it stands in
            if own and not any(p.requires_grad for p in own):
                module.eval()
    try:
        yield [p for p in network.parameters() if p.requires_grad]
    finally:
        for p, was in before:
            p.requires_grad_(was)
        for module, mode in modes:
            module.training = mode
