"""Scores and curves in MLflow and TensorBoard: all of them, once, without anybody's name, and
imported only when asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.conftest import Command, write_study
from tests.cli.conftest import allograft as allograft

from allograft.cli.show import raise_failed
from allograft.errors import MissingExtraError, SpecError, UnitsFailed
from allograft.phantoms.brain import write_brain
from allograft.results.record import read_all
from allograft.results.tracking import Sinks, Tracked, mlflow_client, plain_name, shown, tracked_runs
from allograft.run.fabric import local_fabric
from allograft.studies import run_study
from allograft.study import read_study

MARKERS = ("a-003", "b-002")
"""Subjects of the phantom, as the manifest names them."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracking")
    write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=6, size=32)
    study = read_study(write_study(folder), ["recipes=[supervised]", "target_labels=none"])
    run_study(study, folder / "out", fabric=local_fabric(accelerator="cpu"), report=False)
    return folder / "out"


def test_every_defined_score_and_every_curve_is_there(out: Path) -> None:
    records = list(read_all(out).values())
    runs = {run.unit: run for run in tracked_runs(out)}
    assert set(runs) == {record.unit for record in records}
    for record in records:
        kept = {(name, step): value for name, step, value in runs[record.unit].scalars}
        for metric, value in record.metrics.items():
            if value is not None:
                assert kept[plain_name(record.site, record.part, metric), record.ordinal] == value
    for run in runs.values():
        names = {name for name, _, _ in run.scalars}
        assert not any(other.startswith(f"{name}/") for name in names for other in names)
        steps = [step for name, step, _ in run.scalars if name == "loss-train/dice"]
        assert steps == [1, 2, 3]
        assert run.parameters["seed"] == "0"


def test_nobody_is_named(out: Path) -> None:
    text = repr(list(tracked_runs(out)))
    assert any(marker in (out / "splits.csv").read_text() for marker in MARKERS)
    assert not any(marker in text for marker in (*MARKERS, str(out), "images/"))


