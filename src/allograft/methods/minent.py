"""MinEnt: train on source labels while predictions on target images are made surer (Vu et al.
2019)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.entropy import check_probabilities, mean_entropies
from allograft.parts.paired_batches import adapt_in_pairs, halves
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.tasks import Task


@dataclass(frozen=True)
class SourceAndEntropy:
    """The task's loss on the source + ``weight`` times the entropy of the target's predictions, as
    an objective of ``PairedBatches`` (equation 4)."""

    task: Task
    weight: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        source, target = halves(batch)
        terms = dict(self.task.objective(network, source))
        entropies = mean_entropies(network(target.image), target, several=self.task.coding.several, share=True)
        return {**terms, **{f"entropy/{name}": self.weight * value for name, value in entropies.items()}}


@dataclass(frozen=True)
class MinEnt:
    """Minimise the task's loss on the source and the entropy of the predictions for target images
    (the direct form of ADVENT).

    The entropy of a pixel is ``- sum_c p_c log p_c / log C``, from 0 to 1 (equation 2), averaged
    over pixels and images. The paper sums it over pixels, as it does the cross-entropy on the
    source; here both are means, which leaves their ratio as it is. Pixels outside an image's region
    do not count. A class of a whole image is treated as one pixel; of a multi-label task each class
    has an entropy of its own, divided by log 2. Each step sees ``batch_size`` source cases and as
    many target images.

    Where we differ: one segmentation, where the paper adds a second one from an inner feature
    (weight 2e-4); the network is trained as the study says (theirs: SGD 2.5e-4, momentum 0.9,
    weight decay 5e-4, polynomial decay); the paper's prior on class ratios, which it uses for its
    smaller network alone, is not built.

    Args:
        weight: lambda_ent; at 0 the target still enters batch statistics, so that such a row shows
            what the entropy adds. 0.001 is the paper's for all its experiments.
        first: what the adaptation starts from; the paper's start is a network with pre-trained
            encoder alone (``first: start``).
    """

    weight: Annotated[float, Ge(0)] = 1e-3
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="vu2019advent",
        authors="Vu, T.-H. and Jain, H. and Bucher, M. and Cord, M. and Perez, P.",
        title="ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation",
        venue="Conference on Computer Vision and Pattern Recognition",
        year=2019,
        doi="10.1109/CVPR.2019.00262",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without masks or classes."""
        check_probabilities(context.supervised_task, "minent")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates; an epoch of ``budget.adapt_epochs`` is one pass over the
        source."""
        self.check(scenario, network, context)
        objective = SourceAndEntropy(context.supervised_task, self.weight)
        return (yield from adapt_in_pairs(self.first, objective, scenario, network, context))
