"""Weights from a file, a model folder or a published name into a network, with a report of what went where."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allograft.errors import ModelError
from allograft.networks.fetch import named_weights
from allograft.networks.fit import fitted
from allograft.networks.network import own_spec

INSIDE = ("state_dict", "model_state_dict", "network_weights", "model", "network", "net", "teacher", "student")
"""Where training scripts put the weights among other things."""
REMOVED = ("", "module.", "model.", "network.", "net.", "backbone.", "encoder.", "module.model.", "module.backbone.")
ADDED = ("", "encoder.", "swinViT.", "module.")
"""Prefixes that files have and networks have not, and the other way round: wrappers (ours of a user's module), weights of an encoder."""


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a weights file, by the names of this network.

    Args:
        matched: loaded as it was.
        reshaped: loaded after a change of shape, each with the change.
        skipped: in the file, but of no use here, each with the reason.
        missing: in the network, but not loaded; they keep their random start.
        anew: why parts start at random: heads for other classes, for example.
    """

    matched: tuple[str, ...]
    reshaped: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    anew: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = (f"{len(self.reshaped)} reshaped, " if self.reshaped else "") + f"{len(self.skipped)} skipped, {len(self.missing)} missing"
        return "; ".join([f"{len(self.matched)} tensors matched, {counts}", *self.anew])


def load_weights(network: nn.Module, source: Path | str, anew: Mapping[str, str] | None = None) -> LoadReport:
    """Load weights into a network, in place, as far as they fit.

    Names are ours, or those of the library that the network comes from: a state dict of MONAI's ``UNet`` fits our ``unet``, one of timm our
    ``resnet``. Convolutions on the image take other channels, 2-D kernels become 3-D ones, position tables are resampled. A head for other
    classes is left as drawn.

    Args:
        source: a model folder of ours; a ``.safetensors`` file; a file of ``torch.save`` that holds tensors and nothing else, as they are
            or under a key such as ``state_dict``; ``timm:NAME``; ``hf:OWNER/NAME[/FILE]``.

    Raises:
        ModelError: no such weights, a file that holds more than tensors (it is not opened further), or not one tensor that fits.
    """
    state = read_weights(source)
    match = matched(network, state, anew or {})
    if not match.loaded:
        raise ModelError(f"{source}: none of its {len(state)} tensors fits this network; choose the network that it was trained with")
    network.load_state_dict(match.loaded, strict=False)
    return match.report


@dataclass(frozen=True)
class Match:
    """A state dict beside a network: what can be loaded, by the network's names.

    Args:
        loaded: name -> tensor of the network's shape.
        report: what becomes of each tensor once ``loaded`` is.
        unfit: name -> why a tensor of the state dict is not loaded; also of names that the network has not.
    """

    loaded: Mapping[str, Tensor]
    report: LoadReport
    unfit: Mapping[str, str]


def matched(network: nn.Module, state: Mapping[str, Tensor], anew: Mapping[str, str], parts: Sequence[str] | None = None) -> Match:
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

    >>> inside("encoder.levels.1.weight", ["decoder", "encoder.levels.1"]), inside("encoder.levels.10.weight", ["encoder.levels.1"])
    (True, False)
    """
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def read_weights(source: Path | str) -> dict[str, Tensor]:
    """A flat name -> tensor mapping. Of a model folder: the first network in it."""
    path = named_weights(source) or Path(source)
    file = path / "model.safetensors" if os.path.isdir(path) else path
    if not os.path.isfile(file):  # which says no to a name that is too long, where Path raises
        raise ModelError(
            f"{str(path)[:200]}: no such weights; expected 'scratch', a model folder, a .safetensors or .pt file, "
            "timm:NAME or hf:OWNER/NAME"
        )
    state = _safetensors(file) if file.suffix == ".safetensors" else _state_dict(file)
    if os.path.isdir(path):
        prefix = min((key.split("/")[0] for key in state if "/" in key), default="", key=len)
        state = {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
    return state


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(file)
    except Exception as error:  # a damaged header may raise anything: an unknown dtype, names that are no UTF-8
        raise ModelError(f"{file}: no safetensors file ({error}); export the weights again") from error
    return state


def _state_dict(file: Path) -> dict[str, Tensor]:
    """What ``torch.save`` wrote of tensors alone; anything else in the file is refused by torch before it is made."""
    import torch

    try:
        if zipfile.is_zipfile(file) and sum(one.file_size for one in zipfile.ZipFile(file).infolist()) > file.stat().st_size:
            raise ValueError("compressed, which torch.save never does")  # a few kilobytes could stand for terabytes
        kept: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = "save the weights alone: torch.save(model.state_dict(), FILE), or as safetensors"
        raise ModelError(f"{file}: no plain state dict ({reason}); files that hold more than tensors are not opened: {mend}") from error
    for _ in range(3):
        inner = next((kept[key] for key in INSIDE if isinstance(kept.get(key), Mapping)), None) if isinstance(kept, Mapping) else None
        kept = kept if inner is None else inner
    tensors = {str(key): value for key, value in kept.items() if isinstance(value, Tensor)} if isinstance(kept, Mapping) else {}
    if not tensors:
        raise ModelError(f"{file}: holds no weights; expected name -> tensor, as model.state_dict() gives it")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(f"{file}: '{name}' of shape {tuple(tensor.shape)} is larger than what is stored of it; save it again")
    return tensors


def _names(network: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, str]:
    """Key of the state dict -> its name in the network under the prefixes that resolve most keys.

    A key that these do not resolve has the name it would have, or "" where they do not apply to it.
    """
    aliases: Mapping[str, str] = getattr(network, "aliases", {})
    known = {**{name: name for name in own}, **{theirs: ours for theirs, ours in aliases.items() if ours in own}}
    found, most = dict.fromkeys(state, ""), 0
    for removed, added in product(REMOVED, prefixes):
        names = {key: added + key.removeprefix(removed) for key in state if key.startswith(removed)}
        resolved = sum(name in known for name in names.values())
        if resolved > most:
            most, found = resolved, {key: known.get(names.get(key, ""), names.get(key, "")) for key in state}
    return found


def _in_channels(network: nn.Module) -> int | None:
    return next((arguments.get("in_channels") for arguments in own_spec(network).get("build", {}).values()), None)
