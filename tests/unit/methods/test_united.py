"""United: its terms, its phases, what goes from one to the next, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.pretraining import a_pretraining, finished, pool_of, rng
from tests.unit.tiny import write_brains
from torch import nn

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Context, units_of
from allograft.errors import SpecError
from allograft.methods import united
from allograft.methods.united import Ingredients, United, restoration_loss
from allograft.networks import Network, Wrapped, build, rebuildable
from allograft.networks.parts import LabelHead
from allograft.parts.adversary import RESTORED, AdversarialStep, ToldApart, adversary_of
from allograft.parts.pretext_tasks import CLEAN, LABEL, MIX, PretextHead
from allograft.recipe import Carry, Scenario, title
from allograft.seeds import Seeds
from allograft.tasks.segmentation import Segmentation
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
    },
    "processes": {"dropout": 0.0, "restorative_weight": 1.0},
    "marks": (),
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


# ------------------------------------------------------------------ phases
def test_each_phase_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    """At a learning rate of 0 a phase hands on what it was given: encoder, decoder, head of the
    decoder, pretext's head; and the adversary where there was one."""
    scenario, network, context = pool_of(tmp_path / "images", a=6), unet(), a_pretraining(tmp_path / "units")
    found = [finished(recipe, scenario, network, context) for recipe in (D, DR, DRA)]
    stages, (one, two, three) = [stages[-1] for stages, _ in found], (carry for _, carry in found)
    still = replace(context, settings=replace(context.settings, optimizer={"sgd": {"lr": 0.0}}))

    def after(recipe: United, carry: Any) -> Any:
        """The phase that comes after a carry, in which nothing moves."""
        with Seeds(1).everything("run"):
            running = replace(recipe, first=Handed(carry)).run(
                scenario, build_again(network), still_handed(still, carry)
            )
            try:
                while True:
                    next(running)
            except StopIteration as end:
                return end.value

    for recipe, carry in ((DR, one), (DRA, two), (DRA, three)):
        kept = after(recipe, carry)
        assert same(state(carry.network), kept.network.state_dict())
        for name, part in carry.parts.items():
            assert same(state(part), kept.parts[name].state_dict())
    assert set(two.network.heads) == {"paired"}
    assert not one.network.heads
    assert set(three.parts) == {"discriminator", "adversary"}
    assert [stage.recipe.ingredients for stage in stages] == ["D", "D+R", "D+R+A"]
    assert "head 'paired' starts at random" in stages[1].facts["weights"]
    assert "0 skipped, 0 missing" in stages[2].facts["weights"]


class Handed:
    """Stands for a recipe that left a carry."""

    def __init__(self, carry: Any) -> None:
        self.carry, self.pretext = carry, "rotation"


def still_handed(context: Context, carry: Any) -> Any:
    """A context that gives that carry."""

    class Giving:
        def __getattr__(self, name: str) -> Any:
            return getattr(context, name)

        def run(self, recipe: Any, scenario: Any, network: Any) -> Any:
            yield from ()
            return carry

    return Giving()


def test_phases_are_nodes_that_rows_share(tmp_path: Path) -> None:
    scenario, network, context = pool_of(tmp_path / "images", a=4), unet(), a_pretraining(tmp_path / "units")
    keys = {recipe: [node.key for node in units_of(recipe, scenario, network, context)] for recipe in (D, DR, DRA)}
    assert keys[DRA][:2] == keys[DR]
    assert keys[DR][:1] == keys[D]
    list(context.run(DRA, scenario, network))
    assert {folder.name for folder in (tmp_path / "units").iterdir()} == set(keys[DRA])
    at_once = United(ingredients="D+R+A", **HEAD)
    assert [node.key for node in units_of(at_once, scenario, network, context)][-1] not in keys[DRA]
    assert title(DRA).count("united") == 3


def test_a_head_for_other_classes_starts_at_random(tmp_path: Path) -> None:
    head, other = PretextHead(8, 2, 4, [8], 0.0), PretextHead(8, 2, 4, [8], 0.0)
    carry = Carry(
        unet(),
        parts={"discriminator": rebuildable(PretextHead, channels=8, dims=2, outputs=4, hidden=[8], dropout=0.0)},
    )
    before = state(head)
    jigsaw = United("jigsaw", first=D, classes=4, **HEAD)
    assert same(before, jigsaw.continued_head(head, carry).state_dict())
    assert same(state(carry.parts["discriminator"]), DR.continued_head(other, carry).state_dict())
    wider = PretextHead(8, 2, 10, [8], 0.0)
    before = state(wider)
    assert same(before, DR.continued_head(wider, carry).state_dict())


