"""A picture of how class vectors are denoised, as in figure 2 of Yang et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.figure import Points
from allograft.parts.features import images_in_order
from allograft.predictor import evaluation_mode
from allograft.predictor.denoising import DiffMicPredictor

FEWEST, MOST = 10, 150
"""Images that the picture needs, and takes."""


def show_denoising(predictor: DiffMicPredictor, cohorts: Sequence[Cohort], context: Context) -> None:
    """Keep a t-SNE of the denoiser's last hidden layer for training images at four moments, from
    the first step at the left to the last at the right, coloured by class; none for fewer than 10
    images.

    The paper does not say which of its features it shows.
    """
    every = max(1, -(-sum(map(len, cohorts)) // MOST))
    few = [replace(cohort, cases=cohort.cases[::every]) for cohort in cohorts]
    cases = [cohort.cases[case_index] for cohort in few for case_index, _ in cohort.items]
    if len(cases) < FEWEST:
        return
    moments = sorted({predictor.steps - 1, predictor.steps // 2, predictor.steps // 10, 0}, reverse=True)
    kept: dict[int, list[Tensor]] = {left: [] for left in moments}
    with evaluation_mode(predictor.network):
        for images in images_in_order(few, context.batch_size):
            for moment in predictor.path(images.to(context.fabric.device)):
                if moment.feature is not None and moment.left in kept:
                    kept[moment.left].append(moment.feature[:, 0].cpu())
    classes = sorted({str(case.labels["label"]) for case in cases})
    colour = [classes.index(str(case.labels["label"])) for case in cases]
    x: list[float] = []
    y: list[float] = []
    for row, left in enumerate(moments):
        flat = _on_a_plane(torch.cat(kept[left]), context)
        x += (flat[:, 0] + 2.5 * row).tolist()
        y += flat[:, 1].tolist()
    groups = tuple(f"{left} steps left" for left in moments for _ in cases)
    title = "t-SNE of the denoiser's feature of training images, from the first step (left) to the last (right)"
    context.show("denoising", Points(title, tuple(x), tuple(y), groups, tuple(colour * len(moments)), "class"))


def _on_a_plane(features: Tensor, context: Context) -> Tensor:
    """(N, D) -> (N, 2), each axis from -1 to 1."""
    from sklearn.manifold import TSNE

    near, seed = min(30.0, (len(features) - 1) / 3), context.seeds.number("t-SNE") % 2**32
    made = TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(features.float().numpy())
    flat = torch.from_numpy(made).double()
    flat = flat - flat.amin(0)
    return 2 * flat / flat.amax(0).clamp_min(1e-12) - 1
