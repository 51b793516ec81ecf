"""BigAug: the nine transformations against SciPy and by hand, their ranges, and masks that follow
their images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.bigaug import (
    NINE,
    SMOOTHING,
    BigAug,
    Drawn,
    Stacked,
    changed,
    displacement,
    draw_nine,
    sharpened,
)
from allograft.networks import build
from allograft.recipe import Scenario
from allograft.tasks.detection import Detection

CONTRACT = {
    "options": {"probability": 0.05},
    # its own in its place
    "own_settings": ("augmentation",),
}

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def an_image(size: tuple[int, ...] = (12, 14), channels: int = 2) -> Tensor:
    scale = torch.tensor([1.0, 10.0], dtype=F64)[:channels].view(-1, *(1,) * len(size))
    return torch.rand(channels, *size, generator=rng(), dtype=F64) * scale + 3


def gaussian(image: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    blurred = [
        ndimage.gaussian_filter(channel, sigma, mode="nearest", radius=radius) for channel in image.double().numpy()
    ]
    return torch.from_numpy(np.stack(blurred))


# ---------------------------------------------------------- intensities
@pytest.mark.parametrize("size", [(12, 14), (8, 9, 7)])
def test_sharpness_and_blur_are_scipys(size: tuple[int, ...]) -> None:
    image = an_image(size)
    torch.testing.assert_close(changed(image, Drawn(blurriness=1.3), rng()), gaussian(image, 1.3))
    base = gaussian(image, 0.7)
    expected = base + 20 * (base - gaussian(base, 1.4))
    torch.testing.assert_close(sharpened(image, 20.0, 0.7, 1.4), expected)
    torch.testing.assert_close(changed(image, Drawn(sharpness=(20.0, 0.7, 1.4)), rng()), expected)


def test_a_sharpened_edge_overshoots_and_a_flat_image_stays() -> None:
    edge = torch.zeros(1, 1, 20)
    edge[..., 10:] = 1
    steeper = sharpened(edge, 10.0, 0.5, 1.0)
    assert float(steeper.max()) > 1.05
    assert float(steeper.min()) < -0.05
    torch.testing.assert_close(sharpened(torch.full((1, 6, 6), 2.0), 30.0, 1.0, 1.0), torch.full((1, 6, 6), 2.0))


def test_shifts_and_noise_are_in_units_of_the_channels_deviation() -> None:
    image = an_image((60, 60))
    unit = image.flatten(1).std(1, correction=0)
    shift = changed(image, Drawn(brightness=-0.1), rng()) - image
    torch.testing.assert_close(shift.amax((1, 2)), -0.1 * unit)
    noise = changed(image, Drawn(noise=0.5), rng()) - image
    assert (noise.flatten(1).std(1) / unit).tolist() == pytest.approx([0.5, 0.5], rel=0.05)
    assert (noise.flatten(1).mean(1).abs() / unit < 0.05).all()
    moved = changed(image, Drawn(perturbation=(0.1, -0.05)), rng())
    torch.testing.assert_close(moved.flatten(1).std(1, correction=0), 1.1 * unit)
    torch.testing.assert_close(moved.flatten(1).mean(1), image.flatten(1).mean(1) - 0.05 * unit)


@given(st.floats(0.5, 4.5))
@settings(max_examples=15)
def test_contrast_is_a_power_of_the_share_between_minimum_and_maximum(gamma: float) -> None:
    image = an_image((4, 5))
    result = changed(image, Drawn(contrast=gamma), rng())
    for channel, made in zip(image.tolist(), result.tolist(), strict=True):
        values = [value for row in channel for value in row]
        low, high = min(values), max(values)
        expected = [((value - low) / (high - low)) ** gamma * (high - low) + low for value in values]
        assert [value for row in made for value in row] == pytest.approx(expected)


# ---------------------------------------------------------- places
def test_displacements_are_smoothed_noise() -> None:
    noise = 2 * torch.rand(2, 40, 50, generator=rng(), dtype=F64) - 1
    torch.testing.assert_close(displacement(noise, 500.0, 10.0), 500 * gaussian(noise, 10.0))
    assert not displacement(noise, 0.0, 12.0).any()


def a_case(size: tuple[int, ...] = (32, 32)) -> Batch:
    """An image that is 1 where its mask is 1."""
    mask = torch.zeros(1, 1, *size, dtype=torch.int64)
    mask[(..., *(slice(n // 4, n // 2) for n in size))] = 1
    return Batch(mask.float(), torch.tensor([0]), ("case",), {"mask": mask, "label": torch.tensor([2])})


MOVES = [
    Drawn(angles=(20.0,)),
    Drawn(scale=1.6),
    Drawn(scale=0.4),
    Drawn(deformation=(1000.0, 10.0)),
    Drawn(angles=(-15.0,), scale=1.3, deformation=(600.0, 12.0)),
]


@pytest.mark.parametrize("patch", [None, (24, 20)])
@pytest.mark.parametrize("drawn", MOVES)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_mask_follows_the_image(drawn: Drawn, dims: int, patch: tuple[int, ...] | None) -> None:
    if dims == 3:
        drawn = replace(drawn, angles=drawn.angles * 3)
    case = a_case((32,) * dims)
    moved = Stacked(0.5, None if patch is None else (*patch, 16)[:dims]).of(case, drawn, rng(1))
    assert moved.image.shape[2:] == ((32,) * dims if patch is None else (*patch, 16)[:dims])
    mask, image = moved.labels["mask"], moved.image
    known = mask >= 0
    agree = ((image > 0.5) == (mask == 1))[known].double().mean()
    assert float(agree) > 0.97
    assert set(mask.unique().tolist()) <= {-100, 0, 1}
    assert moved.labels["label"].tolist() == [2]
    assert torch.equal(case.image, a_case((32,) * dims).image)  # the input stays


def test_a_larger_scale_makes_things_larger() -> None:
    count = int(a_case().labels["mask"].sum())  # type: ignore[union-attr]
    for scale in (0.5, 1.5):
        mask = Stacked(0.5).of(a_case(), Drawn(scale=scale), rng()).labels["mask"]
        assert int((mask == 1).sum()) / count == pytest.approx(scale**2, rel=0.2)  # type: ignore[union-attr]


def test_the_region_follows_too() -> None:
    case = a_case()
    case = replace(case, region=case.labels["mask"] == 1)
    moved = Stacked(0.5).of(case, Drawn(angles=(20.0,), deformation=(500.0, 11.0)), rng())
    assert torch.equal(moved.region, moved.labels["mask"] == 1)


# ---------------------------------------------------------- draws
def test_each_transformation_is_drawn_by_itself_in_the_papers_ranges() -> None:
    draws = [draw_nine(3, 0.5, rng(seed)) for seed in range(600)]

    def values(get: Any, off: Any) -> list[Any]:
        result = [get(drawn) for drawn in draws if get(drawn) != off]
        assert len(result) == pytest.approx(300, abs=60)
        return result

    columns = {
        "sharpness": [v[0] for v in values(lambda d: d.sharpness, None)],
        "blurriness": values(lambda d: d.blurriness, 0.0),
        "noise": values(lambda d: d.noise, 0.0),
        "brightness": values(lambda d: d.brightness, 0.0),
        "contrast": values(lambda d: d.contrast, 1.0),
        "perturbation": [n for v in values(lambda d: d.perturbation, (0.0, 0.0)) for n in v],
        "rotation": [n for v in values(lambda d: d.angles, ()) for n in v],
        "scale": values(lambda d: d.scale, 1.0),
        "deformation": [v[0] for v in values(lambda d: d.deformation, None)],
    }
    assert columns.keys() == NINE.keys()
    for name, (low, high) in NINE.items():
        width = high - low
        assert low <= min(columns[name]) < low + 0.05 * width, name
        assert high - 0.05 * width < max(columns[name]) <= high, name
        assert np.mean(columns[name]) == pytest.approx((low + high) / 2, abs=0.06 * width), name
    sigmas = [d.deformation[1] for d in draws if d.deformation]
    assert SMOOTHING[0] <= min(sigmas) < max(sigmas) <= SMOOTHING[1]
    gates = np.array([[d.noise > 0, d.scale != 1, d.contrast != 1] for d in draws], float)
    assert abs(np.corrcoef(gates.T) - np.eye(3)).max() < 0.15
    assert len(draw_nine(2, 1.0, rng()).angles) == 1


def test_without_a_transformation_nothing_changes_and_the_draws_advance_alike() -> None:
    case = a_case()
    never = Stacked(0.0)(case, rng())
    assert torch.equal(never.image, case.image)
    assert torch.equal(never.labels["mask"], case.labels["mask"])  # type: ignore[arg-type]
    one, other = rng(), rng()
    draw_nine(2, 0.0, one)
    draw_nine(3, 1.0, other)
    assert torch.equal(one.get_state(), other.get_state())


# ---------------------------------------------------------- the recipe
def test_the_papers_values_are_the_defaults() -> None:
    assert BigAug().probability == 0.5
    assert NINE == {
        "sharpness": (10, 30),
        "blurriness": (0.25, 1.5),
        "noise": (0.1, 1.0),
        "brightness": (-0.1, 0.1),
        "contrast": (0.5, 4.5),
        "perturbation": (-0.1, 0.1),
        "rotation": (-20, 20),
        "scale": (0.4, 1.6),
        "deformation": (0, 1000),
    }
    assert SMOOTHING == (10, 13)


def test_boxes_are_refused() -> None:
    context = a_context()
    object.__setattr__(context, "task", Detection(("cell",)))
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    with pytest.raises(SpecError, match=r"bigaug: .*augmentation: strong"):
        BigAug().check(Scenario(), network, context)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_study_of_masks_and_one_of_classes_run(kind: str, tmp_path: Path) -> None:
    classes = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    study = classes if kind == "classification" else {"patch": [16, 16]}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", {"bigaug": {"probability": 1.0}}, **study)
    _, _, records = run(session)
    assert {record.status for record in records.values()} == {"done"}
