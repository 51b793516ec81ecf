"""What a reader is told of foreground that was found window by window, where trainings never looked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.unit.predictor.test_whole import CUT, Both, Thresholded, write_blobs
from tests.unit.tiny import VESSEL
from torch import nn

from allograft.cohort import Cohort, Slices
from allograft.context.store import Kept
from allograft.methods.supervised import Supervised
from allograft.predictor.whole import (
    case_facts,
    case_prediction,
    found_in_windows,
    normalises_by_image,
    not_looked_at,
    share_outside,
)
from allograft.recipe import Stage
from allograft.results.record import read_record
from allograft.run.fabric import local_fabric
from allograft.run.judge import Judge
from allograft.study.world import TestSet
from allograft.tasks.classification import Classification
from allograft.tasks.multitask import Multitask

SHARES = {0: 0.0, 1: 0.5, 2: 1.0}
"""Which share of each cube of ``write_blobs`` lies outside the middle."""


@dataclass(frozen=True)
class Normalising(Thresholded):
    """Holds a network that normalises by what it is shown."""

    network: nn.Module = field(default_factory=lambda: nn.Sequential(nn.InstanceNorm3d(1)), compare=False)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort.read(write_blobs(tmp_path), VESSEL.coding, preprocessing=CUT)


@pytest.mark.parametrize("which", SHARES)
def test_foreground_outside_the_middle_is_said_where_windows_are_normalised(which: int, cohort: Cohort) -> None:
    whole, share = cohort.whole(which), SHARES[which]
    prediction = case_prediction(Normalising(), whole, VESSEL)
    assert share_outside(whole, prediction["mask"]) == share
    assert case_facts(prediction).get("warnings") == ([found_in_windows(share)] if share else None)
    assert "warnings" not in case_prediction(Thresholded(), whole, VESSEL)
    assert VESSEL.answer(prediction, whole).values == {"vessel": 16.0}


def test_a_record_says_it_of_a_model_on_disk_too(cohort: Cohort, tmp_path: Path) -> None:
    """As after a kill, where the judge gets the place of a model that an earlier process left."""
    test, cases = TestSet("a", "test", 0, cohort), []
    for name, predictor in {"live": Normalising(), "kept": Kept(tmp_path, loaded={"cpu": Normalising()})}.items():
        stage = Stage("end", predictor, unit="unit", recipe=Supervised(), sites=("a",))
        Judge((test,), VESSEL, tmp_path / name, local_fabric(accelerator="cpu"))(stage, 0, 0)
        (path,) = (tmp_path / name).glob("*.json")
        cases.append(read_record(path).cases)
    assert cases[0] == cases[1]
    said = [[found_in_windows(share)] if share else None for share in SHARES.values()]
    assert [case.get("warnings") for case in cases[0]] == said


def test_the_share_is_a_percentage_of_what_was_found() -> None:
    assert found_in_windows(0.5).startswith("50% of what was found lies outside preprocessing.size")


@pytest.mark.parametrize("slices", [0, 1, 2])
def test_the_share_of_a_stack_of_slices_is_that_of_the_volume(slices: int, tmp_path: Path) -> None:
    read = Cohort.read(write_blobs(tmp_path), VESSEL.coding, preprocessing=CUT)
    cut = replace(read, slices=Slices(slices))
    for which, share in SHARES.items():
        assert (
            share_outside(cut.whole(which), case_prediction(Thresholded(), cut.whole(which), VESSEL)["mask"]) == share
        )


def test_which_networks_look_at_the_window_they_are_shown() -> None:
    @dataclass(frozen=True)
    class Pool:
        models: tuple[Any, ...]
        name: ClassVar[str] = "pool"

    for layer in (nn.InstanceNorm2d(2), nn.GroupNorm(1, 2)):
        assert normalises_by_image(Pool((Thresholded(), Normalising(network=nn.Sequential(nn.ReLU(), layer)))))
    for layer in (nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True), nn.LayerNorm(2)):
        assert not normalises_by_image(Pool((Thresholded(), Normalising(network=layer))))


def test_an_empty_window_is_made_as_loud_as_a_full_one() -> None:
    """Why it is said: the same weights find in noise alone what in the whole image they leave alone."""
    torch.manual_seed(0)
    image = torch.randn(1, 1, 64, 64)
    image[..., 48:60, 48:60] += 20
    norm = nn.InstanceNorm2d(1)
    whole, window = norm(image)[..., :32, :32], norm(image[..., :32, :32])
    assert int((whole > 1).sum()) == 0
    assert int((window > 1).sum()) == pytest.approx(0.1587 * 1024, rel=0.1)  # as many as of any normal numbers


def test_of_two_tasks_what_was_not_looked_at_for_the_class_is_said(tmp_path: Path) -> None:
    task = Multitask(VESSEL, Classification(("x", "y")))
    cohort = Cohort.read(write_blobs(tmp_path, label=True), task.coding, preprocessing=CUT)
    prediction = case_prediction(Both(), cohort.whole(2), task)
    assert case_facts(prediction)["warnings"] == [f"for label {not_looked_at(cohort.whole(2))}"]
