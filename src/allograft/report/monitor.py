"""The page of what changed since a model was validated, in the hand of a study's report: one file,
nobody named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allograft.figure import Lines
from allograft.report.cells import Cell, Column, Table
from allograft.report.drawn import Drawn
from allograft.report.facts import counted
from allograft.report.figures import draw_figure
from allograft.report.page import scripts, template
from allograft.results.drift import Drift
from allograft.results.table import p_value
from allograft.tree import write_bytes

POINTS = 41
"""Places at which a cumulative distribution is drawn."""


@dataclass(frozen=True)
class Monitored:
    """What a page shows.

    Args:
        model: the name of its folder.
        task: in words.
        drifts: of each number.
        before, now: column -> a number for each case.
        failed: rows without an answer that could not be predicted.
        known: what the model keeps of its validation, as ``Deployment.facts``.
        rule: the threshold in words; "" where there is none.
    """

    model: str
    task: str
    drifts: Sequence[Drift]
    before: Mapping[str, Sequence[float]]
    now: Mapping[str, Sequence[float]]
    failed: int
    known: Mapping[str, Any]
    rule: str = ""

    @property
    def sentence(self) -> tuple[str, str]:
        """What is to be known first: a head and the rest."""
        differ = [one.name for one in self.drifts if one.differs]
        tested = sum(one.p is not None for one in self.drifts)
        if not tested:
            return "Nothing could be compared", "there are too few cases, or no number that both have."
        if not differ:
            return "No difference is shown", f"in {counted(tested, 'number')}; small changes may stay unseen."
        return (
            "These images differ from those of the validation",
            f"in {', '.join(differ)}. The scores of the validation may not hold for them: label some and run "
            "allograft evaluate.",
        )


def write_page(path: Path, found: Monitored) -> None:
    """Write ``monitor.html``; an older one is replaced whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    head, rest = found.sentence
    page = template("monitor.html.j2").render(
        found=found,
        head=head,
        rest=rest,
        drifts=_table(found.drifts),
        figures=[_drawn(found, one) for one in found.drifts if one.name in found.before],
        calibration=_calibration(found.known),
        diagrams=[_diagram(site, one) for site, one in found.known["calibration"].items()],
        fairness=_fairness(found.known),
        **scripts(),
    )
    write_bytes(path, page.encode())


def _number(value: float | None) -> Cell:
    return Cell("–", kind="quiet") if value is None else Cell(f"{value:.4g}", value=value)


def _table(drifts: Sequence[Drift]) -> Table:
    columns = (
        Column("number"),
        Column("validation", "median", "of the validation cases; of abstain the share that is far"),
        Column("now", "median", "of the new images; of abstain the share that is far"),
        Column("gap", "largest", "between the two cumulative distributions; of abstain the difference of the shares"),
        Column("visible", "gap", "the smallest that so many cases show at 5 %, before adjustment"),
        Column("p", "Holm", "two-sample Kolmogorov-Smirnov test; of abstain Fisher's exact test"),
        Column("cases", "before, now"),
    )
    rows = []
    for number, one in enumerate(drifts):
        shown = one.adjusted if one.adjusted is not None else one.p
        p = Cell("–", kind="quiet") if shown is None else Cell(p_value(shown), value=shown)
        cells = (Cell(one.name, one.words, number, "name"), _number(one.middle_before), _number(one.middle_now))
        counts = Cell(f"{one.before}, {one.now}", value=one.now)
        rows.append((one.differs, (*cells, _number(one.gap), _number(one.visible), p, counts)))
    return Table(columns, tuple(rows))


def _drawn(found: Monitored, one: Drift) -> Drawn:
    """Both cumulative distributions of a number."""
    both = {"validation": sorted(found.before[one.name]), "now": sorted(found.now[one.name])}
    every = [value for values in both.values() for value in values]
    low, high = min(every, default=0.0), max(every, default=1.0)
    at = tuple(low + (high - low) * step / (POINTS - 1) for step in range(POINTS))
    curves: dict[str, tuple[float | None, ...]] = {
        name: tuple(sum(value <= place for value in values) / len(values) for place in at)
        for name, values in both.items()
        if values
    }
    return draw_figure(Lines(one.name, at, curves, one.name, "share of cases at or below"), str)


def _diagram(site: str, one: Mapping[str, Any]) -> Drawn:
    """The reliability diagram of a site's validation cases."""
    bins = one["reliability"]
    at = tuple(float(each["confidence"]) for each in bins)
    curves: dict[str, tuple[float | None, ...]] = {
        "validation": tuple(float(each["accuracy"]) for each in bins),
        "as sure as right": at,
    }
    return draw_figure(Lines(f"calibration at {site}", at, curves, "confidence", "share that is right"), str)


def _calibration(known: Mapping[str, Any]) -> Table | None:
    columns = (Column("site"), Column("cases"), Column("calibration", "error"), Column("temperature"),
               Column("error", "at that temperature", "on the cases that it was fitted on"))  # fmt: skip
    rows = tuple(
        (False, (Cell(site, kind="name"), _number(one["cases"]), _number(one["error_before"]),
                 _number(one["temperature"]), _number(one["error_after"])))
        for site, one in known["calibration"].items()
    )  # fmt: skip
    return Table(columns, rows) if rows else None


def _fairness(known: Mapping[str, Any]) -> Table | None:
    columns = (Column("group"), Column("subjects"), Column("cases"), Column("score", "", "of groups with 10 subjects"))
    rows = tuple(
        (False, (Cell(f"{audit['attribute']}: {group['name']}", audit["headline"], kind="name"),
                 _number(group["subjects"]), _number(group["cases"]), _number(group["scores"].get(audit["headline"]))))
        for audit in known["fairness"]
        for group in audit["groups"]
    )  # fmt: skip
    return Table(columns, rows) if rows else None
