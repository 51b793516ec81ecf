"""Orders: pure functions of the step number, each with a promise of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.tiny import read, write_photographs, write_volumes

from allograft.cohort import Cohort, Slices
from allograft.cohort.orders import (
    Episodes,
    OnePerSubject,
    Order,
    Shares,
    Shots,
    Turns,
    by_class,
    by_cohort,
    by_subject,
    shuffled,
)
from allograft.seeds import Seeds

SEEDS = Seeds(3, ("orders",))
GROUPS = (((0, 0), (0, 1), (0, 2)), (), ((1, 0),))
SUBJECTS = {"s1": ((0, 0), (0, 1), (0, 2)), "s2": ((0, 3),), "s3": ((1, 0), (1, 1))}
ORDERS = {
    "turns": Turns(GROUPS, 4, SEEDS),
    "shares": Shares(GROUPS, 4, SEEDS, lambda step: (3, 0, 1) if step % 2 else (1, 0, 3)),
    "one per subject": OnePerSubject(SUBJECTS, 2, SEEDS),
    "episodes": Episodes((GROUPS[0], GROUPS[2]), (1.0, 3.0), SEEDS),
    "shots": Shots((GROUPS[0], SUBJECTS["s3"]), (1.0, 3.0), 2, SEEDS),
}


def test_groups_of_one_size_are_shuffled_apart() -> None:
    orders = [tuple(shuffled(SEEDS, group, range(9), number) for number in range(18)) for group in range(3)]
    assert len(set(orders)) == 3
    for order in orders:
        assert sorted(order[:9]) == sorted(order[9:]) == [*range(9)]
        assert order[:9] != order[9:]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read(write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 5, "b": 3}, (4, 4)))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_step_has_the_same_keys_whoever_asked_before(order: Order) -> None:
    forwards = [list(order(step)) for step in range(12)]
    assert [list(order(step)) for step in reversed(range(12))] == forwards[::-1]
    assert len({str(keys) for keys in forwards}) > 1


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_no_draw_comes_twice(order: Order) -> None:
    draws = [draw for step in range(30) for _, _, draw in order(step)]
    assert len(set(draws)) == len(draws)


def test_one_item_of_each_subject_per_pass_and_every_item_in_the_end() -> None:
    keys = [key for step in range(60) for key in ORDERS["one per subject"](step)]
    owner = {item: name for name, items in SUBJECTS.items() for item in items}
    passes = [keys[start : start + 3] for start in range(0, len(keys), 3)]
    assert all({owner[cohort, item] for cohort, item, _ in each} == set(SUBJECTS) for each in passes)
    seen = Counter((cohort, item) for cohort, item, _ in keys)
    assert set(seen) == set(owner)
    assert seen[0, 3] == len(passes)


def test_an_episode_is_one_of_those_given_drawn_by_weight() -> None:
    order = ORDERS["episodes"]
    drawn = Counter(tuple((cohort, item) for cohort, item, _ in order(step)) for step in range(400))
    assert set(drawn) == {GROUPS[0], GROUPS[2]}
    assert drawn[GROUPS[2]] / 400 == pytest.approx(0.75, abs=0.06)


def test_classes_take_turns_whatever_their_number(cohort: Cohort) -> None:
    named = replace(
        cohort,
        cases=tuple(
            replace(case, labels={"label": "rare" if case.subject == "a0" else "common"}) for case in cohort.cases
        ),
    )
    halves = [named.site("a"), named.site("b")]
    groups = by_class(halves)
    assert {name: len(items) for name, items in groups.items()} == {"common": 7, "rare": 1}
    order = Turns(tuple(groups.values()), 4, SEEDS)
    for step in range(5):
        names = [halves[number].cases[item].labels["label"] for number, item, _ in order(step)]
        assert Counter(names) == {"common": 2, "rare": 2}
    assert by_class([half.unlabelled() for half in halves]) == {}


def test_groups_hold_each_item_once(cohort: Cohort) -> None:
    halves = [cohort.site("a"), cohort.site("b")]
    every = sorted(item for group in by_cohort(halves) for item in group)
    assert every == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2)]
    assert sorted(item for items in by_subject(halves).values() for item in items) == every


def test_a_task_is_of_one_group_by_weight_and_of_different_items() -> None:
    groups = (GROUPS[0], SUBJECTS["s3"], GROUPS[2])
    order = Shots(groups, (2.0, 5.0, 1.0), 2, SEEDS)
    tasks = [order(step) for step in range(400)]
    drawn = Counter(tuple(sorted((cohort, item) for cohort, item, _ in keys)) for keys in tasks)
    by_group = {group: sum(drawn[task] for task in drawn if set(task) <= set(group)) for group in groups[:2]}
    # the one item of the last group is of the second one too, and that has two in each of its tasks
    assert drawn[GROUPS[2]] / 400 == pytest.approx(1 / 8, abs=0.04)
    assert by_group[groups[0]] / 400 == pytest.approx(2 / 8, abs=0.05)
    assert set(map(len, drawn)) == {1, 2}
    assert {task for task in drawn if set(task) <= set(GROUPS[0])} == {
        ((0, 0), (0, 1)),
        ((0, 0), (0, 2)),
        ((0, 1), (0, 2)),
    }
    assert len({tuple(keys[0][:2]) for keys in tasks}) == 5
    assert [draw for keys in tasks[:3] for _, _, draw in keys] == sorted(
        step * 2 + rank for step in range(3) for rank in range(len(tasks[step]))
    )


def test_subjects_and_classes_are_in_one_order_whoever_comes_first(cohort: Cohort) -> None:
    halves = [cohort.site("b"), cohort.site("a")]
    assert list(by_subject(halves)) == [*(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(3))]
    assert by_subject(halves)["a1"] == ((1, 1),)
    assert len(by_class(halves, "mask")) == 8
    backwards = dict(reversed(SUBJECTS.items()))
    assert OnePerSubject(backwards, 2, SEEDS)(3) == OnePerSubject(SUBJECTS, 2, SEEDS)(3)


def test_each_subject_is_in_a_new_place_and_with_another_item_in_every_pass() -> None:
    subjects = {name: tuple((0, 10 * number + item) for item in range(4)) for number, name in enumerate("abcdef")}
    order = OnePerSubject(subjects, 6, SEEDS)
    passes = [order(step) for step in range(20)]
    assert len({tuple(item // 10 for _, item, _ in keys) for keys in passes}) > 10
    items = [{item // 10: item % 10 for _, item, _ in keys} for keys in passes]
    assert all(len({each[subject] for each in items}) > 1 for subject in range(6))
    assert any(len(set(each.values())) > 1 for each in items)  # each subject draws by itself


def test_slices_belong_to_the_subject_of_their_volume(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(3, 4, 2), (3, 4, 3)]), slices=Slices(2))
    assert by_subject([cohort]) == {"v0": ((0, 0), (0, 1)), "v1": ((0, 2), (0, 3), (0, 4))}
