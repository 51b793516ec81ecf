"""Weights from a file or model folder into a network, with a report of what went where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allograft.errors import ModelError


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a weights file.

    Args:
        matched: loaded as it was.
        skipped: in the file, but of no use here, each with the reason.
        missing: in the network, but not in the file; they keep their random start.
    """

    matched: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.matched)} tensors matched, {len(self.skipped)} skipped, {len(self.missing)} missing"


def load_weights(network: nn.Module, path: Path) -> LoadReport:
    """Load a model folder of ours, or a safetensors file, into a network.

    Raises:
        ModelError: no such file, a file of another kind (a pickle is never opened), or not one tensor that fits.
    """
    state = read_weights(path)
    own = network.state_dict()
    matched = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not matched:
        raise ModelError(f"{path}: none of its {len(state)} tensors fits this network; choose the network that it was trained with")
    network.load_state_dict(matched, strict=False)
    skipped = tuple(
        f"{key}: shape {tuple(value.shape)}, here {tuple(own[key].shape)}" if key in own else f"{key}: no such tensor here"
        for key, value in state.items()
        if key not in matched
    )
    return LoadReport(tuple(matched), skipped, tuple(key for key in own if key not in matched))


def read_weights(path: Path) -> dict[str, Tensor]:
    """A flat name -> tensor mapping. Of a model folder: the first network in it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"{path}: no such weights; expected 'scratch', a model folder or a .safetensors file")
    try:
        state: dict[str, Any] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: no safetensors file ({error}); files of other kinds are not opened, save the weights as safetensors"
        ) from error
    if path.is_dir():
        prefix = min((key.split("/")[0] for key in state if "/" in key), default="", key=len)
        state = {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
    return state
