"""What a training costs alone, and given the source model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.tiny import a_row

from allograft.context.nodes import Node
from allograft.recipe import Needs, parse_recipe
from allograft.results.costs import TrainingCost, training_cost, unit_seconds
from allograft.results.record import Record
from allograft.results.select import Chosen, Line

SECONDS = {"source-0": 100.0, "source-1": 140.0, "pretext": 30.0}


def a_record(unit: str, seconds: float, ordinal: int = 0) -> Record:
    cost = {"train_seconds": seconds}
    return Record(unit, {"name": "x"}, 0, "s", ordinal, "b", "test", metrics={}, cases=(), cost=cost, environment={})  # type: ignore[arg-type]


def a_run(name: str, seconds: float, seed: int, *below: str) -> Chosen:
    recipe = parse_recipe("supervised")
    row = a_row(recipe, "b", seed, 0, name)
    nodes = (*(Node(key, recipe, Needs()) for key in below), replace(row.nodes[-1], key=name))
    return Chosen(replace(row, nodes=nodes), "s", {"b": (a_record(name, seconds),)}, None)


def a_line(*runs: Chosen) -> Line:
    return Line("x", parse_recipe("supervised"), "b", runs, {}, {})


SOURCE = a_line(a_run("source-0", 100.0, 0), a_run("source-1", 140.0, 1))


def test_the_source_model_costs_its_training_and_nothing_to_those_who_have_it() -> None:
    assert training_cost(SOURCE, SOURCE, SECONDS) == TrainingCost(alone=120.0, given=0.0)


def test_a_row_on_the_source_model_counts_it_alone_and_not_given() -> None:
    tuned = a_line(a_run("tuned-0", 10.0, 0, "source-0"), a_run("tuned-1", 20.0, 1, "source-1"))
    cost = training_cost(tuned, SOURCE, SECONDS)
    assert cost == TrainingCost(alone=135.0, given=15.0)
    assert cost.is_shared


def test_what_is_built_on_something_else_counts_it_both_times() -> None:
    chained = a_line(a_run("tuned-0", 10.0, 0, "pretext"))
    cost = training_cost(chained, SOURCE, SECONDS)
    assert cost == TrainingCost(alone=40.0, given=40.0)
    assert not cost.is_shared
    assert training_cost(chained, None, SECONDS) == cost


def test_a_grid_counts_a_shared_training_once() -> None:
    best = a_run("tuned-0", 10.0, 0, "source-0")
    grid = a_line(replace(best, passed_over=(a_run("other-0", 7.0, 0, "source-0"),)))
    assert training_cost(grid, SOURCE, SECONDS) == TrainingCost(alone=117.0, given=17.0)


def test_an_unknown_training_leaves_no_number() -> None:
    assert training_cost(a_line(a_run("tuned-0", 10.0, 0, "lost")), SOURCE, SECONDS) is None
    assert training_cost(a_line(replace(a_run("x", 1.0, 0), error="broke")), SOURCE, SECONDS) is None


def test_a_unit_costs_what_its_last_stage_says() -> None:
    records = [a_record("a", 5.0), a_record("a", 9.0, 2), a_record("a", 7.0, 1), a_record("b", 1.0)]
    assert unit_seconds(records) == {"a": 9.0, "b": 1.0}
    assert unit_seconds([replace(a_record("a", 1.0), cost={})]) == {}


@pytest.mark.parametrize("missing", [True, False])
def test_the_mean_is_over_seeds_that_finished(missing: bool) -> None:
    failed = replace(a_run("tuned-1", 90.0, 1, "source-1"), error="broke" if missing else "")
    tuned = a_line(a_run("tuned-0", 10.0, 0, "source-0"), failed)
    cost = training_cost(tuned, SOURCE, SECONDS)
    assert cost is not None
    assert cost.given == (10.0 if missing else 50.0)
