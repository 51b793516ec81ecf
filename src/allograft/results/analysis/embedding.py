"""Where a model puts source, target-training and target-test cases: its bottleneck features on a
plane, coloured by loss.

Made by the judge's side for the report alone: test cases are in it, so nothing of it may choose a
model.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allograft.cohort import Case, Cohort
from allograft.figure import Points
from allograft.predictor import load_predictor
from allograft.predictor.card import sites_of
from allograft.results.analysis.features import MOST, Known, cloud_of
from allograft.results.models import model_folder
from allograft.results.select import Line
from allograft.study.world import World

FURTHER = 60
"""``MOST`` for the lines that a report folds away: enough to see groups, and the time of a table's
many lines stays in bounds."""
IMAGES_PER_VOLUME = 3
"""A volume, or a scan in slices, counts as so many images: it takes longer."""
COMPONENTS, PERPLEXITY, FEWEST = 50, 30.0, 8
"""Principal components that t-SNE gets at most, its perplexity at most, and the cases below which
it has no meaning."""


@dataclass(frozen=True)
class Embedding:
    """Figures of one model, and what must be known to read them.

    Args:
        figures: positions are the same in all of them.
        notes: sentences.
    """

    figures: tuple[Points, ...]
    notes: tuple[str, ...]


def embeddings_of(
    out: Path,
    world: World,
    table: Sequence[Line],
    template: nn.Module | None = None,
    *,
    device: Any = "cpu",
    most: int = MOST,
    known: defaultdict[Path, Known] | None = None,
) -> dict[tuple[str, str], Embedding]:
    """(recipe's title, target) -> the embedding of the model that stands for the line, as
    ``OUT/models`` holds it.

    Lines without a model, or whose network has no encoder of its own, are absent.

    Args:
        template: the user's own network, if any.
        most: images in a figure; of volumes a third.
        known: model folder -> what it makes of cases, which is filled here.
    """
    made = {}
    known = defaultdict(dict) if known is None else known
    for line in table:
        run, folder = line.best_run, model_folder(out, line)
        if (
            run is None
            or line.leaves_weights_only
            or line.target not in world.sites
            or not (folder / "card.json").exists()
        ):
            continue
        predictor, card = load_predictor(folder, template=template, device=device)
        task, fold = world.study.made_task, run.row.fold
        groups = groups_of(world, line.target, fold)
        options: dict[str, Any] = {"title": f"{line.title} at {line.target}", "sites": sites_of(card)}
        options |= {"most": most // IMAGES_PER_VOLUME if of_volumes(groups) else most, "known": known[folder]}
        by_loss = embedding(predictor, task, groups, **options)
        if by_loss is not None:
            classes = by_class(predictor, task, unseen_of(world, line.target, fold), **options)
            made[line.title, line.target] = replace(by_loss, figures=(*by_loss.figures, *classes))
    return made


def of_volumes(groups: Mapping[str, Cohort]) -> bool:
    """Whether the first case of all is a volume, in slices or not."""
    first = next((cohort for cohort in groups.values() if cohort.cases), None)
    return first is not None and len(first.prepared.image(first.cases[0])[1].size) == 3


def groups_of(world: World, target: str, fold: int) -> dict[str, Cohort]:
    """The source's training cases, a group for each cohort where it has several, and the target's
    for training and for testing, with every label the manifest has."""
    by_cohort: dict[str, list[Cohort]] = {}
    for site in world.study.source:
        name = f"source, {site.partition('/')[0]}" if world.study.cohorts else "source"
        by_cohort.setdefault(name, []).append(world.part(site, "train", fold))
    if len(by_cohort) == 1:
        by_cohort = {"source": next(iter(by_cohort.values()))}
    source = {
        name: replace(parts[0], cases=tuple(case for part in parts for case in part.cases))
        for name, parts in by_cohort.items()
    }
    return {
        **source,
        "target, training": world.part(target, "train", fold),
        "target, test": world.part(target, "test", fold),
    }


def unseen_of(world: World, target: str, fold: int) -> dict[str, Cohort]:
    """The validation and test cases of each source site and of the target, by site and part."""
    parts = {"validation": "val", "test": "test"}
    return {
        f"{site}, {name}": world.part(site, part, fold)
        for site in (*world.study.source, target)
        for name, part in parts.items()
    }


def embedding(
    predictor: Any,
    task: Any,
    groups: Mapping[str, Cohort],
    *,
    title: str,
    sites: Sequence[str] | None = None,
    most: int = MOST,
    known: Known | None = None,
) -> Embedding | None:
    """Bottleneck features, global-average-pooled, -> principal components -> t-SNE (Goodman et al.
    2022, figure 1).

    A point is a case; of a volume in slices the mean over its slices. The colour is its loss: 1 -
    the headline metric, or -log of the probability of the label where cases have no headline of
    their own. Where only some cases have a loss there are two figures, one of all cases by group
    and one of those; where none has, the colour is the mean entropy of the prediction.

    Args:
        groups: name -> cases; labels are never shown to the predictor.
        title: which model.
        sites: as the predictor numbers them; by default as the cohorts do.
        most: cases in all.
        known: what this model makes of cases, which is filled here.

    Returns:
        None when the predictor's network has no encoder, when it is not called, or when there are
        fewer than two cases.
    """
    cloud = cloud_of(predictor, task, groups, sites, most, {} if known is None else known)
    if cloud is None:
        return None
    losses, entropies = [seen.loss for seen in cloud.seen], [seen.entropy for seen in cloud.seen]
    plane, how = embedded(cloud.rows)
    return Embedding(*_drawn(title, plane, cloud.groups, losses, entropies, (*cloud.notes, how)))


def by_class(
    predictor: Any,
    task: Any,
    groups: Mapping[str, Cohort],
    *,
    title: str,
    sites: Sequence[str] | None = None,
    most: int = MOST,
    known: Known | None = None,
) -> tuple[Points, ...]:
    """The features of cases that no training saw, by class and by laboratory (Raipuria et al. 2022,
    figure 2); arguments as ``embedding``.

    () where no case has one class of its own.
    """
    classed = {name: cohort.where(lambda case: class_of(task, case) is not None) for name, cohort in groups.items()}
    cloud = cloud_of(predictor, task, classed, sites, most, {} if known is None else known)
    if cloud is None:
        return ()
    plane, _ = embedded(cloud.rows)
    x, y = (tuple(round(float(value), 4) for value in side) for side in plane.T)
    axis = ", ".join(f"{number} = {name}" for number, name in enumerate(task.coding.label))
    return (
        Points(
            f"features of {title}, by class and site",
            x,
            y,
            tuple(cloud.groups),
            tuple(class_of(task, case) or 0 for case in cloud.cases),
            axis,
        ),
    )


def class_of(task: Any, case: Case) -> int | None:
    """The number of a case's class; None without a label, for several labels a case, and for tasks
    that are no classification."""
    label = case.labels.get("label")
    return None if task.key != "label" or task.coding.several or label is None else task.coding.label.index(label)


def embedded(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """(N, C) -> (N, 2) and how: at most 50 principal components, then t-SNE of perplexity min(30,
    (N - 1) / 3), the same each time.

    Fewer than eight cases, or cases that are all alike, are shown on their first two components:
    t-SNE would draw noise.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    spread = np.ptp(rows, axis=0).max(initial=0.0)
    # sums over threads would differ from run to run
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of components without variance
        count = min(COMPONENTS, *rows.shape)
        parts = PCA(count, svd_solver="full").fit_transform(rows) if spread > 0 else np.zeros((len(rows), 2))
        if len(rows) < FEWEST or spread == 0:
            plane = np.pad(parts, ((0, 0), (0, 2)))[:, :2]
            return plane, f"The first two principal components: {len(rows)} cases are too few, or too alike, for t-SNE."
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca" if count > 1 else "random", random_state=0).fit_transform(parts)
    how = (
        f"t-SNE of {count} principal components, perplexity {perplexity:.3g}: neighbourhoods mean something, "
        "distances and sizes do not."
    )
    return plane.astype(np.float64), how


def _drawn(
    title: str,
    plane: NDArray[np.float64],
    names: Sequence[str],
    losses: Sequence[float | None],
    entropies: Sequence[float | None],
    notes: tuple[str, ...],
) -> tuple[tuple[Points, ...], tuple[str, ...]]:
    def points(colour: Sequence[float | None], axis: str, what: str) -> Points:
        shown = [index for index in range(len(names)) if not colour or colour[index] is not None]
        x, y = (tuple(round(float(plane[index, side]), 4) for index in shown) for side in (0, 1))
        values = tuple(round(float(value), 6) for index in shown if colour and (value := colour[index]) is not None)
        return Points(f"features of {title}{what}", x, y, tuple(names[index] for index in shown), values, axis)

    known = sum(loss is not None for loss in losses)
    if known == len(names):
        return (points(losses, "loss", ""),), notes
    if known:
        note = f"{len(names) - known} cases have no label or no defined loss; they are in the first figure only."
        return (points((), "", ""), points(losses, "loss", ", cases with a loss")), (*notes, note)
    if all(value is not None for value in entropies):
        return (points(entropies, "mean entropy of the prediction", ""),), (
            *notes,
            "No case has a label: the colour is entropy, not loss.",
        )
    return (points((), "", ""),), notes
