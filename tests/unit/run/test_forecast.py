"""What a plan tells of each unit: whose training it was tried by, what judging adds, and what memory
counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_row

from allograft.context import Meter, Node
from allograft.errors import SpecError
from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.recipe import Needs, Stage
from allograft.run import preview as room
from allograft.run.preview import (
    Preview,
    UnitPreview,
    _judging,
    _tried,
    _units,
    check_memory,
    free_memory,
    preview_table,
)
from allograft.study.plan import Plan


def a_plan() -> Plan:
    """Two seeds of a row on its source training, whose own row comes first."""
    tuned, rows = Finetune(), []
    for seed in range(2):
        rows.append(a_row(Supervised(), "b", seed, 0, f"source-{seed}"))
        row = a_row(tuned, "b", seed, 0)
        rows.append(
            replace(row, nodes=(Node(f"source-{seed}", Supervised(), Needs()), Node(f"tuned-{seed}", tuned, Needs())))
        )
    return Plan(tuple(rows), 2, SimpleNamespace())  # type: ignore[arg-type]


METERS = {
    "source-0": Meter(planned_steps=50, planned_seconds=5.0),
    "tuned-0": Meter(planned_steps=7, planned_seconds=2.0),
}
JUDGING = {("source-0", "trained"): 1.0, ("tuned-0", "one"): 0.5, ("tuned-0", "two"): 0.25}


def units(tmp_path: Path, **more: Any) -> dict[str, UnitPreview]:
    session: Any = SimpleNamespace(units=tmp_path)
    told = {
        "meters": METERS,
        "judging": JUDGING,
        "reasons": {},
        "built_on": {"source-0": {0, 1}, "tuned-0": {1}},
        **more,
    }
    return {unit.unit: unit for unit in _units(session, a_plan(), *told.values())}


def test_other_seeds_take_as_long_as_the_first_and_judging_counts_at_every_stage(tmp_path: Path) -> None:
    found = units(tmp_path)
    assert {unit: (one.steps, one.seconds, one.rows, one.state) for unit, one in found.items()} == {
        "source-0": (50, 6.0, 2, "to do"),
        "source-1": (50, 6.0, 2, "to do"),
        "tuned-0": (7, 2.75, 1, "to do"),
        "tuned-1": (7, 2.75, 1, "to do"),
    }
    assert found["tuned-1"].title == "finetune"
    assert Preview(tuple(found.values()), 1, 2).seconds == 2 * 6.0 + 2 * 2.75


def test_what_is_done_runs_or_cannot_be_tried_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source-0").mkdir()
    (tmp_path / "source-0" / "carry.safetensors").write_bytes(b"")
    monkeypatch.setattr(room, "held_elsewhere", lambda path: path.parent.name in ("source-0", "source-1"))
    found = units(tmp_path, reasons={"tuned-0": "cannot be tried: no"})
    assert {unit: (one.state, one.steps, one.seconds) for unit, one in found.items()} == {
        "source-0": ("done", None, None),
        "source-1": ("running", None, None),
        "tuned-0": ("cannot be tried: no", None, None),
        "tuned-1": ("cannot be tried: no", None, None),
    }


def test_a_row_is_rehearsed_without_a_folder_or_a_bar_and_each_stage_judged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    stages = [Stage("one", unit="u"), Stage("two", unit="u"), Stage("one", unit="inner")]

    class Context:
        folder, rehearsal, progress = "a folder", None, True

        def run(self, recipe: Any, scenario: Any, network: Any) -> Any:
            made.append((self.folder, self.progress, recipe, scenario, network))
            self.rehearsal["u"] = "a meter"  # type: ignore[index]
            return iter(stages)

    def replaced(context: Any, **changes: Any) -> Any:
        other = Context()
        vars(other).update(changes)
        return other

    monkeypatch.setattr(room, "replace", replaced)
    monkeypatch.setattr(room, "scenario_of", lambda world, row: "the scenario")
    asked: list[str] = []
    monkeypatch.setattr(room, "_judging", lambda stage, *_: asked.append(f"{stage.unit} {stage.name}") or 0.5)
    cohort = SimpleNamespace(cohort=SimpleNamespace(cases=(1, 2, 3)))
    world: Any = SimpleNamespace(tests=lambda fold: [cohort] * (fold + 1))
    session: Any = SimpleNamespace(context=lambda seed: f"context {seed}", start=lambda world, seed: f"start {seed}")
    meters: dict[str, Any] = {}
    judging = {("inner", "one"): 9.0}
    row = a_row(Supervised(), "b", 4, 1)
    assert [*_tried(session, world, row, meters, judging)] == ["u"]  # type: ignore[arg-type]
    assert made == [(None, False, Supervised(), "the scenario", "start 4")]
    assert meters == {"u": "a meter"}
    assert asked == ["u one", "u two"]
    assert judging == {("inner", "one"): 9.0, ("u", "one"): 3.0, ("u", "two"): 3.0}  # six cases, half a second each


def test_judging_is_one_case_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.5])
    asked: list[Any] = []
    monkeypatch.setattr(room.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(room, "case_prediction", lambda *words: asked.append(words))
    monkeypatch.setattr(
        room, "replace", lambda cohort, sites: SimpleNamespace(whole=lambda number: (cohort, sites, number))
    )
    session: Any = SimpleNamespace(study=SimpleNamespace(made_task="task"), fabric=SimpleNamespace(device="cuda:1"))
    world: Any = SimpleNamespace(tests=lambda fold: [SimpleNamespace(cohort=f"fold {fold}")])
    row = a_row(Supervised(), "b", 0, 2)
    predictor: Any = object()
    assert _judging(Stage("one", predictor, sites=("x",)), session, world, row) == 2.5
    assert asked == [(predictor, ("fold 2", ("x",), 0), "task", "cuda:1")]
    assert _judging(Stage("one"), session, world, row) == 0.0
    assert _judging(Stage("one", predictor), session, SimpleNamespace(tests=lambda fold: []), row) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (100 + 6 * 50, ""),
        (100 + 6 * 50 - 1, "batch_size to at most 5"),
        (149, "a smaller patch"),
        (90, "a smaller patch"),
    ],
)
def test_a_step_fits_or_the_setting_is_named(free: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(room, "free_memory", lambda device: asked.append(device) or free)
    monkeypatch.setattr(room, "step_memory", lambda session, world: (100, 50))
    study = SimpleNamespace(budget=SimpleNamespace(batch_size=6))
    session: Any = SimpleNamespace(study=study, fabric=SimpleNamespace(device="a device"))
    if said:
        with pytest.raises(SpecError, match=said):
            check_memory(session, None)  # type: ignore[arg-type]
    else:
        assert check_memory(session, None) == (400, free)  # type: ignore[arg-type]
    assert asked == ["a device"]


def test_free_memory_is_that_of_the_device_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: "MemTotal:  9 kB\nMemAvailable:   7 kB\n")
    assert free_memory(torch.device("cpu")) == 7 * 1024
    monkeypatch.setattr(Path, "read_text", lambda self, **_: "MemTotal:  9 kB\n")
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": 5}.__getitem__)
    assert free_memory(torch.device("cpu")) == 15
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (11, 99) if device.index == 1 else (1, 1))
    assert free_memory(torch.device("cuda:1")) == 11


def test_every_column_of_the_plan() -> None:
    made = (
        UnitPreview("0123456789", "supervised", 3, "to do", 50, 200.0),
        UnitPreview("abcdefghij", "finetune", 1, "done"),
    )
    table = preview_table(Preview(made, 3 * 2**30, 5 * 2**20))
    cells = {str(column.header): [*column.cells] for column in table.columns}
    assert cells == {
        "unit": ["01234567", "abcdefgh"],
        "recipe": ["supervised", "finetune"],
        "rows built on it": ["3", "1"],
        "state": ["to do", "done"],
        "steps": ["50", ""],
        "time": ["3 min 20 s", ""],
    }
    assert table.title == "2 units, 1 to do"
    assert "about 3 min 20 s to go" in str(table.caption)
    assert "about 3.0 GiB of the 5 MiB that are free" in str(table.caption)


def test_room_is_in_powers_of_two() -> None:
    assert [room._gib(size) for size in (700 * 2**20, 1.5 * 2**30)] == ["700 MiB", "1.5 GiB"]
