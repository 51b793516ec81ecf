"""Peak memory is a unit's own: neither what ran before it nor the unit it builds on counts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from allograft.context import Meter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux restarts the mark")
MB = 2**20


def use(megabytes: int) -> None:
    """Touch this much memory, and give it back."""
    np.ones(megabytes * MB, np.uint8).sum()


def test_what_ran_before_does_not_count() -> None:
    rest = Meter().cost()["peak_memory_mb"]
    use(300)
    assert Meter().cost()["peak_memory_mb"] < rest + 100


def test_what_the_unit_used_counts_to_its_end() -> None:
    rest = Meter().cost()["peak_memory_mb"]
    meter = Meter()
    use(300)
    assert rest + 250 < meter.cost()["peak_memory_mb"] < rest + 400
    assert meter.cost()["peak_memory_mb"] > rest + 250  # a later stage does not forget it


def test_the_unit_it_builds_on_has_its_own() -> None:
    rest = Meter().cost()["peak_memory_mb"]
    outer = Meter()
    inner = Meter()
    use(300)
    assert inner.cost()["peak_memory_mb"] > rest + 250
    use(50)
    assert outer.cost()["peak_memory_mb"] < rest + 150


def test_a_system_that_cannot_restart_the_mark_says_the_process_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *arguments: object) -> None:
        raise PermissionError

    rest = Meter().cost()["peak_memory_mb"]
    monkeypatch.setattr(Path, "write_text", refused)
    use(300)
    assert Meter().cost()["peak_memory_mb"] > rest + 250
