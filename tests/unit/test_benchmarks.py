"""Kept results follow one schema, and a promise that is missed beyond noise is reported."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name: str) -> ModuleType:
    """A benchmark's file as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = module("ratio")
    monkeypatch.setattr(made, "RESULTS", tmp_path)
    return made


@pytest.mark.parametrize(
    ("values", "limit", "held"),
    [
        ([0.9, 1.0, 1.1], 1.0, True),
        ([0.9, 1.2, 1.3], 1.0, False),  # its first quartile is 1.05
        ([0.8, 1.1, 1.3], 1.0, True),  # a quarter of the pairs keeps the promise: noise
        ([1.05], 1.0, True),
        ([1.2], 1.0, False),
        ([7.0], None, True),
    ],
)
def test_a_promise_is_missed_only_beyond_noise(
    values: list[float], limit: float | None, held: bool, ratio: ModuleType, tmp_path: Path
) -> None:
    ratio.keep("x", {"images": 3}, share=(values, limit))
    kept = json.loads((tmp_path / "x.json").read_text())
    assert (ratio.missed(kept) == []) is held
    assert kept["result"]["images"] == 3


def test_pairs_alternate_and_their_median_is_kept(ratio: ModuleType, tmp_path: Path) -> None:
    calls, now = [], [0.0]

    def taking(name: str, amount: float) -> Any:
        def run() -> None:
            calls.append(name)
            now[0] += amount

        return run

    found = ratio.compare("x", taking("a", 3.0), taking("b", 2.0), limit=2.0, rounds=4, clock=lambda: now[0])
    assert found == 1.5
    assert "".join(calls) == "ab" + "abba" * 2
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["result"]["ratio"] == 1.5
    assert kept["limits"] == {"ratio": 2.0}


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_kept_results_follow_the_schema(path: Path) -> None:
    kept = json.loads(path.read_text())
    assert set(kept) == {"schema", "name", "result", "limits", "hardware"}
    assert (kept["schema"], kept["name"]) == (2, path.stem)
    assert {"machine", "threads", "cuda", "torch"} <= set(kept["hardware"])
    assert set(kept["limits"]) <= set(kept["result"])


@pytest.mark.parametrize(("arguments", "code"), [(["--check"], 1), ([], 0), (["--check", "held"], 0), (["nothing"], 2)])
def test_a_check_ends_with_1_where_a_promise_is_missed(
    arguments: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ratio", ratio)
    runner = module("__main__")
    tree = {"schema": 2, "limits": {"ratio": 1.0}, "hardware": {}}
    written = {
        "held": {**tree, "name": "held", "result": {"ratio": 0.5}},
        "missed": {**tree, "name": "missed", "result": {"ratio": 1.5}},
    }
    (tmp_path / "earlier.json").write_text(json.dumps({**written["missed"], "name": "earlier"}))
    os.utime(tmp_path / "earlier.json", (1, 1))
    for name in written:
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.setattr(runner, "HERE", tmp_path)

    class Done:
        returncode = 0

    def run(command: list[str]) -> Done:
        name = Path(command[-1]).stem
        (tmp_path / f"{name}.json").write_text(json.dumps(written[name]))
        return Done()

    monkeypatch.setattr(runner.subprocess, "run", run)
    assert runner.main(arguments) == code
    said = capsys.readouterr().out
    assert ("missed: ratio is 1.5, promised 1.0" in said) is (arguments in (["--check"], []))
    assert "earlier" not in said
