"""Weights from a file, a model folder or a published name into a network, with a report of what
went where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from allograft.errors import ModelError
from allograft.networks.fit import fitted
from allograft.networks.network import own_spec
from allograft.networks.stored_weights import stored_weights

WRAPPERS = ("module", "_orig_mod", "model", "network", "net", "backbone", "encoder")
ADDED = ("", "encoder.", "swinViT.", "module.")
"""Names that files put before those of a network, in any number, and prefixes of networks that
files lack: wrappers, encoders."""


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a weights file, by the names of this network.

    Args:
        matched: loaded as it was.
        reshaped: loaded after a change of shape, each with the change.
        skipped: in the file, but of no use here, each with the reason.
        missing: in the network, but not loaded; they keep their random start.
        anew: why parts start at random: heads for other classes, for example.
        unread: NumPy values of the file, by their place in it; only tensors are read.
        taken: which of several sets of weights in the file was read, "" where there is one.
    """

    matched: tuple[str, ...]
    reshaped: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    anew: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    taken: str = ""

    def __str__(self) -> str:
        counts = (
            f"{len(self.reshaped)} reshaped, " if self.reshaped else ""
        ) + f"{len(self.skipped)} skipped, {len(self.missing)} missing"
        more = f" and {len(self.unread) - 3} more" if len(self.unread) > 3 else ""
        unread = [f"NumPy values not read: {', '.join(self.unread[:3])}{more}"] if self.unread else []
        taken = [self.taken] if self.taken else []
        return "; ".join([f"{len(self.matched)} tensors matched, {counts}", *self.anew, *unread, *taken])


def load_weights(network: nn.Module, source: Path | str, anew: Mapping[str, str] | None = None) -> LoadReport:
    """Load weights into a network, in place, as far as they fit.

    Names are ours, or those of the library that the network comes from: a state dict of MONAI's
    ``UNet`` fits our ``unet``, one of timm our ``resnet``. Convolutions on the image take other
    channels, 2-D kernels become 3-D ones, position tables are resampled. A head for other classes
    is left as drawn.

    Args:
        source: a model folder of ours; a ``.safetensors`` file; a file of ``torch.save`` that holds
            tensors and plain or NumPy values, as they are or under a key such as ``state_dict``;
            ``timm:NAME``; ``hf:OWNER/NAME[/FILE]``.

    Raises:
        ModelError: no such weights, a file that holds more than these (it is not opened further),
            not one tensor that fits, or a tensor with values that are not finite.
    """
    state, unread, taken = stored_weights(source)
    match = matched(network, state, anew or {})
    if not match.loaded:
        raise ModelError(f"{source}: {_why_none(network, state, match)}")
    _check_finite(network, match.loaded, source)
    network.load_state_dict(match.loaded, strict=False)
    return replace(match.report, unread=unread, taken=taken)


def _why_none(network: nn.Module, state: Mapping[str, Tensor], match: Match) -> str:
    """Whether names or shapes differ, with an example."""
    none = f"none of its {len(state)} tensors fits this network"
    if shaped := next((f"'{name}' has {why}" for name, why in match.unfit.items() if why.startswith("shape")), None):
        return (
            f"{none}; names fit, shapes do not: {shaped}; choose the network and the settings that it was trained with"
        )
    theirs, ours = next(iter(state)), next(iter(network.state_dict()), "no tensor")
    mend = "choose the network that it was trained with, or save its weights under these names"
    return f"{none} by name; the file begins with '{theirs[:80]}', the network with '{ours}'; {mend}"


