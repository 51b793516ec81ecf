"""The numbers of a method change only where somebody means them to."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.contract.compare import differences, sha256
from tests.contract.leaving import Leaves
from tests.contract.numbers import agrees
from tests.contract.pin import NUMBERS, PINNED, numbers_of
from tests.contract.world import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_draws_from_is_as_pinned(name: str, undisturbed: Any) -> None:
    pinned = json.loads(PINNED.read_text()).get(name)
    assert undisturbed(name).draws == pinned, (
        "other numbers: if they should be, python -m tests.contract.pin, and a word in CHANGELOG.md"
    )


@pytest.mark.filterwarnings("ignore:fourier:UserWarning")  # of small images
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="pinned where MKL draws dropout")
@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_leaves_is_as_pinned(name: str, leaves: Leaves) -> None:
    """Under its own arguments, and under another value of each option."""
    kept, made = json.loads(NUMBERS.read_text()).get(name, {}), numbers_of(name, leaves)
    assert kept.keys() == made.keys(), f"python -m tests.contract.pin {name}"
    differ = [
        f"{variant or 'its own arguments'}: {what} {made[variant].get(what)}, pinned {pinned}"
        for variant in kept
        for what, pinned in kept[variant].items()
        if not agrees(made[variant].get(what, ()), pinned)
    ]
    assert not differ, (
        f"other numbers: if they should be, python -m tests.contract.pin {name}, and a word in CHANGELOG.md"
    )


def test_no_method_is_pinned_that_is_gone() -> None:
    assert sorted(json.loads(PINNED.read_text())) == METHODS
    assert sorted(json.loads(NUMBERS.read_text())) == METHODS


def test_a_comparison_names_what_differs() -> None:
    before = {"a": {"carry": "0", "record": "1"}, "b": {"carry": "2"}}
    assert differences(before, before) == []
    assert differences(before, {"a": {"carry": "0", "record": "3"}}) == ["a | record: 1 -> 3", "b | carry: 2 -> absent"]
    values = torch.arange(4.0)
    assert sha256({"x": values, "y": 1}) == sha256({"y": 1, "x": values.clone()})
    others = [{"x": values.view(2, 2)}, {"x": values.double()}, {"x": values + 1}, {"y": values}, {"x": [values]}]
    assert len({sha256(other) for other in [{"x": values}, *others]}) == 6
