"""AvaGrad against trajectories of the authors' released optimizer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from allograft.optim import AvaGrad


@pytest.mark.parametrize("row", range(10))
def test_released_trajectory(row: int, vectors_root: Path) -> None:
    with np.load(vectors_root / "avagrad_quadratic.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    lr, eps, weight_decay, beta1, beta2, decoupled = arrays["cfg"][row].tolist()
    settings = {"eps": eps, "weight_decay": weight_decay, "decoupled": bool(decoupled), "variant": "released"}
    x = torch.nn.Parameter(arrays["x0"].clone())
    optimizer = AvaGrad([x], lr=lr, betas=(beta1, beta2), **settings)
    for step in range(1, 21):
        x.grad = arrays["A"] @ x.detach() - arrays["b"]
        torch.testing.assert_close(x.grad, arrays["grads"][row, step - 1], rtol=1e-10, atol=1e-10)
        optimizer.step()
        torch.testing.assert_close(x.detach(), arrays["traj"][row, step], rtol=1e-10, atol=1e-10)
        gamma = 6**0.5 / optimizer.state[x]["eta_norm"]
        torch.testing.assert_close(gamma, arrays["gamma"][row, step - 1], rtol=1e-10, atol=1e-12)
