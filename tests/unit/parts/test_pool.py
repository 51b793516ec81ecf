"""The pool of a pre-training: which of it, and how often each image comes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.networks.tiny import made
from tests.unit.pretraining import a_pretraining, finished
from tests.unit.tiny import a_context, write_photographs

from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.methods.barlow_twins import BarlowTwins
from allograft.methods.mixcl import MixCl
from allograft.methods.moco_v3 import MocoV3
from allograft.methods.pool_labels import PoolLabels
from allograft.methods.popar import Popar
from allograft.methods.simmim import SimMim
from allograft.networks import reheaded
from allograft.parts.pool import chosen_pool, pool_loader
from allograft.recipe import Scenario
from allograft.transforms.sample import Sample


def pool_of(folder: Path, **sites: int) -> tuple[Cohort, ...]:
    cohort = Cohort.read(write_photographs(folder, sites)).unlabelled()
    return tuple(cohort.site(site) for site in sites)


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        (SimMim(patch=4), "vit"),
        (Popar(), "vit"),
        (MixCl(pixels=4), "unetr"),
        (MocoV3(width=8, dimension=4), "resnet"),
        (BarlowTwins(width=8), "resnet"),
        (PoolLabels(), "resnet"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__.lower(),
)
def test_a_pretraining_can_be_tried_out(recipe: Any, key: str, tmp_path: Path) -> None:
    """For the time that a plan states: three steps, and whatever follows them."""
    cohort = Cohort.read(write_photographs(tmp_path / "images", {"a": 2, "b": 2}))
    scenario = Scenario(pool=(cohort.site("a"), cohort.site("b")), sites=("a", "b"))
    context = replace(a_pretraining(tmp_path / "out"), folder=None, rehearsal={})
    network, _ = reheaded(made(key), {})
    stages, _ = finished(recipe, scenario, network, context)
    assert [stage.name for stage in stages] == ["pretrained"]
    assert context.rehearsal is not None
    assert [meter.planned_steps for meter in context.rehearsal.values()] == [4]


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
