"""A verdict in words: one sentence for the terminal, the card, the report and the page over pairs,
and how it was decided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allograft.results.comparison import NOTHING, compare
from allograft.results.scores import labelled_subjects, score_interval, subject_ids
from allograft.results.select import Line, is_bound
from allograft.results.verdict import ALPHA, DRAWS, Verdict
from allograft.study.plan import Plan
from allograft.study.spec import Study

NO_REFERENCE = "no row is a reference"
"""The reason of a verdict that compares nothing: from scratch no row does nothing, and none trains
on the target's labels alone."""


def sentence(study: Study, plan: Plan, verdict: Verdict, here: Sequence[Line], base: Line | None, target: str) -> str:
    """Score, gain, labelled patients, minutes, worst site and what is forgotten at home, in one
    sentence."""
    if verdict.reason == NO_REFERENCE:
        return _scores_alone(study, plan, here, target)
    if base is None or verdict.action == "not-measured":
        return f"Nothing can be said of {target}: {verdict.reason}."
    row = next((line for line in here if line.title == verdict.looked_at), None)
    if verdict.action == "change" and row is not None:
        return (
            f"Change to {row.title}: {_score(plan, row, target, verdict.optimism)}, {_gain(plan, verdict)}, "
            f"{_cost(row, target)}; "
            f"{_worst(row)}, {_home(study, plan, row, base, here)}."
        )
    stay = (
        "Keep your model"
        if base.title in NOTHING
        else f"Stay with {base.title}, the reference where there is no row without adaptation"
    )
    text = f"{stay}: {_score(plan, base, target)}, {_worst(base)}; {_why(plan, verdict)}"
    if row is None:
        return text + "."
    what = "the row named beforehand is" if row.title == plan.primary else "the highest is"
    return (
        f"{text}; {what} {row.title}, {_gain(plan, verdict)}, {_cost(row, target)}, "
        f"{_home(study, plan, row, base, here)}."
    )


def unfinished(done: int, total: int) -> str:
    """What stands in the place of a verdict while units are missing.

    >>> unfinished(7, 12)
    '7 of 12 units done: no verdict yet'
    """
    return f"{done} of {total} units done: no verdict yet"


def _why(plan: Plan, verdict: Verdict) -> str:
    reach = verdict.reach
    if reach is None or not verdict.reason.startswith("too few"):
        return verdict.reason
    needed = "no number of them" if reach.needed is None else f"{reach.needed:,}"
    return f"{reach.subjects} subjects are too few to show a gain, {needed} would show {plan.statistics.margin:g}"


def _score(plan: Plan, line: Line, target: str, optimism: float | None = None) -> str:
    score, interval = line.score(target), score_interval(plan, line, target)
    words = [] if interval is None else [f"{interval[0]:.3f} to {interval[1]:.3f}"]
    words += [f"optimism of the choice {optimism:.3f}"] if optimism is not None and optimism >= 5e-4 else []
    return f"{plan.headline} {score:.3f}" + (f" ({'; '.join(words)})" if words else "") + f" at {target}"


def _scores_alone(study: Study, plan: Plan, here: Sequence[Line], target: str) -> str:
    """The scores in the order of the study, where there is nothing to compare them with."""
    every = ", ".join(
        f"{line.title} {score:.3f}{' (an upper bound)' if is_bound(line.recipe) else ''}"
        for line in here
        if (score := line.score(target)) is not None
    )
    where = "for a stream" if study.stream else f"at {target}"
    return f"There is no reference row {where}, so rows are neither compared nor chosen: {plan.headline} of {every}."


def _gain(plan: Plan, verdict: Verdict) -> str:
    assert verdict.gain is not None
    assert verdict.p is not None
    p = "< 0.001" if verdict.p < 0.001 else f"{verdict.p:.3f}"
    alone = "named beforehand" if verdict.row else "tested alone"
    model = "your model" if verdict.reference in NOTHING else verdict.reference
    how = alone if verdict.looked_at == plan.primary else f"jointly over {_counted(verdict.rows, 'row')}"
    return f"{verdict.gain:+.3f} over {model} ({verdict.low:+.3f} to {verdict.high:+.3f}, p {p}, {how})"


def _cost(line: Line, target: str) -> str:
    patients, seconds = labelled_subjects(line, target), line.cost("train_seconds")
    who = "no labelled patient" if not patients else f"{patients:g} labelled patient{'' if patients == 1 else 's'}"
    return f"with {who}" + ("" if seconds is None else f" and {minutes(seconds)} of training")


def minutes(seconds: float) -> str:
    """A time to train in words.

    >>> minutes(20), minutes(60), minutes(400), minutes(9000)
    ('less than a minute', '1 minute', '7 minutes', '2.5 hours')
    """
    if seconds < 45:
        return "less than a minute"
    whole = round(seconds / 60)
    return f"{seconds / 3600:.1f} hours" if whole >= 120 else f"{whole} minute{'' if whole == 1 else 's'}"


def _worst(line: Line) -> str:
    site, score = line.worst or ("none", math.nan)
    return f"worst site {site} with {score:.3f}"


def _home(study: Study, plan: Plan, row: Line, base: Line, here: Sequence[Line]) -> str:
    """What the row loses at the source it forgets most of."""
    target = row.target
    losses = {
        site: compare(here, plan, target, base.title, site=site).get(row.title)
        for site in dict.fromkeys(study.source)
        if site != target
    }
    known = [(loss.difference, site) for site, loss in losses.items() if loss is not None]
    if not known:
        return "what is forgotten at home was not measured"
    change, site = min(known)
    return (
        f"forgetting {-change:.3f} at home ({site})"
        if change < -5e-4
        else f"forgetting nothing at home ({site} {change:+.3f})"
    )


