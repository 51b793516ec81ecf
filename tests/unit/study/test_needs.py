"""What a recipe needs is what it is given, need by need, and a study that lacks it says which; what it saw is what it
was given."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest
from tests.unit.study.test_who_is_seen import SITES, image, placed, world_of
from torch import nn

from allograft.cohort import Coding, Cohort
from allograft.errors import AllograftError, NeedsError, SpecError
from allograft.recipe import Carry, Grid, Needs, Saw, Scenario, every_recipe, parse_recipe, parse_row, shown, title
from allograft.recipe.needs import check_needs
from allograft.study.keys import Question

NAMES = [f.name for f in fields(Needs)]


@dataclass(frozen=True)
class Wants:
    """A recipe with these needs."""

    needs: Needs
    paper: ClassVar[None] = None

    def run(self, scenario: Any, network: Any, context: Any) -> Any:
        """Nothing."""


@pytest.mark.parametrize("name", NAMES)
def test_needs_add_up_from_both_sides(name: str) -> None:
    for other in NAMES:
        both = Needs(**{name: True}) | Needs(**{other: True})
        assert {each for each in NAMES if getattr(both, each)} == {name, other}


@pytest.mark.parametrize("name", NAMES)
def test_only_what_needs_images_for_pre_training_and_nothing_of_a_study_needs_a_pool_alone(name: str) -> None:
    assert Needs(**{name: True}).only_pool == (name in ("pool", "pool_labels"))
    harmless = ("pool", "pool_labels", "optimizer_state")
    assert Needs(**{"pool": True, name: True}).only_pool == (name in harmless)


def scenario() -> Scenario:
    """Two sources, a target of which three are labelled, a pool and a stream."""
    study = {"target_labels": {"subjects": 3}, "pool": ["c"]}
    cut = (world := world_of(SITES, **study)).scenario(Question("b", ("b",)), 0, 0)
    phases = tuple(world.part(site, "train", 0) for site in "bc")
    return replace(cut, stream=phases)


def counts(cohorts: tuple[Cohort, ...]) -> list[tuple[int, bool]]:
    return [(len(cohort.cases), all(bool(case.labels) for case in cohort.cases)) for cohort in cohorts]


GIVEN: dict[str, dict[str, list[tuple[int, bool]]]] = {
    "source_images": {"source": [(3, True), (3, True)]},
    "target_images": {"target": [(9, False)]},
    "target_labels": {"target": [(3, True)]},
    "all_target_labels": {"target": [(3, True)]},
    "every_target": {},
    "pool": {"pool": [(9, False)]},
    "pool_labels": {"pool": [(9, True)]},
    "stream": {"stream": [(9, True), (9, True)]},
    "optimizer_state": {},
}


@pytest.mark.parametrize("name", NAMES)
def test_each_need_gives_its_own_part_and_nothing_else(name: str) -> None:
    seen = scenario().narrowed(Needs(**{name: True}))
    given = {part: counts(getattr(seen, part)) for part in ("source", "target", "pool", "stream")}
    assert {part: cohorts for part, cohorts in given.items() if cohorts} == GIVEN[name]
    present = {case.site for part in given for cohort in getattr(seen, part) for case in cohort.cases}
    assert seen.sites == tuple(site for site in "abcd" if site in present)
    assert all(cohort.sites == seen.sites for part in given for cohort in getattr(seen, part))


def test_target_images_without_labels_are_one_cohort_per_site_in_an_order_that_tells_nothing() -> None:
    seen = scenario().narrowed(Needs(target_images=True, every_target=True)).target
    (cohort,) = seen
    assert [case.name for case in cohort.cases] == sorted(case.name for case in cohort.cases)
    assert cohort.chosen is None
    both = scenario().narrowed(Needs(target_images=True, target_labels=True)).target
    assert counts(both) == [(3, True), (6, False)]


def test_what_labels_mean_is_not_in_a_pool_without_them() -> None:
    whole = scenario()
    coded = replace(whole.pool[0], prepared=replace(whole.pool[0].prepared, coding=Coding(mask={"vessel": (1,)})))
    whole = replace(whole, pool=(coded,))
    assert whole.narrowed(Needs(pool=True)).pool[0].prepared.coding.mask == {}
    assert whole.narrowed(Needs(pool_labels=True)).pool[0].prepared.coding.mask == {"vessel": (1,)}


EMPTY = {"source_images": "source", "target_images": "target", "pool": "pool", "stream": "stream"}
LABELS = {"target_labels": "target", "all_target_labels": "target", "pool_labels": "pool"}


@pytest.mark.parametrize(("name", "part"), [*EMPTY.items(), *LABELS.items()])
def test_each_need_that_is_not_met_is_named_with_the_way_to_meet_it(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allograft.table.name_of", lambda kind, thing: "wants")
    recipe: Any = Wants(Needs(**{name: True}))
    whole = scenario()
    check_needs(recipe, whole)
    lacking = [replace(whole, **{part: ()})]
    if name in LABELS:
        lacking.append(replace(whole, **{part: tuple(cohort.unlabelled() for cohort in getattr(whole, part))}))
    words = {"source": "source: ", "pool": "pool: ", "stream": "stream: "}.get(part, "target")
    for each in lacking:
        with pytest.raises(NeedsError, match=rf"needs .*, and this study gives none; .*{words}.*, or drop the recipe"):
            check_needs(recipe, each)
    says = "target 'b' has none outside" if part == "target" else "this study gives none"
    with pytest.raises(NeedsError, match=says):
        check_needs(recipe, lacking[0], "b")


def test_what_a_run_saw_is_what_it_was_given_and_whom_of_a_stream_it_met() -> None:
    whole = scenario()
    narrowed = whole.narrowed(Needs(source_images=True, target_labels=True, target_images=True))
    saw = Saw.from_scenario(narrowed)
    assert (saw.source, saw.target, saw.stream) == (("a", "d"), ("b",), ())
    assert saw.labelled_subjects == tuple(sorted(narrowed.target[0].subjects))
    stream = whole.narrowed(Needs(stream=True))
    first = Saw.from_scenario(stream, ("b",))
    assert (first.stream, {subject[0] for subject in first.labelled_subjects}) == (("b",), {"b"})
    assert Saw.from_scenario(stream).stream == Saw.from_scenario(stream, ("z",)).stream == ("b", "c")
    assert len(Saw.from_scenario(stream).labelled_subjects) == 18
    bare = placed(world_of(SITES).study, [replace(image("b0"), labels={})]).cohorts
    assert Saw.from_scenario(Scenario(target=bare)).labelled_subjects == ()


# ---------------------------------------------------------- words
def test_a_recipe_and_those_in_it_are_walked_and_written() -> None:
    deep = parse_recipe({"octl": {"first": {"finetune": {"scope": "top", "first": {"adabn": None}}}}})
    assert [title(each).split()[0] for each in every_recipe(deep)] == ["octl", "finetune", "adabn", "supervised"]
    assert shown(deep) == {"first": {"finetune": {"scope": "top", "first": {"adabn": {}}}}}
    assert title(deep) == "octl first=(finetune scope=top first=adabn)"
    assert title(deep, without="first") == "octl"
    written = parse_recipe({"supervised": {"optimizer": {"sgd": {"momentum": 0.9, "lr": 0.1}}}})
    assert title(written) == "supervised optimizer=(sgd(lr=0.1, momentum=0.9))"


def test_a_grid_is_all_settings_of_its_axes_as_it_was_written() -> None:
    tree = {"finetune": {"augmentation": "none", "grid": {"scope": ["top", "full"], "first": ["supervised", "adabn"]}}}
    grid = parse_row(tree)
    assert isinstance(grid, Grid)
    assert grid.tree() == tree
    assert str(grid) == "finetune augmentation=none scope=top|full first=supervised|adabn"
    fixed = "finetune "
    assert len(grid.candidates) == 4
    assert all(title(each).startswith(fixed) for each in grid.candidates)
    assert [getattr(each, "scope", "") for each in grid.candidates] == ["top", "top", "full", "full"]
    assert {getattr(each, "augmentation", "") for each in grid.candidates} == {"none"}


@pytest.mark.parametrize("axes", [{}, {"scope": []}, {"scope": "top"}, [], None, {"scope": ["top"], "first": 3}])
def test_a_grid_of_nothing_is_refused(axes: Any) -> None:
    with pytest.raises(SpecError, match=r"recipes.finetune.grid: expected field: \[value, value, ...\]"):
        parse_row({"finetune": {"grid": axes}})


def test_a_setting_is_fixed_or_tried_and_every_value_must_be_one() -> None:
    with pytest.raises(SpecError, match="'scope' is fixed and in the grid; name it once"):
        parse_row({"finetune": {"scope": "top", "grid": {"scope": ["top", "full"]}}})
    with pytest.raises(SpecError, match="scope"):
        parse_row({"finetune": {"grid": {"scope": ["top", "bottom"]}}})


def test_a_part_of_a_carry_that_could_not_be_loaded_is_refused_by_name() -> None:
    with pytest.raises(AllograftError, match=r"Carry.parts: 'critic' is a Linear without a spec"):
        Carry(nn.Identity(), parts={"critic": nn.Linear(1, 1)})  # type: ignore[arg-type]
