"""The pool of a pre-training: which of it, and how often each image comes."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.tiny import a_context, write_photographs

from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.parts.pool import chosen_pool, pool_loader
from allograft.transforms.sample import Sample


def pool_of(folder: Path, **sites: int) -> tuple[Cohort, ...]:
    cohort = Cohort.read(write_photographs(folder, sites)).unlabelled()
    return tuple(cohort.site(site) for site in sites)


def test_every_image_comes_as_often_whatever_the_size_of_its_site(tmp_path: Path) -> None:
    loader = pool_loader(pool_of(tmp_path, a=1, b=5), a_context(), Sample())
    assert loader.epoch == 3
    seen = [key[:2] for step in range(6) for key in loader.order(step)]
    assert {seen.count(item) for item in set(seen)} == {2}
    assert len(set(seen)) == 6


def test_names_choose_sites_or_whole_cohorts(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, a=2, b=2)
    assert chosen_pool(pool, (), "simmim") == pool
    assert [cohort.cases[0].site for cohort in chosen_pool(pool, ("b",), "simmim")] == ["b"]
    with pytest.raises(SpecError, match=r"simmim: pool: .*site of the pool"):
        chosen_pool(pool, ("c",), "simmim")
    behind = [
        replace(cohort, cases=tuple(replace(case, site=f"{name}/{case.site}") for case in cohort.cases))
        for name, cohort in zip(("one", "two"), pool, strict=True)
    ]
    assert [c.cases[0].site for c in chosen_pool(behind, ("two",), "simmim")] == ["two/b"]
    assert [c.cases[0].site for c in chosen_pool(behind, ("one/a", "two"), "simmim")] == ["one/a", "two/b"]
