"""The loss of contrastive learning: two views of an image are alike, and unlike those of others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020; Mamalakis et al. 2024, eq. 7).

    With sim the cosine, z the 2N embeddings of N images in two views, and j the other view of i::

        l_ij = -log(exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t))

    averaged over all 2N ordered pairs, (i, j) and (j, i).

    Args:
        first: (N, D), embeddings of one view of each image.
        second: (N, D), of the other view.
        temperature: t, above 0.

    Returns:
        (); log(2N - 1) where all embeddings are alike.

    Raises:
        SpecError: shapes that differ, a temperature that is not above 0, or fewer than two images.

    Example:
        >>> same = torch.ones(2, 3)
        >>> nt_xent(same, same, 0.5)  # log 3
        tensor(1.0986)
    """
    if first.shape != second.shape or first.ndim != 2:
        raise SpecError(
            f"nt_xent: the views have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected (N, D) twice"
        )
    if not temperature > 0:
        raise SpecError(f"nt_xent: temperature is {temperature}; expected a number above 0")
    count = len(first)
    if count < 2:
        raise SpecError("nt_xent: a batch of one image has no negatives; raise budget.batch_size to 2 or more")
    views = F.normalize(torch.cat([first, second]), dim=1)
    logits = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(2 * count, device=views.device).roll(count)
    return F.cross_entropy(logits, other)
