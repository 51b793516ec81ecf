"""The plan of a study: which rows there are and in what order, which units they are built on, and whose optimizer is
kept. Without images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from allograft.context import Node
from allograft.recipe import Recipe, parse_recipe, title, total_needs
from allograft.study import Study, make_study
from allograft.study.keys import Question
from allograft.study.plan import Plan, Row, bare_rows
from allograft.study.rows import rows_of
from allograft.study.world import World

TREE: dict[str, Any] = {
    "cohort": "m.csv",
    "task": {"segmentation": {"classes": ["vessel"]}},
    "source": ["a"],
    "target": ["b", "c"],
    "recipes": [{"finetune": {"grid": {"scope": ["top", "full"]}}}],
    "target_labels": {"subjects": 1},
    "selection": "source-val",
    "baselines": False,
    "seeds": 2,
}


def study_of(**changes: Any) -> Study:
    return make_study({**TREE, **changes})


def titles(**changes: Any) -> list[str]:
    return [title(row) for row in rows_of(study_of(**changes))]


def test_rows_run_seed_by_seed_and_recipe_by_recipe_in_every_fold() -> None:
    world = cast(World, SimpleNamespace(study=study_of(), folds=2))
    found = [(row.seed, title(row.recipe), row.line, row.target, row.fold) for row in bare_rows(world)]
    line = "finetune scope=top|full"
    recipes = (("supervised", ""), ("finetune scope=top", line), ("finetune", line))
    assert found == [
        (seed, recipe, name, target, fold)
        for seed in (0, 1)
        for recipe, name in recipes
        for target in ("b", "c")
        for fold in (0, 1)
    ]
    assert all(row.unit == "" and row.question.sites == (row.target,) for row in bare_rows(world))


FIRST, TUNED, GOES_ON = (parse_recipe(tree) for tree in ("supervised", "finetune", "octl"))
ASK = Question("b", ("b",))


def node(key: str, recipe: Recipe) -> Node:
    return Node(key, recipe, total_needs(recipe))


def plan_of(*rows: Row) -> Plan:
    return Plan(rows, 1, study_of().made_task)


def test_a_unit_that_several_rows_share_is_listed_once_with_the_first_of_them() -> None:
    shared = node("s", FIRST)
    rows = (
        Row(FIRST, ASK, 0, 0, nodes=(shared,)),
        Row(TUNED, ASK, 0, 0, nodes=(shared, node("t", TUNED))),
        Row(TUNED, ASK, 1, 0, nodes=(node("s1", FIRST), node("t1", TUNED))),
    )
    plan = plan_of(*rows)
    assert plan.units == ("s", "t", "s1", "t1")
    assert [row for _, row in plan.nodes.values()] == [rows[0], rows[1], rows[2], rows[2]]
    assert [row.unit for row in rows] == ["s", "t", "t1"]
    assert plan.headline == "dice"


def test_the_optimizer_is_kept_of_what_a_recipe_continues_and_of_nothing_else() -> None:
    inner = cast(Any, GOES_ON).first
    rows = (
        Row(TUNED, ASK, 0, 0, nodes=(node("s", cast(Any, TUNED).first), node("t", TUNED))),
        Row(GOES_ON, ASK, 0, 0, nodes=(node("inner", inner), node("o", GOES_ON))),
    )
    assert plan_of(*rows).continued == {"inner"}
    assert plan_of(rows[0]).continued == frozenset()


def test_a_line_has_all_seeds_and_settings_of_its_target() -> None:
    world = cast(World, SimpleNamespace(study=study_of(), folds=1))
    lines = plan_of(*bare_rows(world)).lines()
    line = "finetune scope=top|full"
    assert {key: len(rows) for key, rows in lines.items()} == {
        (name, target): count for name, count in (("supervised", 2), (line, 4)) for target in ("b", "c")
    }
    assert all({row.target for row in rows} == {target} for (_, target), rows in lines.items())


def test_rows_that_every_study_has_depend_on_what_there_is() -> None:
    both = {"recipes": ["adabn"], "baselines": True}
    strong = "supervised augmentation=strong"
    labelled = ["supervised", strong, "target_supervised", "joint", "adabn"]
    assert titles(**both) == labelled
    assert titles(**both, target_labels="none") == ["supervised", strong, "adabn"]
    assert titles(**both, augmentation="strong") == [labelled[0], *labelled[2:]]
    assert titles(recipes=["adabn"]) == ["supervised", "adabn"]
    free: dict[str, Any] = {"source": [], "start": "m", "selection": "last"}
    assert titles(**both, **free) == ["start", "target_supervised", "adabn first=start"]
    assert titles(**both, **{**free, "target_labels": "none"}) == ["start", "adabn first=start"]
    alone = {"source": [], "selection": "last", "recipes": ["target_supervised"]}
    assert titles(**alone) == ["target_supervised"]


def test_without_a_source_what_a_recipe_is_built_on_begins_with_the_model_that_is_given() -> None:
    nested = {"finetune": {"first": {"adabn": {"first": {"supervised": {"augmentation": "strong"}}}}}}
    pretrained = {"finetune": {"first": {"supervised": {"first": "reconstruction"}}}}
    free: dict[str, Any] = {"source": [], "start": "m", "selection": "last", "pool": ["b"]}
    found = titles(**free, recipes=[nested, pretrained])
    assert found == ["start", "finetune first=(adabn first=start)", "finetune first=reconstruction"]
    study = study_of(**free, recipes=["adabn", "finetune"], primary="adabn", reference="finetune")
    assert (study.primary_title, study.reference_title) == ("adabn first=start", "finetune first=start")
    with_source = study_of(recipes=["adabn", "finetune"], primary="adabn", reference="finetune")
    assert (with_source.primary_title, with_source.reference_title) == ("adabn", "finetune")
