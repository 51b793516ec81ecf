"""ODEx where its paper says so: along a gradual shift it keeps what it learned first, and learns
what comes later as sequential training does; without a shift its pool does not grow.

Margins in Dice were written before the first run. Phantom brains in four stages: none, subtle,
medium and severe shift; in the control all four are drawn by one scanner.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from allograft.phantoms.brain import write_brain
from allograft.results.analysis.stream import StreamResult, backward_transfer, forward_transfer, stream_results
from allograft.results.record import read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.reading import make_study

pytestmark = [pytest.mark.science, pytest.mark.timeout(2400)]

SEEDS = 5
KEPT = 0.02
"""How much better the backward transfer of ODEx is than that of sequential training."""
FORGOTTEN = -0.02
"""The backward transfer of sequential training is at most this."""
PLASTIC = 0.02
"""How much worse the forward transfer of ODEx may be."""
AVERAGED = "odex limit=512"
"""Of 64 px images the first feature has 8192 values, fewer than the paper's 10,000, and none is averaged; the
paper's volumes are, 512 voxels to a value. Here 4 x 4 pixels are."""
GRADUAL, CONTROL = ("none", "subtle", "medium", "severe"), ("none",) * 4


def along(folder: Path, shifts: tuple[str, ...]) -> dict[str, StreamResult]:
    """Title of a recipe -> what it did along a stream of these shifts."""
    sites = dict(zip("abcd", shifts, strict=True))
    manifest = write_brain(folder, sites=sites, subjects=16, size=64)
    study = make_study(
        {
            "cohort": str(manifest),
            "task": {"segmentation": {"classes": ["white", "grey"]}},
            "network": {"unet": {"channels": [8, 16, 32], "norm": "batch"}},
            "preprocessing": {"size": [64, 64], "intensity": "zscore"},
            "stream": [["a"], ["b"], ["c"], ["d"]],
            "recipes": ["sequential", "odex", {"odex": {"limit": 512}}],
            "test": {"fraction": 0.3},
            "seeds": SEEDS,
            "budget": {"steps": 100, "batch_size": 8},
            "optimizer": {"adam": {"lr": 3e-3}},
        }
    )
    session = Session(study, folder / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    world = session.prepare()
    plan = session.plan(world)
    for number, row in enumerate(plan.rows):
        session.run(world, row, f"{number + 1} of {len(plan.rows)}")
    found = stream_results(plan, read_all(folder / "out").values(), study.phases)
    assert all(len(one.matrices) == SEEDS for one in found)
    return {one.title: one for one in found}


@pytest.fixture(scope="module")
def gradual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StreamResult]:
    return along(tmp_path_factory.mktemp("gradual"), GRADUAL)


def mean_of(measure: object, found: StreamResult) -> float:
    return fmean(measure(matrix) for matrix in found.matrices)  # type: ignore[operator]


def test_sequential_training_forgets(gradual: dict[str, StreamResult]) -> None:
    assert mean_of(backward_transfer, gradual["sequential"]) <= FORGOTTEN


@pytest.mark.xfail(
    strict=True,
    reason="seed 0, the only one that was finished: backward transfer -0.023, of sequential training -0.014; the pool "
    "did not grow, since 8 fitted cases span 7 of 8192 values, and the pseudo-inverse sees no shift across these",
)
def test_odex_keeps_early_stages(gradual: dict[str, StreamResult]) -> None:
    kept, lost = (mean_of(backward_transfer, gradual[name]) for name in ("odex", "sequential"))
    assert kept >= lost + KEPT


def test_odex_with_averaged_features_keeps_early_stages(gradual: dict[str, StreamResult]) -> None:
    kept, lost = (mean_of(backward_transfer, gradual[name]) for name in (AVERAGED, "sequential"))
    assert kept >= lost + KEPT


@pytest.mark.parametrize("name", ["odex", AVERAGED])
def test_odex_learns_later_stages_as_sequential_training_does(name: str, gradual: dict[str, StreamResult]) -> None:
    ours, theirs = (mean_of(forward_transfer, gradual[one]) for one in (name, "sequential"))
    assert ours >= theirs - PLASTIC


@pytest.mark.parametrize("name", ["odex", AVERAGED])
def test_the_pool_stays_smaller_than_the_stream(name: str, gradual: dict[str, StreamResult]) -> None:
    assert fmean(facts["models"] for facts in gradual[name].facts) < len(GRADUAL)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StreamResult]:
    return along(tmp_path_factory.mktemp("control"), CONTROL)


@pytest.mark.parametrize("name", ["odex", AVERAGED])
def test_without_a_shift_the_pool_does_not_grow(name: str, control: dict[str, StreamResult]) -> None:
    assert [facts["models"] for facts in control[name].facts] == [1.0] * SEEDS
