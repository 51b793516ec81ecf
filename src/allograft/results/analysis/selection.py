"""How far each selection rule's choice stays behind what the test scores would have chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from allograft.results.analysis import label_free
from allograft.results.analysis.sheet import Sheet, number
from allograft.results.record import Record
from allograft.results.select import RULES, Line, is_bound, lines
from allograft.study.plan import Plan


@dataclass(frozen=True)
class Distance:
    """What a rule chose, and what it cost.

    Args:
        title: the recipe it ranks highest.
        stages: the stages it chose, one a finished seed, each named once.
        score: headline at the target, mean over seeds.
        oracle: of what the test scores choose.
    """

    title: str
    stages: tuple[str, ...]
    score: float
    oracle: float

    @property
    def behind(self) -> float:
        """What the rule left on the table, in units of the headline."""
        return self.oracle - self.score


def distance_to_oracle(plan: Plan, records: Mapping[str, Record], target: str) -> dict[str, Distance | None]:
    """Every rule's choice of recipe and stages at a target beside the oracle's; None where a rule
    has nothing to go by.

    The oracle sees test scores, so no rule may be chosen by this table either: it says how rules
    did, over many studies, not which one to use in this one. {} without labelled test cases. Upper
    bounds are no choice.
    """
    best = chosen_row(plan, records, "oracle", target)
    oracle = None if best is None else best.score(target)
    if oracle is None:
        return {}
    return {rule: _distance(chosen_row(plan, records, rule, target), target, oracle) for rule in RULES}


def chosen_row(plan: Plan, records: Mapping[str, Record], rule: str, target: str) -> Line | None:
    """The row that a rule ranks highest at a target, upper bounds aside; None for a rule that ranks
    nothing, as ``last``.

    A site without labels ranks nothing, but for the rules that need none; those choose nothing
    where they have seen nothing.
    """
    here = [
        line for line in lines(plan, records, rule) if line.target == target and line.done and not is_bound(line.recipe)
    ]
    if rule not in label_free.RULES:
        here = [line for line in here if line.score(target) is not None]
    ranked = [
        (standing, -number, line) for number, line in enumerate(here) if (standing := _standing(line, rule)) is not None
    ]
    return max(ranked)[2] if ranked else None


def _standing(line: Line, rule: str) -> float | None:
    if rule == "oracle":
        return line.score(line.target)
    ranks = [run.rank for run in line.runs if run.rank is not None]
    return mean(ranks) if ranks else None


def _distance(line: Line | None, target: str, oracle: float) -> Distance | None:
    score = None if line is None else line.score(target)
    if line is None or score is None:
        return None
    return Distance(line.title, tuple(dict.fromkeys(run.stage for run in line.runs if not run.error)), score, oracle)


def distance_sheet(plan: Plan, records: Mapping[str, Record], target: str) -> Sheet | None:
    """``distance_to_oracle`` as a table; None where nothing was measured."""
    distances = distance_to_oracle(plan, records, target)
    if not distances:
        return None
    rows = []
    for rule, distance in distances.items():
        cells = ("no data to choose by", "", "", "") if distance is None else _cells(distance)
        rows.append((rule, *cells))
    notes = (
        *(f"{rule}: {words}." for rule, words in RULES.items()),
        "The oracle has seen the test scores: its choice says nothing about new patients, and neither does the rule "
        "that came closest to it.",
        "Rules without labels look at training images of the target whose labels no recipe has seen, if there are any.",
    )
    columns = ("rule", "chooses", "stage", f"{plan.headline} at {target}", "behind the oracle")
    return Sheet(f"How far each selection rule is from the oracle at {target}", columns, tuple(rows), notes)


def _cells(distance: Distance) -> tuple[str, str, str, str]:
    return distance.title, ", ".join(distance.stages), number(distance.score), number(distance.behind)
