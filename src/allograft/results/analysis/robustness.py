"""Whether a model's features say more of the disease or of the hospital: the robustness index, and
linear probes of site and class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from allograft.errors import SpecError
from allograft.predictor import load_predictor
from allograft.predictor.card import sites_of
from allograft.results.analysis.embedding import FURTHER, class_of, unseen_of
from allograft.results.analysis.features import Cloud, Known, cloud_of
from allograft.results.analysis.sheet import Sheet
from allograft.results.analysis.site_probe import Probe, site_probe
from allograft.results.intervals import Floats
from allograft.results.models import model_folder
from allograft.results.select import Line
from allograft.study.world import World

NEIGHBOURS = 50
"""Neighbours that are looked at, at most."""
SCANS = 20
"""Scans cut into slices that are looked at, at most: each takes a prediction of every slice."""
TITLE = "How well features predict the site"
PROBES = (
    "Site probe: how often a logistic regression on the features predicts the site of a subject that it was not fitted "
    "to; in brackets, how often always predicting the most common site is right. The nearer the two, the less the "
    "features say about the site."
)
INDEX = (
    "Robustness index (Kömen et al. 2025, PathoROB): among the {k} nearest neighbours that share either the class or "
    "the site, the share that has the same class and another site. 1: only the class counts; 0: only the site counts; "
    "in brackets, the value for features without information. A subject's own images do not count as its neighbours."
)
CLASS = "Class probe: the same, for the class."
NO_INDEX = "The robustness index and the class probe need one class per image, at every site."
CASES = "Features of {count} validation and test cases, last feature of the encoder averaged over space."


@dataclass(frozen=True)
class Features:
    """A model's features of cases that it was not trained on.

    Args:
        rows: (N, C).
        sites, subjects: N names.
        labels: N class indices; () where cases have no class of their own.
    """

    rows: Floats
    sites: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: tuple[int, ...] = ()


def neighbours(rows: ArrayLike, subjects: Sequence[str]) -> NDArray[np.int64]:
    """(N, C) features -> (N, N) all others by cosine distance, the nearest first; -1 where a row
    has no further one, since cases of the same subject are left out.

    >>> neighbours([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], ["p", "p", "q"]).tolist()
    [[2, -1, -1], [2, -1, -1], [1, 0, -1]]
    """
    table, names = np.asarray(rows, np.float64), np.asarray(subjects)
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit = table / np.where(lengths > 0, lengths, 1.0)
    distance = np.where(names[:, None] == names, np.inf, 1 - unit @ unit.T)
    # equal distances in the order of the rows, whatever the last bits are
    order = np.argsort(distance.round(12), axis=1, kind="stable")
    return np.where(np.isinf(np.take_along_axis(distance, order, 1)), -1, order)


def robustness_index(
    rows: ArrayLike, labels: Sequence[Any], sites: Sequence[str], subjects: Sequence[str], *, k: int
) -> float | None:
    """PathoROB's robustness index (Kömen et al. 2025): SO / (SO + OS) over the k nearest neighbours
    of all cases, SO those of the same class and another site, OS those of another class and the
    same site.

    Distances are cosine. Theirs are of patches, and the set of classes and sites is balanced; here
    cases of the same subject are left out, since each would find itself, and of classes and sites
    that are not balanced ``chance`` says what features without information have.

    Args:
        rows: (N, C).
        labels, sites, subjects: N each.
        k: neighbours; all where there are fewer.

    Returns:
        From 0 (neighbours share the site) to 1 (the class); None where none shares exactly one.

    >>> rows = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    >>> robustness_index(rows, [0, 0, 1, 1], ["a", "b", "a", "b"], ["p", "q", "r", "s"], k=1)
    1.0
    """
    nearest = neighbours(rows, subjects)[:, :k]
    alike, near = (np.asarray(names)[:, None] == np.asarray(names)[nearest] for names in (labels, sites))
    return _index(alike, near, nearest >= 0)


def chance(labels: Sequence[Any], sites: Sequence[str], subjects: Sequence[str]) -> float | None:
    """The index over all pairs of cases, which is what features without information have."""
    people = np.asarray(subjects)
    alike, near = (np.asarray(names)[:, None] == np.asarray(names) for names in (labels, sites))
    return _index(alike, near, people[:, None] != people)


def _index(alike: NDArray[np.bool_], near: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float | None:
    other_site, other_class = int((alike & ~near & counted).sum()), int((~alike & near & counted).sum())
    both = other_site + other_class
    return other_site / both if both else None


def best_k(rows: ArrayLike, labels: Sequence[Any], subjects: Sequence[str]) -> int:
    """The number of neighbours that names the class best by their majority, mean over classes, as
    PathoROB chooses it; of equal ones the smallest. At most ``NEIGHBOURS``, and at most those of
    the rarest class."""
    names, known = np.unique(np.asarray(labels), return_inverse=True)
    order = neighbours(rows, subjects)
    most = max(1, min(NEIGHBOURS, int(np.bincount(known).min()) - 1))
    one_hot = np.where((order[:, :most] >= 0)[..., None], np.eye(len(names))[known[order[:, :most]]], 0.0)
    votes = one_hot.cumsum(1)
    # a tie goes to the class of the nearest
    named = (votes + 0.5 * one_hot[:, :1]).argmax(-1)
    right = named == known[:, None]
    scores = np.stack([right[known == each].mean(0) for each in range(len(names))]).mean(0)
    return int(scores.argmax()) + 1


def robustness_sheet(features: Mapping[str, Features]) -> Sheet | None:
    """The table of a target, one row per model; None where no model's site can be probed.

    Args:
        found: recipe's title -> features, of the same cases for all.
    """
    probes = {title: probe for title, seen in features.items() if (probe := _probe(seen, seen.sites)) is not None}
    if not probes:
        return None
    count = len(next(iter(features.values())).sites)
    classed = {title: features[title] for title in probes if len(set(features[title].labels)) > 1}
    rows = [(title, _cell(probe)) for title, probe in probes.items()]
    if not classed:
        return Sheet(TITLE, ("recipe", "site probe"), tuple(rows), (PROBES, NO_INDEX, CASES.format(count=count)))
    k = round(median(best_k(seen.rows, seen.labels, seen.subjects) for seen in classed.values()))
    cells = {title: _index_cells(seen, k) for title, seen in classed.items()}
    wide = tuple((title, site, *cells.get(title, ("", ""))) for title, site in rows)
    columns = ("recipe", "site probe", "class probe", f"robustness index, k = {k}")
    return Sheet(f"{TITLE} and the class", columns, wide, (INDEX.format(k=k), PROBES, CLASS, CASES.format(count=count)))


def _index_cells(features: Features, k: int) -> tuple[str, str]:
    probe = _probe(features, [str(label) for label in features.labels])
    value = robustness_index(features.rows, features.labels, features.sites, features.subjects, k=k)
    level = chance(features.labels, features.sites, features.subjects)
    index = "undefined" if value is None or level is None else f"{value:.2f} ({level:.2f})"
    return ("undefined" if probe is None else _cell(probe), index)


def _probe(features: Features, names: Sequence[str]) -> Probe | None:
    try:
        return site_probe(features.rows, names, features.subjects)
    except SpecError:  # one site, or one with a single subject
        return None


def _cell(probe: Probe) -> str:
    return f"{probe.accuracy:.2f} ({probe.chance:.2f})"


def features_of(
    out: Path,
    world: World,
    table: Sequence[Line],
    target: str,
    template: nn.Module | None = None,
    *,
    device: Any = "cpu",
    known: defaultdict[Path, Known] | None = None,
) -> dict[str, Features]:
    """Recipe's title -> features of the model that stands for it, of at most ``FURTHER`` validation
    and test cases of the source and the target (``SCANS`` where scans are cut into slices); lines
    without a model, or whose network has no encoder, are absent. ``known`` as for
    ``embeddings_of``."""
    made: dict[str, Features] = {}
    known = defaultdict(dict) if known is None else known
    for line in table:
        run, folder = line.best_run, model_folder(out, line)
        if line.target != target or run is None or line.leaves_weights_only or not (folder / "card.json").exists():
            continue
        predictor, card = load_predictor(folder, template=template, device=device)
        groups = unseen_of(world, target, run.row.fold)
        most = FURTHER if world.study.slices is None else SCANS
        task = world.study.made_task
        cloud = cloud_of(predictor, task, groups, sites_of(card), most, known[folder])
        found = None if cloud is None else _features(cloud, task)
        if found is not None:
            made[line.title] = found
    return made


def _features(cloud: Cloud, task: Any) -> Features:
    labels = [class_of(task, case) for case in cloud.cases]
    known = tuple(label for label in labels if label is not None)
    classes = known if len(known) == len(labels) else ()
    return Features(
        cloud.rows, tuple(case.site for case in cloud.cases), tuple(case.subject for case in cloud.cases), classes
    )
