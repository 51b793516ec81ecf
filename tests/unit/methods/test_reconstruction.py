"""Reconstruction: what it minimises, whom it holds out, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import VESSEL, a_context, write_photographs

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.cohort.prepared_images import PreparedImages
from allograft.errors import SpecError
from allograft.methods.reconstruction import Reconstruction
from allograft.networks import Network, build
from allograft.networks.network import Wrapped
from allograft.nn.ssim import ssim
from allograft.parts.pretexts import RANGE, Ranged, held_out
from allograft.recipe import Carry, Scenario, Stage, parse_recipe
from allograft.transforms.sample import Sample

CONTRACT = {
    "arguments": {"drop": 1.0},  # as the study's schedule in the contract would be
    "study": {"pool": ["a", "d", "b"]},
    "options": {"epochs": 1, "drop": 0.34, "held_out": 0.6, "ssim": {"window": 7}},
    "marks": (),
}


FAST = {"adam": {"lr": 1e-2}}


def a_network(**outputs: int) -> Network:
    torch.manual_seed(0)
    unet = {"in_channels": 1, "outputs": outputs or {"mask": 2}, "channels": [4, 8], "num_res_units": 1}
    network = build({"build": {"unet": unet}})
    assert isinstance(network, Network)
    return network


def a_cohort(manifest: Path) -> Cohort:
    return Cohort.read(manifest, VESSEL.coding, preprocessing=Preprocessing())


def a_pool(folder: Path, subjects: int = 6, **sites: int) -> tuple[Cohort, ...]:
    cohort = a_cohort(write_photographs(folder, sites or {"a": subjects}))
    return tuple(cohort.site(site).unlabelled() for site in cohort.sites)


def ran(recipe: Any, pool: tuple[Cohort, ...], network: Network, context: Any = None) -> tuple[Stage, Carry]:
    """The stage and the carry of a pre-training."""
    running = (context or a_context()).run(recipe, Scenario(pool=pool, sites=pool[0].sites), network)
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            (stage,) = stages
            return stage, end.value


def test_subjects_held_out_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = a_pool(tmp_path, a=5, b=4)
    training, validating = held_out(pool, 2 / 9, seed=0)
    names = [{case.subject for cohort in part for case in cohort.cases} for part in (training, validating)]
    assert [len(part) for part in names] == [7, 2]
    assert not names[0] & names[1]
    assert held_out(pool, 2 / 9, seed=1)[1] != validating
    assert held_out(pool, 0, seed=0) == (pool, ())
    assert len({c.subject for part in held_out(pool, 0.99, seed=0)[0] for c in part.cases}) == 1

    seen: set[str] = set()
    real = Reconstruction.objective

    def watched(self: Reconstruction, network: Any, batch: Batch) -> Any:
        seen.update(batch.subjects)
        return real(self, network, batch)

    monkeypatch.setattr(Reconstruction, "objective", watched)
    ran(Reconstruction(epochs=4), pool, a_network())
    assert seen == names[0]


def test_it_says_how_well_it_restores(tmp_path: Path) -> None:
    stage, _ = ran(Reconstruction(epochs=30), a_pool(tmp_path), a_network(), a_context(optimizer=FAST))
    assert stage.predictor is None
    assert 0 < stage.facts["validation_loss"] < 1
    assert (stage.facts["ms_ssim_scales"], stage.facts["steps"], stage.facts["steps_per_epoch"]) == (1, 90, 3)
    assert stage.facts["ms_ssim"] == pytest.approx(1 - stage.facts["validation_loss"], abs=1e-5)  # of one scale
    assert {"dice", "hausdorff", "hd95"} <= set(stage.facts)
    assert not ran(Reconstruction(held_out=0), a_pool(tmp_path), a_network())[0].facts.keys() - {
        "steps",
        "steps_per_epoch",
    }


def test_it_minimises_one_minus_ssim_and_learns_to(tmp_path: Path) -> None:
    pool = a_pool(tmp_path)
    few, many = (
        ran(Reconstruction(epochs=count), pool, a_network(), a_context(optimizer=FAST))[0].facts["validation_loss"]
        for count in (1, 40)
    )
    assert many < 0.7 * few
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), attributes={RANGE: torch.tensor([1.0, 2.0])})
    assert Reconstruction().objective(lambda given: {"paired": given}, batch)["restoration"].item() == pytest.approx(
        0, abs=1e-6
    )
    expected = (1 - ssim(image + 0.1, image, torch.tensor([1.0, 2.0]))).mean()
    found = Reconstruction().objective(lambda given: {"paired": given + 0.1}, batch)["restoration"]
    torch.testing.assert_close(found, expected)


def test_the_range_is_that_of_the_image_before_it_is_cropped() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 0, 0], image[..., 31, 31] = -3.0, 4.0
    case = Batch(image, torch.tensor([0]), ("a",))
    sample = Ranged(Sample("none", (12, 12), centre=(16.0, 16.0)))(case, torch.Generator().manual_seed(0))
    assert (sample.image.amax() - sample.image.amin(), sample.attributes[RANGE].item()) == (0, 7.0)


def test_what_it_learned_arrives_in_the_network_that_is_tuned(tmp_path: Path) -> None:
    """Encoder and decoder of the carry are those of the restorer; heads are the caller's own."""
    network, pool = a_network(), a_pool(tmp_path)
    _, carry = ran(Reconstruction(epochs=3), pool, network)
    before, after = network.state_dict(), carry.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    body = {name for name in before if not name.startswith("heads.")}
    assert moved <= body
    assert {name for name in body if name.endswith("conv.weight")} <= moved  # a bias before a normalisation stays
    image = pool[0].case(0).image
    assert not torch.allclose(carry.network.encoder(image)[-1], network.encoder(image)[-1])


