"""Scores against a setting: rows that differ in one number alone, and no others, make a curve."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.results.test_select import a_record, a_study, kept
from tests.unit.tiny import a_row

from allograft.recipe import candidates, parse_row, title
from allograft.report.figures import draw_figure
from allograft.results.analysis.sweep import sweeps
from allograft.results.select import Line, lines
from allograft.study.plan import Plan


def a_table(recipes: list[Any], scores: Mapping[str, float | None], seeds: int = 2) -> tuple[Plan, list[Line]]:
    """A row a recipe; one whose title has no score was not judged. Seeds are 0.02 apart."""
    made = [(title(row), recipe) for row in map(parse_row, ["supervised", *recipes]) for recipe in candidates(row)]
    rows = tuple(a_row(recipe, "b", s, 0, f"{title(recipe)}.{s}", line) for s in range(seeds) for line, recipe in made)
    plan = Plan(rows, seeds, a_study().made_task)
    known = [(row, scores.get(title(row.recipe), 0.5)) for row in plan.rows]
    return plan, lines(
        plan, kept(*(a_record(row, None if value is None else value + 0.02 * row.seed) for row, value in known)), "last"
    )


AIVA = {f"aiva clusters={k}": 0.5 + 0.01 * k for k in (3, 6, 9)} | {"aiva": 0.7, "supervised": 0.4}


def test_rows_that_differ_in_one_number_are_a_curve_in_its_order_with_do_nothing_level() -> None:
    others = [{"aiva": {"clusters": 15, "rounds": 2}}, "adabn", {"aiva": {"clusters": 18, "first": "start"}}]
    plan, table = a_table([*({"aiva": {"clusters": k}} for k in (9, 3, 12, 6)), *others], AIVA)
    (figure,) = sweeps(plan, table, "b")
    assert figure.title == "dice at b of aiva, by clusters"
    # 12 is the default
    assert (figure.x, figure.x_axis, figure.y_axis) == ((3.0, 6.0, 9.0, 12.0), "clusters", "dice")
    assert figure.y["aiva"] == pytest.approx((0.54, 0.57, 0.60, 0.71))
    assert figure.y["no adaptation"] == pytest.approx((0.41,) * 4)
    assert figure.spread == {"aiva": pytest.approx((0.02 / 2**0.5,) * 4)}
    assert sweeps(plan, table, "elsewhere") == ()


def test_two_settings_or_three_of_which_one_was_not_judged_are_none() -> None:
    rows = [{"aiva": {"clusters": k}} for k in (3, 6, 9)]
    assert len(sweeps(*a_table(rows, AIVA), "b")) == 1
    assert sweeps(*a_table(rows[:2], AIVA), "b") == ()
    assert sweeps(*a_table([*rows[:2], {"aiva": {"grid": {"clusters": [9, 12]}}}], AIVA), "b") == ()
    assert sweeps(*a_table(rows, AIVA | {"aiva clusters=9": None}), "b") == ()


def test_each_weight_with_the_other_at_0_is_a_curve_of_its_own_in_equal_steps() -> None:
    weights = [(0, 0), (0.01, 0), (0.1, 0), (1.0, 0), (10.0, 0), (0, 1.0), (0, 10.0)]
    plan, table = a_table([{"stain_aglr": {"regeneration": r, "consistency": c}} for r, c in weights], {})
    one, other = sweeps(plan, table, "b")
    assert one.title == "dice at b of stain_aglr consistency=0.0, by regeneration"
    assert (one.x, one.x_axis) == ((1.0, 2.0, 3.0, 4.0, 5.0), "regeneration, in equal steps: 0, 0.01, 0.1, 1, 10")
    assert (other.x, other.x_axis) == ((0.0, 1.0, 10.0), "consistency")


def test_warm_up_and_position_and_what_is_no_number() -> None:
    rows: list[Any] = [{"catenorm": {"blocks": 1, "warmup": share}} for share in (0.0, 0.05, 0.14, 0.5)]
    # its position is None
    rows += [{"catenorm": {"position": place}} for place in (1, 2, 3)] + ["catenorm"]
    rows += [{"finetune": {"scope": scope}} for scope in ("top", "first", "full")]
    warm, place = sweeps(*a_table(rows, {}), "b")
    assert (warm.title, warm.x) == ("dice at b of catenorm blocks=1, by warmup", (0.0, 0.05, 0.14, 0.5))
    assert (place.title, place.x) == ("dice at b of catenorm, by position", (1.0, 2.0, 3.0))


def test_settings_of_supervised_stand_beside_do_nothing_and_one_seed_has_no_whisker() -> None:
    rows = [{"aiva": {"clusters": 3}}, {"aiva": {"clusters": 6}}, "aiva"]
    (figure,) = sweeps(*a_table(rows, AIVA, seeds=1), "b")
    assert figure.spread == {"aiva": (None, None, None)}
    assert "whisker" not in draw_figure(figure, str).picture
    epochs = [{"supervised": {"epochs": 5}}, {"supervised": {"epochs": 10}}, {"supervised": {"epochs": 100}}]
    (figure,) = sweeps(*a_table(epochs, {"supervised": 0.3}, seeds=1), "b")
    assert figure.y == {"supervised": (0.5,) * 3, "no adaptation": (0.3,) * 3}


def test_whiskers_reach_one_deviation_either_way_and_stay_inside() -> None:
    (figure,) = sweeps(*a_table([{"aiva": {"clusters": k}} for k in (3, 6, 9)], AIVA), "b")
    picture = draw_figure(figure, str).picture
    bars = [
        tuple(map(float, found))
        for found in re.findall(r'<path class="whisker c0" d="M([\d.]+) ([\d.]+)V([\d.]+)M', picture)
    ]
    dots = [
        tuple(map(float, found)) for found in re.findall(r'<circle class="at c0" cx="([\d.]+)" cy="([\d.]+)"', picture)
    ]
    assert len(bars) == len(dots) == 3
    for (x, low, high), (across, up) in zip(bars, dots, strict=True):
        assert x == across
        assert low - up == pytest.approx(up - high, abs=0.21)
        assert 24 <= high < up < low <= 238
