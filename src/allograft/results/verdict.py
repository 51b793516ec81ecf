"""The rules by which a study says whether to change the model, and to which row. Nothing but
numbers goes in.

``selection`` has chosen stages, settings and seeds before; a row is chosen here alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from allograft.results.intervals import Floats, standard_error, t_limits
from allograft.results.power import sd_limits, smallest_difference, subjects_needed
from allograft.results.ranks import signed_rank_p
from allograft.results.statistics import holm, smallest_p
from allograft.study.keys import Alternative, Statistics

ALPHA = 0.05
DRAWS = 400
"""Resamples of subjects that the whole rule is repeated on."""
RULES_VERSION = 1
KEPT = -1
"""In the place of a row: the model is kept."""
Action = Literal["keep", "change", "not-measured"]


@dataclass(frozen=True)
class Evidence:
    """What is known of one target's rows that compete: no upper bound, and no row that was never
    judged.

    Args:
        titles: (K,) in the order of the study.
        values: (N, 1 + K) one value per subject, do-nothing's first; of a pooled metric influence
            values, whose mean is the metric. A row's are do-nothing's and its paired gain.
        labels, seconds: (K,) labelled target subjects and training time of each row.
        exact: whether values are scores of single subjects, which have a signed-rank test.
        dof: (K,) degrees of freedom of each gain; None = N - 1.
        primary: the row named beforehand.
    """

    titles: tuple[str, ...]
    values: Floats
    labels: tuple[float, ...]
    seconds: tuple[float, ...]
    exact: bool = True
    dof: Floats | None = None
    primary: int | None = None

    @property
    def cheapness(self) -> NDArray[np.intp]:
        """(K,) place of each row by labels, then by training time, then by the order of the study;
        0 is the cheapest."""
        order = sorted(range(len(self.titles)), key=lambda k: (self.labels[k], self.seconds[k], k))
        return np.argsort(np.array(order, np.intp))

    @property
    def others(self) -> list[int]:
        """The rows that share the level: all but the one named beforehand."""
        return [k for k in range(len(self.titles)) if k != self.primary]


@dataclass(frozen=True)
class Choice:
    """What the rules find in each of D samples.

    Args:
        low, high: (D, K) joint limits of each row's gain over do-nothing.
        p: (D, K) adjusted.
        gained: (D, K) rows with a gain that is shown.
        tied: (D, K) of these the ones that cannot be told from the best.
        row: (D,) the row to change to, ``KEPT`` for none.
    """

    low: Floats
    high: Floats
    p: Floats
    gained: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    row: NDArray[np.intp]


def choose(evidence: Evidence, samples: Floats, alternative: Alternative = "two-sided") -> Choice:
    """The whole rule, on D samples of subjects at once: (D, N, 1 + K).

    1. A row gains if its paired t interval at the level 1 - .05 / K lies above 0 **and** its exact
       signed-rank test (of a pooled metric Student's t, which is DeLong's of an area) is
       significant after Holm over the K rows. The row named beforehand is tested alone at .05,
       outside the K.
    2. Of the rows that gain the best is the one with the highest mean, and those are tied with it
       whose paired t interval to it at 1 - .05 / (rows - 1) reaches 0.
    3. Of the tied rows the cheapest in labels is taken, then in training time. The row named
       beforehand is taken before all others, if it gains.

    Of 2,000 studies of eight rows without any gain 0 to 2 % are told to change, with a row named
    beforehand 2 to 4 %, and with that and ``alternative`` greater 5 to 8 %: a level for the named
    row, and one for the others.
    """
    gains = samples[..., 1:] - samples[..., :1]
    low, high, p = (np.zeros((len(samples), gains.shape[-1])) for _ in range(3))
    for family in (evidence.others, [evidence.primary] if evidence.primary is not None else []):
        if family:
            low[:, family], high[:, family], p[:, family] = _tested(evidence, gains[..., family], family, alternative)
    gained = (low > 0) & (p <= ALPHA)
    tied = gained & ~_told_apart(evidence, samples[..., 1:], gained)
    row = np.where(tied, evidence.cheapness, len(evidence.titles)).argmin(1)
    if evidence.primary is not None:
        row = np.where(gained[:, evidence.primary], evidence.primary, row)
    return Choice(low, high, p, gained, tied, np.where(gained.any(1), row, KEPT))


def _tested(
    evidence: Evidence, gains: Floats, family: Sequence[int], alternative: Alternative
) -> tuple[Floats, Floats, Floats]:
    """Limits and adjusted p of the rows that share a level: (D, N, F) -> three of (D, F)."""
    each = np.moveaxis(gains, 1, -1)  # (D, F, N)
    dof = None if evidence.dof is None else evidence.dof[list(family)]
    tails = 2 if alternative == "greater" else 1
    low, high = t_limits(each, 1 - tails * ALPHA / len(family), dof)
    if evidence.exact:
        p = signed_rank_p(each.reshape(-1, each.shape[-1]), alternative).reshape(low.shape)
    else:
        p = _t_p(each, dof, alternative)
    return low, high, holm(np.nan_to_num(p, nan=1.0))


def _t_p(each: Floats, dof: Floats | None, alternative: Alternative) -> Floats:
    from scipy.special import stdtr

    error = standard_error(each)
    t = np.divide(each.mean(-1), error, out=np.zeros_like(error), where=error > 0)
    tail = stdtr(each.shape[-1] - 1 if dof is None else dof, -t)
    return np.asarray(
        {"greater": tail, "less": 1 - tail, "two-sided": 2 * np.minimum(tail, 1 - tail)}[alternative], np.float64
    )


def _told_apart(evidence: Evidence, rows: Floats, gained: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(D, K) whether each row is lower than the best of those that gain."""
    best = np.where(gained, rows.mean(1), -np.inf).argmax(1)
    behind = np.moveaxis(np.take_along_axis(rows, best[:, None, None], 2) - rows, 1, -1)
    low, _ = t_limits(behind, 1 - ALPHA / max(1, len(evidence.titles) - 1), evidence.dof)
    return low > 0


