"""Too little of a target: each method of gradient transfer, SpotTUNet and AdaBN says what is
missing, or has a defined result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context, write_photographs

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.errors import AllograftError, NeedsError, SpecError, TrainingError
from allograft.networks import build
from allograft.recipe import Scenario, parse_recipe

METHODS = ("mmtl", "octl", "spottunet", "adabn")
Sites = Callable[[int], tuple[Cohort, Cohort]]


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    def of(subjects: int) -> tuple[Cohort, Cohort]:
        manifest = write_photographs(tmp_path / "cohort", {"a": 3, "b": subjects})
        whole = Cohort.read(manifest, VESSEL.coding, preprocessing=Preprocessing(intensity="zscore"))
        return whole.site("a"), whole.site("b")

    return of


def ran(
    method: str,
    source: tuple[Cohort, ...],
    target: tuple[Cohort, ...],
    *,
    batch_size: int = 2,
    levels: int = 2,
    **more: Any,
) -> Any:
    """The last stage of a method on a U-Net with batch normalisation; 16 px images leave 1 px at
    the bottom of five levels."""
    arguments = {
        "in_channels": 1,
        "outputs": dict(VESSEL.outputs),
        "channels": [4] * levels,
        "num_res_units": 1,
        "norm": "batch",
    }
    torch.manual_seed(0)
    context = a_context(budget=Budget(steps=2, adapt_steps=4, batch_size=batch_size), **more)
    *_, last = context.run(
        parse_recipe(method), Scenario(source, target, sites=("a", "b")), build({"build": {"unet": arguments}})
    )
    return last


@pytest.mark.parametrize("method", METHODS)
def test_a_target_without_images(method: str, sites: Sites) -> None:
    source, _ = sites(1)
    with pytest.raises(NeedsError, match=f"'{method}' needs (labelled )?target (cases|images)"):
        ran(method, (source,), ())


@pytest.mark.parametrize("method", ["mmtl", "octl", "spottunet"])
def test_a_target_without_labels(method: str, sites: Sites) -> None:
    source, target = sites(2)
    with pytest.raises(NeedsError, match="target_labels"):
        ran(method, (source,), (target.unlabelled(),))


@pytest.mark.parametrize("method", METHODS)
def test_one_site_only(method: str, sites: Sites) -> None:
    _, target = sites(2)
    with pytest.raises(NeedsError, match="needs source images"):
        ran(method, (), (target,))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_target_image_and_a_batch_of_one_have_a_result(method: str, batch_size: int, sites: Sites) -> None:
    source, target = sites(1)
    last = ran(method, (source,), (target,), batch_size=batch_size)
    prediction = last.predictor(target.unlabelled().case(0))
    assert prediction["mask"].shape == (1, 2, 16, 16)
    assert bool(torch.isfinite(prediction["mask"]).all())


@pytest.mark.parametrize("method", METHODS)
def test_a_single_value_cannot_be_normalised(method: str, sites: Sites) -> None:
    source, target = sites(1)
    with pytest.raises(TrainingError, match=r"a batch of 1 leaves one value.*raise budget\.batch_size"):
        ran(method, (source,), (target,), batch_size=1, levels=5)


def test_adabn_of_one_image_with_one_value_at_the_bottom(sites: Sites) -> None:
    source, target = sites(1)
    with pytest.raises(SpecError, match="adabn: one image leaves one value"):
        ran("adabn", (source,), (target,), batch_size=3, levels=5)


@pytest.mark.parametrize("method", METHODS)
def test_a_study_of_one_site_is_refused(method: str, tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    with pytest.raises(AllograftError, match="'a' is source and target"):
        session_of(manifest, tmp_path / "out", method, target=["a"])
