"""The triplet loss against the released code's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from allograft.methods.mris import triplet_loss


@pytest.mark.parametrize(("name", "margin"), [("0p0", 0.0), ("0p1", 0.1), ("0p3", 0.3)])
def test_loss_and_gradients(vectors_root: Path, name: str, margin: float) -> None:
    """There b = a is counted too, and gradients are those of unit vectors: ours have no part along
    the vector."""
    with np.load(vectors_root / "mris_triplet.npz") as stored:
        x, y = (torch.from_numpy(stored[key]).requires_grad_() for key in ("emb1", "emb2"))
        expected = torch.from_numpy(stored[f"loss_m{name}"])
        gradients = [torch.from_numpy(stored[f"{key}_m{name}"]) for key in ("g1", "g2")]
    loss = triplet_loss(x, y, margin)
    torch.testing.assert_close(loss + len(x) * margin, expected)
    loss.backward()
    for vectors, gradient in zip((x, y), gradients, strict=True):
        along = (gradient * vectors.detach()).sum(1, keepdim=True) * vectors.detach()
        torch.testing.assert_close(vectors.grad, gradient - along, rtol=1e-4, atol=1e-5)
