"""Tent: the scale and shift of every normalisation are tuned until predictions on target images are
sure (Wang et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.entropy import check_probabilities, mean_entropies
from allograft.parts.features import images_in_order
from allograft.parts.target_statistics import adapt_statistics
from allograft.predictor import Direct, Prediction
from allograft.predictor.direct import padded
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.train import train


@dataclass(frozen=True)
class Tent:
    """Minimise the entropy of predictions on target images by the scale and shift of the
    normalisation layers alone, each batch normalised by its own statistics.

    Labels and source images are not used. Of the paper's two readings:

    - ``online``: one update a batch, in one pass over the target. The paper updates on the test
      images as they come, so that an answer depends on those before it. Here the pass is over the
      target's TRAINING images; then the network is fixed, with batch statistics of all of them, and
      a test image has one answer, whatever its batch or order.
    - ``episodic``: each test image alone, from the same start, ``iterations`` updates, then
      forgotten: the paper's setting for segmentation. Nothing of the target is seen before. It
      takes as many passes with gradients an image (of a scan cut into slices: a slice), and sees
      the middle alone of images that ``preprocessing.size`` cuts.

    The entropy is the mean over pixels and images, in nats; pixels outside an image's region do not
    count in training, and all count at test time, when no region is known. Adam with betas 0.9 and
    0.999 and without weight decay, whatever the study's optimizer. Images are complete, or crops
    where the study has a ``patch``, and not augmented. Where we differ: dropout is off; layers
    without batch statistics (group, layer and instance normalisation) are tuned too, where they
    have a scale and a shift.

    Args:
        mode: online or episodic.
        lr: of Adam. 1e-3 is the paper's for all but ImageNet.
        epochs: passes over the target's training images (online); more than one is the paper's
            offline reading.
        iterations: updates an image (episodic).
        first: what is adapted.
    """

    mode: Literal["online", "episodic"] = "online"
    lr: Annotated[float, Gt(0)] = 1e-3
    epochs: Annotated[int, Ge(1)] = 1
    iterations: Annotated[int, Ge(1)] = 10
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="wang2021tent",
        authors="Wang, D. and Shelhamer, E. and Liu, S. and Olshausen, B. and Darrell, T.",
        title="Tent: Fully Test-Time Adaptation by Entropy Minimization",
        venue="International Conference on Learning Representations",
        year=2021,
    )
    needs_batch_norm: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """Target images; none where each test image is adapted to by itself."""
        return Needs(target_images=self.mode == "online")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without masks or classes, or a network whose
        normalisations have nothing to tune."""
        check_probabilities(context.supervised_task, "tent")
        affine_parameters(network)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Section 3 of the paper."""
        self.check(scenario, network, context)
        network = (yield from context.run(self.first, scenario, network)).network
        several = context.supervised_task.coding.several
        if self.mode == "episodic":
            yield Stage("adapted", TentPredictor(network, self.iterations, self.lr, several), scenario.sites)
            return Carry(network)
        batches = context.loader(scenario.target, "target", augmentation="none")
        optimizer = torch.optim.Adam(affine_parameters(network), lr=self.lr)
        with by_own_statistics(network):
            step = context.gradient_step(network, Entropy(several), optimizer)
            train(step, batches, steps=self.epochs * batches.epoch, context=context)
        if has_batch_statistics(network):
            images = (image.to(context.fabric.device) for image in images_in_order(scenario.target, context.batch_size))
            adapt_statistics(network, images, "tent")
        yield Stage("adapted", Direct(network), scenario.sites)
        return Carry(network)


@dataclass(frozen=True)
class Entropy:
    """The entropy of the predictions for a batch, as an objective (equation 1)."""

    several: bool

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        entropies = mean_entropies(padded(network, batch.image), batch, several=self.several)
        return {f"entropy/{name}": value for name, value in entropies.items()}


def affine_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of all normalisation layers, in the network's order.

    Raises:
        SpecError: none has any.

    Example:
        >>> [len(p) for p in affine_parameters(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))]
        [2, 2]
    """
    kinds = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    if not parameters:
        raise SpecError(
            "tent: no normalisation of the network has a scale and a shift to tune; choose a network that has, e.g. "
            "network: {unet: {norm: batch}}"
        )
    return parameters


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether a batch normalisation keeps running statistics."""
    return any(isinstance(layer, _BatchNorm) and layer.running_mean is not None for layer in network.modules())


@contextmanager
def by_own_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, each batch normalisation takes the statistics of its batch, gradients reach scales
    and shifts alone, and all else is as in evaluation; afterwards modes and gradients are as
    before."""
    modes = [(module, module.training) for module in network.modules()]
    wanted = [(p, p.requires_grad) for p in network.parameters()]
    tuned = {id(p) for p in affine_parameters(network)}
    network.eval()
    for module, _ in modes:
        if isinstance(module, _BatchNorm):
            module.train()
    for parameter, _ in wanted:
        parameter.requires_grad_(id(parameter) in tuned)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, required in wanted:
            parameter.requires_grad_(required)


@dataclass(frozen=True)
class TentPredictor:
    """Each image by a copy of the network that was tuned on it alone: episodic Tent.

    Args:
        network: the start for every image; it stays as it is.
        iterations: updates an image.
        lr: of Adam.
        several: whether the classes of a label are questions of their own (multi-label).
    """

    sees_whole_images: ClassVar[bool] = True  # statistics and entropy are those of all their pixels

    network: AnyNetwork
    iterations: int
    lr: float
    several: bool = False

    def __call__(self, batch: Batch) -> Prediction:
        """Predictions (B, ...) that do not depend on which images are beside each other.

        Raises:
            SpecError: an image that leaves a single value a channel, which cannot be normalised.
        """
        tuned = copy.deepcopy(self.network)
        start = {name: value.clone() for name, value in tuned.state_dict().items()}
        outputs = []
        with torch.enable_grad(), by_own_statistics(tuned):
            for number in range(len(batch)):
                tuned.load_state_dict(start)
                outputs.append(self._alone(tuned, batch.image[number : number + 1]))
        return {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}

    def _alone(self, network: AnyNetwork, image: Tensor) -> dict[str, Tensor]:
        """The outputs for one image (1, C, *spatial) after ``iterations`` updates on it."""
        optimizer = torch.optim.Adam(affine_parameters(network), lr=self.lr)
        objective, alone = Entropy(self.several), Batch(image, torch.tensor([-1]), ("",))
        try:
            for _ in range(self.iterations):
                optimizer.zero_grad(set_to_none=True)
                torch.stack([*objective(network, alone).values()]).sum().backward()
                optimizer.step()
            with torch.no_grad():
                return padded(network, image)
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 "):
                raise
            raise SpecError(
                "tent: one image leaves one value a channel in the network, too few to normalise; make images larger "
                "(preprocessing.size), or use mode: online"
            ) from error
