"""Rows against do-nothing, subject by subject; what a row's interval is; and means over pairs of sites as the papers print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from allograft.results.select import Line
from allograft.results.statistics import (
    Cases,
    Floats,
    Interval,
    adjust,
    bootstrap_interval,
    bootstrap_pooled,
    effect_size,
    paired,
    per_subject,
    smallest_p,
    wilcoxon,
)
from allograft.study.plan import Plan
from allograft.study.spec import Adjustment, Alternative
from allograft.tree import content_hash

ALPHA = 0.05
NOTHING = ("supervised", "start")
"""The row that does nothing, with a source and without one: every difference is to it."""


def do_nothing(lines: Sequence[Line], target: str) -> Line | None:
    """The line of a target that every other is compared with."""
    return next((line for line in lines if line.target == target and line.title in NOTHING), None)


@dataclass(frozen=True)
class Comparison:
    """A row less do-nothing, over the subjects and seeds that both have.

    Args:
        subjects: how many.
        difference: mean over subjects; of a pooled metric (AUROC) mean over seeds.
        low, high: its 95 % interval over subjects; None for one subject.
        p, adjusted: exact signed-rank test, and that for all rows of the table; None where ``note`` says why.
        effect, rank_biserial: Cohen's d_z and the matched-pairs rank-biserial correlation, see ``effect_size``.
        note: what stands in the place of p, or must be known to read it.
    """

    subjects: int
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    effect: float | None = None
    rank_biserial: float | None = None
    note: str = ""


@dataclass(frozen=True)
class OverPairs:
    """A recipe's mean over all pairs of source and target.

    Args:
        title: the recipe's.
        pairs: how many, of those with labelled test subjects.
        seeds: how many have every pair; the others are left out.
        mean, sd: over these seeds (n - 1); None where there are too few.
    """

    title: str
    pairs: int
    seeds: int
    mean: float | None
    sd: float | None


def seed_cases(line: Line, site: str) -> dict[int, list[dict[str, Any]]]:
    """Seed -> every judged test case of a site, all folds together; failed seeds are left out."""
    runs = [run for run in line.runs if not run.error and run.tests.get(site)]
    return {run.row.seed: [case for record in run.tests[site] for case in record.measured] for run in runs}


def subject_ids(line: Line, site: str) -> set[str]:
    """Test subjects of a site, over all seeds and folds."""
    return {str(case["subject"]) for cases in seed_cases(line, site).values() for case in cases}


def seed_scores(plan: Plan, line: Line, site: str, metric: str = "") -> dict[int, float]:
    """Seed -> a metric (the headline by default) at a site, pooled over its subjects; undefined seeds are left out."""
    pooled = {seed: plan.task.aggregate(cases).get(metric or plan.headline) for seed, cases in seed_cases(line, site).items() if cases}
    return {seed: float(value) for seed, value in pooled.items() if value is not None}


def subject_scores(plan: Plan, line: Line, site: str, metric: str = "") -> dict[str, float]:
    """Subject -> a metric (the headline by default) at a site: mean over its cases, then over seeds. {} where no single case has it."""
    scores = _scores(plan, line, site, metric)
    subjects = sorted(set().union(*scores.values()))
    return {subject: fmean(one[subject] for one in scores.values() if subject in one) for subject in subjects}


def score_interval(plan: Plan, line: Line, site: str) -> Interval | None:
    """The 95 % interval over subjects of a row's score at a site; None for fewer than two subjects."""
    scores = subject_scores(plan, line, site)
    if scores:
        return bootstrap_interval(list(scores.values()))
    return _pooled_intervals(plan, line, site).get(plan.headline)


def intervals(plan: Plan, line: Line, site: str) -> dict[str, Interval]:
    """Metric -> its 95 % interval over subjects, of each that a row has at a site; without those that have none."""
    names = line.metrics.get(site, ())
    own = {name: bootstrap_interval(list(scores.values())) for name in names if (scores := subject_scores(plan, line, site, name))}
    pooled = _pooled_intervals(plan, line, site) if len(own) < len(names) else {}
    found = {name: own.get(name) or pooled.get(name) for name in names}
    return {name: interval for name, interval in found.items() if interval is not None}


def _pooled_intervals(plan: Plan, line: Line, site: str) -> dict[str, Interval]:
    """Of what only a whole test set has."""
    return _drawn(plan, [cases for cases in seed_cases(line, site).values() if cases])


def _drawn(plan: Plan, a: Sequence[Cases], b: Sequence[Cases] | None = None) -> dict[str, Interval]:
    """``bootstrap_pooled``, once for the same cases: the report is written anew after each unit, and most lines are what they were."""
    asked = content_hash(repr(plan.task), a, b)
    if asked not in _ANSWERED:
        _ANSWERED[asked] = bootstrap_pooled(a, b, plan.task.aggregate)
    return _ANSWERED[asked]


_ANSWERED: dict[str, dict[str, Interval]] = {}


