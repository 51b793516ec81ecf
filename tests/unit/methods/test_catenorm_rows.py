"""CateNorm's table rows: W-Net, the position of a block, several source sites, and what a report
shows."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.methods.test_catenorm import TWO, a_batch, a_network, branches, changed
from tests.unit.tiny import a_context, read, write_photographs

from allograft.batch import Batch
from allograft.context.journal import Journal
from allograft.errors import SpecError
from allograft.methods.catenorm import CateNorm, MaskLoss, TwoPass, TwoPassStep
from allograft.metrics.segmentation import METRICS
from allograft.networks.catenorm import modulation_by_class
from allograft.networks.network import operate
from allograft.nn.catenorm import CategoricalNorm2d, guided
from allograft.phantoms.brain import write_brain
from allograft.phantoms.fundus import write_fundus
from allograft.predictor import load_predictor, save_predictor
from allograft.recipe import Carry, Scenario
from allograft.results.record import read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.reading import make_study, read_study
from allograft.tasks.segmentation import squared_dice_loss

ROOT = Path(__file__).parents[3]


def a_step(network: Any, **changes: Any) -> TwoPassStep:
    parameters = [*network.parameters(), *(changes["first"].parameters() if "first" in changes else ())]
    return TwoPassStep(
        network, MaskLoss(TWO), torch.optim.Adam(parameters, lr=1e-2), local_fabric(accelerator="cpu"), 0.1, **changes
    )


# ---------------------------------------------------------- W-Net
def test_nothing_is_shared_between_the_two_passes_of_w_net() -> None:
    """The first learns as if alone; the second as its twin whose class map is given."""
    first, second, batch = a_network().train(), changed().train(), a_batch()
    alone, twin = copy.deepcopy(first), copy.deepcopy(second)
    step = a_step(second, first=first)
    step(batch)

    optimizer = torch.optim.Adam([*alone.parameters(), *twin.parameters()], lr=1e-2)
    logits = alone(batch.image)["mask"]
    (0.5 * sum(TWO.loss({"mask": logits}, batch, dice=squared_dice_loss).values())).backward()
    optimizer.step()
    optimizer.zero_grad()
    with guided(twin, logits.detach().softmax(1)):
        (0.5 * sum(TWO.loss(twin(batch.image), batch, dice=squared_dice_loss).values())).backward()
    torch.nn.utils.clip_grad_value_(twin.parameters(), 0.1)
    optimizer.step()
    for mine, other in ((first, alone), (second, twin)):
        for (name, p), q in zip(mine.named_parameters(), other.named_parameters(), strict=True):
            torch.testing.assert_close(p, q[1], msg=name)
    assert all(int(module.general.num_batches_tracked) == 0 for module in branches(second).values())


def test_w_net_predicts_by_its_two_networks_and_is_saved(tmp_path: Path) -> None:
    first, second, batch = a_network().eval(), changed().eval(), a_batch()
    for p in second.parameters():
        p.data.mul_(1.1)
    with torch.no_grad(), guided(second, first(batch.image)["mask"].softmax(1)):
        expected = second(batch.image)["mask"]
    live = TwoPass(second.train(), first.train())
    assert torch.equal(live(batch)["mask"], expected)
    assert not torch.allclose(TwoPass(second)(batch)["mask"], expected)
    assert second.training
    assert first.training
    save_predictor(live, tmp_path, {})
    assert torch.equal(load_predictor(tmp_path)[0](batch)["mask"], expected)


def ran(recipe: CateNorm, scenario: Scenario, folder: Path | None = None) -> tuple[list[Any], Carry, Any]:
    """Stages, carry and context of a run."""
    context = replace(a_context(folder), progress=False)
    running, stages = context.run(recipe, scenario, a_network(classes=2)), []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as stop:
            return stages, stop.value, context


@pytest.fixture
def two_sites(tmp_path: Path) -> Scenario:
    cohort = read(write_photographs(tmp_path / "photographs", {"a": 3, "b": 3}))
    return Scenario((cohort.site("a"), cohort.site("b")), sites=("a", "b"))


def test_w_net_begins_as_a_copy_after_the_warm_up(two_sites: Scenario) -> None:
    stages, carry, _ = ran(CateNorm(shared=False, warmup=1.0), two_sites)
    first, second = carry.parts["first"], carry.network
    weights = dict(second.named_parameters())
    for name, p in first.named_parameters():
        renamed = next(
            key
            for key in (name, *(name.replace(f".{last}", f".general.{last}") for last in ("weight", "bias")))
            if key in weights
        )
        assert torch.equal(weights[renamed], p), name
    assert [stage.name for stage in stages] == ["first-pass", "second-pass"]
    _, apart, _ = ran(CateNorm(shared=False, warmup=0.34), two_sites)
    assert not torch.equal(next(apart.parts["first"].parameters()), next(apart.network.parameters()))


def test_w_net_killed_and_resumed_is_undisturbed(
    two_sites: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = CateNorm(shared=False, warmup=0.34)
    _, whole, _ = ran(recipe, two_sites, tmp_path / "whole")
    monkeypatch.setattr(Journal, "due", lambda self: True)
    real, calls = TwoPassStep.__call__, []

    def dying(self: TwoPassStep, batch: Batch) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(TwoPassStep, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        ran(recipe, two_sites, tmp_path / "killed")
    _, again, _ = ran(recipe, two_sites, tmp_path / "killed")
    assert len(calls) == 3  # the iteration before the kill is not repeated
    for one, other in ((whole.network, again.network), (whole.parts["first"], again.parts["first"])):
        assert all(
            torch.equal(p, q) for p, q in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


# ---------------------------------------------------------- position
@pytest.mark.parametrize(
    ("position", "where"),
    [(1, "encoder.levels.0."), (3, "encoder.levels.2."), (4, "decoder.ups.0."), (5, "heads.mask.block.")],
)
def test_a_single_block_at_each_position(position: int, where: str) -> None:
    network = operate(a_network(), "catenorm", classes=3, position=position)
    assert branches(network)
    assert all(name.startswith(where) for name in branches(network))
    assert TwoPass(network)(a_batch())["mask"].shape == (3, 3, 16, 16)


def test_a_position_that_is_not_there_is_refused() -> None:
    for position in (0, 6):
        with pytest.raises(SpecError, match=f"position is {position}; expected 1 to 5, this network's blocks"):
            operate(a_network(), "catenorm", classes=3, position=position)
        with pytest.raises(SpecError, match=f"position is {position}"):  # before anything runs
            CateNorm(position=position).check(Scenario(), a_network(), a_context())
    with pytest.raises(SpecError, match="norm: batch"):
        operate(a_network("group"), "catenorm", classes=3, position=1)


# ---------------------------------------------------------- what is shown
def test_by_class_is_the_modulation_inside_a_region_of_that_class() -> None:
    torch.manual_seed(0)
    layer = CategoricalNorm2d(6, 3)
    scale, shift = layer.by_class()
    for label in range(3):
        mask = torch.zeros(1, 3, 11, 9)
        mask[:, label] = 1
        gamma, beta = layer.modulation(mask, torch.Size((11, 9)))
        torch.testing.assert_close(scale[label], gamma[0, :, 5, 4])
        torch.testing.assert_close(shift[label], beta[0, :, 5, 4])


def test_the_figure_by_class_has_a_row_per_class_and_no_image() -> None:
    network = changed(2)
    for name, module in branches(network).items():
        for part, value in ((module.categorical.gamma, 0.25), (module.categorical.beta, -0.5)):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.constant_(part.bias, value * (2 if "levels.1" in name else 1))  # type: ignore[arg-type]
            with torch.no_grad():  # the same mean over channels that differ
                part.bias += torch.linspace(-0.1, 0.1, len(part.bias))  # type: ignore[arg-type, operator]
    figure = modulation_by_class(network, ("one", "two"))
    assert not figure.shows_images
    assert figure.rows == ("background", "one", "two")
    assert figure.columns == ("gamma, block 1", "beta, block 1", "gamma, block 2", "beta, block 2")
    for row in figure.values:
        assert row == pytest.approx((0.25, -0.5, 0.5, -1.0))


# ---------------------------------------------------------- studies
def brain_session(folder: Path, source: list[str], **changes: Any) -> Session:
    manifest = write_brain(folder / "cohort", sites={"a": "none", "b": "severe", "c": "medium"}, subjects=4, size=32)
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}},
        "source": source,
        "target": ["c"],
        "test": {"fraction": 0.5, "val": 0.5},
        "seeds": 1,
        "budget": {"steps": 3, "adapt_steps": 3, "batch_size": 4},
        "augmentation": "none",
        **changes,
    }
    return Session(make_study(tree), folder / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)


@pytest.mark.parametrize("source", [["a"], ["a", "b"]], ids=["single", "multi"])
def test_every_row_runs_in_the_single_and_the_multi_domain_setting(source: list[str], tmp_path: Path) -> None:
    rows = [
        {"catenorm": {"warmup": 0.34, "blocks": 1}},
        {"catenorm": {"warmup": 0.34, "shared": False}},
        "dsbn",
        "msnet",
    ]
    session = brain_session(tmp_path, source, recipes=rows)
    world = session.prepare()
    for row in session.plan(world).rows:
        if row.recipe in session.study.recipes:
            session.run(world, row, "")
    records = read_all(session.out).values()
    assert all(record.status == "done" for record in records), [record.error for record in records]
    shown = [json.loads(file.read_text()) for file in session.out.glob("units/*/figures.json")]
    assert sum("modulation" in figures for figures in shown) == 2
    for name, stages in (("catenorm", 4), ("dsbn", 1), ("msnet", 1)):
        own = [record for record in records if record.recipe["name"] == name and record.part == "test"]
        assert {record.site for record in own} == {*source, "c"}
        assert len(own) == stages * (len(source) + 1)
        assert all(record.source == tuple(source) for record in own)
        assert all(record.metrics["dice"] is not None and "asd" in record.metrics for record in own)
    shared, apart = (
        {r.cost["trainable_parameters"] for r in records if r.recipe["parameters"].get("shared") is one}
        for one in (True, False)
    )
    assert max(apart) > 1.9 * max(shared)
    assert "asd" in METRICS


def test_the_judge_tells_a_network_the_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test cases of a source site go to its own branch, those of the target to the mean of all."""
    from allograft.networks.dsbn import SiteNetwork

    session, seen = brain_session(tmp_path, ["b", "a"], recipes=["dsbn"]), set()
    real = SiteNetwork.forward

    def watched(self: SiteNetwork, image: Any, site: Any = None) -> Any:
        if not self.training:
            seen.add((tuple(self.sites), *sorted(set(site.tolist()))))
        return real(self, image, site)

    monkeypatch.setattr(SiteNetwork, "forward", watched)
    world = session.prepare()
    session.run(world, next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0]), "")
    ((sites,),) = {(one[0],) for one in seen}
    assert set(sites) == {"a", "b"}
    assert {one[1:] for one in seen} == {(0,), (1,), (-1,)}


