"""PLOP: hold pooled features of every level and of parts of it (Douillard et al. 2021)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.parts.distillation import teacher_of
from allograft.parts.stream import phases, train_stage
from allograft.predictor import Direct, evaluation_mode
from allograft.recipe import Carry, Needs, Paper, Recipe, Scenario, Stage, parse_recipe
from allograft.step import named_state
from allograft.tasks import Task


def local_pod(feature: Tensor, scales: int) -> Tensor:
    """The local POD embedding: profiles along each axis of the whole feature map, of its halves, of
    its quarters (equations 3 and 4).

    At scale s each axis is cut into 2^s parts; of each region and for each axis the mean over all
    other axes. In 2-D these are the paper's width- and height-pooled slices. In 3-D, which the
    paper does not have, a profile along each of three axes.

    Args:
        feature: (B, C, *spatial).
        scales: how many, from 1; a scale with more parts than an axis has pixels is left out.

    Returns:
        (B, N).

    Example:
        >>> local_pod(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 1).tolist()  # rows, then columns
        [[2.0, 6.0, 3.0, 5.0]]
    """
    axes, sizes = tuple(range(2, feature.ndim)), feature.shape[2:]
    profiles = []
    for parts in (2**scale for scale in range(scales) if 2**scale <= min(sizes, default=1)):
        edges = [[size * part // parts for part in range(parts + 1)] for size in sizes]
        for cell in product(range(parts), repeat=len(sizes)):
            cuts = tuple(slice(edge[at], edge[at + 1]) for edge, at in zip(edges, cell, strict=True))
            region = feature[(slice(None), slice(None), *cuts)]
            profiles += [region.mean([other for other in axes if other != axis]).flatten(1) for axis in axes]
    return torch.cat(profiles, 1)


def local_pod_distance(features: Sequence[Tensor], old: Sequence[Tensor], scales: int) -> Tensor:
    """Mean over levels of the squared distance between embeddings, mean over images (equation 5): a
    scalar."""
    apart = [
        (local_pod(new, scales) - local_pod(before, scales)).square().sum(1).mean()
        for new, before in zip(features, old, strict=True)
    ]
    return torch.stack(apart).mean()


@dataclass(frozen=True)
class PooledOutputs:
    """The supervised loss, and how far the features have gone from the last stage's network.

    Args:
        task: gives the supervised loss.
        teacher: the network as it ended on the last stage; None on the first.
        strength, scales: as of ``Plop``.
    """

    task: Task
    teacher: Network | None
    strength: float
    scales: int

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The supervised terms and ``features``; the supervised terms alone where there is no
        teacher."""
        assert isinstance(network, Network)
        features, output = _levels(network, batch.image)
        terms = self.task.loss(output, batch)
        if self.teacher is None or not self.strength:
            return terms
        with evaluation_mode(self.teacher):
            old, _ = _levels(self.teacher, batch.image)
        return {**terms, "features": self.strength * local_pod_distance(features, old, self.scales)}


def _levels(network: Network, image: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Features of every level of the encoder, and the decoded one where there is one; the
    outputs."""
    features = network.encoder(image)
    decoded = None if network.decoder is None else network.decoder(features)
    outputs = {key: head(features, decoded) for key, head in network.heads.items()}
    return [*features, *([] if decoded is None else [decoded])], outputs


@dataclass(frozen=True)
class Plop:
    """Sequential training that holds pooled features of every level to those of the last stage's
    network (PLOP).

    The paper's pseudo-labels are for classes that the background hides, and its adaptive factor for
    the share of new classes; along a stream whose stages share their classes both vanish, and the
    local POD distance is left. Features are those of each level of the encoder and the decoded one.
    Where the released code differs: it squares features before pooling and normalises embeddings;
    the paper's equations, which are followed here, do neither.

    Args:
        strength: lambda of the paper, 0.01; 0 is sequential training.
        scales: 3 in the paper: the whole map, halves and quarters.
    """

    strength: Annotated[float, Ge(0)] = 0.01
    scales: Annotated[int, Ge(1)] = 3

    paper: ClassVar[Paper | None] = Paper(
        key="douillard2021plop",
        authors="Douillard, A. and Chen, Y. and Dapogny, A. and Cord, M.",
        title="PLOP: Learning without Forgetting for Continual Semantic Segmentation",
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        year=2021,
        doi="10.1109/CVPR46437.2021.00403",
    )
    needs: ClassVar[Needs] = Needs(stream=True)

    @property
    def same_as(self) -> Recipe | None:
        """At strength 0 sequential training."""
        return None if self.strength else parse_recipe("sequential")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without levels of features."""
        if not isinstance(network, Network):
            raise SpecError(
                "plop: the network is one opaque module, whose levels cannot be compared; choose a network of our table"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One model, judged after each stage; each stage has the last one's model as its
        teacher."""
        self.check(scenario, network, context)
        for phase in phases(scenario):
            teacher = teacher_of(network) if phase.number else None
            assert teacher is None or isinstance(teacher, Network)
            objective = PooledOutputs(context.supervised_task, teacher, self.strength, self.scales)
            stage = Stage(phase.name, Direct(network), phase.seen)
            step = yield from train_stage(network, phase, context, objective, stage)
            yield stage
        return Carry(network, named_state(step.optimizer, network))