def optimism(evidence: Evidence, alternative: Alternative = "two-sided", draws: int = DRAWS) -> float:
    """How much the score of what is chosen promises too much, because it was chosen among rows by
    these very subjects.

    Bootstrap bias correction over subjects (Tsamardinos, Greasidou & Borboudakis 2018, algorithm 4)
    of the whole rule, "keep" included: the rule is repeated on each resample, what it chooses is
    scored on the subjects left out, and the mean of these scores is taken from the score of the
    choice. Resamples that leave nobody out are skipped. 0 for a row that was named beforehand and
    is taken.

    Returns:
        In units of the headline; below 0 by chance, or where resamples choose worse than all
        subjects do.
    """
    made = int(choose(evidence, evidence.values[None], alternative).row[0])
    if made == evidence.primary:
        return 0.0
    count = len(evidence.values)
    drawn = np.random.default_rng(0).integers(count, size=(draws, count))
    left_out = np.ones((draws, count), bool)
    np.put_along_axis(left_out, drawn, False, 1)
    drawn, left_out = drawn[left_out.any(1)], left_out[left_out.any(1)]
    rows = choose(evidence, evidence.values[drawn], alternative).row
    scores = evidence.values[:, rows + 1].T  # do-nothing stands first
    outside = np.where(left_out, scores, 0.0).sum(1) / left_out.sum(1)
    return float(evidence.values[:, made + 1].mean() - outside.mean())


@dataclass(frozen=True)
class Reach:
    """What a test set can show of one row.

    Args:
        sd, sd_low, sd_high: standard deviation of its paired differences over subjects, with its 95
            % limits.
        subjects: how many were tested.
        needed: subjects with whom ``margin`` would be shown with 80 % power; None beyond a hundred
            thousand.
        smallest: the smallest difference that these subjects show with 80 % power; None where the
            exact test cannot be significant with so few, however large the difference.
    """

    sd: float
    sd_low: float
    sd_high: float
    subjects: int
    needed: int | None
    smallest: float | None


