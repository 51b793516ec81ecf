"""Other heads on the body of a network, and weights from one network into another, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from allograft.errors import ModelError, SpecError, nearest
from allograft.networks.load import LoadReport, inside, matched
from allograft.networks.network import AnyNetwork, Network, build
from allograft.networks.unet import UNetHead

BODY = ("encoder", "decoder")
SHOWN = 5
"""Tensors named in an error."""


def reheaded(network: AnyNetwork, outputs: Mapping[str, int]) -> tuple[Network, LoadReport]:
    """A network with the same body and other heads; the given one stays as it is.

    The body is the encoder, the decoder and whatever surgery added. A head whose output has the
    same name and as many channels is kept; any other is replaced whole, not only its last layer,
    and drawn from the global generators. MONAI's U-Net maps straight to the output's channels in
    its last up-sampling block, so of our ``unet`` that block goes with the head. To replace a head
    that would be kept, take it off first: ``reheaded(network, {})``.

    Args:
        network: of our table.
        outputs: output -> channels; {} for a network without heads. A decoder is left out where
            labels alone are asked for, and drawn where the given network has none.

    Returns:
        The network, on the device and in the mode of the given one, and a report of its tensors:
        ``matched`` are kept, ``missing`` start at random, ``skipped`` are not taken over.

    Raises:
        SpecError: a network that is one opaque module, or outputs that its builder cannot give.

    Example:
        >>> unet = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}
        >>> network, report = reheaded(build({"build": {"unet": unet}}), {"paired": 1})
        >>> print(report.anew[0])
        head 'paired' starts at random: the network had none, and the last up-sampling block is part of it
    """
    if not isinstance(network, Network):
        raise SpecError("reheaded: the network is one opaque module without heads; choose a network of our table")
    ((name, arguments),) = network.spec["build"].items()
    made = build({**network.spec, "build": {name: {**arguments, "outputs": dict(outputs)}}})
    assert isinstance(made, Network)
    match = matched(made, network.state_dict(), _drawn(made, network))
    made.to(next(network.parameters())).train(network.training)
    made.load_state_dict(match.loaded, strict=False)
    return made, match.report


def transfer(state: Mapping[str, Tensor], network: nn.Module, *, parts: Sequence[str] | None = None) -> LoadReport:
    """Load parts of a network from a state dict, in place; all of each part, or nothing at all.

    Names and shapes are matched as ``load_weights`` matches them: ``state`` may be of a whole
    network, of the one part alone, or of the library that the network comes from.

    Args:
        state: name -> tensor: ``other.state_dict()``, or that of a part of a carry,
            ``carry.parts["teacher"].state_dict()``.
        network: what the weights go into; its other parts stay as they are.
        parts: names of its modules: ``["encoder"]``, ``["encoder", "heads.mask"]``,
            ``["encoder.levels.0"]``; by default the encoder, and the decoder if it has one.

    Returns:
        What became of each tensor; ``missing`` are those outside the parts.

    Raises:
        SpecError: a part that the network has not.
        ModelError: a tensor of a part that the state dict lacks, one of another shape, or one that
            the part has no place for, each by name.

    Example:
        >>> body = {"in_channels": 1, "outputs": {}, "channels": [4, 8]}
        >>> source, target = build({"build": {"unet": body}}), build({"build": {"unet": {**body,
        ...     "outputs": {"mask": 2}}}})
        >>> report = transfer(source.state_dict(), target)
        >>> all(name.startswith("heads.mask.") for name in report.missing)
        True
    """
    chosen = _parts(network, parts)
    match = matched(network, state, {}, chosen)
    own = network.state_dict()
    wrong = {
        **{name: match.unfit.get(name, "not among the weights") for name in own if name not in match.loaded},
        **{name: why for name, why in match.unfit.items() if name not in own},
    }
    unfit = [f"{name} ({why})" for name, why in wrong.items() if inside(name, chosen)]
    if unfit:
        shown = ", ".join(unfit[:SHOWN]) + (f" and {len(unfit) - SHOWN} more" if len(unfit) > SHOWN else "")
        raise ModelError(
            f"transfer: {', '.join(chosen)}: these tensors do not fit: {shown}; "
            "transfer from a network of the same body, or name the parts that the two share"
        )
    network.load_state_dict(match.loaded, strict=False)
    return match.report


def _parts(network: nn.Module, parts: Sequence[str] | None) -> Sequence[str]:
    """The names of the parts, each of them one that the network has."""
    own = list(network.state_dict())
    if parts is None:
        parts = [part for part in BODY if any(inside(name, [part]) for name in own)]
    if not parts:
        raise SpecError(
            "transfer: no part is named, and the network is one module without an encoder; name parts: ['module'] for "
            "all"
        )
    for part in parts:
        if not any(inside(name, [part]) for name in own):
            modules = {
                ".".join(words[:depth]) for words in (name.split(".") for name in own) for depth in range(1, len(words))
            }
            raise SpecError(f"transfer: {nearest(part, modules, 'part of the network')}")
    return parts


def _drawn(made: Network, network: Network) -> dict[str, str]:
    """Each tensor of a re-headed network that starts at random, and why."""
    before, after = _outputs(network), _outputs(made)
    whys = {}
    if made.decoder is not None and network.decoder is None:
        whys["decoder"] = "the decoder starts at random: the network had none"
    for key, count in after.items():
        if before.get(key) == count:
            continue
        had = (
            f"the network's has {before[key]} channels, requested are {count}"
            if key in before
            else "the network had none"
        )
        block = ", and the last up-sampling block is part of it" if isinstance(made.heads[key], UNetHead) else ""
        whys[f"heads.{key}"] = f"head '{key}' starts at random: {had}{block}"
    return {name: why for name in made.state_dict() for part, why in whys.items() if inside(name, [part])}


def _outputs(network: Network) -> Mapping[str, int]:
    (arguments,) = network.spec["build"].values()
    outputs: Mapping[str, int] = arguments["outputs"]
    return outputs
