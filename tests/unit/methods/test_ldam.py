"""LDAM: margins, weights and when they begin, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.methods.ldam import CosineHead, Ldam, MarginObjective, class_margins, effective_weights, margin_loss
from allograft.networks import build, rebuilt
from allograft.networks.network import operate
from allograft.phantoms.histology import CLASSES, write_histology
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

CONTRACT = {
    "study": {
        "cohort": "patches/halves.csv",
        "task": {"classification": {"classes": ["small", "large"]}},
        "preprocessing": {"intensity": "unit"},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch", "dropout": 0.2}},
    },
    "options": {"margin": 0.1, "scale": 5.0, "defer": 0.0, "beta": 0.5},
    "under": {"beta": {"arguments": {"defer": 0.0}}},
    "processes_study": {"budget": {"steps": 3, "adapt_steps": 3, "batch_size": 12}},
}


def a_network(**outputs: int) -> Any:
    torch.manual_seed(0)
    unet = {"in_channels": 3, "outputs": outputs or {"label": 2}, "channels": [4, 8], "norm": "batch"}
    return build({"build": {"unet": unet}})


def test_margins_and_weights_are_the_papers() -> None:
    counts = torch.tensor([10.0, 100.0, 1000.0], dtype=torch.float64)
    margins = class_margins(counts, 0.5)
    expected = [0.5, 0.5 * (10 / 100) ** 0.25, 0.5 * (10 / 1000) ** 0.25]
    assert margins.tolist() == pytest.approx(expected)
    assert class_margins(counts.flip(0), 0.5).tolist() == pytest.approx(expected[::-1])
    weights = effective_weights(counts, 0.9999)
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in (10, 100, 1000)]
    assert weights.tolist() == pytest.approx([3 * one / sum(raw) for one in raw])
    assert effective_weights(counts, 0.0).tolist() == [1.0] * 3


def test_the_loss_lowers_the_true_class_by_its_margin() -> None:
    """Eq. 11, case by case; an unlabelled case does not count."""
    torch.manual_seed(1)
    cosine, label = torch.rand(4, 3, dtype=torch.float64) * 2 - 1, torch.tensor([0, 2, -100, 1])
    margins, weights = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([2.0, 0.5, 1.0]).double()
    total, mass = 0.0, 0.0
    for row, true in zip(cosine, label.tolist(), strict=True):
        if true < 0:
            continue
        own = 10 * (float(row[true]) - float(margins[true]))
        others = [10 * float(row[k]) for k in range(3) if k != true]
        loss = -own + float(torch.tensor([own, *others], dtype=torch.float64).logsumexp(0))
        total, mass = total + float(weights[true]) * loss, mass + float(weights[true])
    found = margin_loss(10 * cosine, label, margins, 10.0, weights)
    assert float(found) == pytest.approx(total / mass)
    plain = margin_loss(10 * cosine, label, torch.zeros(3).double(), 10.0, torch.ones(3).double())
    expected = torch.nn.functional.cross_entropy(10 * cosine, label)
    torch.testing.assert_close(plain, expected)
    assert float(margin_loss(cosine, torch.full((4,), -100), margins, 1.0, weights)) == 0


def test_weights_begin_where_they_are_deferred_to() -> None:
    objective = MarginObjective(torch.zeros(2), torch.tensor([1.9, 0.1]), 1.0, defer=2)
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    batch = Batch(logits, torch.zeros(2).long(), ("a", "b"), {"label": torch.tensor([0, 1])})
    losses = [float(objective(lambda image: {"label": image}, batch)["margin"]) for _ in range(4)]  # type: ignore[arg-type]
    assert losses[0] == losses[1]
    assert losses[2] == losses[3] != losses[0]
    assert objective.number == 4


def test_the_head_is_a_scaled_cosine_and_can_be_rebuilt() -> None:
    network = operate(a_network(), "cosine_head", scale=7.0).eval()
    image = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        logits = network(image)["label"]
        assert (logits.abs() <= 7.0001).all()
        feature = network.encoder(image)[-1].flatten(2).mean(2)
        head = network.heads["label"]
        assert isinstance(head, CosineHead)
        expected = [[7 * torch.cosine_similarity(one, vector, 0) for vector in head.vectors] for one in feature]
        torch.testing.assert_close(logits, torch.tensor(expected))
        assert torch.equal(rebuilt(network.spec, network.state_dict()).eval()(image)["label"], logits)


def test_what_has_no_margin_is_refused(tmp_path: Path) -> None:
    task = Classification(CLASSES)
    cohort = Cohort.read(write_histology(tmp_path, sites={"a": "none"}, subjects=4, size=32), task.coding)
    context = replace(a_context(), task=task)
    small = cohort.where(lambda case: case.labels["label"] == "small")
    with pytest.raises(SpecError, match="no source image is large"):
        Ldam().check(Scenario(source=(small,)), a_network(), context)
    Ldam().check(Scenario(source=(small, cohort)), a_network(), context)
    with pytest.raises(SpecError, match="margins are those of classes"):
        Ldam().check(Scenario(source=(cohort,)), a_network(), a_context())
    with pytest.raises(SpecError, match="no head for labels"):
        Ldam().check(Scenario(source=(cohort,)), a_network(mask=2), context)
    Ldam().check(Scenario(source=(cohort,)), a_network(), context)
