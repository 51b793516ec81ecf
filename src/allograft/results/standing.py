"""How far a study is: its table, the units that are done, and, once all are, its verdicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from allograft.context import Store
from allograft.results.evidence import marked, verdicts_of
from allograft.results.record import Record
from allograft.results.select import NOT_YET, Line, lines
from allograft.results.verdict import Verdict
from allograft.study.plan import Plan
from allograft.study.spec import Study


@dataclass(frozen=True)
class Standing:
    """What the records of a folder say now.

    Args:
        lines: the table; once the study is finished each line has what the verdict says of it.
        verdicts: target -> verdict; {} while units are missing.
        done, total: units.
    """

    lines: tuple[Line, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    done: int = 0
    total: int = 0


def standing_of(
    study: Study, plan: Plan, records: Mapping[str, Record], units: Path, waiting: Collection[str] = ()
) -> Standing:
    """The table, with its verdicts if every row has been run and judged, or has failed.

    Args:
        units: the folder of the units.
        waiting: units of a study that runs, undone even if they failed before.
    """
    table = lines(plan, records, study.selection)
    failed = {record.unit for record in records.values() if record.status == "failed"} - set(waiting)
    over = {node.key for row in plan.rows if row.unit in failed for node in row.nodes}
    done = sum(unit in over or Store(units / unit).carry_file.exists() for unit in plan.units)
    if waiting or done < len(plan.units) or any(run.error == NOT_YET for line in table for run in line.runs):
        return Standing(tuple(table), {}, done, len(plan.units))
    verdicts = verdicts_of(study, plan, table)
    return Standing(tuple(marked(table, verdicts)), verdicts, done, len(plan.units))
