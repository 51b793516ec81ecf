"""How much of the site a model's features tell: where site and class go together, a high score may
be the site's and not the disease's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.predictor.whole import whole_prediction
from allograft.results.analysis.features import encoder_of, features

FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """A linear probe of the site.

    Args:
        accuracy: share of the cases whose site is named rightly by a probe that saw no case of
            their subject.
        chance: share of the commonest site: what naming it each time would get.
        recalls: site -> share of its own cases that are named rightly.
        subjects: how many.
    """

    accuracy: float
    chance: float
    recalls: dict[str, float]
    subjects: int


def site_probe(rows: ArrayLike, sites: Sequence[str], subjects: Sequence[str], *, folds: int = FOLDS) -> Probe:
    """Name the site from features by logistic regression, each subject's cases by a probe fitted to
    other subjects.

    Features are standardised on the cases that the probe is fitted to. Sites are spread evenly over
    the folds; a site with fewer subjects than folds lowers their number.

    Args:
        rows: (N, C) features.
        sites: N names.
        subjects: N names.
        folds: of the cross-validation, at most.

    Raises:
        SpecError: lengths that differ, values that are not finite, one site alone, or a site with a
            single subject.

    Example:
        >>> features = np.repeat(np.eye(2), 4, 0)
        >>> site_probe(features, ["a"] * 4 + ["b"] * 4, [str(n) for n in range(8)])
        Probe(accuracy=1.0, chance=0.5, recalls={'a': 1.0, 'b': 1.0}, subjects=8)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    table, named = np.asarray(rows, dtype=np.float64), np.asarray(sites)
    people, first, whose = np.unique(np.asarray(subjects), return_index=True, return_inverse=True)
    _check(table, named, whose, named[first] if len(named) == len(whose) else named)
    fewest = min(np.unique(named[first], return_counts=True)[1])
    fold = np.zeros(len(people), dtype=int)
    parts = StratifiedKFold(min(folds, int(fewest)), shuffle=True, random_state=0).split(people, named[first])
    for number, (_, held) in enumerate(parts):
        fold[held] = number
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with threadpool_limits(1):  # sums over threads would differ from run to run
        right = cross_val_predict(probe, table, named, cv=PredefinedSplit(fold[whose])) == named
    shares = np.unique(named, return_counts=True)[1] / len(named)
    recalls = {str(site): float(right[named == site].mean()) for site in np.unique(named)}
    return Probe(float(right.mean()), float(shares.max()), recalls, len(people))


def _check(table: NDArray[np.float64], sites: NDArray[Any], whose: NDArray[Any], site_of: NDArray[Any]) -> None:
    if table.ndim != 2 or not len(table) == len(sites) == len(whose):
        raise SpecError(
            f"site probe: features of shape {table.shape}, {len(sites)} sites, {len(whose)} subjects; expected (N, "
            "C), N and N"
        )
    if not np.isfinite(table).all():
        raise SpecError("site probe: a feature is nan or infinite, so the model is broken; train it again")
    names, counts = np.unique(site_of, return_counts=True)
    if len(names) < 2:
        raise SpecError(
            f"site probe: all subjects are of one site ({', '.join(map(str, names))}); expected two sites or more"
        )
    if counts.min() < 2:
        raise SpecError(
            f"site probe: site '{names[counts.argmin()]}' has one subject, and each is probed by others; leave the "
            "site out"
        )


def seen(predictor: Any, cohort: Cohort) -> tuple[NDArray[np.float64], list[dict[str, Tensor]]]:
    """(N, C) features of a predictor's encoder, its last pooled over space, and the N predictions;
    of a volume the mean over its slices.

    Raises:
        SpecError: the predictor's network has no encoder of its own, or the predictor does not call
            it.
    """
    encoder = encoder_of(predictor)
    if encoder is None:
        raise SpecError(
            "site probe: the model's network is one opaque module without an encoder; use a network of our table"
        )
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    rows, predictions = [], []
    for whole in replace(cohort, sites=()).wholes():
        with features(encoder) as captured:
            predictions.append(whole_prediction(predictor, whole.batch.to(device)))
        if not captured:
            raise SpecError("site probe: the model predicts without its encoder; probe the model that it was made from")
        rows.append(torch.cat(captured).mean(0).numpy())
    return np.stack(rows), predictions
