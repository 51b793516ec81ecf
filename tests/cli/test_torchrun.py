"""Two machines that train one network together, as two processes of torchrun, equal one process, batch normalisation
included."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.faults.world import run, study_of, write_cohort

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def keys() -> dict[str, Any]:
    return {
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}},
        "optimizer": {"sgd": {"lr": 0.1}},
        "recipes": ["supervised"],
        "baselines": False,
        "budget": {"steps": 3, "adapt_steps": 3, "batch_size": 2},
    }


def test_two_machines_equal_one(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study_of(manifest), **keys()}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    words += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    study = [
        "-m",
        "allograft",
        "study",
        str(tmp_path / "study.yaml"),
        "--out",
        str(tmp_path / "both"),
        "--device",
        "cpu",
    ]
    started = [
        subprocess.Popen(
            [*words, "--node-rank", str(rank), *study], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said[0][0].count("report: ") == 1
    assert said[1][0] == ""
    run(manifest, tmp_path / "one", **keys())
    both, one = (
        load_file(tmp_path / name / "models" / "supervised@b" / "model.safetensors") for name in ("both", "one")
    )
    assert any("running_mean" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-5, atol=5e-6)
