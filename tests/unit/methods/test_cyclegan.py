"""CycleGAN: its losses and updates by hand, what a batch holds, and that it can learn a change of
contrast."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from allograft.batch import Batch
from allograft.context import Store
from allograft.errors import SpecError
from allograft.methods.cyclegan import (
    CycleGan,
    CycleGanPredictor,
    CycleGanStep,
    ResnetGenerator,
    judged,
    loader,
    patch_discriminator,
    smallest_side,
    translated,
)
from allograft.networks import build
from allograft.networks.network import operate
from allograft.parts.adapted_images import changed_images, middle_items
from allograft.parts.paired_batches import PairedBatches
from allograft.predictor import Direct, load_predictor, save_predictor
from allograft.schedule import Planned
from allograft.study.plan import scenario_of

CONTRACT = {
    "options": {"size": "paper", "cycle": 0.5},
    # to be quick
    "under": {"size": {"study": {"budget": {"steps": 1, "adapt_steps": 1, "batch_size": 1}}}},
    "own_settings": ("augmentation", "patch", "clip", "optimizer", "schedule", "loss"),
    "own_optimizers": True,
}


class Scale(nn.Module):
    """x -> a x: a generator or critic whose gradients are known."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x


def _step(cycle: float = 10.0, lr: float = 0.01) -> CycleGanStep:
    f, g, ds, dt = (Scale(a) for a in (0.7, 1.2, 0.4, -0.3))
    of_generators, of_critics = (
        torch.optim.SGD([*a.parameters(), *b.parameters()], lr=lr) for a, b in ((f, g), (ds, dt))
    )
    schedules = [Planned(LambdaLR(each, lambda number: 0.5**number)) for each in (of_generators, of_critics)]
    return CycleGanStep(f, g, ds, dt, of_generators, of_critics, schedules, a_context().fabric, cycle)


def _batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    source, target = (
        torch.rand(2, 1, 4, 4, generator=rng, dtype=torch.float64),
        2 + torch.rand(2, 1, 4, 4, generator=rng, dtype=torch.float64),
    )
    return Batch(torch.cat([source, target]), torch.zeros(4), tuple("abcd"))


def test_terms_and_updates_are_the_papers() -> None:
    step, batch = _step(), _batch()
    s, t = batch.image[:2], batch.image[2:]
    terms = step(batch)
    f, g, ds, dt = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (0.7, 1.2, 0.4, -0.3))
    fool = {"fool/source": ((ds * f * t - 1) ** 2).mean(), "fool/target": ((dt * g * s - 1) ** 2).mean()}
    cycle = 10 * ((g * f * t - t).abs().mean() + (f * g * s - s).abs().mean())
    critics = {
        "critic/source": 0.5 * (((ds * s - 1) ** 2).mean() + ((ds * 0.7 * t) ** 2).mean()),
        "critic/target": 0.5 * (((dt * t - 1) ** 2).mean() + ((dt * 1.2 * s) ** 2).mean()),
    }
    for key, value in {**fool, "cycle": cycle, **critics}.items():
        torch.testing.assert_close(terms[key], value.detach())
    of_f, of_g = torch.autograd.grad(sum(fool.values()) + cycle, [f, g])
    of_ds, of_dt = torch.autograd.grad(sum(critics.values()), [ds, dt])
    for module, start, gradient in zip(
        (step.to_source, step.to_target, step.source_critic, step.target_critic),
        (f, g, ds, dt),
        (of_f, of_g, of_ds, of_dt),
        strict=True,
    ):
        torch.testing.assert_close(module.a.detach(), (start - 0.01 * gradient).detach())
    assert [group["lr"] for o in (step.generator_optimizer, step.critic_optimizer) for group in o.param_groups] == [
        0.005,
        0.005,
    ]


def test_without_cycle_weight_only_the_critics_are_fooled() -> None:
    assert _step(cycle=0.0)(_batch())["cycle"] == 0
    values = torch.tensor([0.0, 2.0])
    assert (judged(values, real=True), judged(values, real=False)) == (1.0, 2.0)


def test_generators_of_any_size_of_image_and_a_patch_of_seventy() -> None:
    generator = ResnetGenerator(2, 4, 1).eval()
    for size in ((16, 16), (17, 22), (31, 20)):
        assert translated(generator, torch.rand(1, 2, *size)).shape == (1, 2, *size)
    critic = patch_discriminator(1, 2).eval()
    for module in critic.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign] - it would see the whole image
    image = torch.rand(1, 1, 128, 128, requires_grad=True)
    critic(image)[0, 0, 7, 7].backward()
    assert image.grad is not None
    touched = image.grad[0, 0].nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [70, 70]


