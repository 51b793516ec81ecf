"""The table of stages, on records that are made up."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.results.analysis.test_forgetting import PLAN, a_folder, run_of

from allograft.results.analysis.stages import stage_sheet


def test_recipes_with_several_stages_stand_in_their_order_with_every_site() -> None:
    second = [record for seed in range(2) for record in run_of("finetune", 2, seed, 0.5 + 0.02 * seed, 0.7)]
    first = [replace(record, stage="before", ordinal=0, metrics={"dice": 0.25}) for record in second]
    sheet = stage_sheet(
        PLAN,
        [*second, *first, *(record for record in a_folder() if record.recipe["title"] != "finetune")],
        "b",
        ("b", "a"),
    )
    assert sheet is not None
    assert sheet.columns == ("recipe", "stage", "dice at b", "dice at a")
    assert sheet.rows == (
        ("finetune", "before", "0.250 ± 0.000", "0.250 ± 0.000"),
        ("finetune", "end", "0.700 ± 0.000", "0.510 ± 0.014"),
    )


def test_one_stage_each_is_no_table() -> None:
    assert stage_sheet(PLAN, a_folder(), "b", ("b", "a")) is None
