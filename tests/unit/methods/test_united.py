"""United: its terms, its phases, what goes from one to the next, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.pretraining import a_pretraining, pool_of, rng
from torch import nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.methods.united import Ingredients, United, restoration_loss
from allograft.networks import Network, build
from allograft.parts.adversary import RESTORED, AdversarialStep, ToldApart, adversary_of
from allograft.parts.pretext_tasks import CLEAN, LABEL, MIX, PretextHead
from allograft.seeds import Seeds
from allograft.tree import digest

CONTRACT = {
    "arguments": {"ingredients": "D+R+A", "hidden": [8], "dropout": 0.2},
    "study": {"pool": ["a", "d", "b"]},
    "options": {
        "pretext": "rubik",
        "ingredients": "D+R",
        "discriminative_weight": 0.5,
        "restorative_weight": 10.0,
        "adversarial_weight": 2.0,
        "reduction": "sum",
        "variant": "released",
        "classes": 5,
        "neighbours": 2,
        "hidden": [4],
        "dropout": 0.0,
        "epochs": 1,
        "pool": ["a"],
    },
    "under": {
        "variant": {"study": {"network": {"unet": {"channels": [4, 8], "num_res_units": 1}}}},
        "classes": {"arguments": {"pretext": "jigsaw"}},
        "neighbours": {"arguments": {"pretext": "transvw", "classes": 4}},
        "reduction": {"study": {"optimizer": {"adam": {"lr": 1e-3}}}},
        "pretext: transvw": {"arguments": {"pretext": "jigsaw", "classes": 4}},
        "pretext: deep_clustering": {"arguments": {"pretext": "jigsaw", "classes": 3}},
    },
    "processes": {"dropout": 0.0, "restorative_weight": 1.0},
    "marks": (),
    "patch": (16, 16),  # a pretext turns them by quarters
}
HEAD: dict[str, Any] = {"hidden": (8,), "dropout": 0.0}
D = United(**HEAD)
DR = United(ingredients="D+R", first=D, **HEAD)
DRA = United(ingredients="D+R+A", first=DR, **HEAD)


def unet(norm: str = "instance", **changes: Any) -> Network:
    arguments = {"in_channels": 1, "outputs": {}, "channels": [4, 8, 8], "num_res_units": 1, "norm": norm, **changes}
    with Seeds(0).everything("network"):
        made = build({"build": {"unet": arguments}})
    assert isinstance(made, Network)
    return made


def a_batch() -> Batch:
    clean = torch.rand(4, 1, 16, 16, generator=rng())
    distorted = clean + 0.3 * torch.randn(4, 1, 16, 16, generator=rng(1))
    attributes = {LABEL: torch.tensor([0, 3, 1, 2]), MIX: torch.tensor([0.1, 0.9, 0.5, 0.3], dtype=torch.float64)}
    return Batch(distorted, torch.zeros(4).long(), tuple("abcd"), attributes=attributes, views={CLEAN: clean})


def a_step(recipe: United, context: Context, norm: str = "batch") -> tuple[AdversarialStep, Network, Ingredients]:
    body = unet(norm, outputs={"paired": 1}).train()
    with Seeds(0).everything("head"):
        objective = Ingredients(PretextHead(8, 2, 4, [8], 0.0), recipe).train()
    learns = context.gradient_step(body, objective)
    with Seeds(0).everything("adversary"):
        critic = context.gradient_step(adversary_of(body, 1).train(), ToldApart(recipe.gan))
    step = AdversarialStep(learns, critic, objective.learned, recipe.adversarial_weight, recipe.gan)
    return step, body, objective


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# ------------------------------------------------------------------ terms
def test_terms_are_weighted_and_belong_to_the_distorted_image() -> None:
    recipe = United(ingredients="D+R", discriminative_weight=0.5, restorative_weight=7.0, **HEAD)
    batch, body = a_batch(), unet(outputs={"paired": 1}).eval()
    objective = Ingredients(PretextHead(8, 2, 4, [8], 0.0), recipe)
    terms = objective(body, batch)
    restored = body(batch.image)["paired"]
    logits = objective.head(body.encoder(batch.image))
    shares = logits.softmax(1)[torch.arange(4), batch.attributes[LABEL]]
    torch.testing.assert_close(terms["discriminative"], 0.5 * -shares.log().mean())
    torch.testing.assert_close(terms["restorative"], 7.0 * (restored - batch.views[CLEAN]).square().mean())
    assert set(Ingredients(objective.head, D)(body, batch)) == {"discriminative"}


def test_a_sum_is_equation_2_and_a_mean_the_released_codes() -> None:
    restored, image = (torch.randn(3, 2, 4, 5, generator=rng(seed), dtype=torch.float64) for seed in (0, 1))
    squares = [
        sum((a - b) ** 2 for a, b in zip(restored[n].flatten(), image[n].flatten(), strict=True)) for n in range(3)
    ]
    torch.testing.assert_close(restoration_loss(restored, image, "sum"), sum(squares) / 3)
    torch.testing.assert_close(restoration_loss(restored, image, "mean"), sum(squares) / 3 / 40)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_each_step_leaves_the_others_bytes_alone(variant: Any, tmp_path: Path) -> None:
    """The critic's those of the network and the pretext's head, running statistics included; the
    generator's the parameters of the adversary."""
    recipe = replace(DRA, variant=variant)
    step, body, objective = a_step(recipe, a_pretraining(tmp_path), "batch" if variant == "paper" else "instance")
    adversary, before = step.critic.network, state(step.critic.network)
    moved: list[bool] = []
    critic = step.critic

    def watched(batch: Batch) -> Any:
        kept = state(body), state(objective)
        moved.append(any(not torch.equal(p, before[name]) for name, p in adversary.named_parameters()))
        terms = critic(batch)
        assert same(kept[0], body.state_dict())
        assert same(kept[1], objective.state_dict())
        assert not batch.views[RESTORED].requires_grad
        return terms

    class Watched:
        network = adversary

        def __call__(self, batch: Batch) -> Any:
            return watched(batch)

    start = state(body)
    terms = replace(step, critic=Watched())(a_batch())  # type: ignore[arg-type]
    assert moved == [False]
    assert not same(start, body.state_dict())
    assert not same(before, adversary.state_dict())
    expected = {"discriminative", "restorative", "adversarial", "critic"}
    assert set(terms) == expected | ({"penalty"} if variant == "released" else set())


