"""Histogram matching: scikit-image's result, and what must be equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.exposure import match_histograms
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Preprocessing, Slices
from allograft.errors import SpecError
from allograft.methods import histogram
from allograft.methods.histogram import HistogramPredictor, distribution, drawn_scan, match
from allograft.methods.start import Start
from allograft.networks import build
from allograft.recipe import Scenario

CONTRACT = {"trains": False}

UNET = {
    "build": {
        "unet": {"spatial_dims": 3, "in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "num_res_units": 1}
    }
}

PADDED = Preprocessing(size=(9, 8, 7), spacing=(1, 2, 3))


def _shown(batch: Batch) -> Mapping[str, Tensor]:
    return {"mask": batch.image}


def _batch(image: Tensor, *names: str) -> Batch:
    return Batch(image, torch.zeros(len(image), dtype=torch.int64), names or tuple(f"c{n}" for n in range(len(image))))


def _images(count: int, *shape: int, levels: int | None = None) -> Tensor:
    values = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values[0] = values[0] ** 3 * 40 - 5
    return values if levels is None else (values * levels).round()


@pytest.mark.parametrize("levels", [None, 9])
@pytest.mark.parametrize("shape", [(2, 12, 9), (1, 5, 6, 7)])
def test_it_is_scikit_images(shape: tuple[int, ...], levels: int | None) -> None:
    donor, target = _images(2, *shape, levels=levels)
    values, levels_ = distribution(donor)
    found = HistogramPredictor(_shown, values[None], levels_[None])(_batch(target[None]))["mask"][0]
    for channel in range(shape[0]):
        expected = match_histograms(target[channel].numpy(), donor[channel].numpy())
        np.testing.assert_allclose(found[channel].numpy(), expected, rtol=0, atol=1e-9)


def test_an_image_matched_to_itself_stays() -> None:
    (image,) = _images(1, 1, 16, 16)
    values, levels = distribution(image)
    torch.testing.assert_close(match(image[0], values[0], levels[0]), image[0])


def test_the_order_of_values_stays_and_their_scale_does_not_matter() -> None:
    donor, target = _images(2, 1, 16, 16)
    values, levels = distribution(donor)
    found = match(target[0], values[0], levels[0])
    assert torch.equal(found.flatten().argsort(), target.flatten().argsort())
    torch.testing.assert_close(match(1 + target[0].exp() * 9, values[0], levels[0]), found)
    assert (found.min(), found.max()) == (pytest.approx(donor.min()), donor.max())


def test_many_values_are_thinned_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    donor, target = _images(2, 1, 40, 40)
    exact = match(target[0], *(one[0] for one in distribution(donor)))
    monkeypatch.setattr(histogram, "POINTS", 100)
    values, levels = distribution(donor)
    assert values.shape == levels.shape == (1, 100)
    assert (values[0, 0], values[0, -1], levels[0, -1]) == (donor.min(), donor.max(), 1)
    assert (match(target[0], values[0], levels[0]) - exact).abs().max() < 0.5  # of a range of 40
    assert distribution(torch.tensor([[3.0, 3.0, 5.0]]))[0].unique().tolist() == [3.0, 5.0]


def test_a_flat_image_stays_and_other_channels_are_named() -> None:
    values, levels = distribution(_images(1, 1, 8, 8)[0])
    predictor = HistogramPredictor(_shown, values[None], levels[None])
    black = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(predictor(_batch(black))["mask"], black)
    with pytest.raises(SpecError, match="images have 3 channels, the donor 1"):
        predictor(_batch(torch.rand(1, 3, 8, 8)))


def test_a_slice_takes_the_donors_slice_of_its_number(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(6, 5, 4)]), slices=Slices(2))
    donor, sliced = drawn_scan((cohort,), torch.Generator().manual_seed(0))
    assert sliced
    values, levels = zip(*map(distribution, donor.image), strict=True)
    predictor = HistogramPredictor(_shown, torch.stack(values), torch.stack(levels), sliced)
    for place, wanted in ((1, 1), (3, 3), (9, 3)):
        found = predictor(_batch(torch.rand(1, 1, 6, 5), f"x#{place}"))["mask"]
        torch.testing.assert_close(found.flatten().sort().values, donor.image[wanted].flatten().sort().values)


def test_the_donor_depends_on_the_seed_and_carries_no_label(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 6}))
    drawn = [drawn_scan((cohort,), torch.Generator().manual_seed(seed))[0].image for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(drawn[0], drawn[1])
    assert any(not torch.equal(drawn[0], other) for other in drawn[2:])


def test_the_donor_is_of_any_source_site(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 1, "b": 1}))
    drawn = [
        drawn_scan((cohort.site("a"), cohort.site("b")), torch.Generator().manual_seed(seed))[0].cases[0]
        for seed in range(8)
    ]
    assert set(drawn) == {case.name for case in cohort.cases}


def test_padding_counts_on_neither_side(tmp_path: Path) -> None:
    (image,) = _images(1, 1, 6, 5, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 2, 1, 3, 3), value=float(image.min()))
    donor = _images(1, 1, 9, 9, 9)[0] + 2
    values, levels = distribution(donor)
    predictor = HistogramPredictor(_shown, values[None], levels[None])
    found = predictor(replace(_batch(padded[None]), extent=torch.tensor([[6, 5, 4]])))["mask"]
    alone = predictor(_batch(image[None]))["mask"]
    assert torch.equal(found[:, :, 3:9, 2:7, 1:5], alone)
    assert found[0, 0, 0, 0, 0] == alone.min()
    nothing = replace(_batch(padded[None, :, 0]), extent=torch.zeros(1, 2, dtype=torch.int64))
    assert torch.equal(predictor(nothing)["mask"], nothing.image)


def test_the_donors_padding_is_not_kept(tmp_path: Path) -> None:
    plain = read(write_volumes(tmp_path, [(6, 5, 4)]))
    grown = replace(plain, prepared=replace(plain.prepared, preprocessing=replace(PADDED, intensity="none")))
    made = []
    for cohort in (plain, grown):
        *_, stage = histogram.Histogram(Start()).run(Scenario((cohort,), sites=("a",)), build(UNET), a_context())
        made.append(stage.predictor)
    assert torch.equal(made[0].values, made[1].values)
    assert torch.equal(made[0].levels, made[1].levels)
