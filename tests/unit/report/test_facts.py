"""What a report says of the records it stands on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from allograft.report.facts import environment
from allograft.results.record import Record


def test_a_record_that_answers_several_seeds_counts_for_each_and_one_of_several_lines_once() -> None:
    """The do-nothing row is one unit for all seeds."""
    zero = Record("unit", {}, 0, "end", 0, "b", "test", environment={"torch": "2.9"})
    one = replace(zero, seed=1, environment={"torch": "2.10"})
    line: Any = SimpleNamespace(runs=[SimpleNamespace(tests={"b": (record,)}) for record in (zero, one)])
    assert environment([line, line]) == {"torch": "2.10 (1 records), 2.9 (1 records)"}