def decided(study: Study, plan: Plan, verdict: Verdict, here: Sequence[Line], target: str) -> tuple[str, ...]:
    """The rules with the numbers of this verdict, a sentence or two each."""
    rules = f"Rules version {verdict.rules_version}."
    if verdict.action == "not-measured":
        return (f"No row was compared: {verdict.reason}.", rules)
    subjects = len(set().union(*(subject_ids(line, target) for line in here)))
    lines = [_unit(plan, subjects), _competitors(study, verdict, here)]
    if verdict.gain is None:
        return (*lines, "A single subject, or a class with a single subject, shows nothing.", rules)
    if verdict.reach is not None and verdict.reach.subjects < subjects:
        lines.append(
            f"{_counted(verdict.reach.subjects, 'subject')} are compared: in the others {plan.headline} is undefined "
            "in some row."
        )
    lines += [_test(plan, verdict), _tie(plan, verdict), _optimism(plan, verdict), _reach(plan, verdict)]
    return (*lines, _never_worse(study, plan, verdict, here), rules)


def _unit(plan: Plan, subjects: int) -> str:
    return (
        f"The unit is the subject: {_counted(subjects, 'test subject')}, each with the mean over its images and over "
        f"{_counted(plan.seeds, 'seed')}, folds together. Neither seeds nor images count as subjects."
    )


def _competitors(study: Study, verdict: Verdict, here: Sequence[Line]) -> str:
    bounds = [line.title for line in here if is_bound(line.recipe)]
    chosen = f"Selection '{study.selection}' chose stages, settings and seeds, and never a row."
    if verdict.reference not in NOTHING:
        chosen += (
            f" There is no row without adaptation, so {verdict.reference} is the reference that every row is compared "
            "with."
        )
    return chosen + (f" Upper bounds do not compete: {', '.join(bounds)}." if bounds else "")


def _test(plan: Plan, verdict: Verdict) -> str:
    named = f"'{plan.primary}' was named beforehand and is tested alone, with K = 1. " if plan.primary else ""
    return (
        f"{named}A row gains if its paired t interval at the level 1 - {ALPHA:g} / K lies above 0 and its p (exact "
        "signed-rank test; of an area under the curve DeLong's; of another score that only a complete test set has "
        f"Student's t over the jackknife's values) is at most {ALPHA:g} after Holm over the K rows. "
        f"For {verdict.looked_at} K is {verdict.rows}: a level of {1 - ALPHA / verdict.rows:.2%}."
    )


def _tie(plan: Plan, verdict: Verdict) -> str:
    if verdict.action != "change":
        return "No row gains." + ("" if verdict.reason == "no gain shown" else f" {_why(plan, verdict)}.")
    first, *others = verdict.tied or (verdict.row,)
    text = f"Of the rows that gain {first} is the best by mean. "
    text += f"Cannot be told from it: {', '.join(others)}. " if others else "The others are behind it, or do not gain. "
    if verdict.row == plan.primary:
        text += f"The choice is {verdict.row}, which was named beforehand. "
    elif others:
        text += f"The choice among them, the cheapest in labels and then in training time, is {verdict.row}. "
    free = verdict.label_free
    return text + (f"The best row without target labels is {free}." if free else "No row without target labels gains.")


def _optimism(plan: Plan, verdict: Verdict) -> str:
    if verdict.row and verdict.row == plan.primary:
        return "The row was named beforehand, so its score is not too high by choice."
    size = verdict.optimism or 0.0
    return (
        f"These rules were repeated on {DRAWS} resamples of the subjects and their choice scored on the subjects left "
        "out "
        f"(Tsamardinos 2018): the score is {f'too high by {size:.3f}' if size >= 5e-4 else 'not too high'} for having "
        "been chosen."
    )


def _reach(plan: Plan, verdict: Verdict) -> str:
    reach = verdict.reach
    assert reach is not None
    needed = "more than 100,000 subjects" if reach.needed is None else _counted(reach.needed, "subject")
    shown = "none, however large" if reach.smallest is None else f"one of {reach.smallest:.3f}"
    return (
        f"The gains of {verdict.looked_at} vary between subjects with a standard deviation of {reach.sd:.3f} "
        f"({reach.sd_low:.3f} to {reach.sd_high:.3f}): a gain of {plan.statistics.margin:g} would be shown with 80 % "
        "power by "
        f"{needed}, and {_counted(reach.subjects, 'subject')} show {shown}."
    )


def _never_worse(study: Study, plan: Plan, verdict: Verdict, here: Sequence[Line]) -> str:
    rule = f"Never worse (tolerance {plan.statistics.tolerance:g}): "
    homes = [site for site in study.source if site not in study.target]
    unseen = [site for site in homes if not any(line.is_measured(site) for line in here)]
    unknown = f" What is forgotten at {', '.join(unseen)} was not measured." if unseen else ""
    if verdict.marks:
        return rule + "; ".join(f"{title} {', '.join(why)}" for title, why in verdict.marks.items()) + f".{unknown}"
    forgets = "" if len(unseen) == len(homes) else " or forgets more than that at home"
    return f"{rule}no row loses at the target{forgets}.{unknown}"


def _counted(number: int, noun: str) -> str:
    """
    >>> _counted(1, "seed"), _counted(12_000, "subject")
    ('1 seed', '12,000 subjects')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