def test_the_adversary_learns_pairs_of_distorted_and_true(tmp_path: Path) -> None:
    """Eq. 3 by hand, for one step of it."""
    batch = a_batch()
    batch = replace(batch, views={**batch.views, RESTORED: batch.image + 1})
    adversary = adversary_of(unet(outputs={"paired": 1}), 1).eval()
    assert adversary.spec["build"]["unet"]["in_channels"] == 2
    real = adversary(torch.cat([batch.image, batch.views[CLEAN]], 1))["label"].sigmoid()
    fake = adversary(torch.cat([batch.image, batch.image + 1], 1))["label"].sigmoid()
    terms = ToldApart("log")(adversary, batch)
    torch.testing.assert_close(terms["critic"], -(real.log().mean() + (1 - fake).log().mean()))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_two_steps_are_those_of_bare_pytorch(variant: Any, tmp_path: Path) -> None:
    """Eqs. 1 to 4 written out, by SGD; the penalty by autograd on the mixed pair."""
    recipe = replace(DRA, variant=variant, adversarial_weight=0.7, restorative_weight=3.0)
    context = a_pretraining(tmp_path)
    context = replace(context, settings=replace(context.settings, optimizer={"sgd": {"lr": 0.05}}))
    step, body, objective = a_step(recipe, context, "instance")
    twin, head, critic = (copy.deepcopy(each) for each in (body, objective.head, step.critic.network))
    batch = a_batch()
    image, clean, mix = batch.image, batch.views[CLEAN], batch.attributes[MIX].float().view(-1, 1, 1, 1)
    learning, judging = [*twin.parameters(), *head.parameters()], [*critic.parameters()]
    for _ in range(2):
        terms = step(batch)
        restored = twin(image)["paired"]
        fake = critic(torch.cat([image, restored], 1))["label"]
        fooled = -fake.sigmoid().log().mean() if variant == "paper" else -fake.mean()
        entropy = -head(twin.encoder(image)).log_softmax(1)[range(4), batch.attributes[LABEL]].mean()
        loss = entropy + 3.0 * (restored - clean).square().mean() + 0.7 * fooled
        descend(learning, loss, 0.05)
        torch.testing.assert_close(terms["adversarial"], 0.7 * fooled.detach())
        pairs = torch.cat([image, clean], 1), torch.cat([image, restored.detach()], 1)
        real, fake = (critic(pair)["label"] for pair in pairs)
        if variant == "paper":
            told = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
        else:
            mixed = (mix * pairs[0] + (1 - mix) * pairs[1]).requires_grad_()
            (slope,) = torch.autograd.grad(critic(mixed)["label"].sum(), mixed, create_graph=True)
            told = fake.mean() - real.mean() + 10 * (slope.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
        descend(judging, told, 0.05)
    for ours, theirs in ((body, twin), (objective.head, head), (step.critic.network, critic)):
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)


def descend(parameters: list[nn.Parameter], loss: torch.Tensor, rate: float) -> None:
    """One step of gradient descent."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= rate * gradient


def test_without_weights_of_restoration_and_adversary_all_at_once_is_d(tmp_path: Path) -> None:
    scenario, network = pool_of(tmp_path / "images", a=6), unet("batch")
    found = []
    for recipe in (D, United(ingredients="D+R+A", restorative_weight=0, adversarial_weight=0, **HEAD)):
        context = a_pretraining(tmp_path / recipe.ingredients)
        with Seeds(0).everything("run"):
            running = recipe.run(scenario, build_again(network), context)
            try:
                while True:
                    next(running)
            except StopIteration as end:
                found.append(end.value)
    assert digest(found[0].network) == digest(found[1].network) != digest(network)
    assert same(state(found[0].parts["discriminator"]), found[1].parts["discriminator"].state_dict())
    assert set(found[1].parts) == {"discriminator"}


def build_again(network: Network) -> Network:
    twin = build(network.spec)
    twin.load_state_dict(network.state_dict())
    assert isinstance(twin, Network)
    return twin
