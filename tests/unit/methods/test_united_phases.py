"""United: what goes from one phase to the next, every pretext from beginning to end, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.methods.test_united import DR, DRA, HEAD, D, build_again, same, state, unet
from tests.unit.pretraining import a_pretraining, finished, pool_of
from tests.unit.tiny import write_brains
from torch import nn

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Context, units_of
from allograft.errors import SpecError
from allograft.methods import united
from allograft.methods.united import United
from allograft.networks import Network, Wrapped, build, rebuildable
from allograft.networks.parts import LabelHead
from allograft.parts.pretext_tasks import PretextHead
from allograft.recipe import Carry, Scenario, title
from allograft.seeds import Seeds
from allograft.tasks.segmentation import Segmentation


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
        made: dict[str, int] = real(*arguments)
        counted.append(len(set(made.values())))
        return made

    monkeypatch.setattr(united, "clusters_by_name", counting)
    recipe = United("deep_clustering", classes=3, epochs=3, **HEAD)
    scenario, network = pool_of(tmp_path / "images", a=6), unet()
    finished(recipe, scenario, network, a_pretraining(tmp_path / "units"))
    assert len(drawn) == 3
    assert counted == [3] * 3
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
