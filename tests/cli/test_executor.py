"""Several processes of one machine: the serial run's bytes, each unit trained once, stopped and lost processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Command
from tests.faults.world import run, study_of, told, write_cohort

from allograft.phantoms.brain import write_brain
from allograft.results.record import read_all
from allograft.run.executors import LocalExecutor
from allograft.run.executors.jobs import inner_units, jobs_of
from allograft.run.executors.local import cores, environment
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.studies import run_study
from allograft.study.reading import make_study

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def serial(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("serial")
    run(manifest, out)
    return told(out)


def command(manifest: Path, folder: Path, *more: str, **keys: Any) -> list[str]:
    (folder / "study.yaml").write_text(yaml.safe_dump({**study_of(manifest), **keys}))
    words = [sys.executable, "-m", "allograft", "study", str(folder / "study.yaml"), "--out", str(folder / "out")]
    return [*words, "--executor", "local", "--jobs", "2", "--checkpoint-seconds", "0", *more]


def test_records_and_models_are_the_serial_run_s(manifest: Path, serial: dict[str, Any], tmp_path: Path) -> None:
    done = subprocess.run(command(manifest, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "out") == serial
    assert not list((tmp_path / "out").rglob("lock"))
    lines = done.stderr.splitlines()
    assert "Warning" not in done.stderr
    ran = [line for line in lines if re.search(r"^job [12]: \[\d of 4\] ", line)]
    assert len(ran) == 4, lines  # each unit once, and the shared one too
    assert {line[:5] for line in ran} == {"job 1", "job 2"}


def sessions(manifest: Path, out: Path, **keys: Any) -> dict[str, Any]:
    study = make_study({**study_of(manifest), **keys})
    session = Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None).completed()
    world = session.prepare()
    return {"": (session, world, session.plan(world))}


def test_a_unit_waits_for_those_that_it_is_built_on(manifest: Path, tmp_path: Path) -> None:
    parts = sessions(manifest, tmp_path)
    jobs = {job.unit: job for job in jobs_of(parts)}
    plan = parts[""][2]
    (shared,) = {row.unit for row in plan.rows if row.recipe.__class__.__name__ == "Supervised"} & set().union(
        *inner_units(plan).values()
    )
    waiting = {unit for unit, job in jobs.items() if job.after}
    assert len(jobs) == 4
    assert waiting == {row.unit for row in plan.rows if row.recipe.__class__.__name__ == "Fourier"}
    assert all(jobs[unit].after == {(tmp_path, shared)} for unit in waiting)


@pytest.mark.slow
def test_a_pre_training_without_a_row_is_a_job_of_its_own(manifest: Path, tmp_path: Path) -> None:
    pretrained = {"supervised": {"first": {"reconstruction": {"epochs": 1, "held_out": 0}}}}
    keys: dict[str, Any] = {"recipes": [pretrained, {"finetune": {"first": pretrained}}], "pool": ["a"]}
    keys |= {"baselines": False, "target_labels": {"subjects": 1}, "preprocessing": {"intensity": "minmax"}}
    parts = sessions(manifest, tmp_path, **keys)
    plan = parts[""][2]
    rows = {row.unit for row in plan.rows}
    bare = [job for job in jobs_of(parts) if job.unit not in rows]
    assert [job.label.split()[0] for job in bare] == ["reconstruction"]
    built = inner_units(plan)
    assert sum(bare[0].unit in inner for inner in built.values()) == 2
    one, several = tmp_path / "one", tmp_path / "several"
    fabric = local_fabric(accelerator="cpu")
    for out, executor in ((one, None), (several, LocalExecutor(2))):
        result = run_study({**study_of(manifest), **keys}, out, fabric=fabric, report=False, executor=executor)
        assert result.failed == 0
    assert told(several) == told(one)


@pytest.mark.slow
def test_parts_share_units_and_a_failed_unit_ends_with_3(manifest: Path, tmp_path: Path) -> None:
    """The row that fails is shown in both parts, and all others are there."""
    keys: dict[str, Any] = {"recipes": [{"fourier": {"beta": 0.1, "donors": 1}}], "test": {"fraction": 0.5, "val": 0.5}}
    keys["each"] = {"last": {"selection": "last"}, "validated": {"selection": "source-val"}}
    manifest = write_brain(tmp_path / "cohort", sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    done = subprocess.run(
        command(manifest, tmp_path, **keys),
        capture_output=True,
        text=True,
        env=planted(tmp_path, 'raise ValueError("no")'),
    )
    assert done.returncode == 3, done.stderr
    assert "2 of 6 runs failed" in done.stderr
    out = tmp_path / "out"
    assert len(list((out / "units").glob("*/carry.safetensors"))) == 2
    for part in ("last", "validated"):
        failed = [record for record in read_all(out / "parts" / part).values() if record.status == "failed"]
        assert [(record.recipe["name"], record.error) for record in failed] == [("fourier", "ValueError: no")]
    steps = [line for line in done.stderr.splitlines() if re.search(r"^job \d: \[\d of 6\] supervised", line)]
    assert len(steps) == 4  # two units in two parts; the second part evaluates what the first has trained


def _started(words: list[str], out: Path, pattern: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(out.glob(pattern)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return process


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


LONG = ("--set", "budget.steps=100000")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_every_process_keeps_its_place(sent: signal.Signals, manifest: Path, tmp_path: Path) -> None:
    words = [*command(manifest, tmp_path, *LONG), "--checkpoint-seconds", "100000"]
    process = _started(words, tmp_path, "out/units/*/lock")
    time.sleep(1.0)
    children = _children(process.pid)
    os.kill(process.pid, sent)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (143 if sent == signal.SIGTERM else 130), said
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert len(list(tmp_path.glob("out/units/*/journal/*.safetensors"))) >= 1
    assert not list(tmp_path.rglob("lock"))
    assert not list((tmp_path / "out").glob("records/*"))


@pytest.mark.slow
def test_without_the_first_process_the_others_keep_their_place_and_end(manifest: Path, tmp_path: Path) -> None:
    words = [*command(manifest, tmp_path, *LONG), "--checkpoint-seconds", "100000"]
    process = _started(words, tmp_path, "out/units/*/lock")
    time.sleep(1.0)
    children = _children(process.pid)
    process.kill()
    process.wait()
    until = time.monotonic() + 100
    while list(tmp_path.rglob("lock")) and time.monotonic() < until:
        time.sleep(0.1)
    assert not list(tmp_path.rglob("lock"))
    assert len(list(tmp_path.glob("out/units/*/journal/*.safetensors"))) >= 1
    while any(_is_running(child) for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(_is_running(child) for child in children)


def _is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_process_that_was_killed_is_a_failed_run_and_the_rest_goes_on(manifest: Path, tmp_path: Path) -> None:
    """As where memory runs out. Run again, nothing is different from a run without it."""
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run(command(manifest, tmp_path), capture_output=True, text=True, env=planted(tmp_path, kill))
    assert done.returncode == 3, done.stderr
    failed = [record for record in read_all(tmp_path / "out").values() if record.status == "failed"]
    assert [(record.recipe["title"], "killed (signal 9)" in record.error) for record in failed] == [
        ("fourier beta=0.1 donors=1", True)
    ]
    assert len(list((tmp_path / "out").glob("units/*/carry.safetensors"))) == 3
    again = subprocess.run(command(manifest, tmp_path), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    serial = tmp_path / "serial"
    run(manifest, serial)
    (error,) = (tmp_path / "out").glob("units/*/error.txt")
    error.unlink()  # of the first try, as a run in one process leaves it too
    assert told(tmp_path / "out") == told(serial)


def planted(folder: Path, line: str) -> dict[str, str]:
    """An environment in which one row of the study does this in every worker."""
    (folder / "sitecustomize.py").write_text(PLUG.format(line=line))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


PLUG = """
import os, signal, sys
if "allograft.run.executors.process" in " ".join(sys.orig_argv):
    import allograft.methods.fourier as fourier
    real = fourier.Fourier.run
    def run(self, *arguments):
        if self.beta == 0.1:
            {line}
        return real(self, *arguments)
    fourier.Fourier.run = run
