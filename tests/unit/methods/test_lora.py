"""LoRA as a row: what is frozen rests, alpha scales, and no adapter is kept. Its layers: see
``identities/test_adapters.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort

from allograft.context import Store
from allograft.methods.lora import rest

CONTRACT = {"options": {"rank": 1, "alpha": 64.0}}

pytest.importorskip("peft")


def test_what_is_frozen_rests_and_no_adapter_is_kept(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    _, row, _ = run(session_of(manifest, tmp_path / "out", {"lora": {"rank": 2}}))
    kept = {unit.name: Store(unit).load() for unit in (tmp_path / "out" / "units").iterdir()}
    tuned = kept.pop(row.unit)
    (source,) = kept.values()
    assert tuned is not None
    assert source is not None
    before, after = source[0].network.state_dict(), tuned[0].network.state_dict()
    assert list(after) == list(before)
    statistics = [key for key in before if "running" in key and not key.startswith("heads.")]
    assert statistics
    assert all(torch.equal(after[key], before[key]) for key in statistics)
    kernels = [key for key in before if key.startswith("encoder.") and before[key].ndim == 4]
    # the adapters are folded into them
    assert any(not torch.equal(after[key], before[key]) for key in kernels)


def test_a_higher_rank_moves_more_parameters(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    moved = []
    for rank in (1, 2):
        _, row, records = run(session_of(manifest, tmp_path / f"{rank}", {"lora": {"rank": rank}}))
        moved += {record.cost["trainable_parameters"] for record in records.values() if record.unit == row.unit}
    assert len(moved) == 2
    assert moved[0] < moved[1]


def test_what_learns_in_part_does_not_rest() -> None:
    frozen = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2)).requires_grad_(False)
    tuned = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1).requires_grad_(False), torch.nn.BatchNorm2d(2))
    whole = torch.nn.Sequential(frozen, tuned, torch.nn.Dropout())
    rest(whole)
    assert [module.training for module in (whole, *frozen, *tuned, whole[2])] == [True, False, False, False, True, True]
