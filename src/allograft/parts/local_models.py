"""Models that were each trained on a task of their own, as vectors of weights, and how much each
weighs (Farshad et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

To = Literal["meta", "others", "mean"]


def squared_distances(meta: Tensor, local: Tensor, to: To = "meta") -> Tensor:
    """Squared Euclidean distance of each local model: (P,), (L, P) -> (L,).

    Args:
        to: ``meta``: the meta-model (equation 2). ``others``: the average of the other local models
            (the paper's introduction). ``mean``: the average of all of them (released code).
    """
    count = len(local)
    if to == "others" and count > 1:
        return (local - (local.sum(0) - local) / (count - 1)).square().sum(1)
    centre = meta if to == "meta" else local.mean(0)
    return (local - centre).square().sum(1)


def inverse_distance_weights(meta: Tensor, local: Tensor, *, to: To = "meta") -> Tensor:
    """Weights of local models, 1 / squared distance, normalised to 1 (equation 2): (P,), (L, P) ->
    (L,).

    A model at no distance takes all the weight; several share it. The paper sums the squares over i
    = 1..L, which is read as all P weights.

    >>> inverse_distance_weights(torch.zeros(1), torch.tensor([[1.0], [2.0]])).tolist()
    [0.800000011920929, 0.20000000298023224]
    """
    distance = squared_distances(meta, local, to)
    closest = distance == 0
    raw = closest.to(distance.dtype) if bool(closest.any()) else distance.min() / distance
    return raw / raw.sum()


def released_weights(meta: Tensor, local: Tensor, *, to: To = "meta") -> Tensor:
    """What the released code multiplies each local model by: w_l = (1 - d_l / sum d), normalised,
    times the weights of all models after it, since its loop weighs the running sum: (L,).

    The sum is far below 1, and depends on the order of the tasks.
    """
    distance = squared_distances(meta, local, to)
    share = 1 - distance / distance.sum() if bool(distance.sum() > 0) else torch.ones_like(distance)
    weights = share / share.sum() if bool(share.sum() > 0) else torch.ones_like(share)
    return weights.flip(0).cumprod(0).flip(0)


@dataclass
class Locals:
    """The local models of the present meta-epoch, as vectors; kept and restored with the
    training."""

    models: list[Tensor] = field(default_factory=list)

    def state_dict(self) -> dict[str, Tensor]:
        """By number."""
        return {str(number): model.clone() for number, model in enumerate(self.models)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """As ``state_dict`` gave them."""
        self.models = [state[str(number)] for number in range(len(state))]
