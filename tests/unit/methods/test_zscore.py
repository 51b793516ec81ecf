"""Standardisation at test time: its two moments, and when it is do-nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.tiny import read, write_photographs, write_volumes

from allograft.batch import Batch
from allograft.cohort import Preprocessing, Slices
from allograft.errors import SpecError
from allograft.methods.zscore import ZScorePredictor, source_statistics, standardised

CONTRACT = {"trains": False}

PADDED = Preprocessing(size=(9, 8, 7), spacing=(1, 2, 3))


def _images(*shape: int) -> torch.Tensor:
    return 7 + 3 * torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 2, 8, 9), (2, 1, 4, 5, 6)])
def test_every_image_and_channel_gets_the_sources_moments(shape: tuple[int, ...]) -> None:
    image, mean, spread = _images(*shape), torch.arange(shape[1]) - 4.0, torch.arange(shape[1]) + 0.5
    found = standardised(image, mean, spread)
    for b in range(shape[0]):
        for c in range(shape[1]):
            plane = image[b, c].numpy()
            expected = (plane - np.mean(plane)) / np.std(plane) * float(spread[c]) + float(mean[c])
            np.testing.assert_allclose(found[b, c].numpy(), expected, atol=1e-9)
    torch.testing.assert_close(standardised(100 - image * 0 + 5 * image, mean, spread), found)
    torch.testing.assert_close(standardised(found, mean, spread), found)


def test_source_statistics_are_means_over_images(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 3, "b": 2}))
    mean, spread = source_statistics((cohort.site("a"), cohort.site("b")))
    images = [cohort.case(n).image.double().numpy() for n in range(5)]
    assert mean.item() == pytest.approx(np.mean([np.mean(image) for image in images]))
    assert spread.item() == pytest.approx(np.mean([np.std(image) for image in images]))


def test_where_the_study_standardises_it_does_nothing(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 3, "b": 2}))
    cohort = replace(cohort, prepared=replace(cohort.prepared, preprocessing=Preprocessing(intensity="zscore")))
    mean, spread = source_statistics((cohort.site("a"),))
    image = cohort.site("b").case(0).image
    torch.testing.assert_close(standardised(image, mean, spread), image, rtol=0, atol=1e-5)


def test_a_flat_image_becomes_the_mean_and_other_channels_are_named() -> None:
    predictor = ZScorePredictor(lambda batch: {"mask": batch.image}, torch.tensor([2.0]), torch.tensor([3.0]))
    black = Batch(torch.zeros(1, 1, 4, 4), torch.zeros(1), ("a",))
    assert torch.equal(predictor(black)["mask"], torch.full((1, 1, 4, 4), 2.0))
    with pytest.raises(SpecError, match="images have 3 channels, the source 1"):
        predictor(replace(black, image=torch.rand(1, 3, 4, 4)))


def test_padding_counts_in_no_mean(tmp_path: Path) -> None:
    image = _images(1, 1, 6, 5)
    padded = torch.nn.functional.pad(image, (2, 2, 1, 0), value=float(image.min()))
    predictor = ZScorePredictor(lambda batch: {"mask": batch.image}, torch.tensor([2.0]), torch.tensor([3.0]))
    found = predictor(Batch(padded, torch.zeros(1), ("a",), extent=torch.tensor([[6, 5]])))["mask"]
    alone = predictor(Batch(image, torch.zeros(1), ("a",)))["mask"]
    torch.testing.assert_close(found[..., 1:, 2:7], alone)
    assert found[0, 0, 0, 0] == pytest.approx(float(alone.min()))


@pytest.mark.parametrize("slices", [None, Slices(2)])
def test_the_sources_padding_counts_in_no_mean(slices: Slices | None, tmp_path: Path) -> None:
    plain = read(write_volumes(tmp_path, [(6, 5, 4), (5, 6, 4)]), slices=slices)
    grown = replace(plain, prepared=replace(plain.prepared, preprocessing=replace(PADDED, intensity="none")))
    for ours, theirs in zip(source_statistics((grown,)), source_statistics((plain,)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_study_that_standardises_padded_volumes_leaves_them_as_they_are(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(6, 5, 4), (5, 6, 4)]))
    cohort = replace(
        cohort,
        prepared=replace(
            cohort.prepared, preprocessing=Preprocessing(size=(9, 8, 7), spacing=(1, 2, 3), intensity="zscore")
        ),
    )
    predictor = ZScorePredictor(
        lambda batch: {"mask": batch.image}, *(one.float() for one in source_statistics((cohort,)))
    )
    for whole in cohort.wholes():
        torch.testing.assert_close(predictor(whole.batch)["mask"], whole.batch.image, rtol=0, atol=1e-5)
