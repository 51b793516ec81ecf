"""The pool of a pre-training: which of it, and how often each image comes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.networks.tiny import made
from tests.unit.pretraining import a_pretraining, finished
from tests.unit.tiny import a_context, write_photographs

from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.methods.adversarial import Adversarial
from allograft.methods.barlow_twins import BarlowTwins
from allograft.methods.contrastive import Contrastive
from allograft.methods.denoising_diffusion import DenoisingDiffusion
from allograft.methods.mixcl import MixCl
from allograft.methods.moco_v3 import MocoV3
from allograft.methods.pool_labels import PoolLabels
from allograft.methods.popar import Popar
from allograft.methods.reconstruction import Reconstruction
from allograft.methods.simmim import SimMim
from allograft.networks import reheaded
from allograft.nn.ssim import Ssim
from allograft.parts.pool import chosen_pool, pool_loader
from allograft.predictor import evaluation_mode
from allograft.recipe import Scenario
from allograft.train import train
from allograft.transforms.sample import Sample


def pool_of(folder: Path, **sites: int) -> tuple[Cohort, ...]:
    cohort = Cohort.read(write_photographs(folder, sites)).unlabelled()
    return tuple(cohort.site(site) for site in sites)


PRETRAININGS: list[tuple[Any, str]] = [
    (SimMim(patch=4), "vit"),
    (Popar(), "vit"),
    (MixCl(pixels=4), "unetr"),
    (MocoV3(width=8, dimension=4), "resnet"),
    (BarlowTwins(width=8), "resnet"),
    (PoolLabels(), "resnet"),
]


def named(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__.lower()


@pytest.mark.parametrize(("recipe", "key"), PRETRAININGS, ids=named)
def test_a_pretraining_can_be_tried_out(recipe: Any, key: str, tmp_path: Path) -> None:
    """For the time that a plan states: three steps, and whatever follows them."""
    cohort = Cohort.read(write_photographs(tmp_path / "images", {"a": 2, "b": 2}))
    scenario = Scenario(pool=(cohort.site("a"), cohort.site("b")), sites=("a", "b"))
    context = replace(a_pretraining(tmp_path / "out"), folder=None, rehearsal={})
    network, _ = reheaded(made(key), {})
    stages, _ = finished(recipe, scenario, network, context)
    assert [stage.name for stage in stages] == ["pretrained"]
    assert context.rehearsal is not None
    assert [meter.planned_steps for meter in context.rehearsal.values()] == [4]


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        *PRETRAININGS,
        (Reconstruction(ssim=Ssim(3)), "unet"),
        (Contrastive(ssim=Ssim(3)), "unet"),
        (Adversarial(epochs=3, ssim=Ssim(3)), "unet"),
        (DenoisingDiffusion(ssim=Ssim(3)), "diffusion_unet"),
    ],
    ids=named,
)
def test_the_network_that_is_tuned_has_the_features_that_the_pretraining_ended_with(
    recipe: Any, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, as the encoder computes them in evaluation mode; trained, and then loaded."""
    cohort = Cohort.read(write_photographs(tmp_path / "images", {"a": 2, "b": 2}))
    scenario = Scenario(pool=(cohort.site("a"), cohort.site("b")), sites=("a", "b"))
    image, learned = cohort.case(0).image, []

    def features(network: Any) -> list[torch.Tensor]:
        with evaluation_mode(network):
            return [feature.clone() for feature in network.encoder(image)]

    def recorded(step: Any, batches: Any, **given: Any) -> Any:
        history = train(step, batches, **given)
        learned.append(features(getattr(step, "inner", step).network))
        return history

    monkeypatch.setattr(sys.modules[type(recipe).__module__], "train", recorded)
    network, context = made(key), a_pretraining(tmp_path / "out")
    assert network.heads
    for _ in range(2):
        _, carry = finished(recipe, scenario, network, context)
        tuned = features(carry.network)
        assert all(torch.equal(one, other) for one, other in zip(learned[0], tuned, strict=True))
        assert not torch.equal(tuned[-1], features(network)[-1])
        assert set(carry.network.heads) == set(network.heads)
    assert len(learned) == 1


def test_every_image_comes_as_often_whatever_the_size_of_its_site(tmp_path: Path) -> None:
    loader = pool_loader(pool_of(tmp_path, a=1, b=5), a_context(), Sample())
    assert loader.epoch == 3
    seen = [key[:2] for step in range(6) for key in loader.order(step)]
    assert {seen.count(item) for item in set(seen)} == {2}
    assert len(set(seen)) == 6


def test_names_choose_sites_or_whole_cohorts(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, a=2, b=2)
    assert chosen_pool(pool, (), "simmim") == pool
    assert [cohort.cases[0].site for cohort in chosen_pool(pool, ("b",), "simmim")] == ["b"]
    with pytest.raises(SpecError, match=r"simmim: pool: .*site of the pool"):
        chosen_pool(pool, ("c",), "simmim")
    behind = [
        replace(cohort, cases=tuple(replace(case, site=f"{name}/{case.site}") for case in cohort.cases))
        for name, cohort in zip(("one", "two"), pool, strict=True)
    ]
    assert [c.cases[0].site for c in chosen_pool(behind, ("two",), "simmim")] == ["two/b"]
    assert [c.cases[0].site for c in chosen_pool(behind, ("one/a", "two"), "simmim")] == ["one/a", "two/b"]
