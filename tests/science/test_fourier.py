"""Fourier adaptation where its paper says so: it gains under a severe shift, loses nothing under a
subtle one, and gains nothing without.

Margins in Dice were written before the first run. Phantom brains: "b" differs severely from the
source, "c" subtly, "d" not at all.
"""

from __future__ import annotations

from statistics import fmean

import pytest
from tests.science.kept import keep, lines

from allograft.phantoms.brain import write_brain
from allograft.results.record import read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.reading import make_study

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200), pytest.mark.filterwarnings("ignore:fourier:UserWarning")]

SEEDS = 5
SEVERE_GAIN, SUBTLE_LOSS, CONTROL_GAIN = 0.02, 0.01, 0.01
RECIPE = {"fourier": {"beta": "per-pair"}}


@pytest.fixture(scope="module")
def gains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Target -> mean over seeds of the Dice of Fourier less that of do-nothing, the same
    network."""
    folder = tmp_path_factory.mktemp("fourier")
    manifest = write_brain(folder, sites={"a": "none", "b": "severe", "c": "subtle", "d": "none"}, subjects=16, size=64)
    study = make_study(
        {
            "cohort": str(manifest),
            "task": {"segmentation": {"classes": ["white", "grey"]}},
            "network": {"unet": {"channels": [8, 16, 32]}},
            "preprocessing": {"size": [64, 64], "intensity": "zscore"},
            "source": ["a"],
            "target": ["b", "c", "d"],
            "target_labels": {"subjects": 2},
            "recipes": [RECIPE],
            "test": {"fraction": 0.4},
            "seeds": SEEDS,
            "budget": {"steps": 150, "adapt_steps": 1, "batch_size": 8},
            "optimizer": {"adam": {"lr": 3e-3}},
        }
    )
    session = Session(study, folder / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    world = session.prepare()
    rows = [row for row in session.plan(world).rows if row.recipe == study.recipes[0]]
    for number, row in enumerate(rows):
        session.run(world, row, f"{number + 1} of {len(rows)}")
    found: dict[str, list[float]] = {}
    records = [record for record in read_all(folder / "out").values() if record.part == "test"]
    nothing = {(r.seed, r.site): r.metrics["dice"] for r in records if r.recipe["name"] == "supervised"}
    for record in records:
        assert record.status == "done", record.error
        if record.recipe["name"] == "fourier" and record.site == record.target:
            found.setdefault(record.site, []).append(record.metrics["dice"] - nothing[record.seed, record.site])  # type: ignore[operator]
    assert all(len(values) == SEEDS for values in found.values())
    keep(
        "fourier",
        [line for site, values in found.items() for line in lines(site, [{"fourier": one} for one in values], "gain")],
    )
    print({site: [round(value, 3) for value in values] for site, values in found.items()})
    return {site: fmean(values) for site, values in found.items()}


def test_it_gains_under_a_severe_shift(gains: dict[str, float]) -> None:
    assert gains["b"] >= SEVERE_GAIN


def test_it_loses_nothing_under_a_subtle_shift(gains: dict[str, float]) -> None:
    assert gains["c"] >= -SUBTLE_LOSS


def test_it_gains_nothing_without_a_shift(gains: dict[str, float]) -> None:
    assert abs(gains["d"]) <= CONTROL_GAIN