def reach_of(sd: float, subjects: int, rows: int, statistics: Statistics, *, exact: bool) -> Reach:
    """What a test set can show of a row, at its level: .05 over the ``rows`` that share it, all of
    it on one side where the study tests for gains alone."""
    alternative = alternative_of(statistics)
    level = (2 if alternative == "greater" else 1) * ALPHA / rows

    def is_hopeless(count: int) -> bool:
        return exact and smallest_p(count, alternative) * rows > ALPHA

    needed = subjects_needed(statistics.margin, sd, level)
    while needed is not None and is_hopeless(needed):
        needed += 1
    smallest = None if is_hopeless(subjects) else smallest_difference(sd, subjects, level)
    return Reach(sd, *sd_limits(sd, subjects), subjects, needed, smallest)


@dataclass(frozen=True)
class Verdict:
    """What a study says of one target.

    Args:
        action: keep the model, change to ``row``, or nothing, since nothing was measured or no row
            is a reference.
        reason: in a few words.
        row: the row to change to, "" for none.
        tied: rows that gain and cannot be told from the best of them, the best first.
        label_free: of the rows that gain the best that needs no target label, "" for none.
        optimism: of the score of the choice, see ``optimism``.
        looked_at: the row that the sentence speaks of: the one chosen, or the one with the highest
            gain.
        rows: how many rows share the level.
        gain, low, high, p: of ``looked_at`` over do-nothing, with joint limits and the adjusted p.
        reach: what the test set can show of ``looked_at``.
        marks: row -> why it is not "never worse".
        reference: the row that all others are compared with, "" where there is none.
        sentence: all of it in one sentence.
        how: how it was decided, a sentence for each rule.
    """

    action: Action
    reason: str
    row: str = ""
    tied: tuple[str, ...] = ()
    label_free: str = ""
    optimism: float | None = None
    looked_at: str = ""
    rows: int = 0
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    reach: Reach | None = None
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str = ""
    sentence: str = ""
    how: tuple[str, ...] = ()
    rules_version: int = RULES_VERSION


def alternative_of(statistics: Statistics) -> Alternative:
    """What the verdict tests: gains alone, where the tables do, else either way. A test of losses
    alone shows no gain, so ``less`` is for the tables."""
    return "greater" if statistics.alternative == "greater" else "two-sided"


def decide(evidence: Evidence, statistics: Statistics) -> dict[str, Any]:
    """The rules on the subjects as they are: the fields of a ``Verdict`` but its words and
    marks."""
    alternative = alternative_of(statistics)
    chosen = choose(evidence, evidence.values[None], alternative)
    gains = evidence.values[:, 1:].mean(0) - evidence.values[:, 0].mean()
    row = int(chosen.row[0])
    means = np.where(chosen.gained[0], gains, -np.inf)
    looked = row if row != KEPT else evidence.primary if evidence.primary is not None else int(gains.argmax())
    rows = 1 if looked == evidence.primary else len(evidence.others)
    sd = float((evidence.values[:, looked + 1] - evidence.values[:, 0]).std(ddof=1))
    reach = reach_of(sd, len(evidence.values), rows, statistics, exact=evidence.exact)
    few = reach.needed is None or reach.subjects < reach.needed
    free = [k for k in np.argsort(-means, kind="stable") if chosen.gained[0, k] and not evidence.labels[k]]
    tied = [k for k in np.argsort(-means, kind="stable") if chosen.tied[0, k]]
    return {
        "action": "keep" if row == KEPT else "change",
        "reason": "gain shown" if row != KEPT else "too few subjects to show one" if few else "no gain shown",
        "row": "" if row == KEPT else evidence.titles[row],
        "tied": tuple(evidence.titles[k] for k in tied),
        "label_free": evidence.titles[free[0]] if free else "",
        "optimism": optimism(evidence, alternative),
        "looked_at": evidence.titles[looked],
        "rows": rows,
        "gain": float(gains[looked]),
        "low": float(chosen.low[0, looked]),
        "high": float(chosen.high[0, looked]),
        "p": float(chosen.p[0, looked]),
        "reach": reach,
    }
