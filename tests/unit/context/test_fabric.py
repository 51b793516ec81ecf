"""On which device a study runs."""

from __future__ import annotations

import pytest
from lightning_fabric.accelerators import MPSAccelerator

from allograft.run.fabric import local_fabric


def test_an_apple_gpu_is_not_taken_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no double precision."""
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_fabric().device.type == "cpu"
