"""Seg-JDOT: features and segmentations of the target are moved onto the source's by optimal
transport (Ackaouy et al. 2020)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError, require_extra
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, Network
from allograft.parts.features import captured
from allograft.parts.paired_batches import adapt_in_pairs, gathered, halves, last_feature, of_all, require_encoder
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.tasks import Task


def feature_distance(source: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distances ||g(x_i) - g(x_j)||^2: (S, D), (T, D) -> (S, T)."""
    exact = "donot_use_mm_for_euclid_dist"  # a^2 + b^2 - 2ab cancels where the two meet
    return torch.cdist(source, target, compute_mode=exact).square()


def label_loss(mask: Tensor, logits: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of every target prediction to every source segmentation, mean over the source's
    pixels that count.

    Args:
        mask: (S, *spatial) int64 source labels.
        logits: (T, K, *spatial) target predictions.
        counts: (S, *spatial) bool; a source image without any costs 0.

    Returns:
        (S, T).
    """
    weight = counts.to(logits.dtype)
    truth = F.one_hot(mask.where(counts, 0), logits.shape[1]).movedim(-1, 1) * weight[:, None]
    both = truth.flatten(1) @ logits.log_softmax(1).flatten(1).T
    return -both / weight.flatten(1).sum(1, keepdim=True).clamp_min(1)


def coupling(cost: Tensor) -> Tensor:
    """The plan gamma >= 0 of least total cost whose rows each sum to 1 / S and whose columns to 1 /
    T: (S, T) -> (S, T), detached."""
    require_extra("ot", "ot")
    import ot

    costs = cost.detach().double().cpu().numpy()
    plan = ot.emd(ot.unif(costs.shape[0]), ot.unif(costs.shape[1]), costs)
    return torch.as_tensor(plan, dtype=cost.dtype, device=cost.device)


@dataclass
class TransportObjective:
    """The task's loss on the source, and
    ``sum_ij gamma_ij (alpha ||g(x_i) - g(x_j)||^2 + label_weight L(y_i, f(x_j)))``.

    The plan gamma is found for the batches of all processes together, and held fixed while
    gradients are taken; they flow through the features of both sides and through the target's
    predictions.
    """

    task: Task
    alpha: float
    label_weight: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        source, target = halves(batch)
        if self.alpha == self.label_weight == 0:
            return dict(self.task.objective(network, source))
        assert isinstance(network, Network)
        with captured(network.encoder) as seen:
            terms = dict(self.task.loss(network(source.image), source))
            logits = network(target.image)["mask"]
        features, others = (gathered(last_feature(each).float()) for each in seen)
        mask = source.labels["mask"]
        assert isinstance(mask, Tensor)
        counts = mask >= 0 if source.region is None else (mask >= 0) & source.region
        distances = self.alpha * feature_distance(features, others)
        labels = self.label_weight * label_loss(gathered(mask)[:, 0], gathered(logits.float()), gathered(counts)[:, 0])
        plan = coupling(distances + labels)
        return {
            **terms,
            "feature_transport": of_all((plan * distances).sum()),
            "label_transport": of_all((plan * labels).sum()),
        }


@dataclass(frozen=True)
class SegJdot:
    """Train on source labels while optimal transport couples each batch's source and target images
    (Seg-JDOT).

    A sample is an image of the batch, or a crop of it where the study trains on patches, as the
    paper does. Source image i and target image j cost alpha times the squared distance of their
    bottleneck features plus the cross-entropy of j's prediction to i's labels; the plan of least
    cost is computed again at every step (Damodaran et al. 2018, algorithm 1), and its total cost is
    minimised with the segmentation loss. Each step sees ``batch_size`` source cases and as many
    target images. Needs the extra ``ot``.

    Args:
        alpha: weight of the feature distance.
        label_weight: weight of the label loss; with both 0 nothing but the source's own loss is
            left.
        first: what the adaptation starts from.
    """

    alpha: Annotated[float, Ge(0)] = 1e-3
    label_weight: Annotated[float, Ge(0)] = 1.0
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="ackaouy2020unsupervised",
        authors="Ackaouy, A. and Courty, N. and Vallee, E. and Commowick, O. and Barillot, C. and Galassi, F.",
        title="Unsupervised Domain Adaptation With Optimal Transport in Multi-Site Segmentation of Multiple Sclerosis "
        "Lesions"
        " From MRI Data",
        venue="Frontiers in Computational Neuroscience",
        year=2020,
        doi="10.3389/fncom.2020.00019",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``MissingExtraError`` without POT, and ``SpecError`` for a network without an
        encoder, or a task without masks."""
        require_extra("ot", "ot")
        require_encoder(network, "segjdot")
        if "mask" not in context.supervised_task.outputs:
            raise SpecError("segjdot: compares segmentations, and the task has none; use it with task: segmentation")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates; an epoch of ``budget.adapt_epochs`` is one pass over the
        source."""
        self.check(scenario, network, context)
        objective = TransportObjective(context.supervised_task, self.alpha, self.label_weight)
        return (yield from adapt_in_pairs(self.first, objective, scenario, network, context))
