"""Adversarial pre-training: whose turn it is, what either learns from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context, write_photographs

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.adversarial import Adversarial, TurnsStep, critic_loss, generator_loss
from allograft.networks import Network, build
from allograft.nn.critic import Critic
from allograft.parts.pretexts import RANGE
from allograft.recipe import Scenario

CONTRACT = {
    "arguments": {"drop": 1.0, "held_out": 0.5},  # drop as the study's schedule in the contract would be
    "study": {"pool": ["b"]},  # of which two steps are an epoch
    "options": {
        "period": 2,
        "turns": "alternate",
        "weight": 0.1,
        "widths": [4, 4],
        "epochs": 2,
        "drop": 0.34,
        "held_out": 0.3,
        "ssim": {"window": 7},
    },
    "marks": (),
    "averages": True,
}


def a_step(recipe: Adversarial, epoch: int = 2) -> tuple[TurnsStep, Batch]:
    torch.manual_seed(0)
    unet = {"in_channels": 1, "outputs": {"paired": 1}, "channels": [4, 8], "norm": "batch"}
    network, context = build({"build": {"unet": unet}}), a_context()
    image = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    batch = Batch(image, torch.zeros(4).long(), tuple("abcd"), attributes={RANGE: torch.ones(4)})
    assert isinstance(network, Network)
    return recipe._step(network.train(), image, context, (12, epoch)), batch


@pytest.mark.parametrize(
    ("turns", "period", "generator", "critic"),
    [
        ("divisible", 1, {1, 2, 3, 4, 5, 6}, {2, 4, 6}),
        ("divisible", 2, {2, 4, 6}, {3, 6}),
        ("alternate", 1, {1, 3, 5}, {2, 4, 6}),
        ("alternate", 2, {1, 2, 4, 5}, {3, 6}),
    ],
)
def test_each_learns_in_its_own_epochs_and_leaves_the_others_bytes_alone(
    turns: Any, period: int, generator: set[int], critic: set[int]
) -> None:
    step, batch = a_step(Adversarial(turns=turns, period=period))
    moved: dict[str, list[int]] = {"network": [], "critic": []}
    for number in range(12):  # of 2 steps an epoch
        before = {name: digest_of(getattr(step, name)) for name in moved}
        step(batch)
        for name, bytes_before in before.items():
            if digest_of(getattr(step, name)) != bytes_before:
                moved[name].append(number // 2 + 1)
    assert moved == {
        "network": [epoch for epoch in range(1, 7) if epoch in generator for _ in range(2)],
        "critic": [epoch for epoch in range(1, 7) if epoch in critic for _ in range(2)],
    }


def digest_of(module: torch.nn.Module) -> dict[str, list[float]]:
    """Parameters and running statistics."""
    return {name: value.flatten().tolist() for name, value in module.state_dict().items()}


def test_the_losses_are_those_of_the_paper() -> None:
    fake, real = torch.tensor([[0.3], [-1.0]]), torch.tensor([[2.0], [0.1]])
    p_fake, p_real = fake.sigmoid(), real.sigmoid()
    expected = (-(1 - p_fake).log().mean() - p_real.log().mean()) / 2
    torch.testing.assert_close(critic_loss(fake, real), expected)
    torch.testing.assert_close(generator_loss(fake), -p_fake.log().mean())


def test_the_terms_of_a_step_are_weighted() -> None:
    light, heavy = (a_step(Adversarial(weight=weight)) for weight in (0.1, 1.0))
    terms = [step(batch) for step, batch in (light, heavy)]
    assert terms[1]["fooled"].item() == pytest.approx(10 * terms[0]["fooled"].item(), rel=1e-5)
    assert terms[1]["restoration"] == terms[0]["restoration"]
    torch.testing.assert_close(terms[1]["critic"], torch.tensor(0.69), rtol=0.1, atol=0.1)


def test_the_critic_is_left_for_the_recipe_built_on_it(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path / "cohort", {"a": 6}), VESSEL.coding, preprocessing=Preprocessing())
    unet = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}
    network, scenario = build({"build": {"unet": unet}}), Scenario(pool=(cohort.unlabelled(),), sites=("a",))
    carries = []
    for _ in range(2):  # run, then loaded
        running = a_context(tmp_path / "units").run(Adversarial(epochs=3), scenario, network)
        while True:
            try:
                next(running)
            except StopIteration as end:
                carries.append(end.value)
                break
    assert isinstance(carries[1].parts["critic"], Critic)
    assert digest_of(carries[0].parts["critic"]) == digest_of(carries[1].parts["critic"])


def test_a_budget_in_which_the_critic_never_learns_is_refused(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path, {"a": 6}), VESSEL.coding, preprocessing=Preprocessing())
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    scenario = Scenario(pool=(cohort.unlabelled(),), sites=("a",))
    with pytest.raises(SpecError, match="first learns in epoch 2, and the budget ends in epoch 1 of 3 steps"):
        Adversarial().check(scenario, network, a_context())
    Adversarial().check(scenario, network, a_context(budget=Budget(steps=4, batch_size=2)))
    with pytest.raises(SpecError, match="first learns in epoch 4, and the budget ends in epoch 3"):
        Adversarial(period=3, epochs=3).check(scenario, network, a_context())
    with pytest.raises(SpecError, match=r"widths is \[\]"):
        Adversarial(widths=())
