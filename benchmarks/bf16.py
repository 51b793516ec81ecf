"""A training step of the default U-Net in 3-D, 48^3, batch 2: ``--precision bf16-mixed`` with and
without ``channels_last: true`` against single precision, and how far the loss is apart after 10.

Only where the processor multiplies in bfloat16 is anything promised.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from prediction import has_bf16
from ratio import keep, seconds

from allograft.networks import build
from allograft.networks.network import operate
from allograft.run.fabric import local_fabric
from allograft.tasks.segmentation import cross_entropy

SIDE, ROUNDS, STEPS = 48, 5, 10
VARIANTS = {"single": ("32-true", False), "bf16": ("bf16-mixed", False), "bf16_channels_last": ("bf16-mixed", True)}
LIMITS = {"bf16": 0.85, "bf16_channels_last": 0.8}
APART = 0.05
"""Of the loss, as a share of what it has fallen by."""


def stepper(precision: str, channels_last: bool) -> Callable[[], float]:
    """One optimizer step on the same two images; the loss."""
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "spatial_dims": 3}}})
    network = operate(network, "channels_last") if channels_last else network
    fabric = local_fabric(accelerator="cpu", precision=precision)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    image = torch.randn(2, 1, *(SIDE,) * 3)
    mask = (torch.nn.functional.avg_pool3d(image, 9, 1, 4)[:, 0] > 0).long()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with fabric.autocast():
            loss = cross_entropy(network(image)["mask"], mask, mask >= 0).mean()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def main() -> None:
    steps = {name: stepper(*settings) for name, settings in VARIANTS.items()}
    losses = {name: [step() for _ in range(STEPS)] for name, step in steps.items()}
    fallen = losses["single"][0] - losses["single"][-1]
    assert fallen > 0.05, losses["single"]
    spent: dict[str, list[float]] = {name: [] for name in VARIANTS}

    for turn in range(ROUNDS):
        for name in VARIANTS if turn % 2 == 0 else reversed(VARIANTS):
            spent[name].append(seconds(steps[name], time.process_time))
    for name, limit in LIMITS.items():
        apart = abs(losses[name][-1] - losses["single"][-1]) / fallen
        ratios = [ours / theirs for ours, theirs in zip(spent[name], spent["single"], strict=True)]
        keep(
            f"train_{name}_3d",
            {"single_seconds": round(statistics.median(spent["single"]), 3)},
            ratio=(ratios, limit if has_bf16() else None),
            loss_apart=([apart], APART),
        )


if __name__ == "__main__":
    main()
