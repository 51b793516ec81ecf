"""Which beta: sides of images of every cohort, the ends of the grid, and scores by subject."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context, read, write_photographs

from allograft.batch import Batch
from allograft.parts.beta_search import beta_grid, curve, short_side
from allograft.predictor import Prediction


def test_the_short_side_is_the_least_of_either_axis_over_all_images(tmp_path: Path) -> None:
    sizes = {"one": (20, 14), "two": (12, 30), "three": (16, 16)}
    cohorts = [read(write_photographs(tmp_path / name, {"a": 1}, size=size)) for name, size in sizes.items()]
    assert short_side(cohorts) == 12
    assert short_side(cohorts[::2]) == 14


def test_a_first_step_of_one_pixel_is_extended_and_the_grid_ends_within_a_half() -> None:
    with pytest.warns(UserWarning, match=r"on images of 200 pixels a beta of 0\.005 or less .* extended to 0\.0448"):
        assert beta_grid(200)[-1] == 0.0448
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beta_grid(201)
    with pytest.warns(UserWarning, match="extended to"):
        assert beta_grid(16)[-1] == 0.48  # 0.03 * 256 / 16


def test_a_beta_is_worth_the_mean_over_subjects_under_this_beta(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"b": 2}, per_subject=2))
    cohort = cohort.where(lambda case: case.name != "b1-1.png")  # two images of one, one of the other

    def adapted(beta: float):  # type: ignore[no-untyped-def]
        def predicted(batch: Batch) -> Prediction:
            high = batch.image > 200 * beta
            return {"mask": torch.cat([~high, high], 1).float()}

        return predicted

    scores = curve(adapted, (0.2, 0.4), cohort, a_context())
    expected = []
    for beta in (0.2, 0.4):
        measured = [VESSEL.measure(adapted(beta)(whole.batch), whole)["dice"] for whole in cohort.wholes()]
        first, second, alone = map(float, measured)  # type: ignore[arg-type]
        expected.append(((first + second) / 2 + alone) / 2)
        assert expected[-1] != pytest.approx((first + second + alone) / 3)
    assert scores == pytest.approx(expected)
    assert scores[0] != pytest.approx(scores[1])
