"""ODEx where its paper says so: along a gradual shift it keeps what it learned first, and learns
what comes later as sequential training does; without a shift its pool does not grow.

Margins in Dice were written before the first run. Phantom brains in four stages: none, subtle,
medium and severe shift; in the control all four are drawn by one scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from tests.science.kept import Line, keep

from allograft.phantoms.brain import write_brain
from allograft.results.analysis.stream import Matrix, StreamResult, backward_transfer, forward_transfer, stream_results
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
    results = stream_results(plan, read_all(folder / "out").values(), study.phases)
    assert all(len(result.matrices) == SEEDS for result in results)
    return {result.title: result for result in results}


def lines_of(setting: str, results: dict[str, StreamResult]) -> list[Line]:
    made: list[Line] = []
    for title, result in results.items():
        for seed, (matrix, facts) in enumerate(zip(result.matrices, result.facts, strict=True)):
            values = {"backward": backward_transfer(matrix), "forward": forward_transfer(matrix)}
            values |= {"end": fmean(value for value in matrix[-1] if value is not None), "models": facts.get("models")}
            made += [(setting, title, name, seed, value) for name, value in values.items() if value is not None]
    return made


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, StreamResult]]:
    """Setting -> title -> result; their numbers are kept."""
    settings = {"gradual": GRADUAL, "control": CONTROL}
    made = {name: along(tmp_path_factory.mktemp(name), shifts) for name, shifts in settings.items()}
    keep("odex", [line for name, results in made.items() for line in lines_of(name, results)])
    return made


@pytest.fixture(scope="module")
def gradual(both: dict[str, dict[str, StreamResult]]) -> dict[str, StreamResult]:
    return both["gradual"]


@pytest.fixture(scope="module")
def control(both: dict[str, dict[str, StreamResult]]) -> dict[str, StreamResult]:
    return both["control"]


def mean_of(measure: Callable[[Matrix], float | None], result: StreamResult) -> float:
    return fmean(value for matrix in result.matrices if (value := measure(matrix)) is not None)


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="backward transfer -0.0195 over five seeds, from -0.031 to -0.009"
)
def test_sequential_training_forgets(gradual: dict[str, StreamResult]) -> None:
    assert mean_of(backward_transfer, gradual["sequential"]) <= FORGOTTEN


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="backward transfer -0.0281 over five seeds, of sequential training -0.0195; the pool never grew. It is "
    "what the paper's method does, and not the 8 fitted cases: of 64 px the feature has 8192 values, of which 10,000 "
    "are allowed, so none is averaged and most of it is noise, of which the severe scanner "
    "leaves less (mean squared deviation from the first scanner's mean 3860, of that scanner's own unseen images "
    "6778). With 8, 20, 40 and 72 fitted cases it lies at 0.11, 0.02, -0.08 and -0.12, below thresholds of 0.39, "
    "0.37, 0.30 and 0.27, and with shrinkage 0.1 or 0.5 below 0; averaged 4 x 4 at 0.71, 0.54, 0.48 and 0.63, above "
    "0.41, 0.31, 0.23 and 0.23",
)
def test_odex_keeps_early_stages(gradual: dict[str, StreamResult]) -> None:
    kept, lost = (mean_of(backward_transfer, gradual[name]) for name in ("odex", "sequential"))
    assert kept >= lost + KEPT


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="backward transfer -0.0048 over five seeds, of sequential training -0.0195; a gain of 0.0148 where 0.02 was "
    "asked for: in 100 steps a stage little is forgotten that could be kept",
)
def test_odex_with_averaged_features_keeps_early_stages(gradual: dict[str, StreamResult]) -> None:
    kept, lost = (mean_of(backward_transfer, gradual[name]) for name in (AVERAGED, "sequential"))
    assert kept >= lost + KEPT


@pytest.mark.parametrize("name", ["odex", AVERAGED])
def test_odex_learns_later_stages_as_sequential_training_does(name: str, gradual: dict[str, StreamResult]) -> None:
    ours, theirs = (mean_of(forward_transfer, gradual[title]) for title in (name, "sequential"))
    assert ours >= theirs - PLASTIC


@pytest.mark.parametrize("name", ["odex", AVERAGED])
def test_the_pool_stays_smaller_than_the_stream(name: str, gradual: dict[str, StreamResult]) -> None:
    assert fmean(facts["models"] for facts in gradual[name].facts) < len(GRADUAL)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="of five seeds three grow: 1, 2, 3, 1 and 2 models, with averaged features 3, 2, 1, 1 and 2",
)
@pytest.mark.parametrize("name", ["odex", AVERAGED])
def test_without_a_shift_the_pool_does_not_grow(name: str, control: dict[str, StreamResult]) -> None:
    assert [facts["models"] for facts in control[name].facts] == [1.0] * SEEDS
