"""A plan whose records an earlier version made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from allograft.recipe import title
from allograft.results.record import Record
from allograft.study.plan import Plan, Row


def as_recorded(plan: Plan, records: Iterable[Record]) -> Plan:
    """The plan, with the unit of an earlier version's run of the same recipe, seed and fold where
    this version's has no record."""
    tests = [record for record in records if record.part == "test"]
    own = {record.unit for record in tests}

    def fits(record: Record, row: Row) -> bool:
        asked = record.site in row.question.sites and record.fold == row.fold and record.seed == row.seed
        stated = (
            not record.target or record.status == "failed" or row.target in (record.target, *record.target.split("+"))
        )
        return asked and stated and record.recipe.get("title") == title(row.recipe)

    rows = []
    for row in plan.rows:
        earlier = sorted({record.unit for record in tests if fits(record, row)}) if row.unit not in own else ()
        nodes = (replace(row.nodes[-1], key=earlier[0]),) if earlier else row.nodes
        rows.append(replace(row, nodes=nodes))
    return replace(plan, rows=tuple(rows))
