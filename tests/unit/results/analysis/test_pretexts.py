"""The table of pretexts, on records that are made up."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.results.analysis.test_forgetting import PLAN, a_folder

from allograft.results.analysis.pretexts import pretext_sheet
from allograft.results.record import Record

FACTS = {"validation_loss": 0.2, "ms_ssim": 0.5, "ms_ssim_scales": 2, "dice": 0.7, "hausdorff": 4.0}


def pretrained(number: int, title: str = "reconstruction", **facts: float) -> Record:
    like = a_folder()[0]
    cost = {"train_seconds": 30.0, "peak_memory_mb": 100.0 + number, "trainable_parameters": 7}
    spans = {"steps": 60, "steps_per_epoch": 10}
    unit = list(PLAN.nodes)[number]
    kept = replace(like, unit=unit, part="weights", site="", metrics={}, cases=(), cost=cost)
    return replace(kept, recipe={"name": title, "title": title, "parameters": {}}, facts={**spans, **FACTS, **facts})


def test_facts_and_costs_are_means_over_runs() -> None:
    sheet = pretext_sheet(PLAN, [*a_folder(), pretrained(0), pretrained(1, ms_ssim=0.7), pretrained(1, "contrastive")])
    assert sheet is not None
    assert len(sheet.columns) == len(sheet.rows[0])
    assert sheet.rows[0] == (
        "reconstruction",
        *("0.200", "0.600", "2", "0.700", "4.000", "undefined"),
        *("5.0", "100", "7"),
    )
    assert [row[0] for row in sheet.rows] == ["reconstruction", "contrastive"]
    assert sheet.rows[1][2] == "0.500"


def test_runs_of_another_plan_and_of_no_restoration_have_no_row() -> None:
    assert pretext_sheet(PLAN, [*a_folder(), replace(pretrained(0), unit="elsewhere")]) is None
    bare = pretrained(0)
    assert pretext_sheet(PLAN, [replace(bare, facts={"loss": 1.0})]) is None


def test_the_frechet_distance_has_a_column_where_a_pretext_measures_it() -> None:
    """And a row without anything else that was restored."""
    alone = replace(pretrained(1, "united"), facts={"frechet_start_encoder": 1.25})
    sheet = pretext_sheet(PLAN, [pretrained(0), alone])
    assert sheet is not None
    place = sheet.columns.index("Fréchet distance, start's encoder")
    assert [row[place] for row in sheet.rows] == ["undefined", "1.250"]
    assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    assert "no FID" in sheet.notes[-1]
    without = pretext_sheet(PLAN, [pretrained(0)])
    assert without is not None
    assert len(without.columns) == len(sheet.columns) - 1
    assert "no FID" not in without.notes[-1]
