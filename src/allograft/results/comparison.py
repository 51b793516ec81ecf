"""Rows against the reference, subject by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from allograft.results.areas import Area, area_difference, area_difference_limits, area_difference_p, mean_area
from allograft.results.claims import false_claim, shrinkage
from allograft.results.intervals import Floats, t_limits
from allograft.results.scores import drawn, is_scored, seed_areas, seed_cases, seed_scores
from allograft.results.select import Line, is_bound
from allograft.results.statistics import Interval, Paired, adjust, effect_size, paired, smallest_p, wilcoxon
from allograft.study.keys import Adjustment, Alternative
from allograft.study.plan import Plan

ALPHA = 0.05
NOTHING = ("supervised", "start")
"""The row that does nothing, with a source and without one: every difference is to it, unless the
study names a ``reference``."""
TARGET_ALONE = "target_supervised"
"""The reference where no row does nothing: from scratch and without a source."""


def do_nothing(lines: Sequence[Line], target: str) -> Line | None:
    """The line of a target that does nothing; None from scratch without a source, and of a stream
    from scratch."""
    return next((line for line in lines if line.target == target and line.title in NOTHING), None)


def reference(lines: Sequence[Line], plan: Plan, target: str) -> Line | None:
    """The line of a target that every other is compared with in tables: the one that the study
    names as its ``reference``, whether it has scores or not; else that of the verdict.

    Args:
        lines: all of the study: of some alone another would be the reference.
    """
    named = next((line for line in lines if line.target == target and line.title == plan.reference), None)
    return named or verdict_reference(lines, plan, target)


def verdict_reference(lines: Sequence[Line], plan: Plan, target: str) -> Line | None:
    """The line of a target that the verdict compares with, which is the model as it is:
    do-nothing. In a study without one the named ``reference``, else the training on the budget's
    target labels alone; None where there is none of them."""
    by_title = {line.title: line for line in lines if line.target == target}
    return do_nothing(lines, target) or by_title.get(plan.reference) or by_title.get(TARGET_ALONE)


@dataclass(frozen=True)
class Comparison:
    """A row less the reference, over the subjects, cases and seeds that both have.

    Args:
        subjects: how many.
        cases: how many cases; 0 of a pooled metric.
        undefined: cases in which the headline has no value, in the row and in the reference; they
            are left out of both.
        difference: mean over subjects; of a pooled metric (AUROC) mean over seeds.
        low, high: its 95 % interval over subjects; None for one subject.
        p, adjusted: exact signed-rank test, of an area under the ROC curve DeLong's, and that for
            the rows of its ``family``; None where ``note`` says why.
        effect, rank_biserial: Cohen's d_z and the matched-pairs rank-biserial correlation, see
            ``effect_size``.
        sd: of the differences over subjects; of an area that of its influence values.
        dof: degrees of freedom of the interval.
        false_claim: probability that the row is no better, shrunk over the rows that compete (an
            upper bound over the upper bounds), see ``claims``.
        rows: how many share the level of the test.
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
    sd: float | None = None
    dof: float | None = None
    false_claim: float | None = None
    rows: int = 1
    note: str = ""
    cases: int = 0
    undefined: tuple[int, int] = (0, 0)


def paired_scores(plan: Plan, line: Line, base: Line, site: str, metric: str = "") -> Paired:
    """A metric (the headline by default) of two rows at a site, over the cases that are defined in
    both."""
    return paired(seed_cases(line, site), seed_cases(base, site), metric or plan.headline)


def difference(plan: Plan, line: Line, base: Line, site: str) -> tuple[float, Floats] | None:
    """A row less ``base`` at a site: the mean, and one value a subject, mean over the seeds that
    both finished.

    A pooled metric (AUROC) has no value a subject: (0,), and the mean is over seeds. None when the
    two rows have nothing in common.
    """
    scored = paired_scores(plan, line, base, site)
    if scored.subjects:
        return fmean(scored.ours - scored.theirs), scored.ours - scored.theirs
    if is_scored(plan, line, site) or is_scored(plan, base, site):
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
    """Every row of a target's table against another, by title; rows that share no finished seed and
    subject with it are absent.

    Args:
        baseline: the other's title; by default the ``reference``.
        site: where both are judged; the target by default.
        adjust: over the rows that have a p, at this site; by default as the study says. A row
            without any difference counts among them, with p = 1.
        alternative: "greater": the row is better, for a headline that grows as things get better;
            by default as the study says.
    """
    adjust, alternative = adjust or plan.statistics.adjustment, alternative or plan.statistics.alternative
    here = [line for line in lines if line.target == target]
    base = next((line for line in here if line.title == baseline), None) if baseline else reference(lines, plan, target)
    if base is None:
        return {}
    others = {line.title: _against(plan, line, base, site or target, alternative) for line in here if line is not base}
    compared = {title: made for title, made in others.items() if made is not None}
    for each in families(plan, [line for line in here if line.title in compared]):
        compared |= _adjusted({line.title: compared[line.title] for line in each}, adjust, alternative)
    # an upper bound says nothing of how much the rows that compete gain
    bounds = {line.title for line in here if is_bound(line.recipe)}
    claimed = [
        {title: comparison for title, comparison in compared.items() if (title in bounds) == them}
        for them in (False, True)
    ]
    return compared | _with_claims(claimed[0]) | _with_claims(claimed[1])


