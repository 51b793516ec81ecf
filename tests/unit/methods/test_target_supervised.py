"""Target labels alone: those of the budget, or for the upper bound all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.world import BUDGET, run, session_of, write_cohort

CONTRACT = {"options": {"labels": "all", "augmentation": "none"}}


@pytest.mark.parametrize("labels", ["budget", "all"])
def test_it_sees_the_labels_that_it_is_given_and_no_source(labels: str, tmp_path: Path) -> None:
    recipe = {"target_supervised": {"labels": labels}}
    world, row, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe))
    own = [record for record in records.values() if record.unit == row.unit]
    every = world.part("b", "train", 0).subjects
    assert {len(record.labelled_subjects) for record in own} == {BUDGET if labels == "budget" else len(every)}
    assert {(record.source, record.target) for record in own} == {((), "b")}
    assert len(every) > BUDGET
