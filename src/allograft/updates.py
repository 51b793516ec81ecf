"""How far each kind of layer moves in a training: the mean update magnitude, by group of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.figure import Lines
from allograft.networks import AnyNetwork, Network
from allograft.step import Step, Terms

GROUPS = ("context", "transpose", "localization", "segmentation")


def layer_groups(network: AnyNetwork) -> dict[str, list[Tensor]]:
    """The kernel of each layer of a network by the layer's kind, named as in nnU-Net.

    ``context``: the encoder. ``transpose``: transposed convolutions after it. ``localization``:
    what else the decoder has. ``segmentation``: what else the heads have. Kernels are the weights
    of convolutions and linear layers; biases and the scales of normalisations do not count. A group
    without a layer is absent.

    Raises:
        SpecError: the network is one opaque module.
    """
    if not isinstance(network, Network):
        raise SpecError(
            "show_updates: the network is one opaque module without an encoder; choose a network of our table, or "
            "leave it out"
        )
    grouped: dict[str, list[Tensor]] = {name: [] for name in GROUPS}
    for part, module in network.parts():
        for layer in module.modules():
            if isinstance(layer, (_ConvNd, nn.Linear)):
                grouped[_group(part, layer)].append(layer.weight)
    return {name: kernels for name, kernels in grouped.items() if kernels}


def _group(part: str, layer: nn.Module) -> str:
    if part == "encoder":
        return "context"
    if isinstance(layer, _ConvTransposeNd):
        return "transpose"
    return "segmentation" if part == "heads" else "localization"


@torch.no_grad()
def mean_magnitude(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """The mean over layers of mean |after - before| over the elements of a layer; a scalar.

    >>> float(mean_magnitude([torch.zeros(2), torch.zeros(4)], [torch.tensor([1.0, -3.0]), torch.ones(4)]))
    1.5
    """
    return torch.stack([(new - old).abs().mean() for old, new in zip(before, after, strict=True)]).mean()


@dataclass
class Measured:
    """Group -> its mean update magnitude at each measured step; it is kept and restored with the
    training."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, magnitudes: Mapping[str, Tensor]) -> None:
        """Note one step's."""
        read = torch.stack([*magnitudes.values()]).tolist()  # one wait for the device
        for name, value in zip(magnitudes, read, strict=True):
            self.values.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, list[float]]:
        """The values."""
        return {name: list(values) for name, values in self.values.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """As ``state_dict`` gave them."""
        self.values = {name: list(values) for name, values in state.items()}


@dataclass
class UpdateMagnitudes:
    """A step that also measures, at every k-th update, how far the kernels of each group of layers
    move; the training stays as it is.

    Sheikh et al. 2022, fig. 2: with SGD the layers of a U-Net train at different speeds, with
    AvaGrad at comparable ones. A measured step holds a second copy of the kernels.

    Args:
        inner: the step.
        network: what it trains.
        every: k, from 1 on.
    """

    inner: Step
    network: AnyNetwork
    every: int = 1
    number: int = 0
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        layer_groups(self.network)  # refuses before the first step

    def __call__(self, batch: Batch) -> Terms:
        due = self.number % self.every == 0
        self.number += 1
        if not due:
            return self.inner(batch)
        groups = layer_groups(self.network)
        before = {name: [kernel.detach().clone() for kernel in kernels] for name, kernels in groups.items()}
        terms = self.inner(batch)
        self.measured.add({name: mean_magnitude(before[name], kernels) for name, kernels in groups.items()})
        return terms

    def figure(self) -> Lines:
        """A curve a group; the title says how fast the slowest is beside the fastest, over all
        measured steps."""
        curves = {name: tuple(values) for name, values in self.measured.values.items()}
        count = max(map(len, curves.values()), default=0)
        steps = tuple(float(1 + number * self.every) for number in range(count))
        return Lines(f"mean update magnitude by layer group{_pace(curves)}", steps, curves, "step", "mean |update|")


def _pace(curves: Mapping[str, Sequence[float]]) -> str:
    means = {name: sum(values) / len(values) for name, values in curves.items() if values}
    if not means or max(means.values()) == 0:
        return "; nothing moved"
    slowest, fastest = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    return f"; slowest/fastest {means[slowest] / means[fastest]:.2g} ({slowest}/{fastest})"
