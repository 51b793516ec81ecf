"""What several networks share: a chain of levels, a decoder over skips, the heads, and where a
library's own names went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from allograft.errors import SpecError

DENSE = ("mask", "paired")
"""Outputs with a value in every pixel."""


class ChainEncoder(nn.Module):
    """(B, C, *spatial) -> the output of each level, one after another, finest first."""

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features


class SkipDecoder(nn.Module):
    """Features -> (B, C', *spatial) at the resolution of the finest: each block takes what is
    decoded so far and the next finer feature."""

    def __init__(self, ups: Sequence[nn.Module]) -> None:
        super().__init__()
        self.ups = nn.ModuleList(ups)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        decoded = features[-1]
        for up, skip in zip(self.ups, reversed(features[:-1]), strict=True):
            decoded = up(decoded, skip)
        return decoded


class DenseHead(nn.Module):
    """A block on the decoded feature: (B, C', *spatial) -> (B, K, *spatial) logits."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, features: Sequence[Tensor], decoded: Tensor) -> Tensor:
        logits: Tensor = self.block(decoded)
        return logits


class LabelHead(nn.Module):
    """The mean over space of the encoder's last feature, and a linear layer: (B, C, *spatial) ->
    (B, K) logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, features: Sequence[Tensor], decoded: Tensor | None) -> Tensor:
        logits: Tensor = self.linear(features[-1].flatten(2).mean(2))
        return logits


def dense_output(network: str, outputs: Mapping[str, int], known: Sequence[str] = (*DENSE, "label")) -> str | None:
    """The one output with a value in every pixel; None for a classifier or a network without heads.

    ``SpecError`` for an output that the network cannot give.

    >>> dense_output("unet", {"mask": 2, "label": 3})
    'mask'
    """
    dense = [key for key in outputs if key in DENSE]
    if any(key not in known for key in outputs) or len(dense) > 1:
        keys = " or ".join(f"'{key}'" for key in known if key in DENSE)
        gives = " and ".join([*([f"one of {keys}"] if keys else []), *(["'label'"] if "label" in known else [])])
        raise SpecError(
            f"network {network}: gives {gives}, the task asks for {', '.join(outputs)}; choose another network"
        )
    return dense[0] if dense else None


def has_decoder(outputs: Mapping[str, int]) -> bool:
    """Whether a network that can have a decoder is built with it.

    It is for an output in every pixel, and for no outputs at all: a network without heads, made to
    be pre-trained, has all that later heads may need.

    >>> has_decoder({"label": 3}), has_decoder({"mask": 2}), has_decoder({})
    (False, True, True)
    """
    return not outputs or any(key in DENSE for key in outputs)


def heads_of(outputs: Mapping[str, int], channels: int, dense: nn.Module | None) -> dict[str, nn.Module]:
    """A head for each output: ``dense`` for the one in every pixel, a linear layer on the last
    feature's ``channels`` for the label."""
    heads = {key: LabelHead(channels, count) if key == "label" else dense for key, count in outputs.items()}
    return {key: head for key, head in heads.items() if head is not None}


def renamed(whole: nn.Module, network: nn.Module, prefix: str = "") -> dict[str, str]:
    """Name of each tensor in the library's own module -> its name in a network made of the same
    tensors."""
    ours = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
    theirs = whole.state_dict(keep_vars=True)
    return {prefix + name: ours[id(tensor)] for name, tensor in theirs.items() if id(tensor) in ours}


def check_bottom(network: str, image: Tensor, multiple: int) -> None:
    """Raise ``SpecError`` when a single voxel is left at the bottom, where instance normalisation
    has nothing to normalise."""
    if all(size <= multiple for size in image.shape[2:]):
        size = "x".join(map(str, image.shape[2:]))
        raise SpecError(
            f"network {network}: an image of {size} leaves one voxel at the bottom, too few for instance "
            "normalisation; "
            f"give it more than {multiple} along an axis (preprocessing: size, or patch)"
        )


def upsampled(values: Tensor, scale: int) -> Tensor:
    """(B, C, H, W) -> (B, C, scale * H, scale * W), bilinear."""
    return F.interpolate(values, scale_factor=scale, mode="bilinear", align_corners=False)
