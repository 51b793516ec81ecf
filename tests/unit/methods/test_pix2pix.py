"""pix2pix: losses against a float64 loop, who is updated by what, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unit.tiny import a_context as plain_context

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget, Context
from allograft.errors import SpecError
from allograft.methods.pix2pix import PatchCritic, Pix2Pix, Pix2PixStep, known_alone
from allograft.networks import build
from allograft.phantoms.knee import write_knee
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation
from allograft.tasks.synthesis import Synthesis

CONTRACT = {
    "arguments": {"widths": [4, 8]},
    "study": {"cohort": "paired.csv", "task": {"synthesis": {"range": [0, 2]}}, "preprocessing": {"intensity": "unit"}},
    "options": {"weight": 1.0, "widths": [4, 6], "optimizer": {"sgd": {"lr": 0.1}}},
    "own_settings": ("optimizer",),
    "processes": {"optimizer": None, "weight": 0.1},  # the study's SGD, at whose rate 100 diverges
    "averages": True,
}
TASK = Synthesis(range=(0, 255))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    manifest: Path = write_knee(tmp_path_factory.mktemp("knees"), sites={"a": "none"}, subjects=4, size=32)
    return Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))


def a_context(**settings: Any) -> Context:
    budget = settings.pop("budget", Budget(steps=2, batch_size=2))
    return replace(plain_context(budget=budget, **settings), task=TASK)


def a_network() -> Any:
    torch.manual_seed(1)
    return build({"build": {"unet": {"in_channels": 1, "outputs": {"paired": 1}, "channels": [4, 8]}}})


def a_step(weight: float = 100.0, rates: tuple[float, float] = (0.1, 0.1)) -> Pix2PixStep:
    network = a_network().train()
    torch.manual_seed(2)
    critic = PatchCritic(2, 2, [4, 8])
    optimizers = tuple(
        torch.optim.SGD(each.parameters(), lr=rate) for each, rate in zip((network, critic), rates, strict=True)
    )
    return Pix2PixStep(network, critic, optimizers, (None, None), TASK, weight, a_context().fabric, None)  # type: ignore[arg-type]


def a_batch() -> Batch:
    torch.manual_seed(3)
    paired = torch.rand(2, 1, 16, 16)
    paired[1, :, :4] = math.nan
    return Batch(torch.rand(2, 1, 16, 16), torch.zeros(2).long(), ("p", "q"), labels={"paired": paired})


def test_the_critics_patches_are_of_seventy_pixels() -> None:
    critic = PatchCritic(1, 2, [64, 128, 256, 512])
    image = torch.zeros(1, 1, 256, 256, requires_grad=True)
    for layer in critic.layers:  # a normalisation sees the whole image
        if isinstance(layer, torch.nn.InstanceNorm2d):
            layer.forward = lambda values: values  # type: ignore[method-assign]
    logits = critic(image)
    assert logits.shape == (1, 1, 30, 30)
    (reached,) = torch.autograd.grad(logits[0, 0, 15, 15], image)
    seen = (reached[0, 0] != 0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_losses_are_those_of_a_loop_in_double_precision() -> None:
    step, batch = a_step(rates=(0.0, 0.0)), a_batch()
    terms = step(batch)
    network, critic = step.network.double(), step.critic.double()
    made, paired = network(batch.image.double())["paired"], batch.labels["paired"].double()  # type: ignore[union-attr]
    known = ~paired.isnan()
    real = torch.cat([batch.image.double(), paired.where(known, 0.0)], 1)
    fake = torch.cat([batch.image.double(), made.where(known, 0.0)], 1)
    real_logits, fake_logits = critic(real).flatten().tolist(), critic(fake).flatten().tolist()
    share = [1 / (1 + math.exp(-logit)) for logit in real_logits], [1 / (1 + math.exp(-logit)) for logit in fake_logits]
    count = len(real_logits)
    critics = -(sum(map(math.log, share[0])) + sum(math.log(1 - p) for p in share[1])) / count / 2
    fooled = -sum(map(math.log, share[1])) / count
    apart = sum((made[i] - paired[i])[known[i]].abs().mean().item() for i in range(2)) / 2
    assert terms["critic"].item() == pytest.approx(critics, rel=1e-5)
    assert terms["fooled"].item() == pytest.approx(fooled, rel=1e-5)
    assert terms["absolute_error"].item() == pytest.approx(100 * apart, rel=1e-5)


def test_each_loss_moves_its_own_network_alone() -> None:
    def weights(module: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten().clone() for p in module.parameters()])

    for rates, moves in (((0.1, 0.0), (True, False)), ((0.0, 0.1), (False, True))):
        step = a_step(rates=rates)
        before = weights(step.network), weights(step.critic)
        step(a_batch())
        after = weights(step.network), weights(step.critic)
        assert tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == moves


def test_the_generator_is_pulled_to_the_truth_and_towards_the_critics_yes() -> None:
    batch = a_batch()

    def after(weight: float) -> dict[str, float]:
        step = a_step(weight, rates=(0.02, 0.0))
        for _ in range(20):
            terms = step(batch)
        return {key: value.item() for key, value in terms.items()}

    start = {key: value.item() for key, value in a_step(1.0, rates=(0.0, 0.0))(batch).items()}
    assert after(0.0)["fooled"] < start["fooled"]
    assert after(1.0)["absolute_error"] < start["absolute_error"]


def test_a_critic_cannot_tell_by_what_is_not_known() -> None:
    paired = torch.tensor([[[1.0, math.nan, 3.0]]])
    region = torch.tensor([[[True, True, False]]])
    made, true = known_alone(torch.tensor([[[5.0, 6.0, 7.0]]]), paired, region)
    assert made.tolist() == [[[5, 0, 0]]]
    assert true.tolist() == [[[1, 0, 0]]]


def test_the_answer_is_the_networks_and_the_critic_is_carried(cohort: Cohort) -> None:
    context, network = a_context(), a_network()
    recipe = Pix2Pix(widths=(4, 8))
    recipe.check(Scenario(source=(cohort,)), network, context)
    running = recipe.run(Scenario(source=(cohort,)), network, context)
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            carry = end.value
            break
    assert [stage.name for stage in stages] == ["trained"]
    assert isinstance(carry.parts["critic"], PatchCritic)
    image = cohort.case(0).image
    with torch.no_grad():
        output = stages[0].predictor(cohort.case(0).unlabelled())["paired"]
        torch.testing.assert_close(output, carry.network.eval()(image)["paired"])


def test_the_critic_learns_by_the_recipes_optimizer_and_the_studys_schedule(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Pix2PixStep] = []

    def noted(*arguments: Any) -> Pix2PixStep:
        steps.append(Pix2PixStep(*arguments))
        return steps[0]

    monkeypatch.setattr("allograft.methods.pix2pix.Pix2PixStep", noted)
    context = a_context(schedule={"step": {"at": [0.5], "factor": 0.1}})
    list(Pix2Pix(widths=(4, 8), optimizer={"sgd": {"lr": 0.5}}).run(Scenario(source=(cohort,)), a_network(), context))
    (step,) = steps
    for optimizer, network in zip(step.optimizers, (step.network, step.critic), strict=True):
        assert isinstance(optimizer, torch.optim.SGD)
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(0.05)
        assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}


def test_what_cannot_be_is_refused_beforehand(cohort: Cohort) -> None:
    context, network, recipe = a_context(), a_network(), Pix2Pix(widths=(4, 8))
    with pytest.raises(SpecError, match="expected task"):
        recipe.check(Scenario(source=(cohort,)), network, replace(context, task=Segmentation(("a",))))
    with pytest.raises(SpecError, match="leaves the critic no patch; expected 128 pixels"):
        Pix2Pix(widths=(4, 4, 4, 4, 4, 4)).check(Scenario(source=(cohort,)), network, context)
    with pytest.raises(SpecError, match="at least one convolution"):
        Pix2Pix(widths=()).check(Scenario(source=(cohort,)), network, context)
    with pytest.raises(SpecError, match="no source case has both modalities"):
        recipe.check(Scenario(), network, context)


def test_defaults_are_the_papers() -> None:
    recipe = Pix2Pix()
    assert recipe.weight == 100  # section 4 and appendix 6.2
    assert recipe.widths == (64, 128, 256, 512)
    assert recipe.optimizer == {"adam": {"lr": 2e-4, "betas": [0.5, 0.999]}}
    assert F.leaky_relu(torch.tensor(-1.0), 0.2).item() == pytest.approx(
        PatchCritic(1, 2, [2]).layers[1](torch.tensor(-1.0)).item()
    )
