"""AIVA's clustering of 2,000 images as a share of an epoch: of 1,000 steps of 0.08 s, and of 125
steps, one pass over 1,000 source images in batches of 8.

The feature pass that comes before it is reported apart: how many images a second the encoder of the
default U-Net takes, forward only. Seconds are of one processor, so other work beside it does not
count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from ratio import keep

from allograft.networks import build
from allograft.parts.clustering import MOST_POINTS, cluster

STEP = 0.08
ROUNDS = 3
SIDE = 16  # a slice of 128 x 128 through the default U-Net: 128 channels at 1/8


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    width, half = 128 * SIDE * SIDE, MOST_POINTS // 2
    centres = torch.randn(12, width, generator=rng)
    source, target = (
        centres[torch.randint(12, (half,), generator=rng)] + torch.randn(half, width, generator=rng) for _ in range(2)
    )
    target += 0.5
    cluster(source[:50], target[:50], 12, seed=0)  # imports
    spent = [seconds(lambda: cluster(source, target, 12, seed=0), time.process_time) for _ in range(ROUNDS)]
    median, low, high = statistics.median(spent), min(spent), max(spent)
    keep(
        "aiva_clustering",
        {
            "processor_seconds": round(median, 2),
            "lowest": round(low, 2),
            "highest": round(high, 2),
            "share_of_an_epoch_of_1000_steps": round(median / (1000 * STEP), 4),
            "share_of_an_epoch_of_125_steps": round(median / (125 * STEP), 4),
            "rounds": ROUNDS,
        },
    )
    encoder = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}}}}).eval().encoder
    image = torch.rand(16, 1, 8 * SIDE, 8 * SIDE, generator=rng)
    with torch.no_grad():
        encoder(image)
        spent = [seconds(lambda: encoder(image)) for _ in range(ROUNDS)]
    keep(
        "aiva_feature_pass",
        {"images_a_processor_second": round(16 / statistics.median(spent), 1), "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main()