def test_nothing_is_imported_unless_asked_for(out: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from allograft.results.tracking import Sinks\n"
        f"sinks = Sinks(); sinks.check(); sinks.mirror([Path({str(out)!r})])\n"
        "print(sorted({'mlflow', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not (out / "tensorboard").exists()


class Server:
    """What of an MLflow client is used, in memory."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def search_runs(self, experiments: list[str], filter_string: str) -> list[Any]:
        return [
            self._as_run(key) for key, run in self.runs.items() if f"'{run['tags']['allograft.unit']}'" in filter_string
        ]

    def _as_run(self, key: str) -> Any:
        run = self.runs[key]
        return type("Run", (), {
            "data": type("Data", (), {"tags": run["tags"]}),
            "info": type("Info", (), {"run_id": key, "status": run["status"]}),
        })  # fmt: skip

    def create_run(self, experiment: str, run_name: str, tags: Mapping[str, str]) -> Any:
        key = f"run-{len(self.runs)}-{run_name}"
        self.runs[key] = {"tags": dict(tags), "status": "RUNNING", "artifacts": []}
        return self._as_run(key)

    def delete_run(self, key: str) -> None:
        del self.runs[key]

    def set_terminated(self, key: str, status: str) -> None:
        self.runs[key]["status"] = status

    def log_artifact(self, key: str, path: str) -> None:
        self.runs[key]["artifacts"].append(Path(path).name)


def test_a_run_is_mirrored_once_and_again_when_it_changed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allograft.results import tracking

    logged: list[str] = []
    monkeypatch.setattr(tracking, "_log", lambda client, run_id, run: logged.append(run.unit))
    server = Server()
    runs = list(tracked_runs(out))
    for _ in range(2):
        tracking.mirror_mlflow(server, "x", out, runs)
    assert logged == [run.unit for run in runs]
    assert [run["artifacts"] for run in server.runs.values()][-1] == ["results.csv", "metrics.csv", "verdict.json"]
    failed = replace(runs[0], has_failed=True)
    tracking.mirror_mlflow(server, "x", out, [failed, *runs[1:]])
    assert logged[len(runs) :] == [failed.unit]
    assert sorted(run["status"] for run in server.runs.values()).count("FAILED") == 1
    next(iter(server.runs.values()))["status"] = "RUNNING"  # cut short
    tracking.mirror_mlflow(server, "x", out, [failed, *runs[1:]])
    assert len(logged) == len(runs) + 2


def test_bad_input(out: Path, monkeypatch: pytest.MonkeyPatch, allograft: Command, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--mlflow: found 'mlruns'; expected a URI"):
        mlflow_client("mlruns")
    assert "secret" not in shown("https://me:secret@host:1/x")
    for module, asked in (("mlflow", Sinks(mlflow="file:x")), ("tensorboard", Sinks(tensorboard=True))):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtraError, match=r"pip install 'allograft\[tracking\]'"):
                asked.check()
    write_brain(tmp_path, sites={"a": "none", "b": "severe"}, subjects=6, size=32)
    answer = allograft("study", write_study(tmp_path), "-o", tmp_path / "out", "--mlflow", "somewhere")
    assert (answer.code, (tmp_path / "out").exists()) == (2, False)


def test_a_sink_that_cannot_be_written_stops_neither_the_other_nor_the_study(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allograft.results import tracking

    written: list[Path] = []
    monkeypatch.setattr(tracking, "write_events", lambda folder, runs: written.append(folder))
    sinks = Sinks(mlflow="https://me:secret@host/x", tensorboard=True, clients={"mlflow": object()})
    (problem,) = sinks.mirror([out])
    assert problem.startswith("--mlflow https://host/x: cannot be written ('object' object has no attribute 'get_exp")
    assert written == [out / "tensorboard"]

    def full(folder: Path, runs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking, "write_events", full)
    monkeypatch.setattr(tracking, "mirror_mlflow", lambda client, experiment, out, runs: written.append(out))
    assert sinks.mirror([out]) == ["--tensorboard: cannot be written ([Errno 28] No space left on device)"]
    assert written[1:] == [out]


def test_the_table_of_a_study_is_shown_where_its_mirror_fails(
    tmp_path: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answered before the training and is gone after it."""
    from allograft.results import tracking

    write_brain(tmp_path, sites={"a": "none", "b": "severe"}, subjects=6, size=32)
    monkeypatch.setattr(tracking, "mlflow_client", lambda uri: object())
    small = ("--set", "recipes=[supervised]", "--set", "target_labels=none", "--quiet")
    answer = allograft("study", write_study(tmp_path), "-o", tmp_path / "out", *small, "--mlflow", "https://host/x")
    assert answer.code == 3
    assert "warning: --mlflow https://host/x: cannot be written (" in answer.err
    assert "report: " in answer.out
    assert "supervised" in answer.out
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("error: the mirror is incomplete: --mlflow https://host/x: cannot be written (")


def test_failed_runs_and_a_failed_mirror_are_both_in_the_last_lines() -> None:
    result: Any = SimpleNamespace(failed=1, lines=[SimpleNamespace(runs=[0, 1])])
    with pytest.raises(UnitsFailed, match=r"1 of 2 runs failed;.*\nerror: the mirror is incomplete: the cause; the"):
        raise_failed(result, ["the cause"])
    with pytest.raises(UnitsFailed) as caught:
        raise_failed(result)
    assert "mirror" not in str(caught.value)


def test_tensorboard_reads_what_was_written(out: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sinks = Sinks(tensorboard=True)
    for _ in range(2):  # the second replaces the first
        sinks.check()
        sinks.mirror([out])
    runs = list(tracked_runs(out))
    folders = sorted((out / "tensorboard").iterdir())
    assert len(folders) == len(runs)
    by_unit = {folder.name.rpartition("-")[2]: folder for folder in folders}
    for run in runs:
        read = EventAccumulator(str(by_unit[run.unit[:8]]))
        read.Reload()
        found = {(tag, one.step, one.value) for tag in read.Tags()["scalars"] for one in read.Scalars(tag)}
        assert len(found) == len(run.scalars)
        for name, step, value in run.scalars:
            assert (name, step, pytest.approx(value, rel=1e-6)) in [one for one in found if one[:2] == (name, step)]


@pytest.mark.slow
def test_mlflow_keeps_what_was_sent(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    sinks = Sinks(mlflow=f"file:{tmp_path / 'mlruns'}")
    sinks.check()
    sinks.mirror([out])
    sinks.mirror([out])
    client = sinks.clients["mlflow"]
    experiment = client.get_experiment_by_name("out")
    kept = {run.data.tags["allograft.unit"]: run for run in client.search_runs([experiment.experiment_id])}
    runs: list[Tracked] = list(tracked_runs(out))
    assert len(client.search_runs([experiment.experiment_id])) == len(runs) + 1
    for run in runs:
        assert kept[run.unit].data.params == {**run.parameters}
        sent = {(name, step): value for name, step, value in run.scalars}
        for name in {name for name, _ in sent}:
            history = client.get_metric_history(kept[run.unit].info.run_id, name)
            assert {(name, one.step): one.value for one in history} == {
                key: v for key, v in sent.items() if key[0] == name
            }
    files = {one.path for one in client.list_artifacts(kept["tables"].info.run_id)}
    assert files == {"results.csv", "metrics.csv", "verdict.json"}
    every = b"".join(path.read_bytes() for path in (tmp_path / "mlruns").rglob("*") if path.is_file())
    assert not any(marker.encode() in every for marker in MARKERS)