def test_each_epoch_has_clusters_and_a_head_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the optimizer remembers nothing; a rehearsal clusters once."""
    drawn: list[dict[str, torch.Tensor]] = []
    reset = PretextHead.reset

    def watched(head: PretextHead) -> None:
        reset(head)
        drawn.append(state(head))

    monkeypatch.setattr(PretextHead, "reset", watched)
    counted: list[int] = []
    real = united.clusters_by_name

    def counting(*arguments: Any) -> dict[str, int]:
        counted.append(1)
        return real(*arguments)

    monkeypatch.setattr(united, "clusters_by_name", counting)
    recipe = United("deep_clustering", classes=3, epochs=3, **HEAD)
    scenario, network = pool_of(tmp_path / "images", a=6), unet()
    finished(recipe, scenario, network, a_pretraining(tmp_path / "units"))
    assert (len(drawn), len(counted)) == (3, 3)
    assert not same(drawn[0], drawn[1])
    finished(recipe, scenario, network, replace(a_pretraining(tmp_path / "tried"), rehearsal={}))
    assert len(counted) == 4


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw", "rubik", "deep_clustering", "transvw"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_pretext_trains_on_images_and_volumes(pretext: Any, dims: int, tmp_path: Path) -> None:
    manifest = write_brains(tmp_path / "brains", (16,) * dims)
    cohort = Cohort.read(manifest, Segmentation(("brain",)).coding, preprocessing=Preprocessing()).unlabelled()
    network, context = unet(spatial_dims=dims), a_pretraining(tmp_path / "units", steps=2)
    counted = {"rotation": None, "deep_clustering": 3, "transvw": 3}.get(pretext, 6)
    recipe = United(pretext, "D+R+A", classes=counted, neighbours=2, **HEAD)
    scenario = Scenario(pool=(cohort,), sites=cohort.sites)
    recipe.check(scenario, network, context)
    stages, carry = finished(recipe, scenario, network, context)
    facts = stages[-1].facts
    assert {"discriminative", "restorative", "adversarial", "critic", "frechet_start_encoder"} <= set(facts)
    assert isinstance(carry.parts["adversary"], Network)
    assert isinstance(carry.parts["adversary"].heads["label"], LabelHead)


def test_the_report_is_given_restored_images_by_ingredient(tmp_path: Path) -> None:
    scenario, network, context = pool_of(tmp_path / "images", a=4), unet(), a_pretraining(tmp_path / "units")
    stages, _ = finished(DRA, scenario, network, context)
    shown = {}
    for stage in stages:
        figures = (tmp_path / "units" / stage.unit / "figures.json").read_text()
        shown[stage.recipe.ingredients] = [name for name in ("D+R", "D+R+A") if f"by {name}: distorted" in figures]
        assert ("frechet_start_encoder" in stage.facts) == (stage.recipe.ingredients != "D")
    assert shown == {"D": [], "D+R": ["D+R"], "D+R+A": ["D+R+A"]}


# ------------------------------------------------------------------ bad input
def test_bad_input_is_refused(tmp_path: Path) -> None:
    context, scenario = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "images", a=5)
    DRA.check(scenario, unet(), context)

    def refused(
        recipe: United, match: str, network: Any = None, scenario: Scenario = scenario, **settings: Any
    ) -> None:
        given = replace(context, settings=replace(context.settings, **settings))
        with pytest.raises(SpecError, match=match):
            recipe.check(scenario, network or unet(), given)

    refused(United("jigsaw"), "an image of 15x14 cannot be cut into halves", patch=(15, 14))
    refused(United("rubik"), "an image of 16x9 cannot be cut into halves", patch=(16, 9))
    refused(D, "samples of 16x8 have another shape once they are turned.*such as", patch=(16, 8))
    refused(United("deep_clustering"), "the pool has 5 images for 64 clusters; set classes to 2 or less")
    refused(United("transvw"), "the pool has 5 patients, and each of the 44 classes of transvw has a reference patient")
    refused(United("transvw", classes=3), "crops of 16x16 have one place in images of 16x16", patch=(16, 16))
    refused(D, "the network is one opaque module without an encoder", Wrapped(nn.Conv2d(1, 1, 1), "mask"))
    classifier = build({"build": {"resnet": {"in_channels": 1, "outputs": {}, "depth": 18}}})
    D.check(scenario, classifier, context)
    refused(DR, "resnet", classifier)
    released = replace(DRA, variant="released")
    refused(released, "variant 'released' penalises the gradient of each pair.*norm: instance", unet("batch"))
    released.check(scenario, unet("instance"), context)
    refused(D, "the pool has one image", scenario=pool_of(tmp_path / "single", a=1))
    refused(replace(D, pool=("b",)), "united: pool: unknown site of the pool 'b'")
    with pytest.raises(SpecError, match="classes is 5; a rotation has 4 of images and 10 of volumes"):
        United(classes=5)
    with pytest.raises(SpecError, match=r"every weight of D\+R is 0"):
        United(ingredients="D+R", discriminative_weight=0, restorative_weight=0)


def test_one_channel_against_three_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    context, grey, photographs = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "a", a=3), tmp_path / "b"
    coloured = pool_of(photographs, b=3)
    for file in photographs.glob("b?.png"):
        Image.open(file).convert("RGB").save(file)
    both = Scenario(pool=(*grey.pool, *coloured.pool), sites=("a", "b"))
    with pytest.raises(SpecError, match=r"images of the pool have 1 \('a0.png'\) and 3 \('b0.png'\) channels"):
        D.check(both, unet(), context)
