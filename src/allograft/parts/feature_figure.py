"""Pooled features of training images on a plane: a figure of a recipe that trains a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.figure import Points
from allograft.networks import Network
from allograft.parts.features import images_in_order, last
from allograft.predictor import evaluation_mode


def show_features(network: Network, cohorts: Sequence[Cohort], context: Context, most: int = 300) -> None:
    """Keep a t-SNE of pooled features of training images, by laboratory and class, as in fig. 2;
    none for fewer than 10 images."""
    every = max(1, -(-sum(map(len, cohorts)) // most))
    few = [replace(cohort, cases=cohort.cases[::every]) for cohort in cohorts]
    cases = [(case, cohort.prepared.coding) for cohort in few for case in cohort.cases]
    if len(cases) < 10:
        return
    from sklearn.manifold import TSNE

    with evaluation_mode(network):
        images = images_in_order(few, context.batch_size)
        features = torch.cat(
            [last(network.encoder(image.to(context.fabric.device))).flatten(2).mean(2).cpu() for image in images]
        )
    near = min(30.0, (len(cases) - 1) / 3)
    made = TSNE(perplexity=near, init="pca", random_state=context.seeds.number("t-SNE") % 2**32).fit_transform(
        features.float().numpy()
    )
    x, y = (tuple(column) for column in made.T.tolist())
    classes: tuple[float | int, ...] = tuple(coding.label.index(str(case.labels["label"])) for case, coding in cases)
    context.show(
        "features", Points("t-SNE of training features", x, y, tuple(case.site for case, _ in cases), classes, "class")
    )
