"""Curves of a study that runs: from finished units and from checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.unit.tiny import a_row

from allograft import tree
from allograft.context.nodes import Node
from allograft.figure import Lines, thinned, to_json
from allograft.recipe import Needs, parse_recipe
from allograft.results.record import Record
from allograft.run.curves import curves_of
from allograft.study.plan import Plan


@pytest.fixture
def plan() -> Plan:
    source, tuned = parse_recipe("supervised"), parse_recipe("finetune")
    rows = [a_row(source, "b", 0, 0, "source")]
    for seed in range(2):
        row = a_row(tuned, "b", seed, 0, f"tuned-{seed}")
        rows.append(replace(row, nodes=(Node("source", source, Needs()), *row.nodes)))
    return Plan(tuple(rows), 2, cast(Any, SimpleNamespace(headline="dice")))


def finish(units: Path, name: str, terms: dict[str, list[float]], training: str = "train") -> None:
    figures = {f"loss-{training}": to_json(thinned(terms, "loss")), "other": to_json(Lines("x", (1.0,), {}, "", ""))}
    tree.write_json(units / name / "figures.json", figures)
    tree.save(units / name / "carry.safetensors", {})


def begin(units: Path, name: str, terms: dict[str, list[float]]) -> None:
    state = {"at": 2, "history": terms, "seconds": 1.0, "parts": {"step": {"weight": torch.ones(3)}}}
    tree.save(units / name / "journal" / "train.safetensors", state)
    tree.save(units / name / "journal" / "once-plan.safetensors", {"at": 1, "value": 5})


def test_losses_of_finished_units_and_of_checkpoints(plan: Plan, tmp_path: Path) -> None:
    finish(tmp_path, "source", {"dice": [1.0, 0.5], "ce": [2.0, 1.0]})
    finish(tmp_path, "tuned-0", {"dice": [0.5, 0.25, 0.125]})
    begin(tmp_path, "tuned-1", {"dice": [0.5, 0.4]})
    tuned, source = curves_of(plan, tmp_path, [])
    assert tuned.title == "finetune: loss"  # in training, so first
    assert dict(tuned.y) == {"b, seed 0": (0.5, 0.25, 0.125), "b, seed 1": (0.5, 0.4, None)}
    assert source.title == "supervised: loss"
    assert dict(source.y) == {"seed 0": (3.0, 1.5)}  # the sum of its terms, once for all rows on it
    assert source.x == (1.0, 2.0)


def test_a_torn_checkpoint_and_an_empty_folder_are_passed_over(plan: Plan, tmp_path: Path) -> None:
    assert curves_of(plan, tmp_path, []) == []
    begin(tmp_path, "tuned-1", {"dice": [0.5, 0.4]})
    file = tmp_path / "tuned-1" / "journal" / "train.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    assert curves_of(plan, tmp_path, []) == []


def test_an_outline_has_everything_but_tensors(tmp_path: Path) -> None:
    kept = {"at": 2, "history": {"dice": [1.0]}, "parts": [torch.ones(2), {3: torch.zeros(1)}]}
    tree.save(tmp_path / "file.safetensors", kept)
    assert tree.outline(tmp_path / "file.safetensors") == {**kept, "parts": [None, {3: None}]}
    assert tree.outline(tmp_path / "none.safetensors") is None


def test_validation_scores_show_where_several_stages_were_evaluated(plan: Plan, tmp_path: Path) -> None:
    def scored(unit: str, ordinal: int, part: Any, dice: float) -> Record:
        return Record(unit, {"name": "x"}, 0, f"s{ordinal}", ordinal, "a", part, metrics={"dice": dice})

    records = [scored("tuned-0", 0, "val", 0.5), scored("tuned-0", 1, "val", 0.6), scored("tuned-1", 1, "val", 0.7)]
    records += [scored("source", 0, "val", 0.9), scored("tuned-0", 0, "test", 0.1), scored("gone", 0, "val", 0.2)]
    (curve,) = curves_of(plan, tmp_path, records)
    assert curve.title == "finetune: dice on validation subjects"
    assert dict(curve.y) == {"b, seed 0": (0.5, 0.6), "b, seed 1": (None, 0.7)}
    assert curve.x == (1.0, 2.0)