def difference(plan: Plan, line: Line, base: Line, site: str) -> tuple[float, Floats] | None:
    """A row less ``base`` at a site: the mean, and one value a subject, mean over the seeds that both finished.

    A pooled metric (AUROC) has no value a subject: (0,), and the mean is over seeds. None when the two rows have nothing in common.
    """
    subjects, ours, theirs = paired(_scores(plan, line, site), _scores(plan, base, site))
    if subjects:
        return fmean(ours - theirs), ours - theirs
    if _scored(plan, line, site) or _scored(plan, base, site):
        return None
    pooled, other = seed_scores(plan, line, site), seed_scores(plan, base, site)
    both = [pooled[seed] - other[seed] for seed in pooled if seed in other]
    return (fmean(both), np.empty(0)) if both else None


def compare(
    lines: Sequence[Line],
    plan: Plan,
    target: str,
    baseline: str = "",
    *,
    site: str = "",
    adjust: Adjustment | None = None,
    alternative: Alternative | None = None,
) -> dict[str, Comparison]:
    """Every row of a target's table against another, by title; rows that share no finished seed and subject with it are absent.

    Args:
        baseline: the other's title; do-nothing by default.
        site: where both are judged; the target by default.
        adjust: over the rows that have a p, at this site; by default as the study says. A row without any difference counts among
            them, with p = 1.
        alternative: "greater": the row is better, for a headline that grows as things get better; by default as the study says.
    """
    adjust, alternative = adjust or plan.statistics.adjustment, alternative or plan.statistics.alternative
    here = [line for line in lines if line.target == target]
    base = next((line for line in here if line.title == baseline), None) if baseline else do_nothing(lines, target)
    if base is None:
        return {}
    others = {line.title: _against(plan, line, base, site or target, alternative) for line in here if line is not base}
    return _adjusted({title: made for title, made in others.items() if made is not None}, adjust, alternative)


def over_pairs(tables: Sequence[Sequence[Line]], plan: Plan, metric: str = "") -> list[OverPairs]:
    """Each recipe's headline as the papers print it: mean over all pairs for each seed, then mean and sd over seeds.

    A seed counts when it has every pair; a target where no row was measured is no pair. In the order of the study.

    Args:
        tables: one for each set of source sites.
        plan: of any of them.
    """
    every = [(line, (number, line.target)) for number, table in enumerate(tables) for line in table]
    scores = {(line.title, pair): seed_scores(plan, line, line.target, metric) for line, pair in every}
    pairs = {pair for (_, pair), seeds in scores.items() if seeds}
    made = []
    for title in dict.fromkeys(line.title for line, _ in every):
        each = [scores.get((title, pair), {}) for pair in sorted(pairs)]
        seeds = sorted(set(each[0]).intersection(*each)) if each else []
        means = [fmean(one[seed] for one in each) for seed in seeds]
        made.append(OverPairs(title, len(each), len(means), fmean(means) if means else None, stdev(means) if len(means) > 1 else None))
    return made


def _scores(plan: Plan, line: Line, site: str, metric: str = "") -> dict[int, dict[str, float]]:
    return {seed: per_subject(cases, metric or plan.headline) for seed, cases in seed_cases(line, site).items()}


def _scored(plan: Plan, line: Line, site: str) -> bool:
    """Whether the headline is a score of single cases."""
    return any(plan.headline in case for cases in seed_cases(line, site).values() for case in cases)


def _against(plan: Plan, line: Line, base: Line, site: str, alternative: Alternative) -> Comparison | None:
    found = difference(plan, line, base, site)
    if found is None:
        return None
    if not len(found[1]):
        return _against_pooled(plan, line, base, site, found[0])
    mean, values = found
    count = len(values)
    if count == 1:
        return Comparison(1, mean, note="one subject: no interval")
    low, high = bootstrap_interval(values) or (None, None)
    effect, rank_biserial = effect_size(values)
    made = Comparison(count, mean, low, high, effect=effect, rank_biserial=rank_biserial)
    if smallest_p(count, alternative) > ALPHA:
        return replace(made, note=f"cannot be significant with {count} subjects")
    p = wilcoxon(values, alternative)
    return replace(made, p=1.0, note="no difference") if p is None else replace(made, p=p)


def _against_pooled(plan: Plan, line: Line, base: Line, site: str, mean: float) -> Comparison:
    """Of AUROC there is no score of a single subject: an interval, and no signed-rank test."""
    ours, theirs = seed_cases(line, site), seed_cases(base, site)
    seeds = sorted(seed_scores(plan, line, site).keys() & seed_scores(plan, base, site).keys())
    a, b = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    subjects = set.intersection(*({str(case["subject"]) for case in cases} for cases in (*a, *b)))
    low, high = _drawn(plan, a, b).get(plan.headline, (None, None))
    note = "one subject: no interval" if len(subjects) == 1 else f"{plan.headline} scores no single subject: interval only"
    return Comparison(len(subjects), mean, low, high, note=note)


def _adjusted(found: dict[str, Comparison], method: Adjustment, alternative: Alternative) -> dict[str, Comparison]:
    tested = {title: one.p for title, one in found.items() if one.p is not None}
    for title, p in zip(tested, adjust(list(tested.values()), method), strict=True):
        one = found[title]
        best = smallest_p(one.subjects, alternative) * (1 if method == "none" else len(tested))
        hopeless = f"at best {best:.2g} after {method.capitalize()} over {len(tested)} rows" if best > ALPHA else ""
        found[title] = replace(one, adjusted=p, note=one.note or hopeless)
    return found
