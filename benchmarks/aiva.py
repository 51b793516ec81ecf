"""AIVA's clustering of 2,000 images, cold and from the last round's embedding, as a share of an
epoch of 1,000 steps of 0.08 s.

The feature pass that comes before it is told apart: how many images a second the encoder of the
default U-Net takes, forward only.
"""

from __future__ import annotations

import statistics

import torch
from ratio import keep, seconds

from allograft.networks import build
from allograft.parts.clustering import MOST_POINTS, Clusters, cluster

EPOCH = 1000 * 0.08
ROUNDS = 3
SIDE = 16  # a slice of 128 x 128 through the default U-Net: 128 channels at 1/8


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    width, half = 128 * SIDE * SIDE, MOST_POINTS // 2
    centres = torch.randn(12, width, generator=rng)
    source, target = (
        centres[torch.randint(12, (half,), generator=rng)] + torch.randn(half, width, generator=rng) for _ in range(2)
    )
    target += 0.5
    later = [
        part + 0.1 * torch.randn(half, width, generator=rng) for part in (source, target)
    ]  # the network has moved on
    none, kept = torch.empty(0, 0), []

    def cold() -> None:
        kept.append(cluster(source, target, 12, seed=0, others=none))

    cluster(source[:50], target[:50], 12, seed=0, others=none)  # imports
    shares = [seconds(cold) / EPOCH for _ in range(ROUNDS)]
    told("aiva_clustering_cold", shares, 0.04)
    last: Clusters = kept[-1]
    shares = [seconds(lambda: cluster(*later, 12, seed=0, others=none, last=last)) / EPOCH for _ in range(ROUNDS)]
    told("aiva_clustering_warm", shares, 0.02)
    encoder = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}}}}).eval().encoder
    image = torch.rand(16, 1, 8 * SIDE, 8 * SIDE, generator=rng)
    with torch.no_grad():
        encoder(image)
        spent = [seconds(lambda: encoder(image)) for _ in range(ROUNDS)]
    keep(
        "aiva_feature_pass",
        {"images_a_second": round(16 / statistics.median(spent), 1), "rounds": ROUNDS, "limit": None},
    )


def told(name: str, shares: list[float], limit: float) -> None:
    """Shares of an epoch, kept beside what was promised."""
    median, low, high = (round(one, 4) for one in (statistics.median(shares), min(shares), max(shares)))
    keep(name, {"share_of_an_epoch": median, "lowest": low, "highest": high, "limit": limit, "rounds": ROUNDS})


if __name__ == "__main__":
    main()
