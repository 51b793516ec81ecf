"""LoRA in a study: every network of the table, slices and volumes, and a fold before anything is
trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import run, session_of
from tests.unit.networks.tiny import TINY
from tests.unit.tiny import write_brains

from allograft.context import Store
from allograft.networks import lora
from allograft.study.plan import scenario_of

pytest.importorskip("peft")


def study(key: str, folder: Path) -> Any:
    tiny = TINY[key]
    segmenting = "mask" in tiny.outputs
    return session_of(
        write_brains(folder / "cohort", tiny.size),
        folder / "out",
        {"lora": {"rank": 2}},
        network={tiny.name: tiny.arguments},
        task={"segmentation": {"classes": ["tissue"]}}
        if segmenting
        else {"classification": {"classes": ["x", "y", "z"]}},
        budget={"steps": 1, "adapt_steps": 1, "batch_size": 2},
        source=["a"],
    )


def fail(*_: Any) -> None:
    raise RuntimeError("it does not fold")


@pytest.mark.parametrize("key", TINY)
def test_it_runs_in_a_study_on_every_network(key: str, tmp_path: Path) -> None:
    session = study(key, tmp_path)
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    context = replace(session.context(0), folder=None)  # some of the networks are large
    *_, last = context.run(row.recipe, scenario_of(world, row), session.start(world, 0))
    assert last.name == "tuned"
    case = world.part("b", "test", 0).unlabelled().case(0)
    ((name, found),) = last.predictor(case).items()
    assert found.shape == ((1, 2, *case.image.shape[2:]) if name == "mask" else (1, 3))
    assert not any(hasattr(module, "lora_A") for module in last.predictor.network.modules())


def test_volumes_are_scored_and_kept(tmp_path: Path) -> None:
    _, row, records = run(study("segresnet-3d", tmp_path))
    assert [record.error for record in records.values() if record.status != "done"] == []
    found = Store(tmp_path / "out" / "units" / row.unit).load()
    assert found is not None
    assert found[0].network.spec["surgery"] == []


def test_adapters_are_folded_once_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = study("unet-3d", tmp_path)
    monkeypatch.setattr(lora, "_update", fail)
    with pytest.raises(RuntimeError, match="it does not fold"):
        session.prepare()
    assert not (tmp_path / "out" / "units").exists()
