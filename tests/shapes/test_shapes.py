"""The core carries seven shapes of method, shown by toys: the same bytes when killed, when cached,
and on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import session_of, told, write_cohort
from tests.shapes import toys

import allograft
from allograft import table, tree
from allograft.context import Store
from allograft.context.journal import Journal
from allograft.results.record import Record, read_all
from allograft.results.select import lines
from allograft.run.session import Session
from allograft.tree import digest

TOYS = {
    name.lower(): f"tests.shapes.toys:{name}"
    for name in ("Restore", "Refine", "Grow", "Meta", "SelfLabel", "Index", "Sample")
}
STREAM = {"stream": [["a"], ["b"]], "source": [], "target": [], "target_labels": "none"}
STUDIES: dict[str, dict[str, Any]] = {
    "restore": {"pool": ["a", "b"], "recipes": ["restore", {"supervised": {"first": "restore"}}]},
    "refine": {"pool": ["a", "b"], "recipes": ["refine"]},
    "grow": {**STREAM, "recipes": ["grow"]},
    **{name: {"recipes": [name]} for name in ("meta", "index", "sample")},
    "selflabel": {
        "cohort": "boxes.csv",
        "task": {"detection": {"classes": ["brain"]}},
        "network": {"faster_rcnn": {"backbone": "tiny", "detections": 20}},
        "recipes": ["selflabel"],
    },
}
PREDICTORS = {"toy_routed": "Routed", "toy_retrieval": "Retrieval", "toy_sampler": "Sampler"}


def register() -> None:
    """Put the toys into the tables, also of a started process."""
    table.METHODS.update(TOYS)
    table.PREDICTORS.update({name: f"tests.shapes.toys:{kind}" for name, kind in PREDICTORS.items()})


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in TOYS.items():
        monkeypatch.setitem(table.METHODS, name, place)
    for name, kind in PREDICTORS.items():
        monkeypatch.setitem(table.PREDICTORS, name, f"tests.shapes.toys:{kind}")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("shapes"))


def shape_of(manifest: Path, out: Path, name: str, **changes: Any) -> Session:
    """A session of the toy's study; no dropout, so that two processes equal one."""
    network = {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}
    more = {"optimizer": {"sgd": {"lr": 0.05}}, "network": network, **STUDIES[name], **changes}
    return session_of(manifest, out, "supervised", **more)


def ran(session: Session) -> dict[str, Record]:
    """All rows of the study; its records."""
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    return read_all(session.out)


def weights(out: Path) -> dict[str, str]:
    return {folder.name: digest(Store(folder).load()[0].network) for folder in (out / "units").iterdir()}  # type: ignore[index]


