"""Differences between validation and new images: shown where they are, and not where they are not."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import hypergeom

from allograft.results.drift import compared, distribution, share
from allograft.results.statistics import holm

NOBODY = (0, 0, 0, 0)


def drawn(count: int, shift: float = 0.0, seed: int = 0) -> list[float]:
    made: list[float] = (np.random.default_rng(seed).normal(size=count) + shift).tolist()
    return made


def test_the_gap_is_the_largest_between_the_cumulative_distributions() -> None:
    before, now = drawn(30), drawn(25, 0.7, 1)
    found = distribution("x", before, now)
    gaps = [abs(sum(v <= at for v in before) / 30 - sum(v <= at for v in now) / 25) for at in before + now]
    assert found.gap == pytest.approx(max(gaps))
    assert found.visible == pytest.approx(1.358 * math.sqrt(1 / 30 + 1 / 25))
    assert (found.middle_before, found.middle_now) == (float(np.median(before)), float(np.median(now)))


def test_the_share_that_is_far_has_fishers_p() -> None:
    found = share(1, 20, 9, 20)
    chances = [hypergeom.pmf(k, 40, 10, 20) for k in range(11)]
    assert found.p == pytest.approx(sum(c for c in chances if c <= chances[1] * (1 + 1e-9)))
    assert (found.middle_before, found.middle_now, found.gap) == (0.05, 0.45, pytest.approx(0.4))


def test_p_values_are_adjusted_over_all_numbers() -> None:
    before = {name: drawn(40, seed=number) for number, name in enumerate("abc")}
    now = {name: drawn(40, 0.4 * number, seed=number + 9) for number, name in enumerate("abc")}
    found = compared(before, now, (2, 40, 12, 40))
    assert [one.name for one in found] == ["a", "b", "c", "abstain"]
    expected = holm([one.p or 0.0 for one in found])
    assert [one.adjusted for one in found] == pytest.approx(list(expected))


def test_without_a_difference_one_is_shown_in_about_one_of_twenty() -> None:
    shown = sum(
        any(one.differs for one in compared({"x": drawn(30, seed=s), "y": drawn(30, seed=s + 500)},
                                            {"x": drawn(30, seed=s + 1000), "y": drawn(30, seed=s + 1500)}, NOBODY))
        for s in range(200)
    )  # fmt: skip
    assert shown <= 20


def test_words_say_which_way() -> None:
    up, down = (compared({"x": drawn(40)}, {"x": drawn(40, shift, 1)}, NOBODY)[0] for shift in (3, -3))
    assert (up.words, down.words) == ("larger than at validation", "smaller than at validation")
    wider = compared({"x": [-1.0, 0.0, 1.0] * 20}, {"x": [-9.0, 0.0, 9.0] * 20}, NOBODY)[0]
    assert wider.words == "distributed differently than at validation"
    more, fewer = (compared({}, {}, counts)[0] for counts in ((1, 40, 30, 40), (30, 40, 1, 40)))
    assert more.words == "more images are beyond the threshold than at validation"
    assert fewer.words == "fewer images are beyond the threshold than at validation"
    same = compared({"x": drawn(40)}, {"x": drawn(40, 0, 1)}, NOBODY)[0]
    assert same.words == "no difference is shown, but there may be one"


def test_few_cases_are_not_compared() -> None:
    (found,) = compared({"x": drawn(40)}, {"x": drawn(4, 9)}, NOBODY)
    assert (found.p, found.adjusted, found.differs) == (None, None, False)
    assert found.words == "too few cases to compare: expected at least 5 on each side"
    assert compared({"x": drawn(9)}, {"y": drawn(9)}, NOBODY) == []
    sizes = [distribution("x", drawn(n), drawn(n)).visible or 0 for n in (6, 30, 200)]
    assert all(a > b for a, b in pairwise(sizes))
