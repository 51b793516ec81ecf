"""From the lines of a table to what the rules of the verdict look at, and from their answer to
``OUT/verdict.json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from allograft import tree
from allograft.results.areas import area_difference
from allograft.results.comparison import NOTHING, areas, compare, verdict_reference
from allograft.results.intervals import Floats
from allograft.results.scores import is_scored, labelled_subjects, line_area, seed_cases, subject_ids
from allograft.results.select import Line, is_bound
from allograft.results.sentence import NO_REFERENCE, decided, sentence
from allograft.results.statistics import Cases, paired, per_subject, undefined_in
from allograft.results.verdict import Evidence, Verdict, decide
from allograft.study.plan import Plan
from allograft.study.spec import Study

FILE = "verdict.json"


def verdicts_of(study: Study, plan: Plan, lines: Sequence[Line]) -> dict[str, Verdict]:
    """Target -> verdict, of a study that is finished."""
    return {asked.name: _verdict(study, plan, lines, asked.name) for asked in study.questions}


def _verdict(study: Study, plan: Plan, lines: Sequence[Line], target: str) -> Verdict:
    here = [line for line in lines if line.target == target]
    base = verdict_reference(here, plan, target)
    rows = [line for line in here if line is not base and not is_bound(line.recipe) and line.score(target) is not None]
    unknown = _unknown(study, plan, here, base, rows)
    if unknown or base is None:
        made = Verdict("not-measured", unknown)
    else:
        evidence = evidence_of(plan, rows, base, target)
        made = (
            Verdict("keep", "too few subjects to show one")
            if evidence is None
            else Verdict(**decide(evidence, plan.statistics))
        )
        made = replace(made, marks=marks(study, plan, here, target))
    made = replace(made, reference="" if base is None else base.title)
    made = replace(made, sentence=sentence(study, plan, made, here, base, target))
    return replace(made, how=decided(study, plan, made, here, target))


def _unknown(study: Study, plan: Plan, here: Sequence[Line], base: Line | None, rows: Sequence[Line]) -> str:
    """Why nothing can be said; "" where something can."""
    target = here[0].target if here else ""
    if study.selection == "oracle":
        return "the test scores chose the stages, settings and seeds (selection: oracle)"
    weights_only = [line.leaves_weights_only for line in here if line.done]
    if base is None and weights_only and all(weights_only):
        return "its rows leave weights only, which other rows start from"
    if not any(line.is_measured(target) for line in here):
        return "no test subject has labels"
    if not any(line.score(target) is not None for line in here):
        return f"{plan.headline} is undefined on these test subjects"
    if base is None:
        return NO_REFERENCE
    if base.score(target) is None:
        nothing = base.title in NOTHING
        return f"{'no adaptation' if nothing else f'the reference, {base.title},'} has no score to compare with"
    return "" if rows else "no other row was measured"


def evidence_of(plan: Plan, rows: Sequence[Line], base: Line, target: str) -> Evidence | None:
    """The rows' values per subject beside do-nothing's, over the subjects that all have; None where
    they are too few for any test.

    A score of single cases is the mean over a subject's cases and over seeds. An area under the ROC
    curve has influence values, any other pooled metric the jackknife's pseudo-values.
    """
    exact, dof = is_scored(plan, base, target), None
    if exact:
        values = _scored(plan, rows, base, target)
    elif line_area(plan, base, target) is not None:
        values, dof = _ranked(plan, rows, base, target)
    else:
        values = _jackknifed(plan, rows, base, target)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    titles = tuple(line.title for line in rows)
    return Evidence(
        titles,
        values,
        tuple(labelled_subjects(line, target) for line in rows),
        tuple(math.inf if (seconds := line.cost("train_seconds")) is None else seconds for line in rows),
        exact,
        dof,
        titles.index(plan.primary) if plan.primary in titles else None,
    )


def _scored(plan: Plan, rows: Sequence[Line], base: Line, target: str) -> Floats:
    # a case that is undefined in one row is left out of all, since all are compared
    each = [seed_cases(line, target) for line in (base, *rows)]
    undefined = set[str]().union(*(undefined_in(by_seed, plan.headline) for by_seed in each))
    theirs, *ours = ({seed: _without(cases, undefined) for seed, cases in by_seed.items()} for by_seed in each)
    pairs = [paired(line_, theirs, plan.headline) for line_ in ours]
    every = [dict(zip(pair.subjects, pair.ours - pair.theirs, strict=True)) for pair in pairs]
    shared = sorted(set.intersection(*(set(gains) for gains in every)))
    means = [per_subject(cases, plan.headline) for cases in theirs.values()]
    alone = {subject: fmean(line_[subject] for line_ in means if subject in line_) for subject in shared}
    return np.array([[alone[s], *(alone[s] + gains[s] for gains in every)] for s in shared], np.float64).reshape(
        -1, 1 + len(rows)
    )


def _without(cases: Cases, left_out: set[str]) -> list[Mapping[str, Any]]:
    return [case for case in cases if str(case["case"]) not in left_out]


def _ranked(plan: Plan, rows: Sequence[Line], base: Line, target: str) -> tuple[Floats, Floats]:
    alone = line_area(plan, base, target)
    pairs = [areas(plan, line, base, target) for line in rows]
    gains = [area_difference(*pair) for pair in pairs if pair is not None]
    if alone is None or len(gains) < len(rows) or any(gain.subjects != alone.subjects for gain in gains):
        return np.empty((0, 1 + len(rows))), np.empty(0)
    columns = [alone.per_subject, *(alone.per_subject + gain.per_subject for gain in gains)]
    return np.stack(columns, 1), np.array([gain.dof for gain in gains], np.float64)


def _jackknifed(plan: Plan, rows: Sequence[Line], base: Line, target: str) -> Floats:
    """Pseudo-values n t - (n - 1) t(without subject i) of the metric t, mean over seeds (Quenouille
    1956, Tukey 1958)."""
    subjects = sorted(set.intersection(*(subject_ids(line, target) for line in (base, *rows))))
    count, columns = len(subjects), []
    for line in (base, *rows):
        score = _mean_pool(plan, list(seed_cases(line, target).values()))
        whole = score(None)
        columns.append([count * whole - (count - 1) * score(subject) for subject in subjects])
    return np.array(columns, np.float64).T


def _mean_pool(plan: Plan, seeds: Sequence[Cases]) -> Callable[[str | None], float]:
    def score(without: str | None) -> float:
        pooled = [
            plan.task.aggregate([case for case in cases if str(case["subject"]) != without]).get(plan.headline)
            for cases in seeds
        ]
        known = [value for value in pooled if value is not None]
        return fmean(known) if known and len(known) == len(pooled) else math.nan

    return score


def marks(study: Study, plan: Plan, here: Sequence[Line], target: str) -> dict[str, tuple[str, ...]]:
    """Row -> why it may be worse than the model as it is: it loses at the target, or forgets more
    than ``tolerance`` at home."""
    bearable, marked = plan.statistics.tolerance, dict[str, tuple[str, ...]]()
    base = verdict_reference(here, plan, target)
    for site, verb in ((target, "loses"), *((home, "forgets") for home in study.source if home != target)):
        for title, comparison in compare(here, plan, target, "" if base is None else base.title, site=site).items():
            surely = verb == "loses" and comparison.high is not None and comparison.high < 0
            if comparison.difference < -bearable or surely:
                between = "" if comparison.low is None else f" ({comparison.low:+.3f} to {comparison.high:+.3f})"
                marked[title] = (*marked.get(title, ()), f"{verb} {-comparison.difference:.3f} at {site}{between}")
    return marked


def marked(lines: Sequence[Line], verdicts: Mapping[str, Verdict]) -> list[Line]:
    """The lines, each with what the verdict of its target says of it: keep, change, tied, loses,
    forgets."""
    return [
        replace(line, verdict=_word(line, verdicts[line.target])) if line.target in verdicts else line for line in lines
    ]


def _word(line: Line, verdict: Verdict) -> str:
    words = [mark.split()[0] for mark in verdict.marks.get(line.title, ())]
    if line.title == verdict.row:
        words.insert(0, "change")
    elif line.title in verdict.tied:
        words.insert(0, "tied")
    elif verdict.action == "keep" and line.title == verdict.reference:
        words.insert(0, "keep")
    return "; ".join(dict.fromkeys(words))


def write_verdicts(out: Path, verdicts: Mapping[str, Verdict]) -> Path | None:
    """Write ``OUT/verdict.json``: target -> ``Verdict``. An older one goes where there is no
    verdict: the study is not finished."""
    path = out / FILE
    if not verdicts:
        tree.remove(path)
        return None
    tree.write_json(path, {target: tree.plain(asdict(verdict)) for target, verdict in verdicts.items()})
    return path
