"""EWC: one anchor for each earlier stage, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.tiny import a_context

from allograft.errors import SpecError
from allograft.methods import ewc
from allograft.methods.ewc import Ewc
from allograft.recipe import Scenario
from allograft.study.plan import scenario_of
from allograft.tasks.multilabel import Multilabel

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {"strength": 1e4},
}


def test_each_earlier_stage_pulls_by_the_fisher_information_of_its_own_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = {"stream": [["a"], ["d"], ["b"]]}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "ewc", **stream)
    world = session.prepare()
    row = row_of(session, world)
    measured: list[set[str]] = []
    pulls: list[int] = []
    real_fisher, real_init = ewc.fisher_diagonal, ewc.Consolidated.__call__

    def fisher(network: Any, cohort: Any, context: Any) -> Any:
        measured.append({case.site for case in cohort.cases})
        return real_fisher(network, cohort, context)

    def called(self: Any, network: Any, batch: Any) -> Any:
        pulls.append(len(self.anchors))
        return real_init(self, network, batch)

    monkeypatch.setattr(ewc, "fisher_diagonal", fisher)
    monkeypatch.setattr(ewc.Consolidated, "__call__", called)
    list(session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    assert measured == [{"a"}, {"d"}]  # not of the last stage, after which nothing is trained
    assert pulls == [0] * 3 + [1] * 3 + [2] * 3


def test_a_task_without_class_probabilities_is_refused() -> None:
    context = replace(a_context(), task=Multilabel(("one", "two")))
    with pytest.raises(SpecError, match=r"ewc: task: found multilabel; expected segmentation or classification"):
        Ewc().check(Scenario(), None, context)  # type: ignore[arg-type]
    Ewc().check(Scenario(), None, a_context())  # type: ignore[arg-type]
