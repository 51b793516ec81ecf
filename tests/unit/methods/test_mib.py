"""MiB: with one class set it is LwF, and says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.tiny import a_context

from allograft.errors import SpecError
from allograft.methods.mib import Mib
from allograft.recipe import Scenario, parse_recipe
from allograft.tasks.multilabel import Multilabel

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {"strength": 1.0},
}


def test_a_task_without_class_probabilities_is_refused() -> None:
    context = replace(a_context(), task=Multilabel(("one", "two")))
    with pytest.raises(SpecError, match=r"mib: task: found multilabel; expected segmentation or classification"):
        Mib().check(Scenario(), None, context)  # type: ignore[arg-type]
    Mib().check(Scenario(), None, a_context())  # type: ignore[arg-type]


def test_it_says_which_recipe_it_coincides_with() -> None:
    assert Mib(strength=3.0).same_as == parse_recipe({"lwf": {"strength": 3.0, "temperature": 1.0}})
    assert Mib(strength=0.0).same_as == parse_recipe("sequential")