def families(plan: Plan, lines: Sequence[Line]) -> list[list[Line]]:
    """Rows whose p values are adjusted together: the one that was named beforehand, alone; those
    that compete; upper bounds."""
    kinds: dict[str, list[Line]] = {"primary": [], "competing": [], "bound": []}
    for line in lines:
        kinds["primary" if line.title == plan.primary else "bound" if is_bound(line.recipe) else "competing"].append(
            line
        )
    return list(kinds.values())


def areas(plan: Plan, line: Line, base: Line, site: str) -> tuple[Area, Area] | None:
    """The headline of two rows as areas under the ROC curve, each the mean over the seeds that both
    finished; None if it is none."""
    ours, theirs = seed_areas(plan, line, site), seed_areas(plan, base, site)
    seeds = sorted(ours.keys() & theirs.keys())
    return (mean_area([ours[seed] for seed in seeds]), mean_area([theirs[seed] for seed in seeds])) if seeds else None


def _against(plan: Plan, line: Line, base: Line, site: str, alternative: Alternative) -> Comparison | None:
    compared = difference(plan, line, base, site)
    if compared is None:
        return None
    if not len(compared[1]):
        pair = areas(plan, line, base, site)
        return _against_pooled(plan, line, base, site, compared[0]) if pair is None else of_areas(*pair, alternative)
    both = paired_scores(plan, line, base, site)
    return replace(of_scores(*compared, alternative), cases=both.cases, undefined=both.undefined)


def of_scores(mean: float, values: Floats, alternative: Alternative) -> Comparison:
    """The comparison that paired differences make, one a subject: (N,), N >= 1, and their mean.

    >>> of_scores(0.2, np.array([0.2]), "two-sided").note
    'one subject: no interval'
    """
    count = len(values)
    if count == 1:
        return Comparison(1, mean, note="one subject: no interval")
    low, high = t_limits(np.sort(values))  # so that the order of subjects is not even a rounding
    effect, rank_biserial = effect_size(values)
    made = Comparison(count, mean, float(low), float(high), effect=effect, rank_biserial=rank_biserial)
    made = replace(made, sd=float(np.std(np.sort(values), ddof=1)), dof=count - 1.0)
    if smallest_p(count, alternative) > ALPHA:
        return replace(made, note=f"cannot be significant with {count} subjects")
    p = wilcoxon(values, alternative)
    return replace(made, p=1.0, note="no difference") if p is None else replace(made, p=p)


def of_areas(ours: Area, theirs: Area, alternative: Alternative) -> Comparison:
    """The comparison of two areas under the ROC curve of the same subjects, by DeLong."""
    difference = area_difference(ours, theirs)
    count, limits = len(difference.subjects), area_difference_limits(ours, theirs)
    if count == 1:
        return Comparison(1, difference.value, note="one subject: no interval")
    if np.isnan(difference.variance):
        kind = "positive" if difference.counts[0] == 1 else "negative"
        low, high = limits or (None, None)
        note = f"one {kind} subject: {'no interval' if limits is None else 'interval only'}"
        return Comparison(count, difference.value, low, high, note=note)
    assert limits is not None
    p = area_difference_p(ours, theirs, alternative)
    sd = float(np.sqrt(count * difference.variance))
    return Comparison(
        count, difference.value, *limits, p=p, sd=sd, dof=difference.dof, note="no difference" if sd == 0 else ""
    )


def _against_pooled(plan: Plan, line: Line, base: Line, site: str, mean: float) -> Comparison:
    """Of what only a whole test set has there is no score of a single subject: an interval, and no
    test."""
    ours, theirs = seed_cases(line, site), seed_cases(base, site)
    seeds = sorted(seed_scores(plan, line, site).keys() & seed_scores(plan, base, site).keys())
    a, b = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    subjects = set.intersection(*({str(case["subject"]) for case in cases} for cases in (*a, *b)))
    return of_pooled(plan.headline, mean, len(subjects), drawn(plan, a, b).get(plan.headline))


def of_pooled(metric: str, mean: float, subjects: int, interval: Interval | None) -> Comparison:
    """The comparison by a metric that only a whole test set has, with its interval by bootstrap."""
    low, high = interval or (None, None)
    note = "one subject: no interval" if subjects == 1 else f"{metric} scores no single subject: interval only"
    return Comparison(subjects, mean, low, high, note=note)


def _adjusted(compared: dict[str, Comparison], method: Adjustment, alternative: Alternative) -> dict[str, Comparison]:
    tested = {title: comparison.p for title, comparison in compared.items() if comparison.p is not None}
    made = {title: replace(comparison, rows=len(compared)) for title, comparison in compared.items()}
    for title, p in zip(tested, adjust(list(tested.values()), method), strict=True):
        comparison = made[title]
        best = smallest_p(comparison.subjects, alternative) * (1 if method == "none" else len(tested))
        hopeless = (
            f"the smallest possible p after {method.capitalize()} over {len(tested)} rows is {best:.2g}"
            if comparison.rank_biserial is not None and best > ALPHA
            else ""
        )
        made[title] = replace(comparison, adjusted=p, note=comparison.note or hopeless)
    return made


def _with_claims(compared: dict[str, Comparison]) -> dict[str, Comparison]:
    """Every row's probability of a false claim, with the prior that these rows together suggest."""
    known = {
        title: (comparison.difference, comparison.sd / comparison.subjects**0.5, comparison.dof)
        for title, comparison in compared.items()
        if comparison.sd is not None
    }
    if not known:
        return compared
    gap, error, dof = np.array(list(known.values()), np.float64).T
    chances = false_claim(gap, error, dof, shrinkage(gap, error))
    return compared | {
        title: replace(compared[title], false_claim=float(p)) for title, p in zip(known, chances, strict=True)
    }
