"""Nearest neighbours by cosine similarity, and an image made of theirs."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError

Negative = Literal["released", "clamp"]


def synthesise(query: Tensor, keys: Tensor, images: Tensor, k: int, *, negative: Negative = "released") -> Tensor:
    """The weighted mean of the images whose keys are most similar to a query (Chen and Niethammer
    2023, eq. 4).

    ``w_i = s_i / sum_j s_j`` over the k nearest, s the cosine similarity. A negative similarity has
    a negative weight, in the paper's formula and in the released code; ``negative="clamp"`` takes
    it as 0. Pixels that are nan in some of the images are the mean over the others, and nan where
    no image has a value.

    Args:
        query: (B, D), of any length.
        keys: (N, D).
        images: (N, *shape), all on one grid.
        k: from 1 to N.

    Returns:
        (B, *shape).

    Raises:
        SpecError: an empty database, k out of range, a vector of length 0, or weights that add up
            to 0.

    Example:
        >>> keys, images = torch.eye(2), torch.tensor([[1.0], [3.0]])
        >>> synthesise(torch.tensor([[1.0, 1.0]]), keys, images, 2)
        tensor([[2.]])
    """
    similarity, index = nearest(normalised(query, "query"), normalised(keys, "key"), k)
    return blended(similarity, images[index], negative)


def normalised(vectors: Tensor, name: str) -> Tensor:
    """(N, D) of length 1. ``SpecError`` for a vector without a direction."""
    length = vectors.norm(dim=1)
    if bool((~(length > 0)).any()):
        wrong = int((~(length > 0)).nonzero()[0])
        raise SpecError(
            f"{name} {wrong} has length {float(length[wrong]):g}, so it is similar to nothing; leave it out"
        )
    return vectors / length[:, None]


def nearest(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarity and index of the k most similar keys, both (B, k), the nearest first; vectors of
    length 1."""
    if not 1 <= k <= len(keys):
        raise SpecError(f"k is {k}, the database has {len(keys)} images; expected from 1 to as many as there are")
    similarity, index = (query @ keys.t()).topk(k, 1)
    return similarity, index


def weights_of(similarity: Tensor, negative: Negative = "released") -> Tensor:
    """(B, k) similarities -> weights before they are divided by their sum."""
    return similarity.clamp_min(0) if negative == "clamp" else similarity


def blended(similarity: Tensor, images: Tensor, negative: Negative = "released") -> Tensor:
    """(B, k) and (B, k, *shape) -> (B, *shape), as ``synthesise`` says."""
    weight = weights_of(similarity, negative).to(torch.promote_types(images.dtype, torch.float32))
    total = weight.sum(1)
    if bool((total == 0).any()):
        wrong = int((total == 0).nonzero()[0])
        raise SpecError(
            f"the weights of the neighbours of query {wrong} add up to 0; raise k, or set negative: released"
        )
    flat = images.flatten(2).to(weight.dtype)
    mixed = torch.bmm((weight / total[:, None])[:, None], flat)[:, 0]
    if bool(mixed.isnan().any()) and bool(flat.isnan().any()):  # the sum says soon that no image has any
        counts = (~flat.isnan()).to(weight.dtype)
        mixed = torch.bmm(weight[:, None], flat.nan_to_num(0.0))[:, 0] / torch.bmm(weight[:, None], counts)[:, 0]
    return mixed.unflatten(1, images.shape[2:]) if images.ndim > 2 else mixed[:, 0]


def triplet_loss(
    x: Tensor, y: Tensor, margin: float, *, subject: Tensor | tuple[str, ...] | list[str] | None = None
) -> Tensor:
    """``sum_a sum_{b != a} max(0, margin + s(x_a, y_b) - s(x_a, y_a))``, s the cosine similarity
    (eqs. 2 and 3); in one direction, from x to y.

    The released code sums over b = a too, which adds N times the margin and no gradient.

    Args:
        x, y: (N, D); rows belong together.
        subject: N names or numbers; rows of one subject are no negatives of one another (eq. 2).
            None = each row is of another subject (eq. 3).

    Returns:
        (), a sum and no mean.

    Example:
        >>> x = torch.eye(2)
        >>> triplet_loss(x, x, 0.1).item(), round(triplet_loss(x, x.flip(0), 0.1).item(), 6)
        (0.0, 2.2)
    """
    similarity = F.normalize(x, dim=1) @ F.normalize(y, dim=1).t()
    if subject is None:
        numbers = torch.arange(len(x))
    elif isinstance(subject, Tensor):
        numbers = subject
    else:
        numbers = torch.tensor([list(dict.fromkeys(subject)).index(name) for name in subject])
    other = (numbers[:, None] != numbers[None]).to(similarity.device)
    gap = (margin + similarity - similarity.diagonal()[:, None]).clamp_min(0)
    return gap.where(other, 0.0).sum()


def recall(query: Tensor, keys: Tensor, counts: tuple[int, ...] = (1, 5, 10, 20)) -> dict[int, float]:
    """The share of queries whose own key, in the same row, is among the k nearest, for each k; ties
    count against.

    >>> recall(torch.eye(3), torch.eye(3), (1, 2))
    {1: 1.0, 2: 1.0}
    """
    similarity = F.normalize(query, dim=1) @ F.normalize(keys, dim=1).t()
    rank = (similarity >= similarity.diagonal()[:, None]).sum(1)
    return {k: float((rank <= k).double().mean()) for k in counts}
