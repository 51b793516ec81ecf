"""Ranking one slice against 500 donors with kept maps, against piq's srsim pair by pair; same
order."""

from __future__ import annotations

import statistics
import warnings

import piq
import torch
from ratio import keep, seconds

from allograft.metrics.similarity import SrsimReference

DONORS, PAIRS, ROUNDS = 500, 20, 5


def main() -> None:
    warnings.filterwarnings("ignore")
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(DONORS + 1, 1, 272, 272, generator=rng)
    images = torch.nn.functional.avg_pool2d(noise, 17, stride=1).sub(0.4).mul(5).clamp(0, 1)
    image, donors = images[:1], images[1:]
    reference = SrsimReference.of(donors)

    def theirs() -> list[float]:
        return [float(piq.srsim(image, donors[i : i + 1])) for i in range(PAIRS)]

    order = reference.scores(image)[:PAIRS].argsort()
    assert torch.equal(order, torch.tensor(theirs()).argsort()), "the order is not piq's"
    shares = [seconds(lambda: reference.ranked(image)) / (seconds(theirs) * DONORS / PAIRS) for _ in range(ROUNDS)]
    keep("srsim_rank_500", {"times_faster": round(1 / statistics.median(shares), 1)}, ratio=(shares, 0.02))


if __name__ == "__main__":
    main()
