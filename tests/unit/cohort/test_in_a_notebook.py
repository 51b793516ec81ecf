"""A cohort in a notebook: a short ``repr``, a length, and iteration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.tiny import write_rows

from allograft.cohort import Coding, Cohort
from allograft.phantoms.brain import write_brain


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    manifest = write_brain(tmp_path, dims=2, subjects=2, size=32, sites={"a": "none", "b": "severe"})
    return Cohort.read(manifest, Coding(mask={"white-matter": (1,), "grey-matter": (2,)}))


def test_the_repr_is_one_line_with_counts_sites_and_labels(cohort: Cohort) -> None:
    assert repr(cohort) == f"Cohort({len(cohort)} cases of 4 subjects at a, b; mask)"
    assert repr(cohort.site("a").unlabelled()) == f"Cohort({len(cohort.site('a'))} cases of 2 subjects at a; no labels)"


def test_of_many_sites_the_repr_names_five(tmp_path: Path) -> None:
    rows = [{"image": f"{site}.png", "subject": site, "site": site} for site in "abcdefg"]
    for row in rows:
        (tmp_path / row["image"]).touch()
    many = Cohort.read(write_rows(tmp_path / "manifest.csv", rows))
    assert repr(many) == "Cohort(7 cases of 7 subjects at a, b, c, d, e, and 2 more; no labels)"


def test_iteration_gives_every_item_once_in_order(cohort: Cohort) -> None:
    batches = list(cohort)
    assert len(batches) == len(cohort) > 0
    assert [batch.cases for batch in batches] == [(case.name,) for case in cohort.cases]
    assert torch.equal(batches[1].image, cohort.case(1).image)
