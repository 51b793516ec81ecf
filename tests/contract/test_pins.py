"""The numbers of a method change only where somebody means them to."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.contract.compare import differences, sha256
from tests.contract.pin import PINNED
from tests.contract.world import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_draws_from_is_as_pinned(name: str, undisturbed: Any) -> None:
    pinned = json.loads(PINNED.read_text()).get(name)
    assert undisturbed(name).draws == pinned, (
        "other numbers: if they should be, python -m tests.contract.pin, and a word in CHANGELOG.md"
    )


def test_no_method_is_pinned_that_is_gone() -> None:
    assert sorted(json.loads(PINNED.read_text())) == METHODS


def test_a_comparison_names_what_differs() -> None:
    before = {"a": {"carry": "0", "record": "1"}, "b": {"carry": "2"}}
    assert differences(before, before) == []
    assert differences(before, {"a": {"carry": "0", "record": "3"}}) == ["a | record: 1 -> 3", "b | carry: 2 -> absent"]
    values = torch.arange(4.0)
    assert sha256({"x": values, "y": 1}) == sha256({"y": 1, "x": values.clone()})
    others = [{"x": values.view(2, 2)}, {"x": values.double()}, {"x": values + 1}, {"y": values}, {"x": [values]}]
    assert len({sha256(other) for other in [{"x": values}, *others]}) == 6
