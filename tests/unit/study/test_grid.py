"""Grids: every combination is run, the rule picks one for each seed, the cost of all counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.contract.world import session_of, write_cohort

from allograft.errors import SpecError
from allograft.methods.finetune import Finetune
from allograft.recipe import Grid, candidates, parse_row, title
from allograft.results.record import read_all
from allograft.studies import rebuild, run_study
from allograft.study.reading import make_study
from allograft.tree import plain

GRID = {"finetune": {"scope": "top", "grid": {"augmentation": ["none", "strong"]}}}


def test_all_combinations_the_last_axis_fastest():
    row = parse_row({"finetune": {"grid": {"scope": ["top", "full"], "augmentation": ["none", "light"]}}})
    assert [(one.scope, one.augmentation) for one in candidates(row)] == [
        ("top", "none"),
        ("top", "light"),
        ("full", "none"),
        ("full", "light"),
    ]
    assert title(row) == "finetune scope=top|full augmentation=none|light"
    assert candidates(Finetune()) == (Finetune(),)


def test_a_grid_comes_back_from_the_file_of_a_study():
    row = parse_row(GRID)
    assert isinstance(row, Grid)
    assert parse_row(json.loads(json.dumps(plain(row)))) == row


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"finetune": {"grid": {"scpe": ["top"]}}}, "scope"),
        ({"finetune": {"grid": {"scope": "top"}}}, r"expected field: \[value"),
        ({"finetune": {"grid": {"scope": []}}}, r"expected field: \[value"),
        ({"finetune": {"scope": "top", "grid": {"scope": ["full"]}}}, "name it once"),
        ({"finetune": {"first": {"supervised": {"grid": {"augmentation": ["none"]}}}}}, "grid"),
    ],
)
def test_slips_are_named(tree, told):
    with pytest.raises(SpecError, match=told):
        parse_row(tree)


def test_a_rule_that_looks_at_nothing_cannot_pick():
    tree = {
        "cohort": "m.csv",
        "task": {"segmentation": {"classes": ["x"]}},
        "source": ["a"],
        "target": ["b"],
        "recipes": [GRID],
    }
    with pytest.raises(SpecError, match="picks none of the settings"):
        make_study(tree)
    assert isinstance(make_study({**tree, "selection": "source-val"}).recipes[0], Grid)


def test_the_setting_with_the_highest_validation_score_is_taken(tmp_path: Path):
    manifest = write_cohort(tmp_path / "cohort")
    session = session_of(
        manifest, tmp_path / "out", GRID, selection="source-val", budget={"steps": 6, "adapt_steps": 4, "batch_size": 2}
    )
    made = run_study(session.study, tmp_path / "out", report=False)
    (line,) = (line for line in made.lines if line.title == "finetune scope=top augmentation=none|strong")
    (run,) = line.runs
    (other,) = run.passed_over
    assert {one.row.recipe.augmentation for one in (run, other)} == {"none", "strong"}
    assert run.val is not None
    assert other.val is not None
    assert run.val >= other.val
    records = read_all(tmp_path / "out").values()
    spent = sum(next(r.cost["train_seconds"] for r in records if r.unit == one.row.unit) for one in (run, other))
    assert line.cost("train_seconds") == pytest.approx(spent)
    assert line.cost("trainable_parameters") == next(
        r.cost["trainable_parameters"] for r in records if r.unit == run.row.unit
    )

    again = rebuild(tmp_path / "out", pictures=False)
    assert [line.title for line in again.lines] == [line.title for line in made.lines]
    card = json.loads((made.models[line.title, "b"] / "card.json").read_text())
    assert card["recipe"]["finetune"]["augmentation"] == run.row.recipe.augmentation


def test_a_setting_that_fails_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Finetune.run

    def run(self, scenario, network, context):
        if self.augmentation == "strong":
            raise RuntimeError("planted")
        return (yield from real(self, scenario, network, context))

    monkeypatch.setattr(Finetune, "run", run)
    manifest = write_cohort(tmp_path / "cohort")
    session = session_of(manifest, tmp_path / "out", GRID, selection="source-val")
    made = run_study(session.study, tmp_path / "out", report=False)
    (line,) = (line for line in made.lines if "|" in line.title)
    assert line.done == 0
    assert "planted" in line.runs[0].error
