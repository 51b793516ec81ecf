"""How ``run_study`` and ``rebuild`` go through the parts of a study: what each part is told, in which order, and what
is written when. Sessions are stand-ins."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allograft import studies
from allograft.errors import MissingWeightsError
from allograft.run.parted import MISSING
from allograft.studies import rebuild, run_study
from allograft.study import Study, make_study

TREE: dict[str, Any] = {
    "cohort": "m.csv",
    "task": {"segmentation": {"classes": ["vessel"]}},
    "source": ["a", "b"],
    "target": ["b", "c"],
    "recipes": ["supervised"],
}


@dataclass(frozen=True)
class Stands:
    """A session that lists what is done with it."""

    study: Any
    out: Any
    network: Any
    fabric: Any
    workers: int
    seconds: float
    say: Any
    progress: bool = True
    look: Any = None
    continued: frozenset[str] = frozenset()
    name: str = ""
    done: list[Any] = field(default_factory=list)

    def completed(self) -> Stands:
        if self.name in MISSES:
            raise MissingWeightsError(f"no weights for {self.name}")
        return self

    def prepare(self) -> str:
        self.done.append(("prepare", self.name))
        return f"world {self.name}"

    def plan(self, world: Any) -> str:
        return f"plan {self.name}"

    def run_all(self, *given: Any, **how: Any) -> None:
        self.done.append(("run", self.name, given, how, self.continued))

    def restore(self, *given: Any) -> None:
        self.done.append(("restore", self.name, given))

    def finish(self, world: Any, plan: Any, **how: Any) -> Any:
        self.done.append(("finish", self.name, plan, how))
        return f"result {self.name}"


MISSES: set[str] = set()
FABRIC = SimpleNamespace(is_global_zero=True)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What is done, in order."""
    listed: list[Any] = []
    MISSES.clear()

    def parts(whole: Stands) -> dict[str, Stands]:
        names = ("x", "y", "z") if whole.study.is_parted else ("",)
        return {name: replace(whole, name=name, done=listed, out=tmp_path / name) for name in names}

    def note(name: str) -> Any:
        return lambda *given, **how: listed.append((name, *given, how))

    monkeypatch.setattr(studies, "Session", Stands)
    monkeypatch.setattr(studies, "part_sessions", parts)
    monkeypatch.setattr(studies, "check_parts", lambda out, folders: listed.append(("parts", out, list(folders))))
    monkeypatch.setattr(studies, "check_executor", note("check"))
    monkeypatch.setattr(studies, "_continued", lambda sessions, worlds: frozenset(worlds))
    monkeypatch.setattr(studies, "join", lambda out, whole, parts, *, report: listed.append(
        ("join", out, dict(whole.parts), parts, report, dict(whole.missing))))  # fmt: skip
    monkeypatch.setattr(studies, "protocol_sentence", lambda out: f"protocol of {out.name}")
    return listed


def study(**changes: Any) -> Study:
    made = make_study({**TREE, "each": {"x": {}, "y": {}, "z": {}}, **changes})
    object.__setattr__(made, "spelt_out", lambda: {"kept": True})
    return made


def test_each_part_is_run_with_what_was_asked_and_the_page_over_all_grows(done: list[Any], tmp_path: Path) -> None:
    said: list[str] = []
    told: dict[str, Any] = {"workers": 3, "checkpoint_seconds": 7.0, "progress": False, "report": False}
    found = run_study(study(), tmp_path, network="own", fabric=FABRIC, say=said.append, shard=(2, 3), **told)  # type: ignore[arg-type]
    assert done[:4] == [("parts", tmp_path, [tmp_path / name for name in "xyz"]), *(("prepare", n) for n in "xyz")]
    every = frozenset("xyz")
    for number, name in enumerate("xyz"):
        plan, world = f"plan {name}", f"world {name}"
        results = {each: f"result {each}" for each in "xyz"[: number + 1]}
        assert done[4 + 4 * number : 8 + 4 * number] == [
            ("run", name, (world, plan, (2, 3)), {"report": False}, every),
            ("restore", name, (world, plan)),
            ("finish", name, plan, {"report": False, "keeps_page": True}),
            ("join", tmp_path, results, 3, False, {}),
        ]
    announced = [f"== {name} ({number} of 3)" for number, name in enumerate("xyz", 1)]
    assert said == [*announced, *announced, f"protocol of {tmp_path.name}"]
    assert json.loads((tmp_path / "study.json").read_text()) == {"kept": True}
    assert json.loads((tmp_path / MISSING).read_text()) == {}
    assert isinstance(found, studies.PartsResult)
    assert (dict(found.parts), found.out) == ({name: f"result {name}" for name in "xyz"}, tmp_path)


