"""Source and target side by side: which half is whose, and how long and how fast they adapt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context, case, read, write_photographs

from allograft.batch import Batch
from allograft.context import Budget
from allograft.methods.start import Start
from allograft.networks import build
from allograft.parts import paired_batches
from allograft.parts.paired_batches import PairedBatches, adapt_in_pairs, halves, last_feature
from allograft.recipe import Scenario


@dataclass
class Numbered:
    """Batches that are called by their step."""

    name: str
    epoch: int

    def __call__(self, start: int) -> Iterator[Batch]:
        for step in range(start, start + 2):
            yield case(f"{self.name}{step}", float(step), labels={"label": torch.tensor([step])})


def test_both_sides_go_on_from_the_same_step_and_the_target_has_no_label() -> None:
    pairs = PairedBatches(Numbered("s", 7), Numbered("t", 4))  # type: ignore[arg-type]
    assert pairs.epoch == 7
    found = list(pairs(3))
    assert [batch.cases for batch in found] == [("s3", "t3"), ("s4", "t4")]
    assert [batch.labels["label"].tolist() for batch in found] == [[3, -100], [4, -100]]  # type: ignore[union-attr]
    source, target = halves(found[0])
    assert (source.cases, target.cases) == (("s3",), ("t3",))
    assert ("label" in source.labels, target.labels) == (True, {})
    feature = torch.rand(2, 3, 4, 5)
    assert torch.equal(last_feature([feature * 2, feature]), feature.flatten(1))


def test_adaptation_has_its_own_budget_the_studys_schedule_and_an_optimizer_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 5, "b": 2}))
    scenario = Scenario((cohort.site("a"),), (cohort.site("b").unlabelled(),), sites=cohort.sites)
    context = a_context(budget=Budget(steps=2, adapt_steps=5, batch_size=2), schedule={"poly": {}})
    network: Any = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4]}}})
    told: dict[str, Any] = {}

    def trained(step: Any, batches: PairedBatches, **given: Any) -> Iterator[Any]:
        told.update(given, step=step, batches=batches, training=step.network.training)
        step(next(batches(0)))
        return iter(())

    def objective(network: Any, batch: Batch) -> Any:
        source, _ = halves(batch)
        return VESSEL.objective(network, source)

    monkeypatch.setattr(paired_batches, "train_with_checkpoints", trained)
    running = adapt_in_pairs(Start(), objective, scenario, network.eval(), context)
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            carry = end.value
            break
    assert (told["steps"], told["training"], told["batches"].epoch) == (5, True, 3)
    assert told["step"].schedule is not None
    assert stages[-1].name == "adapted"
    assert told["along"] == [stages[-1]]
    assert carry.network is told["step"].network
    assert carry.optimizer
    seeds = [loader.seeds for loader in (told["batches"].source, told["batches"].target)]
    assert seeds == [context.loader_seeds("source"), context.loader_seeds("target")]
