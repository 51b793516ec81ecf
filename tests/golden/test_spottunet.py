"""The straight-through policy against the released code's values and gradients."""

from pathlib import Path

import numpy as np
import torch

from allograft.methods.spottunet import gumbel_policy


def test_decisions_and_gradients(vectors_root: Path) -> None:
    with np.load(vectors_root / "spottunet_policy.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    logits = arrays["logits"].requires_grad_()
    noise = -(-(arrays["u"] + 1e-20).log() + 1e-20).log()
    frozen = gumbel_policy(logits, 0.1, noise)
    torch.testing.assert_close(frozen.detach(), arrays["hard_T0p1"][..., 1])
    upstream = arrays["upstream"]
    (upstream[..., 1] * frozen + upstream[..., 0] * (1 - frozen)).sum().backward()
    torch.testing.assert_close(logits.grad, arrays["grad_T0p1"], rtol=1e-4, atol=1e-5)
    quiet = gumbel_policy(logits.detach(), 0.1)
    torch.testing.assert_close(quiet, arrays["hard_nogumbel_T0p1"][..., 1])
    torch.testing.assert_close(0.005 * (1 - arrays["pol_hard"]).mean(), arrays["reg_hard_l1"])