@pytest.mark.parametrize("name", STUDIES)
def test_killed_anywhere_and_cached_it_leaves_the_same(
    name: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ran(shape_of(manifest, tmp_path / "whole", name))
    assert all(record.status == "done" for record in whole.values()), [record.error for record in whole.values()]
    expected = weights(tmp_path / "whole")
    monkeypatch.setattr(Journal, "due", lambda self: self.writes)
    writes = [0, 0]
    real = tree.write_bytes

    def dying(path: Path, data: bytes) -> None:
        real(path, data)
        writes[0] += "units" in path.parts
        if writes[0] == writes[1]:
            raise KeyboardInterrupt

    for module in ("allograft.tree", "allograft.predictor.folder"):
        monkeypatch.setattr(f"{module}.write_bytes", dying)
    deaths = 0
    for at in (2, 5):  # each life ends a little later than the last
        writes[:] = [0, at]
        try:
            ran(shape_of(manifest, tmp_path / "killed", name))
        except KeyboardInterrupt:
            deaths += 1
    writes[:] = [0, -1]
    assert told(ran(shape_of(manifest, tmp_path / "killed", name))) == told(whole)
    assert deaths
    assert weights(tmp_path / "killed") == expected
    monkeypatch.setattr("allograft.train.train", lambda *_, **__: pytest.fail("a finished unit was trained again"))
    assert told(ran(shape_of(manifest, tmp_path / "killed", name))) == told(whole)


SCRIPT = """
import json, sys
from pathlib import Path
from tests.shapes.test_shapes import STUDIES, ran, register, shape_of

def work(fabric):
    register()
    for name in STUDIES:
        ran(shape_of(Path(sys.argv[1]), Path(sys.argv[2]) / name, name, fabric=fabric))

if __name__ == "__main__":
    from lightning_fabric import Fabric
    Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(work)
"""


def test_two_processes_equal_one(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(SCRIPT)
    roots = (Path(__file__).parents[2], Path(allograft.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "work.py"), str(manifest), str(tmp_path / "together")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in STUDIES:
        ran(shape_of(manifest, tmp_path / "alone" / name, name))
        units = [
            {_title(folder): Store(folder).load() for folder in (tmp_path / where / name / "units").iterdir()}
            for where in ("alone", "together")
        ]
        assert units[0].keys() == units[1].keys()
        for title, one in units[0].items():
            two = units[1][title]
            assert one is not None
            assert two is not None
            torch.testing.assert_close(two[0].network.state_dict(), one[0].network.state_dict(), rtol=1e-5, atol=5e-6)


def _title(folder: Path) -> str:
    return json.dumps(json.loads(next(folder.glob("stages/*/card.json")).read_text())["recipe"], sort_keys=True)


def test_a_pre_training_is_shown_as_weights_and_seen_by_what_is_built_on_it(manifest: Path, tmp_path: Path) -> None:
    session = shape_of(manifest, tmp_path, "restore")
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    records = read_all(tmp_path)
    (weights_only,) = (record for record in records.values() if record.part == "weights")
    assert weights_only.facts["loss"] > 0
    assert weights_only.cost["train_seconds"] > 0
    assert (weights_only.source, weights_only.target) == ((), None)
    row = next(line for line in lines(plan, records, "last") if line.title == "restore")
    assert row.leaves_weights_only
    result = session.finish(world, plan, report=True)
    page = (tmp_path / "report.html").read_text()
    assert "weights only" in page
    start = result.models["restore", "b"]
    carried = session_of(manifest, tmp_path / "start", "supervised", start=str(start))
    assert carried.start(carried.prepare(), 0).spec["build"]["unet"]["outputs"] == {"mask": 3}


def test_a_pre_training_does_not_see_head_or_adaptation(manifest: Path, tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        session = shape_of(manifest, tmp_path, "restore", **changes)
        plan = session.plan(session.prepare())
        return next(row.unit for row in plan.rows if type(row.recipe) is toys.Restore)

    first = key()
    assert key(budget={"steps": 3, "adapt_steps": 9, "batch_size": 2}) == first
    assert key(task={"segmentation": {"classes": {"tissue": [1, 2]}}}) == first
    assert key(budget={"steps": 4, "adapt_steps": 3, "batch_size": 2}) != first
    assert key(pool=["a"]) != first


def test_a_stream_counts_labels_models_and_what_each_case_was_answered_by(manifest: Path, tmp_path: Path) -> None:
    session = shape_of(manifest, tmp_path, "grow")
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    records = list(read_all(tmp_path).values())
    by_stage = {stage: [record for record in records if record.stage == stage] for stage in ("phase-0", "phase-1")}
    assert [by_stage[stage][0].facts["models"] for stage in by_stage] == [1, 2]
    assert [by_stage[stage][0].stream for stage in by_stage] == [("a",), ("a", "b")]
    assert len(by_stage["phase-0"][0].labelled_subjects) < len(by_stage["phase-1"][0].labelled_subjects)
    assert all({"chosen", "score", "warnings"} <= set(case) for record in records for case in record.cases)
    assert {record.site for record in records} == {"a", "b"}
    (line,) = session.finish(world, plan, report=True).lines
    assert line.score("stream") is not None
    page = (tmp_path / "report.html").read_text()
    assert "Along the stream" in page
    assert "backward transfer" in page


def test_a_samplers_spread_is_recorded_and_an_image_has_one_answer(manifest: Path, tmp_path: Path) -> None:
    records = ran(shape_of(manifest, tmp_path, "sample"))
    own = [record for record in records.values() if record.recipe["name"] == "sample" and record.part == "test"]
    assert own
    assert all(case["spread"] > 0 for record in own for case in record.cases)
