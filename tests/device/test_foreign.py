"""Every method on a device that is not the CPU, without one: see ``foreign.cpp``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.world import METHODS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("c++") and shutil.which("ninja")), reason="compiles a device: needs a C++ compiler and ninja"
    ),
]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which knows the device from then on."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def test_every_method_stays_on_its_device(tmp_path: Path) -> None:
    """``supervised`` by AvaGrad, as its step has a way of its own there."""
    ran = python("-m", "tests.device.foreign", str(tmp_path / "build"), *METHODS)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert ran.stdout.splitlines() == [f"{method}: done" for method in METHODS]


def test_the_device_minds_what_is_left_behind(tmp_path: Path) -> None:
    """Otherwise the test above would say nothing."""
    script = f"""
import torch
from pathlib import Path
from tests.device.foreign import begin
device = begin(Path({str(tmp_path / "build")!r}))
here, there = torch.ones(3), torch.ones(3, device=device)
assert ((there + 1) * 2).cpu().tolist() == [4.0] * 3
for mixed in (
    lambda: there + here,
    lambda: torch.cat([there, here]),
    lambda: torch.nn.functional.conv1d(there.view(1, 1, 3), here.view(1, 1, 3)),
    lambda: there.uniform_(generator=torch.Generator()),
    lambda: torch._foreach_mul([there], [here]),
):
    try:
        mixed()
    except RuntimeError:
        continue
    raise SystemExit('mixed without an error')
"""
    ran = python("-c", script)
    assert ran.returncode == 0, ran.stderr[-2000:]
