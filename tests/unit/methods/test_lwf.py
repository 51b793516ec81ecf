"""LwF: its teacher, which is that of MiB and PLOP too, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.tiny import a_context

from allograft.context import Store
from allograft.errors import SpecError
from allograft.methods.lwf import Lwf
from allograft.methods.plop import PooledOutputs
from allograft.parts.distillation import Distilled
from allograft.recipe import Scenario
from allograft.study.plan import scenario_of
from allograft.tasks.multilabel import Multilabel
from allograft.tree import digest

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {"strength": 10.0, "temperature": 1.0},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.mark.parametrize(("name", "objective"), [("lwf", Distilled), ("mib", Distilled), ("plop", PooledOutputs)])
def test_the_teacher_is_the_network_as_it_ended_on_the_last_stage_and_does_not_move(
    name: str, objective: Any, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, budget = [["a"], ["d"], ["b"]], {"steps": 2, "batch_size": 2}
    session = session_of(manifest, tmp_path, name, stream=stream, budget=budget)
    world = session.prepare()
    row = row_of(session, world)
    teachers: list[str | None] = []
    real = objective.__call__

    def watched(self: Any, network: Any, batch: Any) -> Any:
        teachers.append(None if self.teacher is None else digest(self.teacher))
        return real(self, network, batch)

    monkeypatch.setattr(objective, "__call__", watched)
    ended = []
    for stage in session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)):
        ended.append(digest(stage.predictor.network))  # type: ignore[union-attr]
    assert teachers == [None, None, ended[0], ended[0], ended[1], ended[1]]
    assert len(set(ended)) == 3
    assert Store(session.out / "units" / row.unit).carry_file.exists()


def test_a_task_without_class_probabilities_is_refused() -> None:
    context = replace(a_context(), task=Multilabel(("one", "two")))
    with pytest.raises(SpecError, match=r"lwf: task: found multilabel; expected segmentation or classification"):
        Lwf().check(Scenario(), None, context)  # type: ignore[arg-type]
    Lwf().check(Scenario(), None, a_context())  # type: ignore[arg-type]
