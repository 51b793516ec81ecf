"""MMTL: its schedule, and what a batch is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import a_context

from allograft.cohort import Loader
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.mmtl import Mmtl, dealt, released_count, target_count
from allograft.recipe import Scenario
from allograft.study.plan import scenario_of

CONTRACT = {
    "options": {"epochs": 2, "schedule": "released", "drop": 0.34, "show_features": True},
    "under": {
        "epochs": {"study": {"budget": {"steps": 3, "adapt_steps": 3, "batch_size": 4}}}
    },  # of 2 cases the target's share has no steps
}


def test_the_papers_example() -> None:
    counts = [target_count(epoch, 60, 16) for epoch in range(60)]
    assert counts[:5] == [0, 0, 0, 0, 1]
    assert counts[-1] == 15
    assert counts == sorted(counts)
    assert all(abs(count - epoch * 16 / 60) < 1 for epoch, count in enumerate(counts))
    assert [released_count(epoch, 4) for epoch in (0, 3, 4, 8, 12, 99)] == [1, 1, 2, 3, 4, 4]
    with pytest.raises(SpecError, match="epoch 60 of 60"):
        target_count(60, 60, 16)


def test_sites_take_turns() -> None:
    assert dealt(0, [3], 0) == (0,)
    assert sum((torch.tensor(dealt(2, [5, 5, 0, 5], turn)) for turn in range(3)), torch.zeros(4)).tolist() == [
        2,
        2,
        0,
        2,
    ]


@pytest.mark.parametrize("schedule", ["paper", "released"])
def test_a_batch_holds_what_the_schedule_says(schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    budget = {"steps": 1, "adapt_steps": 12, "batch_size": 4}
    recipe = {"mmtl": {"epochs": 6, "schedule": schedule, "first": "start"}}
    session = session_of(manifest, tmp_path / "out", recipe, budget=budget, augmentation="none")
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    seen: list[tuple[int, int]] = []
    apart: list[int] = []
    rates: list[float] = []
    real = Loader.__call__

    def watched(self: Loader, start: int):  # type: ignore[no-untyped-def]
        sites = scenario_of(world, row).sites
        for batch in real(self, start):
            names = [sites[i] for i in batch.site.tolist()]
            seen.append((names.count("a") + names.count("d"), names.count("b")))
            apart.append(abs(names.count("a") - names.count("d")))
            yield batch

    monkeypatch.setattr(Loader, "__call__", watched)
    step = "allograft.step.GradientStep.__call__"
    monkeypatch.setattr(step, _watching(rates))
    (stage,) = [
        s
        for s in session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0))
        if s.name == "mixed"
    ]
    assert stage.predictor is not None
    expected = [Mmtl(epochs=6, schedule=schedule).count(step // 2, 4) for step in range(12)]  # type: ignore[arg-type]
    assert seen == [(4 - count, count) for count in expected]
    assert apart == [count % 2 for count in expected]  # both source sites in every batch
    assert rates == pytest.approx([1e-3] * 9 + [1e-4] * 3)


def _watching(rates: list[float]):  # type: ignore[no-untyped-def]
    from allograft.step import GradientStep

    real = GradientStep.__call__

    def watched(self: GradientStep, batch: object) -> object:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return real(self, batch)  # type: ignore[arg-type]

    return watched


@pytest.mark.parametrize(
    ("budget", "recipe"), [({"batch_size": 1}, {}), ({"adapt_steps": 1}, {}), ({"adapt_epochs": 5}, {"epochs": 1})]
)
def test_a_budget_that_never_shows_the_target_is_refused(budget: dict[str, int], recipe: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=r"mmtl: epoch .*holds no target case.*raise batch_size"):
        Mmtl(**recipe).check(Scenario(), None, a_context(budget=Budget(**budget)))
    Mmtl(**recipe, schedule="released").check(Scenario(), None, a_context(budget=Budget(**budget)))
    Mmtl().check(Scenario(), None, a_context(budget=Budget()))


def test_the_studys_schedule_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {
        "budget": {"steps": 1, "adapt_steps": 4, "batch_size": 4},
        "schedule": {"step": {"at": [0.5], "factor": 0.5}},
    }
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", {"mmtl": {"epochs": 4, "first": "start"}}, **more
    )
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    rates: list[float] = []
    monkeypatch.setattr("allograft.step.GradientStep.__call__", _watching(rates))
    list(session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4])
