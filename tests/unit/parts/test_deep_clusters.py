"""Labels that are told by name, and epochs that each begin with clusters."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context, case
from torch import nn

from allograft.batch import collate
from allograft.parts import deep_clusters
from allograft.parts.deep_clusters import ClusteredEpochs, Labelled


def test_a_batch_keeps_what_it_had_beside_its_labels() -> None:
    batch = replace(collate([case("a", 1.0), case("b", 3.0)]), attributes={"age": torch.tensor([30, 40])})
    labelled = Labelled(lambda start: iter([batch] * start), {"b": 7, "a": 5}, "cluster")
    (made,) = labelled(1)
    assert {name: values.tolist() for name, values in made.attributes.items()} == {"age": [30, 40], "cluster": [5, 7]}


def test_each_epoch_clusters_anew_draws_the_head_and_forgets_its_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven steps in epochs of three: the last epoch has one."""
    torch.manual_seed(0)
    head, body, spans, drawn = nn.Linear(1, 1), nn.Linear(1, 1), [], list[float]()
    optimizer = torch.optim.Adam([*head.parameters(), *body.parameters()])
    rounds: list[dict[str, int]] = []

    class Head:
        parameters = head.parameters

        def reset(self) -> None:
            drawn.append(float(torch.rand(())))

    def trained(step: object, batches: Labelled, *, steps: range, context: object) -> str:
        assert not any(parameter in optimizer.state for parameter in head.parameters())
        assert all(parameter in optimizer.state for parameter in body.parameters()) is (steps.start > 0)
        spans.append((steps, dict(batches.labels), batches.name))
        for parameter in (*head.parameters(), *body.parameters()):
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return f"history to {steps.stop}"

    def cluster() -> dict[str, int]:
        rounds.append({"a": len(rounds)})
        return rounds[-1]

    monkeypatch.setattr(deep_clusters, "train", trained)
    loader: Any = SimpleNamespace(epoch=3)
    made = ClusteredEpochs(None, optimizer, Head(), cluster, "class")  # type: ignore[arg-type]
    named: list[str] = []
    context: Any = a_context()
    journal = SimpleNamespace(once=lambda name, make: named.append(name) or make())
    context = replace(context, journal=journal)
    assert made.train(loader, 7, context) == "history to 7"
    parts = [(range(3), {"a": 0}, "class"), (range(3, 6), {"a": 1}, "class"), (range(6, 7), {"a": 2}, "class")]
    assert spans == parts
    assert len(set(named)) == len(set(drawn)) == 3
    optimizer.state.clear()
    made.train(loader, 7, replace(context, rehearsal={}))
    assert len(rounds) == 4  # a rehearsal clusters once
