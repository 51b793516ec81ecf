"""Deep CORAL: features of the target are given the covariance of the source's (Sun and Saenko
2016)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, Network
from allograft.parts.features import captured
from allograft.parts.paired_batches import adapt_in_pairs, gathered, halves, of_all, require_encoder
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.tasks import Task


def covariance(features: Tensor) -> Tensor:
    """Of n samples, divided by n - 1 (equations 2 and 3): (n, d) -> (d, d).

    >>> import torch
    >>> covariance(torch.tensor([[0.0, 0.0], [2.0, 4.0]])).tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """``||C_S - C_T||_F^2 / (4 d^2)``, the squared Frobenius norm of the difference of the
    covariances (equation 1).

    Args:
        source, target: (n, d) and (m, d), n and m at least 2.

    Returns:
        (). The means of the two do not count.

    Example:
        >>> import torch
        >>> coral_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0]])).item()  # (2 - 0)^2 / 4
        1.0
    """
    return (covariance(source) - covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def as_samples(features: Tensor | Sequence[Tensor]) -> Tensor:
    """What an encoder returns -> its last feature, each place of each image as a sample: (B *
    places, C)."""
    last = features if isinstance(features, Tensor) else features[-1]
    return last.flatten(2).movedim(1, 2).flatten(0, 1) if last.ndim > 2 else last


@dataclass(frozen=True)
class SourceAndCoral:
    """The task's loss on the source + ``weight`` times the CORAL loss, as an objective of
    ``PairedBatches`` (equation 6)."""

    task: Task
    weight: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        source, target = halves(batch)
        assert isinstance(network, Network)
        with captured(network.encoder) as seen:
            output, output_target = network(source.image), network(target.image)
        features = [output["label"], output_target["label"]] if compares_logits(self.task) else map(as_samples, seen)
        own, others = (gathered(samples.float()) for samples in features)
        return {**self.task.loss(output, source), "coral": self.weight * of_all(coral_loss(own, others))}


def compares_logits(task: Task) -> bool:
    """Whether the features are the logits of a class, and not places of the encoder's last
    feature."""
    return "label" in task.outputs and "mask" not in task.outputs


@dataclass(frozen=True)
class Coral:
    """Minimise the task's loss on the source and the distance of the covariances of source and
    target features (Deep CORAL).

    What is compared is, for a task whose one answer is a class, its logits: the paper's last fully
    connected layer, d the number of classes. The paper knows no masks: for these it is the
    encoder's last feature (the bottleneck), d its channels, where each place of each image is a
    sample, so that a batch of few images has a covariance too. Each step sees ``batch_size`` source
    cases and as many target images; covariances are those of the batch, over all processes.

    The network is trained as the study says (theirs: SGD 1e-3, momentum 0.9, weight decay 5e-4,
    batches of 128, the new layer ten times faster).

    Args:
        weight: lambda. The paper gives a rule and no number: at the end of training the two losses
            should be roughly the same; compare them in the figure of the losses.
        first: what the adaptation starts from; the paper's start is a network pre-trained on
            ImageNet (``first: start``).
    """

    weight: Annotated[float, Ge(0)] = 1.0
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="sun2016deep",
        authors="Sun, B. and Saenko, K.",
        title="Deep CORAL: Correlation Alignment for Deep Domain Adaptation",
        venue="European Conference on Computer Vision Workshops",
        year=2016,
        doi="10.1007/978-3-319-49409-8_35",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without an encoder, a detector, or a batch of one
        image where its logits are compared."""
        require_encoder(network, "coral")
        if "boxes" in context.supervised_task.outputs:
            raise SpecError("coral: knows masks, classes and images, and the task gives boxes; drop the recipe")
        if compares_logits(context.supervised_task) and context.batch_size < 2:
            raise SpecError("coral: the logits of one image have no covariance; set budget.batch_size to 2 or more")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates; an epoch of ``budget.adapt_epochs`` is one pass over the
        source."""
        self.check(scenario, network, context)
        objective = SourceAndCoral(context.supervised_task, self.weight)
        return (yield from adapt_in_pairs(self.first, objective, scenario, network, context))