def planned(name: str, cohort: Path, out: Path, *changes: str) -> tuple[Any, Any]:
    """An example's study and plan, on a phantom with sites of the same names."""
    study = read_study(ROOT / f"examples/{name}.yaml", (f"cohort={cohort}", "seeds=1", *changes))
    session = Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    return study, session.plan(session.prepare())


def test_the_vessels_example_is_planned(tmp_path: Path) -> None:
    cohort = write_fundus(tmp_path / "cohort", sites={"drive": "none", "chase": "severe"}, subjects=5, size=64)
    small = ("preprocessing.size=[64, 64]", "patch=[32, 32]")
    study, plan = planned("catenorm_vessels", cohort, tmp_path / "out", *small)
    ours = [recipe for recipe in study.recipes if isinstance(recipe, CateNorm)]
    blocks = len(study.network["unet"]["channels"]) * 2 - 1
    assert [recipe.position for recipe in ours if recipe.position] == list(range(1, blocks + 1))
    assert {recipe.blocks for recipe in ours} == {1, 4}
    assert any(not recipe.shared for recipe in ours)
    assert len(plan.rows) >= len(study.recipes)
    for norm in ("instance", "group"):
        study, plan = planned(
            "catenorm_vessels", cohort, tmp_path / norm, *small, f"network.unet.norm={norm}", "recipes=[]"
        )
        assert [type(row.recipe).__name__ for row in plan.rows].count("Supervised") >= 1


def test_the_slices_example_is_planned(tmp_path: Path) -> None:
    sites = {"intensity-mid": "none", "intensity-high": "medium", "intensity-low": "severe"}
    cohort = write_brain(tmp_path / "cohort", dims=3, sites=sites, subjects=5, size=32)
    study, plan = planned("catenorm_slices", cohort, tmp_path / "out")
    assert {recipe.warmup for recipe in study.recipes if isinstance(recipe, CateNorm)} == {0.0, 0.05, 0.14, 0.5}
    assert study.source == ("intensity-mid", "intensity-high")
    assert study.slices.neighbours == 1
    assert len(plan.rows) >= len(study.recipes)
    fewer, _ = planned(
        "catenorm_slices", cohort, tmp_path / "fewer", "task={segmentation: {classes: {hippocampus: [1, 2]}}}"
    )
    assert fewer.made_task.outputs == {"mask": 2}
