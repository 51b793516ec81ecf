"""A Ray cluster of two nodes on this machine: the local executor's bytes, also when one of them is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Command
from tests.faults.world import run, study_of, told, write_cohort

from allograft.results.record import read_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]
STORE = 100 * 2**20  # bytes of an object store


@pytest.fixture(autouse=True)
def _ray() -> None:
    """Only where a test of this file is run at all: none of the quick ones is."""
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A head without cores, so that every unit runs on one of the others."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    try:
        yield made
    finally:
        made.shutdown()


def add(cluster: Any, **more: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=STORE, **more)


def command(manifest: Path, folder: Path, cluster: Any, *more: str, **keys: Any) -> list[str]:
    (folder / "study.yaml").write_text(yaml.safe_dump({**study_of(manifest), **keys}))
    words = [sys.executable, "-m", "allograft", "study", str(folder / "study.yaml"), "--out", str(folder / "out")]
    words += ["--executor", "ray", "--address", cluster.address, "--device", "cpu", "--checkpoint-seconds", "0"]
    return [*words, *more]


def running(folder: Path) -> list[Path]:
    """Units in the middle of their training."""
    return [path.parent for path in folder.glob("out/units/*/journal") if (path.parent / "lock").exists()]


def test_one_node_is_lost_and_the_records_are_those_of_the_local_executor(
    manifest: Path, cluster: Any, tmp_path: Path
) -> None:
    nodes = [add(cluster), add(cluster)]
    words = command(manifest, tmp_path, cluster, budget={"steps": 200, "adapt_steps": 2, "batch_size": 2})
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while len(running(tmp_path)) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert len(running(tmp_path)) == 2, process.communicate()  # a unit on either node, neither finished
    cluster.remove_node(nodes[0], allow_graceful=False)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    local = tmp_path / "local"
    local.mkdir()
    (local / "study.yaml").write_text((tmp_path / "study.yaml").read_text())
    words = [sys.executable, "-m", "allograft", "study", str(local / "study.yaml"), "--out", str(local / "out")]
    done = subprocess.run(
        [*words, "--executor", "local", "--jobs", "1", "--device", "cpu"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "out") == told(local / "out")
    assert not [record for record in read_all(tmp_path / "out").values() if record.status == "failed"]


def test_a_process_without_memory_is_a_failed_run_and_the_rest_goes_on(
    manifest: Path, cluster: Any, tmp_path: Path
) -> None:
    """Killed each time that it is tried; then the same command finishes."""
    (tmp_path / "die").touch()
    (tmp_path / "sitecustomize.py").write_text(PLUG.format(flag=str(tmp_path / "die")))
    add(cluster, env_vars={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    done = subprocess.run(command(manifest, tmp_path, cluster), capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    failed = [record for record in read_all(tmp_path / "out").values() if record.status == "failed"]
    assert [record.recipe["title"] for record in failed] == ["fourier beta=0.1 donors=1"]
    assert "its process was lost 4 times or had no memory left" in failed[0].error
    (tmp_path / "die").unlink()
    again = subprocess.run(command(manifest, tmp_path, cluster), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    serial = tmp_path / "serial"
    run(manifest, serial)
    (error,) = (tmp_path / "out").glob("units/*/error.txt")
    error.unlink()  # of the first try, as a run in one process leaves it too
    assert told(tmp_path / "out") == told(serial)


def test_a_shared_folder_that_goes_away_ends_the_study_and_is_resumed_when_it_is_back(
    manifest: Path, cluster: Any, tmp_path: Path
) -> None:
    add(cluster)
    words = command(manifest, tmp_path, cluster, budget={"steps": 200, "adapt_steps": 2, "batch_size": 2})
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not running(tmp_path) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    (tmp_path / "out").rename(tmp_path / "away")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "no longer there; mount the disk or share" in " ".join(said.split())
    if (tmp_path / "out").exists():
        (tmp_path / "out").rename(tmp_path / "litter")
    (tmp_path / "away").rename(tmp_path / "out")
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert not [record for record in read_all(tmp_path / "out").values() if record.status == "failed"]


PLUG = """
import os, signal, sys, threading
if "default_worker" in " ".join(sys.orig_argv):
    import builtins
    real = builtins.__import__
    def imported(name, *arguments, **options):
        module = real(name, *arguments, **options)
        fourier = sys.modules.get("allograft.methods.fourier")
        if hasattr(fourier, "Fourier") and not hasattr(fourier, "deadly"):
            fourier.deadly, run = True, fourier.Fourier.run
            def deadly(self, *arguments):
                if self.beta == 0.1 and os.path.exists({flag!r}):
                    os.kill(os.getpid(), signal.SIGKILL)
                return run(self, *arguments)
            fourier.Fourier.run = deadly
        return module
    builtins.__import__ = imported
"""


def test_a_unit_that_fits_on_no_machine_is_refused(
    manifest: Path, cluster: Any, tmp_path: Path, allograft: Command
) -> None:
    add(cluster)
    done = allograft(*command(manifest, tmp_path, cluster, "--workers", "7")[3:])
    assert done.code == 2
    assert re.search(
        r"a unit asks for 8 cores, \d\.\d GiB, and the largest machine of the cluster has 1 cores", done.err
    ), done.err
    assert not list((tmp_path / "out").glob("units/*"))


def test_no_cluster_is_an_error_with_what_to_do(manifest: Path, tmp_path: Path, allograft: Command) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(manifest)))
    words = ["--executor", "ray", "--address", "127.0.0.1:1", "--device", "cpu"]
    done = allograft("study", tmp_path / "study.yaml", "--out", tmp_path / "out", *words)
    assert done.code == 2, done.err
    assert "no Ray cluster can be reached" in done.err
    assert "start one with 'ray start --head', or choose --executor local" in done.err