"""


@pytest.mark.slow
def test_storage_that_vanishes_ends_the_study_with_its_name(manifest: Path, tmp_path: Path) -> None:
    import shutil

    process = _started(command(manifest, tmp_path, *LONG), tmp_path, "out/units/*/lock")
    time.sleep(0.5)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("no folder any more")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "out" in said.strip().splitlines()[-1]
    assert "Traceback" not in said


def test_cores_are_shared_and_a_smaller_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.run.executors.local.cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(3, 0, ())["OMP_NUM_THREADS"] == environment(3, 0, ())["MKL_NUM_THREADS"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment(3, 0, ())["OMP_NUM_THREADS"] == "2"
    assert environment(16, 0, ())["OMP_NUM_THREADS"] == "1"
    assert [environment(3, number, ["4", "6"])["CUDA_VISIBLE_DEVICES"] for number in range(3)] == ["4", "6", "4"]
    assert cores() >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "slurm"], "--executor: unknown executor 'slurm'; known: local, ray"),
        (["--jobs", "2"], "--jobs goes with --executor local"),
        (["--executor", "local", "--jobs", "0"], "--jobs: found 0, expected 1 or more"),
        (["--executor", "local", "--address", "auto"], "--address goes with --executor ray"),
        (["--executor", "local", "--shard", "1/2"], "leave out --shard, or --executor"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], message: str, manifest: Path, tmp_path: Path, allograft: Command
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(manifest)))
    done = allograft("study", tmp_path / "study.yaml", "--out", tmp_path / "out", *words)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (tmp_path / "out").exists()


def test_without_ray_the_error_says_what_to_install(
    manifest: Path, tmp_path: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(manifest)))
    done = allograft("study", tmp_path / "study.yaml", "--out", tmp_path / "out", "--executor", "ray")
    assert (done.code, "pip install 'allograft[cluster]'" in done.err) == (2, True)


def test_a_network_of_one_s_own_stays_in_its_process(manifest: Path, tmp_path: Path) -> None:
    from torch import nn

    from allograft.errors import SpecError

    with pytest.raises(SpecError, match="a network of your own cannot be sent"):
        run_study(study_of(manifest), tmp_path, network=nn.Identity(), executor=LocalExecutor(2))


@pytest.mark.slow
def test_the_executor_is_in_no_key(manifest: Path, serial: dict[str, Any], tmp_path: Path) -> None:
    """What one began the other continues: two units here, the rest there."""
    fabric = local_fabric(accelerator="cpu")
    run_study(study_of(manifest), tmp_path, fabric=fabric, report=False, shard=(1, 2), checkpoint_seconds=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("units/*/carry.safetensors")}
    assert len(before) == 2
    run_study(study_of(manifest), tmp_path, fabric=fabric, report=False, executor=LocalExecutor(1))
    assert told(tmp_path) == serial
    assert {path: path.stat().st_mtime_ns for path in before} == before
