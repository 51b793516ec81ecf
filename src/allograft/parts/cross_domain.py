"""Images of other data sets in the training on one: sure predictions there, and features that do
not tell them apart (Dawoud et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort.orders import Item, Key, Order
from allograft.networks import AnyNetwork, Network
from allograft.seeds import Seeds
from allograft.step import Objective


def foreground_entropy(logits: Tensor) -> Tensor:
    """Mean over pixels of -p log p of the foreground: (B, 2, *spatial) -> a scalar.

    >>> round(foreground_entropy(torch.zeros(1, 2, 3)).item(), 4)  # log(2) / 2
    0.3466
    """
    logit = logits[:, 1] - logits[:, 0]
    return -(logit.sigmoid() * F.logsigmoid(logit)).mean()


def feature_gap(network: Network, image: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of two data sets' mean features at the bottom of the encoder: a
    scalar. Means over images and pixels, since the two may differ in number and size; the released
    code compares pixel by pixel."""
    means = [network.encoder(images)[-1].flatten(2).mean((0, 2)) for images in (image, other)]
    return F.mse_loss(*means)


@dataclass(frozen=True)
class CrossDomain:
    """An objective, and terms of the images of two other data sets, whose labels are not looked at.

    Args:
        inner: the supervised loss.
        unsure, paired: images of other data sets, for the entropy and for the features.
        entropy, distillation: factors of the two terms; one of 0 is left out.
    """

    inner: Objective
    unsure: Tensor
    paired: Tensor
    entropy: float
    distillation: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The inner terms, ``entropy`` and ``distillation``."""
        terms = dict(self.inner(network, batch))
        if self.entropy:
            terms["entropy"] = self.entropy * foreground_entropy(network(self.unsure)["mask"])
        if self.distillation:
            assert isinstance(network, Network)
            terms["distillation"] = self.distillation * feature_gap(network, batch.image, self.paired)
        return terms


@dataclass(frozen=True)
class Companions:
    """Two tasks for each task, of other data sets than its own, each drawn evenly: step 2n and 2n +
    1 go with task n.

    Args:
        tasks: the order of the tasks; the cohort of their first item is their data set.
        groups: the items of each data set; at least two have some.
        shots: items a task, drawn with replacement where a data set has fewer.
        seeds: the place of this order's draws.
    """

    tasks: Order
    groups: tuple[Sequence[Item], ...]
    shots: int
    seeds: Seeds

    def __call__(self, step: int) -> list[Key]:
        own = self.tasks(step // 2)[0][0]
        others = [group for number, group in enumerate(self.groups) if group and number != own]
        rng = self.seeds.rng("companion", step)
        group = others[int(torch.randint(len(others), (), generator=rng))]
        places = torch.randint(len(group), (self.shots,), generator=rng).tolist()
        return [(*group[rank], step * self.shots + number) for number, rank in enumerate(places)]
