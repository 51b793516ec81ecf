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
        differ = [drift.name for drift in self.drifts if drift.differs]
        tested = sum(drift.p is not None for drift in self.drifts)
        if not tested:
            return "Nothing could be compared", "there are too few cases, or no number that both have."
        if not differ:
            return "No difference is shown", f"in {counted(tested, 'number')}; small changes may go unnoticed."
        return (
            "These images differ from those of the validation",
            f"in {', '.join(differ)}. The scores of the validation may not hold for them: label some and run "
            "allograft evaluate.",
        )


def write_page(path: Path, monitored: Monitored) -> None:
    """Write ``monitor.html``; an older one is replaced whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    head, rest = monitored.sentence
    page = template("monitor.html.j2").render(
        found=monitored,
        head=head,
        rest=rest,
        drifts=_table(monitored.drifts),
        figures=[_drawn(monitored, drift) for drift in monitored.drifts if drift.name in monitored.before],
        calibration=_calibration(monitored.known),
        diagrams=[_diagram(site, drift) for site, drift in monitored.known["calibration"].items()],
        fairness=_fairness(monitored.known),
        **scripts(),
    )
    write_bytes(path, page.encode())


def _number(value: float | None) -> Cell:
    return Cell("–", kind="quiet") if value is None else Cell(f"{value:.4g}", value=value)


def _table(drifts: Sequence[Drift]) -> Table:
    columns = (
        Column("number"),
        Column("validation", "median", "of the validation cases; for abstain, the share beyond the threshold"),
        Column("now", "median", "of the new images; for abstain, the share beyond the threshold"),
        Column("gap", "largest", "between the two cumulative distributions; for abstain, the difference of the shares"),
        Column("visible", "gap", "the smallest gap that this many cases can show at 5 %, before adjustment"),
        Column("p", "Holm", "two-sample Kolmogorov-Smirnov test; for abstain, Fisher's exact test"),
        Column("cases", "before, now"),
    )
    rows = []
    for number, drift in enumerate(drifts):
        shown = drift.adjusted if drift.adjusted is not None else drift.p
        p = Cell("–", kind="quiet") if shown is None else Cell(p_value(shown), value=shown)
        cells = (Cell(drift.name, drift.words, number, "name"), _number(drift.middle_before), _number(drift.middle_now))
        counts = Cell(f"{drift.before}, {drift.now}", value=drift.now)
        rows.append((drift.differs, (*cells, _number(drift.gap), _number(drift.visible), p, counts)))
    return Table(columns, tuple(rows))


def _drawn(monitored: Monitored, drift: Drift) -> Drawn:
    """Both cumulative distributions of a number."""
    both = {"validation": sorted(monitored.before[drift.name]), "now": sorted(monitored.now[drift.name])}
    every = [value for values in both.values() for value in values]
    low, high = min(every, default=0.0), max(every, default=1.0)
    at = tuple(low + (high - low) * step / (POINTS - 1) for step in range(POINTS))
    curves: dict[str, tuple[float | None, ...]] = {
        name: tuple(sum(value <= limit for value in values) / len(values) for limit in at)
        for name, values in both.items()
        if values
    }
    return draw_figure(Lines(drift.name, at, curves, drift.name, "share of cases at or below"), str)


def _diagram(site: str, calibration: Mapping[str, Any]) -> Drawn:
    """The reliability diagram of a site's validation cases."""
    bins = calibration["reliability"]
    at = tuple(float(each["confidence"]) for each in bins)
    curves: dict[str, tuple[float | None, ...]] = {
        "validation": tuple(float(each["accuracy"]) for each in bins),
        "perfect calibration": at,
    }
    return draw_figure(Lines(f"calibration at {site}", at, curves, "confidence", "share that is correct"), str)


def _calibration(known: Mapping[str, Any]) -> Table | None:
    columns = (Column("site"), Column("cases"), Column("calibration", "error"), Column("temperature"),
               Column("error", "at that temperature", "on the cases that it was fitted on"))  # fmt: skip
    rows = tuple(
        (False, (Cell(site, kind="name"), _number(calibration["cases"]), _number(calibration["error_before"]),
                 _number(calibration["temperature"]), _number(calibration["error_after"])))
        for site, calibration in known["calibration"].items()
    )  # fmt: skip
    return Table(columns, rows) if rows else None


def _fairness(known: Mapping[str, Any]) -> Table | None:
    columns = (
        Column("group"),
        Column("subjects"),
        Column("cases"),
        Column("score", "", "for groups with at least 10 subjects"),
    )
    rows = tuple(
        (False, (Cell(f"{audit['attribute']}: {group['name']}", audit["headline"], kind="name"),
                 _number(group["subjects"]), _number(group["cases"]), _number(group["scores"].get(audit["headline"]))))
        for audit in known["fairness"]
        for group in audit["groups"]
    )  # fmt: skip
    return Table(columns, rows) if rows else None
