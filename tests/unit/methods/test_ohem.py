"""Online hard example mining: which cases count, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.tiny import a_context

from allograft.errors import SpecError
from allograft.methods.ohem import Ohem, hardest_loss
from allograft.networks import build
from allograft.recipe import Scenario

CONTRACT = {
    "study": {
        "cohort": "patches/halves.csv",
        "task": {"classification": {"classes": ["small", "large"]}},
        "preprocessing": {"intensity": "unit"},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch", "dropout": 0.2}},
    },
    "options": {"share": 1.0},
    # each process mines its own share of a batch
    "processes": {"share": 1.0},
    "processes_study": {"budget": {"steps": 3, "adapt_steps": 3, "batch_size": 12}},
}


@given(st.integers(1, 8), st.floats(0.05, 1.0), st.integers(0, 2**20))
def test_the_hardest_are_those_of_a_sorted_loop(count: int, share: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 3, generator=rng, dtype=torch.float64)
    label = torch.randint(-1, 3, (count,), generator=rng)
    label[label < 0] = -100
    losses = sorted(
        (-float(row.log_softmax(0)[int(true)]) for row, true in zip(logits, label, strict=True) if true >= 0),
        reverse=True,
    )
    kept = losses[: -int(-len(losses) * share // 1)] if losses else []
    found = hardest_loss(logits, label, share)
    assert float(found) == pytest.approx(sum(kept) / len(kept) if kept else 0.0)


def test_all_of_a_batch_is_cross_entropy_and_easier_cases_have_no_gradient() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]], requires_grad=True)
    label = torch.tensor([0, 0, 0])
    torch.testing.assert_close(hardest_loss(logits, label, 1.0), torch.nn.functional.cross_entropy(logits, label))
    hardest_loss(logits, label, 0.34).backward()
    assert logits.grad is not None
    assert [bool(row.any()) for row in logits.grad] == [False, True, True]


def test_a_task_without_a_class_is_refused() -> None:
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    with pytest.raises(SpecError, match="ohem: mines images by their class"):
        Ohem().check(Scenario(), network, a_context())
