"""Batches in which every class has the same share, wherever its cases are."""

from __future__ import annotations

from pathlib import Path

from tests.unit.tiny import a_context, write_photographs, write_rows

from allograft.cohort import Cohort
from allograft.context import Budget
from allograft.parts.balanced_classes import balanced
from allograft.tasks.classification import Classification


def test_a_class_of_one_site_alone_has_its_share_and_takes_it_there(tmp_path: Path) -> None:
    write_photographs(tmp_path, {"a": 3, "b": 4})
    labels = {"a0": "x", "a1": "x", "a2": "y", "b0": "y", "b1": "z", "b2": "z", "b3": "z"}
    rows = [
        {"image": f"{name}.png", "label": label, "subject": name, "site": name[0]} for name, label in labels.items()
    ]
    cohort = Cohort.read(write_rows(tmp_path / "labels.csv", rows), Classification(("x", "y", "z")).coding)
    loader = balanced([cohort.site("a"), cohort.site("b")], a_context(budget=Budget(batch_size=4)))
    drawn = []
    for step in range(6):
        cases = [loader.cohorts[number].cases[item].name.partition(".")[0] for number, item, _ in loader.order(step)]
        counts = [[labels[case] for case in cases].count(name) for name in "xyz"]
        assert sorted(counts) == [1, 1, 2]
        drawn += cases
    assert [sum(labels[case] == name for case in drawn) for name in "xyz"] == [8, 8, 8]
    assert [drawn.count(case) for case in ("a0", "a1", "a2", "b0")] == [4, 4, 4, 4]
