"""``study --plan``: every unit, what is done, how many steps, and no step taken in earnest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.contract.world import session_of, write_cohort

from allograft.errors import SpecError
from allograft.networks import build
from allograft.run import preview as previews
from allograft.run.preview import forecast, preview


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def study(manifest: Path, out: Path, **changes):
    return session_of(manifest, out, {"finetune": {"scope": "top"}}, seeds=2, **changes)


def test_units_steps_and_what_they_share(manifest: Path, tmp_path: Path):
    said: list[str] = []
    asked = study(manifest, tmp_path, budget={"steps": 50, "adapt_steps": 7, "batch_size": 2})
    made = preview(replace(asked, say=said.append))
    assert [line for line in said if line.startswith("trying")][-1] == "trying finetune scope=top, 5 of 5"
    by_title = {unit.title: unit for unit in made.units}
    assert {title: unit.steps for title, unit in by_title.items()} == {
        "supervised": 50,
        "supervised augmentation=strong": 50,
        "target_supervised": 50,
        "joint": 50,
        "finetune scope=top": 7,
    }
    assert [unit.rows for unit in made.units if unit.title == "supervised"] == [
        2,
        2,
    ]  # itself and finetune, in each of two seeds
    assert len(made.units) == 10
    assert all(unit.state == "to do" for unit in made.units)
    assert made.seconds > 0


def test_a_recipe_with_an_optimizer_of_its_own_is_tried_too(manifest: Path, tmp_path: Path):
    made = preview(session_of(manifest, tmp_path, {"supervised": {"optimizer": {"avagrad": {"lr": 1.0}}}}, seeds=1))
    (ours,) = (unit for unit in made.units if "avagrad" in unit.title)
    assert (ours.state, ours.rows, ours.steps) == ("to do", 1, 3)


def test_a_preview_leaves_no_unit_and_no_record(manifest: Path, tmp_path: Path):
    preview(study(manifest, tmp_path))
    assert not (tmp_path / "units").exists()
    assert not (tmp_path / "records").exists()


def test_what_is_done_is_told_and_not_counted(manifest: Path, tmp_path: Path):
    session = session_of(manifest, tmp_path, "supervised", seeds=1)
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, replace(plan, rows=plan.rows[:1]), (1, 1), report=False)
    made = preview(session)
    assert [unit.state for unit in made.units] == ["done", *["to do"] * (len(made.units) - 1)]
    assert made.units[0].seconds is None


def test_a_recipe_that_cannot_be_tried_is_told_and_the_rest_stands(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(self, scenario, network, context):
        raise ValueError("no such thing")
        yield

    monkeypatch.setattr("allograft.methods.finetune.Finetune.run", broken)
    made = preview(study(manifest, tmp_path))
    states = {unit.title: unit.state for unit in made.units}
    assert states["finetune scope=top"] == "cannot be tried: no such thing"
    assert states["supervised"] == "to do"


def test_a_step_that_will_not_fit_is_refused_and_the_setting_named(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fixed, each = forecast(study(manifest, tmp_path).start(study(manifest, tmp_path).prepare(), 0), (1, 1, 32, 32))
    monkeypatch.setattr(previews, "free_memory", lambda device: fixed + 5 * each)
    with pytest.raises(SpecError, match=r"budget\.batch_size: a step of 6 .* at most 5"):
        preview(study(manifest, tmp_path, budget={"steps": 1, "adapt_steps": 1, "batch_size": 6}))
    monkeypatch.setattr(previews, "free_memory", lambda device: fixed)
    with pytest.raises(SpecError, match="smaller patch"):
        preview(study(manifest, tmp_path))


def test_the_forecast_is_near_what_a_step_keeps():
    """Against a count of the bytes that a real step saves for backward."""
    network = build(
        {
            "build": {"unet": {"channels": [8, 16], "in_channels": 1, "outputs": {"mask": 2}, "spatial_dims": 2}},
            "surgery": [],
        }
    )
    fixed, each = forecast(network, (1, 1, 64, 64))
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(torch.zeros(4, 1, 64, 64))["mask"].sum()
    kept = sum(one.untyped_storage().nbytes() for place, one in saved.items() if place not in parameters)
    assert 2 * kept / 4 == pytest.approx(each, rel=0.25)
    assert fixed == 4 * sum(p.numel() * 4 for p in network.parameters())
    assert next(network.parameters()).device.type == "cpu"
