"""Unlearning against arrays made with the released code of the melanoma debiasing paper: losses,
and three steps of LNTL and of CLGR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.methods.unlearning import (
    Group,
    SecondaryHead,
    Unlearning,
    UnlearningStep,
    class_weights,
    confusion_loss,
    negative_conditional_entropy,
    reverse_gradient,
)
from allograft.run.fabric import local_fabric


@pytest.fixture(scope="module")
def arrays(vectors_root: Path) -> dict[str, Tensor]:
    with np.load(vectors_root / "lntl_tabe.npz") as stored:
        return {name: torch.tensor(stored[name]) for name in stored}


def test_reversed_gradient(arrays: dict[str, Tensor]) -> None:
    """The arrays hold the gradient that came in, and the one that went out."""
    x = torch.zeros_like(arrays["grl_in"]).requires_grad_()
    reverse_gradient(x, 0.1).backward(arrays["grl_in"])
    torch.testing.assert_close(x.grad, arrays["grl_grad"])


def test_losses_and_weights(arrays: dict[str, Tensor]) -> None:
    logits = arrays["aux_probs"].log()
    torch.testing.assert_close(negative_conditional_entropy(logits), arrays["neg_cond_entropy"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        0.03 * confusion_loss(logits, arrays["uniform_draw"]), arrays["conf_loss_random"], rtol=0, atol=1e-6
    )
    torch.testing.assert_close(class_weights(arrays["class_counts"]), arrays["class_weights"], rtol=0, atol=1e-6)


class Tiny(nn.Module):
    """The arrays' network: an encoder tanh(We x + be), a main head."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(5, 1)
        self.load_state_dict(
            {
                "encoder.0.weight": arrays["We"],
                "encoder.0.bias": arrays["be"],
                "head.weight": arrays["Wc"],
                "head.bias": arrays["bc"],
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))[:, 0]


def objective(network: Tiny, batch: Batch) -> dict[str, Tensor]:
    return {"bce": F.binary_cross_entropy_with_logits(network(batch.image), batch.labels["label"].float())}


@pytest.mark.parametrize(("theirs", "method", "lr"), [("LNTL", "lntl", 0.03), ("TABE", "clgr", 0.3)])
def test_three_released_steps(theirs: str, method: str, lr: float, arrays: dict[str, Tensor]) -> None:
    network = Tiny(arrays)
    head = SecondaryHead(5, Group("tone", (0, 1, 2, 3), (4, 1, 2, 5)))
    head.weight = arrays["aux_weight"]
    head.layers.load_state_dict({"0.weight": arrays["Wa"], "0.bias": arrays["ba"]})
    draws = iter(arrays["TABE_uniform_draws"])
    step = UnlearningStep(
        network,
        nn.ModuleList([head]),
        objective,
        torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9),
        torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9),
        torch.optim.SGD(network.encoder.parameters(), lr=0.3, momentum=0.9),
        local_fabric(accelerator="cpu"),
        Unlearning(method=method, attributes=("tone",), variant="released"),  # type: ignore[arg-type]
        draw=lambda logits: next(draws),
    )
    batch = Batch(arrays["data"], torch.zeros(12), ("",) * 12, {"label": arrays["target"]}, {"tone": arrays["aux"]})
    for number in range(3):
        terms = step(batch)
        secondary = terms.pop("secondary/tone")
        torch.testing.assert_close(sum(terms.values()), arrays[f"{theirs}_grl1_zero_loss"][number], rtol=0, atol=1e-5)
        torch.testing.assert_close(secondary, arrays[f"{theirs}_grl1_zero_auxloss"][number], rtol=0, atol=1e-5)
    found = torch.cat([p.detach().flatten() for p in (*network.parameters(), *head.parameters())])
    torch.testing.assert_close(found, arrays[f"{theirs}_grl1_zero_params"], rtol=0, atol=1e-5)
