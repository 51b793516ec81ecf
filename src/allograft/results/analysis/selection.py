"""How far each selection rule's choice stays behind what the test scores would have chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from allograft.results.analysis.sheet import Sheet, number
from allograft.results.record import Record
from allograft.results.select import RULES, Line, lines
from allograft.study.plan import Plan


@dataclass(frozen=True)
class Distance:
    """What a rule chose, and what it cost.

    Args:
        title: the recipe it recommends.
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
    """Every rule's choice of recipe and stages at a target beside the oracle's; None where a rule has nothing to go by.

    The oracle sees test scores, so no rule may be chosen by this table either: it says how rules did, over many studies, not which one to
    use in this one. {} without labelled test cases. Upper bounds are no choice.
    """
    best = _recommended(plan, records, "oracle", target)
    oracle = None if best is None else best.score(target)
    if oracle is None:
        return {}
    return {rule: _distance(_recommended(plan, records, rule, target), target, oracle) for rule in RULES}


def _recommended(plan: Plan, records: Mapping[str, Record], rule: str, target: str) -> Line | None:
    return next((line for line in lines(plan, records, rule) if line.recommended and line.target == target), None)


def _distance(line: Line | None, target: str, oracle: float) -> Distance | None:
    score = None if line is None else line.score(target)
    if line is None or score is None:
        return None
    return Distance(line.title, tuple(dict.fromkeys(run.stage for run in line.runs if not run.error)), score, oracle)


def distance_sheet(plan: Plan, records: Mapping[str, Record], target: str) -> Sheet | None:
    """``distance_to_oracle`` as a table; None where nothing was measured."""
    found = distance_to_oracle(plan, records, target)
    if not found:
        return None
    rows = []
    for rule, one in found.items():
        cells = ("nothing to go by", "", "", "") if one is None else _cells(one)
        rows.append((rule, *cells))
    notes = (
        *(f"{rule}: {words}." for rule, words in RULES.items()),
        "The oracle has seen the test scores: what it chose is no guide to new patients, and neither is the rule that came closest to it.",
        "Rules without labels look at training images of the target whose labels no recipe has seen, where there are such images.",
    )
    columns = ("rule", "chooses", "stage", f"{plan.headline} at {target}", "behind the oracle")
    return Sheet(f"How far each selection rule is from the oracle at {target}", columns, tuple(rows), notes)


def _cells(one: Distance) -> tuple[str, str, str, str]:
    return one.title, ", ".join(one.stages), number(one.score), number(one.behind)