@pytest.mark.parametrize("method", ["reconstruction", "contrastive", "adversarial", "denoising_diffusion"])
def test_a_pool_that_cannot_be_learned_from_is_refused(method: str, tmp_path: Path) -> None:
    recipe = parse_recipe(method)

    def refused(match: str, pool: tuple[Cohort, ...], network: Any = None, **settings: Any) -> None:
        with pytest.raises(SpecError, match=match):
            recipe.check(Scenario(pool=pool), network or a_network(), a_context(**settings))

    refused("the pool has one subject, and held_out: 0.222", a_pool(tmp_path / "one", 1))
    pool = a_pool(tmp_path / "some", 4)
    refused("16x16 is smaller than the patch of 20x8; lower patch", pool, patch=(20, 8))
    refused("a patch of 8x8 is smaller than the window of SSIM, 11 pixels", pool, patch=(8, 8))
    refused("one opaque module without an encoder", pool, Wrapped(torch.nn.Identity(), "mask"))
    classifier = build({"build": {"resnet": {"in_channels": 1, "outputs": {"label": 2}}}})
    refused("choose another network", pool, classifier)
    folder = tmp_path / "some"
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(folder / "a1.png")
    refused("image '.*a1.png' has one value throughout", a_pool_of(folder))
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (16, 16, 3), dtype=np.uint8)).save(folder / "a1.png")
    refused(r"have 1 \('.*'\) and 3 \('.*a1.png'\) channels", a_pool_of(folder))


def a_pool_of(folder: Path) -> tuple[Cohort, ...]:
    return (a_cohort(folder / "manifest.csv").unlabelled(),)


def test_each_image_of_the_pool_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, seen = a_pool(tmp_path, 4), []
    real = PreparedImages.image
    monkeypatch.setattr(PreparedImages, "image", lambda self, case: seen.append(case.name) or real(self, case))
    for _ in range(3):
        Reconstruction().check(Scenario(pool=pool), a_network(), a_context())
    assert len(seen) <= 4


def test_a_rehearsal_times_steps_and_measures_nothing(tmp_path: Path) -> None:
    context = replace(a_context(), rehearsal={})
    stage, _ = ran(Reconstruction(epochs=9), a_pool(tmp_path), a_network(), context)
    assert set(stage.facts) == {"steps", "steps_per_epoch"}
    (meter,) = context.rehearsal.values()
    assert meter.planned_steps == 27
    assert "restored" not in meter.figures
