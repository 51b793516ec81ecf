"""The pool of a pre-training: which of it, and how often each image comes."""

import base64
import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.networks.tiny import made
from tests.unit.pretraining import a_pretraining, finished
from tests.unit.tiny import a_context, write_photographs
from torch import nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.figure import Images
from allograft.grey import grey_of, window_of
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
from allograft.networks import build, reheaded
from allograft.nn.ssim import Ssim
from allograft.parts.pool import (
    TwoViews,
    check_masks,
    check_patches,
    check_several,
    chosen_pool,
    class_pixels,
    last_channels,
    mean_of_last,
    pool_loader,
    sample_shape,
    show_pool,
    steps_of,
)
from allograft.predictor import evaluation_mode
from allograft.recipe import Scenario
from allograft.seeds import Seeds
from allograft.train import History, train
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
    longer = (*pool, replace(pool[0], cases=tuple(replace(case, site="ab") for case in pool[0].cases)))
    assert [c.cases[0].site for c in chosen_pool(longer, ("a",), "simmim")] == ["a"]  # no site that begins so


def test_means_are_of_the_last_steps_and_steps_of_epochs_or_of_the_budget() -> None:
    history = History({"loss": [9.0, 1.0, 2.0], "short": [4.0], "none": []})
    assert mean_of_last(history, 2) == {"loss": 1.5, "short": 4.0}
    context = a_context()
    assert (steps_of(context, 4, 5), steps_of(context, None, 5)) == (20, 3)


def test_a_sample_has_the_patch_and_its_last_feature_the_channels_of_the_encoders_end(tmp_path: Path) -> None:
    pool, context = pool_of(tmp_path, a=2), a_context()
    network: Any = build({"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8, 12]}}})
    cut = a_context(patch=(8, 4))
    assert (sample_shape(pool, context), sample_shape(pool, cut)) == ((1, 1, 16, 16), (1, 1, 8, 4))
    assert last_channels(network, pool, cut) == 12


def test_every_site_is_cut_into_patches_and_by_each_side(tmp_path: Path) -> None:
    sites = [
        Cohort.read(write_photographs(tmp_path / name, {name: 2}, size=size)).unlabelled()
        for name, size in (("a", (16, 16)), ("b", (8, 16)), ("c", (24, 16)))
    ]

    def said(pool: list[Cohort], patch: int, **more: Any) -> str:
        with pytest.raises(SpecError) as refused:
            check_patches(pool, a_context(patch=more.pop("crop", None)), patch, "popar", **more)
        return str(refused.value)

    check_patches([sites[0], sites[0].of(()), sites[1]], a_context(), 8, "popar", multiple=4)
    check_patches(sites, a_context(patch=(8, 8)), 8, "popar")
    assert "samples of 8x16 ('b0.png') are smaller than a patch of 16" in said(sites, 16)
    assert "samples of 24x16 ('c0.png') cannot be cut into patches of 16 pixels" in said(sites[::2], 16)
    end = "samples of 24x16 ('c0.png') cannot be cut into the network's last feature, of 16 pixels"
    assert end in said(sites[::2], 8, multiple=16)
    assert "lower width" in said(sites[:1], 32, field="width")
    assert "samples of 4x8 ('a0.png') are smaller than a patch of 8" in said(sites, 8, crop=(4, 8))
    check_several([site.of(site.subjects[:1]) for site in sites[:2]], "popar")  # one of each


def masked(**masks: list[int]) -> Any:
    """A data set of two classes, and the mask of each image."""
    coding = SimpleNamespace(mask={"small": 1, "large": 2})
    return SimpleNamespace(
        cases=[SimpleNamespace(name=name, site="s", labels={"mask": ""}) for name in masks],
        prepared=SimpleNamespace(
            coding=coding, fingerprint=lambda case: f"mine {case.name}", mask=lambda case: np.array(masks[case.name])
        ),
    )


def test_pixels_of_a_class_are_those_of_the_image_that_has_most_and_unlabelled_ones_are_of_none() -> None:
    dataset = masked(one=[-100, -100, 0, 1, 1, 1, 2], two=[1, 0, 0, 0, 0, 0, 0])
    assert class_pixels(dataset, dataset.cases[0]) == (1, 3, 1)
    assert class_pixels(dataset, dataset.cases[1]) == (6, 1, 0)
    merged = masked(one=[0, 1, 1])
    merged.prepared.coding.mask = {"all": 1}
    assert class_pixels(merged, merged.cases[0]) == (1, 2)  # of other classes counted anew
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_masks([masked(three=[1, 1, 1, 0], four=[1, 0, 0, 0])], 3, "mixcl")  # "large" is in no image
    with pytest.warns(UserWarning, match="class 'large' has at most 2 pixels in an image, fewer than the 3"):
        check_masks([masked(five=[1, 1, 1, 2, 2], six=[1, 1, 1, 2, 0])], 3, "mixcl")


def test_a_figure_shows_images_all_over_the_pool_each_drawn_by_its_number(tmp_path: Path) -> None:
    pool, context, dropout = pool_of(tmp_path, a=5, b=4), a_context(), nn.Dropout().train()
    draws: list[float] = []

    def sample(case: Batch, rng: torch.Generator) -> Batch:
        draws.append(float(torch.rand((), generator=rng)))
        return case

    def drawn(batch: Batch) -> dict[str, torch.Tensor]:
        assert not dropout.training
        return {"first": batch.image, "last": batch.image / 2 + 20}

    show_pool(pool, sample, drawn, context, "toys", dropout)
    assert dropout.training
    assert draws == [float(torch.rand((), generator=Seeds(0).rng("shown", number))) for number in range(4)]
    figure = context.meter.figures["restored"]
    assert isinstance(figure, Images)
    assert figure.title == "toys"
    assert figure.names == ("image 1", "image 2", "image 3", "image 4")
    assert figure.captions == (("first", "last"),) * 4
    assert figure.subjects == (("a0",) * 2, ("a2",) * 2, ("a4",) * 2, ("b1",) * 2)
    image = pool[1].case(1).image[0].numpy()
    shades = grey_of(image[0], window_of(image / 2 + 20))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(figure.rows[3][0])))), shades // 4 * 4)


def test_two_views_are_drawn_apart_and_what_the_first_one_had_stays(tmp_path: Path) -> None:
    def sample(case: Batch, rng: torch.Generator) -> Batch:
        return replace(case, image=torch.rand(1, 1, 2, 2, generator=rng), views={"clean": case.image})

    case = pool_of(tmp_path, a=1)[0].case(0)
    made = TwoViews(sample, "other")(case, torch.Generator().manual_seed(0))
    first, second = torch.rand(2, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert set(made.views) == {"clean", "other"}
    torch.testing.assert_close(made.image, first)
    torch.testing.assert_close(made.views["other"], second)
