"""Stain normalisation as a row. The stains themselves: see
``references/test_stain_separation.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import row_of, session_of, write_cohort

from allograft.cohort import Cohort
from allograft.cohort.preprocessing import Preprocessing
from allograft.methods.stain_normalisation import source_stains
from allograft.study.plan import scenario_of
from allograft.transforms.stain_separation import find_stains

CONTRACT = {
    "arguments": {"method": "macenko"},
    "study": {
        "cohort": "patches/manifest.csv",
        "task": {"classification": {"classes": ["small", "large"]}},
        "preprocessing": {"intensity": "unit"},
    },
    "options": {"method": "vahadane"},
}


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_the_reference_is_an_image_of_the_source_and_every_site_may_lend_it(method: str, tmp_path: Path) -> None:
    recipe = {"stain_normalisation": {"method": method}}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, seeds=6)
    world = session.prepare()
    row = row_of(session, world)
    source = {site: cohort.unlabelled() for site, cohort in zip("ad", scenario_of(world, row).source, strict=True)}
    stains = {
        (site, index): found.vectors
        for site, cohort in source.items()
        for index in range(len(cohort))
        if (found := find_stains(cohort.case(index).image[0], method)) is not None  # type: ignore[arg-type]
    }
    lent = set()
    for seed in range(6):
        *_, stage = session.context(seed).run(row.recipe, scenario_of(world, row), session.start(world, seed))
        predictor: Any = stage.predictor
        assert predictor.method == method
        (place,) = [place for place, vectors in stains.items() if torch.equal(vectors, predictor.vectors)]
        lent.add(place[0])
    assert lent == {"a", "d"}


def test_stains_are_the_same_whether_white_is_255_or_1(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort").parent / "patches" / "manifest.csv"
    stored, unit = (
        source_stains([Cohort.read(manifest, preprocessing=Preprocessing(intensity=intensity))], "macenko", white)
        for intensity, white in (("none", 255.0), ("unit", 1.0))
    )
    assert all(len(table) for table in stored.values())
    torch.testing.assert_close(stored, unit, rtol=1e-4, atol=1e-4)