def test_a_batch_is_half_source_and_half_target_without_labels(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 3, "b": 3}, size=(24, 28)))
    context = a_context()
    both = PairedBatches(*(loader(context, 24, [cohort.site(name)], name) for name in "ab"))
    batch = next(both(0))
    assert batch.labels == {}
    assert [name[0] for name in batch.cases] == ["a", "a", "b", "b"]
    assert batch.image.shape == (4, 1, 24, 24)
    again = next(both(0))
    assert torch.equal(batch.image, again.image)


def test_volumes_and_tiny_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="volumes; cut them into slices"):
        smallest_side([read(write_volumes(tmp_path / "v", [(8, 8, 8)]))])
    with pytest.raises(SpecError, match="a side of 16 pixels, expected at least 24"):
        smallest_side([read(write_photographs(tmp_path / "p", {"a": 2}))])
    assert smallest_side([read(write_photographs(tmp_path / "q", {"a": 2}, size=(40, 30)))]) == 30
    sizes = (40, 32), (28, 36)
    cohorts = [read(write_photographs(tmp_path / str(size), {"a": 1}, size=size)) for size in sizes]
    assert smallest_side(cohorts) == 28


def _network() -> Any:
    torch.manual_seed(0)
    return build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "num_res_units": 1}}}
    )


def test_the_segmentation_network_stays_and_the_translator_is_saved(tmp_path: Path) -> None:
    network = _network()
    twin = operate(copy.deepcopy(network), "translator", channels=1, width=2, blocks=1)
    image = torch.rand(2, 1, 18, 20)
    assert torch.equal(twin(image[..., :16, :])["mask"], network(image[..., :16, :])["mask"])
    batch = Batch(image, torch.zeros(2, dtype=torch.int64), ("a", "b"))
    predictor = CycleGanPredictor(twin)
    with torch.no_grad():
        made = translated(twin.translator, image)  # type: ignore[arg-type]
    expected = Direct(network)(replace(batch, image=made))["mask"]
    torch.testing.assert_close(predictor(batch)["mask"], expected)
    save_predictor(predictor, tmp_path / "model", {})
    assert torch.equal(load_predictor(tmp_path / "model")[0](batch)["mask"], predictor(batch)["mask"])


def test_both_generators_and_critics_learn_at_the_papers_rate() -> None:
    step = CycleGan().step(1, 2, 10, a_context())
    rates = []
    image = torch.rand(4, 1, 24, 24)
    before = [
        p.clone()
        for part in (step.to_source, step.to_target, step.source_critic, step.target_critic)
        for p in part.parameters()
    ]
    for _ in range(10):
        rates.append(
            [group["lr"] for o in (step.generator_optimizer, step.critic_optimizer) for group in o.param_groups]
        )
        step(Batch(image, torch.zeros(4), tuple("abcd")))
    assert [round(rate[0] / 2e-4, 6) for rate in rates] == [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert all(rate[0] == rate[1] for rate in rates)
    after = [
        p
        for part in (step.to_source, step.to_target, step.source_critic, step.target_critic)
        for p in part.parameters()
    ]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.ndim > 1]
    assert all(moved)
    assert step.generator_optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_going_there_and_back_gets_better() -> None:
    torch.manual_seed(0)
    step = CycleGan().step(1, 4, 100, a_context())
    losses = [float(step(Batch(_squares(number), torch.zeros(4), tuple("abcd")))["cycle"]) for number in range(8)]
    assert losses[-1] < 0.95 * losses[0]


def _squares(seed: int) -> Tensor:
    """Source: bright squares on dark; target: the negative of others."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.zeros(4, 1, 24, 24)
    for one in image:
        row, column = torch.randint(2, 14, (2,), generator=rng).tolist()
        one[:, row : row + 9, column : column + 9] = 1
    image[2:] = 1 - image[2:]
    return image


def test_what_is_predicted_is_the_target_as_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CycleGanStep] = []
    real = CycleGan.step

    def watched(self: CycleGan, *arguments: Any) -> CycleGanStep:
        made.append(real(self, *arguments))
        return made[-1]

    monkeypatch.setattr(CycleGan, "step", watched)
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", {"cyclegan": {"cycle": 3.0, "first": "start"}}
    )
    world = session.prepare()
    row = row_of(session, world)
    *_, stage = session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0))
    predictor: Any = stage.predictor
    assert predictor.network.translator is made[-1].to_source
    assert made[-1].cycle == 3.0


def test_target_images_are_shown_as_they_are_translated(tmp_path: Path) -> None:
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "cyclegan")
    world = session.prepare()
    row = row_of(session, world)
    scenario = scenario_of(world, row)
    *_, stage = session.context(row.seed).run(row.recipe, scenario, session.start(world, row.seed))
    figure = Store(tmp_path / "out" / "units" / stage.unit).figures()["translated"]
    seen = scenario.narrowed(row.recipe.needs)
    target, source = (middle_items(side) for side in (seen.target, seen.source))
    shown = changed_images("", ("", target, stage.predictor.translated), ("", source))
    assert figure.rows == shown.rows
    assert figure.rows[0] != figure.rows[1]