def test_a_session_is_made_of_what_was_asked(done: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Stands] = []
    parts = studies.part_sessions
    monkeypatch.setattr(studies, "part_sessions", lambda whole: made.append(whole) or parts(whole))
    told: dict[str, Any] = {"workers": 3, "checkpoint_seconds": 7.0, "progress": False}
    one = make_study(TREE)
    assert run_study(one, str(tmp_path), network="own", fabric=FABRIC, say=str, **told) == "result "  # type: ignore[arg-type]
    whole = made[0]
    assert (whole.study, whole.out, whole.network, whole.fabric) == (one, tmp_path, "own", FABRIC)
    assert (whole.workers, whole.seconds, whole.say, whole.progress) == (3, 7.0, str, False)
    assert (whole.look.out, whole.look.command) == (tmp_path, "study")
    assert not (tmp_path / "study.json").exists()
    assert not [each for each in done if each[0] == "join"]
    assert done[2][3] == {"report": True}


def test_parts_without_weights_are_listed_and_the_others_run(done: list[Any], tmp_path: Path) -> None:
    MISSES.update("xz")
    said: list[str] = []
    found = run_study(study(), tmp_path, fabric=FABRIC, say=said.append)  # type: ignore[arg-type]
    missing = {name: f"no weights for {name}" for name in "xz"}
    assert isinstance(found, studies.PartsResult)
    assert (dict(found.parts), dict(found.missing)) == ({"y": "result y"}, missing)
    assert json.loads((tmp_path / MISSING).read_text()) == missing
    assert [line for line in said if line.startswith("missing")] == [f"missing: {why}" for why in missing.values()]
    assert done[-1] == ("join", tmp_path, {"y": "result y"}, 1, True, missing)
    MISSES.add("y")
    with pytest.raises(MissingWeightsError):
        run_study(study(), tmp_path, fabric=FABRIC)  # type: ignore[arg-type]


def test_another_process_than_the_first_writes_and_judges_nothing(done: list[Any], tmp_path: Path) -> None:
    class Made:
        study = "with defaults"

    fabric: Any = SimpleNamespace(is_global_zero=False)
    prepare = Stands.prepare
    try:
        Stands.prepare = lambda self: prepare(self) and Made()  # type: ignore[assignment, method-assign, return-value]
        found: Any = run_study(study(), tmp_path, fabric=fabric)
    finally:
        Stands.prepare = prepare  # type: ignore[method-assign]
    assert {each[0] for each in done} == {"parts", "prepare", "run", "restore"}
    assert [(part.study, part.plan, part.lines) for part in found.parts.values()] == [
        ("with defaults", f"plan {name}", ()) for name in "xyz"
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_executor_runs_the_units_of_all_parts_and_this_process_judges_them(
    done: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "execute", lambda which, parts, *, report: done.append(
        ("execute", which, {name: made[1:] for name, made in parts.items()}, report)))  # fmt: skip
    run_study(study(), tmp_path, fabric=FABRIC, executor="pool", shard=(1, 1), report=False)  # type: ignore[arg-type]
    assert done[0][0] == "check"
    assert done[0][2] == (1, 1)
    ran = [each for each in done if each[0] in ("run", "execute")]
    assert ran == [("execute", "pool", {name: (f"world {name}", f"plan {name}") for name in "xyz"}, False)]
    assert [each[1] for each in done if each[0] == "finish"] == ["x", "y", "z"]


@pytest.mark.parametrize("parted", [True, False])
def test_a_report_is_made_again_of_what_each_part_recorded(
    parted: bool, done: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study() if parted else make_study(TREE)
    kept: list[Path] = []
    monkeypatch.setattr(studies, "kept_study", lambda out: kept.append(out) or asked)
    monkeypatch.setattr(studies, "missing_parts", lambda out: {"y": "no weights"} if parted else {})
    monkeypatch.setattr(studies, "read_all", lambda out: {"one": f"record of {out.name}"})
    monkeypatch.setattr(studies, "as_recorded", lambda plan, records: (plan, list(records)))
    monkeypatch.setattr(studies.World, "read", staticmethod(lambda study, out: f"world in {out.name}"))
    said: list[str] = []
    found: Any = rebuild(tmp_path, report=False, pictures=False, say=said.append)
    names = ["x", "z"] if parted else [""]
    how = {"report": False, "pictures": False}
    place = {name: (tmp_path / name).name for name in names}
    assert [each for each in done if each[0] == "finish"] == [
        ("finish", name, (f"plan {name}", [f"record of {place[name]}"]), how) for name in names
    ]
    assert kept == [tmp_path, *(tmp_path / name for name in names)]
    results = {name: f"result {name}" for name in names}
    assert (dict(found.parts) if parted else found) == (results if parted else "result ")
    joins = [each for each in done if each[0] == "join"]
    assert joins == ([("join", tmp_path, results, 2, False, {"y": "no weights"})] if parted else [])
    assert said[-1] == f"protocol of {tmp_path.name}"
    done.clear()
    rebuild(tmp_path)
    assert done[0][3] == {"report": True, "pictures": True}
