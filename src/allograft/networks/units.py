"""Blocks of the residual U-Net (Kerfoot et al. 2019), as MONAI has them, made of torch alone:
importing MONAI's takes longer than a prediction.

Parts, their names, the order in which weights are drawn, and every number are MONAI's; tests
compare them bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from allograft.errors import SpecError

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[str, dict[int, type[nn.Module]]] = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}


@dataclass(frozen=True)
class Style:
    """What all blocks of a network share. ``dims``: 2 or 3; ``norm``: "instance" or "batch"."""

    dims: int
    norm: str
    dropout: float

    def __post_init__(self) -> None:
        if self.dims not in CONVOLUTIONS or self.norm not in NORMS:
            raise SpecError(
                f"network: unet: found {self.dims} dimensions and norm '{self.norm}'; expected 2 or 3, and "
                f"{', '.join(NORMS)} or group"
            )

    def adn(self, channels: int) -> nn.Sequential:
        """Normalisation N, dropout D, activation A, under these names."""
        block = nn.Sequential()
        block.add_module("N", NORMS[self.norm][self.dims](channels))
        block.add_module("D", nn.Dropout(self.dropout))
        block.add_module("A", nn.PReLU())
        return block

    def convolution(
        self, channels: tuple[int, int], stride: int = 1, *, bare: bool = False, up: bool = False
    ) -> nn.Sequential:
        """A convolution ``conv`` of 3 voxels, from the first number of channels to the second, and
        ``adn`` behind it.

        Args:
            bare: without what follows the convolution.
            up: a transposed one, which makes the image ``stride`` times larger.
        """
        block = nn.Sequential()
        if up:
            block.add_module("conv", TRANSPOSED[self.dims](*channels, 3, stride, 1, output_padding=stride - 1))
        else:
            block.add_module("conv", CONVOLUTIONS[self.dims](*channels, 3, stride, 1))
        if not bare:
            block.add_module("adn", self.adn(channels[1]))
        return block


class ResidualUnit(nn.Module):
    """``units`` convolutions, and a shortcut: the identity where that fits, else a convolution of 1
    voxel, or of 3 with the stride.

    Args:
        bare: the last convolution stands without what follows one.
    """

    def __init__(
        self, style: Style, channels: tuple[int, int], stride: int = 1, *, units: int, bare: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        self.residual: nn.Module = nn.Identity()
        given, wanted = channels
        for number in range(units):
            begin = (given, stride) if number == 0 else (wanted, 1)
            last = bare and number == units - 1
            self.conv.add_module(f"unit{number}", style.convolution((begin[0], wanted), begin[1], bare=last))
        if stride != 1:
            self.residual = CONVOLUTIONS[style.dims](given, wanted, 3, stride, 1)
        elif given != wanted:
            self.residual = CONVOLUTIONS[style.dims](given, wanted, 1)

    def forward(self, image: Tensor) -> Tensor:
        shortcut: Tensor = self.residual(image)
        made: Tensor = self.conv(image)
        return made + shortcut


def down_block(style: Style, channels: tuple[int, int], stride: int, units: int) -> nn.Module:
    """From one level of a U-Net to the next coarser one; ``units`` 0 = a plain convolution."""
    if units:
        return ResidualUnit(style, channels, stride, units=units)
    return style.convolution(channels, stride)


def up_block(style: Style, channels: tuple[int, int], stride: int, units: int, *, last: bool) -> nn.Module:
    """Back to the next finer level; the ``last`` one ends in a bare convolution, the logits."""
    up = style.convolution(channels, stride, up=True, bare=last and not units)
    if not units:
        return up
    return nn.Sequential(up, ResidualUnit(style, (channels[1], channels[1]), units=1, bare=last))


@dataclass(frozen=True)
class Levels:
    """The blocks of a U-Net. ``downs``: finest first; ``ups``: from the bottom upwards."""

    downs: list[nn.Module]
    ups: list[nn.Module]
    bottom: nn.Module

    def named(self) -> dict[str, nn.Module]:
        """MONAI's name of each block -> the block."""
        names: dict[str, nn.Module] = {}
        inside = "model"
        for down, up in zip(self.downs, reversed(self.ups), strict=True):
            names |= {f"{inside}.0": down, f"{inside}.2": up}
            inside += ".1.submodule"
        return {**names, inside: self.bottom}


def levels(
    style: Style, ends: tuple[int, int], channels: tuple[int, ...], strides: tuple[int, ...], units: int
) -> Levels:
    """All blocks of a U-Net, drawn from the bottom upwards.

    Args:
        ends: channels of the image and of the result.
        channels: of each level, finest first.
        strides: between levels.
        units: convolutions with a shortcut a level; 0 for plain convolutions.
    """
    bottom = down_block(style, (channels[-2], channels[-1]), 1, units)
    downs: list[nn.Module] = []
    ups: list[nn.Module] = []
    for level in reversed(range(len(strides))):
        own, below = channels[level], channels[level + 1] if level == len(strides) - 1 else channels[level]
        given, wanted = ends if level == 0 else (channels[level - 1], channels[level - 1])
        downs.insert(0, down_block(style, (given, own), strides[level], units))
        ups.append(up_block(style, (own + below, wanted), strides[level], units, last=level == 0))
    return Levels(downs, ups, bottom)