def _check_finite(network: nn.Module, loaded: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse NaN and infinity, which would show as a loss that diverges, and whole or complex
    numbers in the place of weights; a buffer may hold what the network's own holds."""
    own = network.state_dict()
    for name, value in loaded.items():
        if own[name].is_floating_point() and not value.is_floating_point():
            raise ModelError(
                f"{source}: '{name}' holds {str(value.dtype).removeprefix('torch.')}, expected floating numbers: "
                "quantised weights lack their scale; take the file from before that"
            )
        if value.is_floating_point() and (number := int((~value.isfinite() & own[name].isfinite().cpu()).sum())):
            found = f"{number} of {value.numel()} values of '{name}' are NaN or infinite"
            raise ModelError(
                f"{source}: {found}: the training that wrote the file had diverged; take an earlier checkpoint of it"
            )


@dataclass(frozen=True)
class Match:
    """A state dict beside a network: what can be loaded, by the network's names.

    Args:
        loaded: name -> tensor of the network's shape.
        report: what becomes of each tensor once ``loaded`` is.
        unfit: name -> why a tensor of the state dict is not loaded; also of names that the network
            has not.
    """

    loaded: Mapping[str, Tensor]
    report: LoadReport
    unfit: Mapping[str, str]


def matched(
    network: nn.Module, state: Mapping[str, Tensor], anew: Mapping[str, str], parts: Sequence[str] | None = None
) -> Match:
    """What of a state dict fits a network, which stays as it is.

    Args:
        anew: tensor of the network -> why it stays as drawn.
        parts: names of modules that alone are loaded, and whose own state dict ``state`` may be.
    """
    own = network.state_dict()
    in_channels, dims = _in_channels(network), max((value.ndim for value in own.values()), default=4) - 2
    loaded: dict[str, Tensor] = {}
    reshaped: dict[str, str] = {}
    unfit: dict[str, str] = {}
    skipped = []
    for key, name in _names(network, state, own, (*ADDED, *(f"{part}." for part in parts or ()))).items():
        value = state[key]
        if name not in own:
            why = "no such tensor here"
        elif name in anew:
            why = "left as drawn"
        elif parts is not None and not inside(name, parts):
            why = f"not of {', '.join(parts)}"
        elif value.shape == own[name].shape:
            loaded[name] = value
            continue
        elif (made := fitted(name, value, own[name], in_channels=in_channels, dims=dims)) is not None:
            loaded[name], reshaped[name] = made
            continue
        else:
            why = f"shape {tuple(value.shape)}, here {tuple(own[name].shape)}"
        unfit[name] = why
        skipped.append(f"{key}: {why}")
    report = LoadReport(
        matched=tuple(name for name in loaded if name not in reshaped),
        reshaped=tuple(f"{name}: {how}" for name, how in reshaped.items()),
        skipped=tuple(skipped),
        missing=tuple(name for name in own if name not in loaded),
        anew=tuple(dict.fromkeys(anew.values())),
    )
    return Match(loaded, report, unfit)


def inside(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these modules.

    >>> inside("encoder.levels.1.weight",
    ...     ["decoder", "encoder.levels.1"]), inside("encoder.levels.10.weight", ["encoder.levels.1"])
    (True, False)
    """
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _names(
    network: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefixes: Sequence[str]
) -> dict[str, str]:
    """Key of the state dict -> its name in the network under the prefixes that resolve most keys.

    A key that these do not resolve has the name it would have, or "" where they do not apply to it.
    """
    aliases: Mapping[str, str] = getattr(network, "aliases", {})
    known = {**{name: name for name in own}, **{theirs: ours for theirs, ours in aliases.items() if ours in own}}
    plain = _uncompiled(state, own)
    renamed, most = dict.fromkeys(state, ""), 0
    for removed, added in product(_removable(plain.values()), prefixes):
        names = {key: added + text.removeprefix(removed) for key, text in plain.items() if text.startswith(removed)}
        resolved = sum(name in known for name in names.values())
        if resolved > most and (
            _is_wrapper(removed) or 2 * resolved > len(own)
        ):  # a part of another network may fit by chance
            most, renamed = resolved, {key: known.get(names.get(key, ""), names.get(key, "")) for key in state}
    return renamed


def _uncompiled(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Key -> the key without what ``torch.compile`` puts into names, at any place in them."""
    plain = {key: re.sub(r"(^|\.)(?:_orig_mod\.)+", r"\1", key) for key in state}
    unsafe = len(set(plain.values())) < len(plain) or any("_orig_mod" in name for name in own)
    return {key: key for key in state} if unsafe else plain


def _removable(keys: Iterable[str]) -> list[str]:
    """Prefixes that may be a wrapper's, shortest first: ``WRAPPERS`` in any number, and what most
    keys have in common.

    >>> _removable(["net.model.a.weight", "net.model.a.bias", "temperature"])
    ['', 'net.', 'net.model.', 'net.model.a.']
    """
    counts: Counter[str] = Counter()
    names, wrapped = list(keys), {""}
    for key in names:
        parts = key.split(".")[:-1]
        heads = [".".join(parts[: i + 1]) + "." for i in range(len(parts))]
        counts.update(heads)
        wrapped.update(filter(_is_wrapper, heads))
    common = {head for head, count in counts.items() if 2 * count > len(names)}

    def order(head: str) -> tuple[int, list[int], str]:
        parts = head.split(".")[:-1]
        return len(parts), [WRAPPERS.index(part) if part in WRAPPERS else len(WRAPPERS) for part in parts], head

    return sorted(wrapped | common, key=order)


def _is_wrapper(prefix: str) -> bool:
    return set(prefix.split(".")[:-1]) <= set(WRAPPERS)


def _in_channels(network: nn.Module) -> int | None:
    return next((arguments.get("in_channels") for arguments in own_spec(network).get("build", {}).values()), None)
