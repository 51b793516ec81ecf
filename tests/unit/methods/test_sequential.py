"""Sequential training along a stream: what it sees, and what the report shows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import row_of, session_of, write_cohort

from allograft.cohort import Loader
from allograft.context import Context
from allograft.study.plan import scenario_of

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {},
}


def test_no_batch_says_where_it_came_from_and_each_stage_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "sequential")
    world = session.prepare()
    row = row_of(session, world)
    sites = {case.name: case.site for case in world.cases()}
    seen: list[set[str]] = []
    optimizers: list[int] = []
    real_call, real_step = Loader.__call__, Context.gradient_step

    def watched(self: Loader, start: int) -> Any:
        seen.append(set())
        for batch in real_call(self, start):
            assert set(batch.site.tolist()) == {-1}
            seen[-1] |= {sites[name] for name in batch.cases}
            yield batch

    def made(self: Context, *given: Any, **more: Any) -> Any:
        step = real_step(self, *given, **more)
        optimizers.append(id(step.optimizer))
        return step

    monkeypatch.setattr(Loader, "__call__", watched)
    monkeypatch.setattr(Context, "gradient_step", made)
    stages = list(session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    assert [(stage.name, stage.seen) for stage in stages] == [("stage-1", ("a",)), ("stage-2", ("a", "b", "d"))]
    assert seen[0] == {"a"}
    assert seen[1] <= {"b", "d"}
    assert len(optimizers) == 2
    labelled = [len(stage.saw.labelled_subjects) for stage in stages]
    assert labelled[0] < labelled[1]  # labels seen along the stream are counted


def test_the_report_shows_a_first_case_after_every_stage_and_compares_the_ends(tmp_path: Path) -> None:
    recipes = ["sequential", "joint_stream", {"lwf": {"strength": 5.0}}]
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", "sequential", recipes=recipes, primary="joint_stream"
    )
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    session.finish(world, plan, report=True)
    page = (tmp_path / "out" / "report.html").read_text()
    for words in (
        "Which recipe learns best along a stream of 2 stages?",
        "<dt>Stages</dt><dd>1: a; 2: d + b</dd>",
        "Along the stream",
        "after stage-1",
        "after stage-2",
        "dice on each stage, after training on all of them",
        "joint_stream against every other row",
        "p after Holm",
        "peak MB",
    ):
        assert words in page, words
