"""AIVA's round, the features of 2,000 images and their clustering, against what an epoch of its
training takes: 125 steps, one pass over 1,000 source images in batches of 8, each with as many target
images, by the default U-Net on slices of 128 x 128.
"""

from __future__ import annotations

import statistics
import time

import torch
from ratio import keep, seconds

from allograft.batch import Batch
from allograft.methods.aiva import Aiva, AlignmentObjective
from allograft.networks import build
from allograft.parts.clustering import MOST_POINTS, Clusters, cluster
from allograft.parts.paired_batches import last_feature
from allograft.run.fabric import local_fabric
from allograft.step import GradientStep
from allograft.tasks.segmentation import Segmentation

BATCH, SIDE, CLUSTERS, ROUNDS = 8, 128, 12, 2
EPOCH = MOST_POINTS // 2 // BATCH
LIMIT = 0.5
"""Of the share that a round takes of an epoch."""


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}}}})
    images = torch.rand(2 * BATCH, 1, SIDE, SIDE, generator=rng)
    with torch.no_grad():
        width = last_feature(network.encoder(images)).shape[1]
    centres, half = torch.randn(CLUSTERS, width, generator=rng), MOST_POINTS // 2
    source, target = (
        centres[torch.randint(CLUSTERS, (half,), generator=rng)] + torch.randn(half, width, generator=rng)
        for _ in range(2)
    )
    target += 0.5
    made = cluster(source[:50], target[:50], CLUSTERS, seed=0)
    step, batch = stepper(network, images, made)

    def features() -> None:
        with torch.no_grad():
            network.encoder(images)

    step(batch), features()
    rounds: dict[str, list[float]] = {"clustering": [], "features": [], "epoch": []}
    for _ in range(ROUNDS):
        clock = time.process_time
        rounds["epoch"].append(EPOCH * statistics.median(seconds(lambda: step(batch), clock) for _ in range(5)))
        rounds["clustering"].append(seconds(lambda: cluster(source, target, CLUSTERS, seed=0), clock))
        passes = MOST_POINTS / len(images)
        rounds["features"].append(passes * statistics.median(seconds(features, clock) for _ in range(5)))
    shares = [(a + b) / c for a, b, c in zip(rounds["clustering"], rounds["features"], rounds["epoch"], strict=True)]
    spent = {f"{name}_seconds": round(statistics.median(values), 2) for name, values in rounds.items()}
    keep("aiva_clustering", {**spent, "steps_of_an_epoch": EPOCH}, share_of_an_epoch=(shares, LIMIT))


def stepper(network: torch.nn.Module, images: torch.Tensor, clusters: Clusters) -> tuple[GradientStep, Batch]:
    """A step of AIVA's training, and its batch: the source's images, then as many of the target."""
    names = tuple(str(number) for number in range(len(images)))
    mask = (torch.nn.functional.avg_pool2d(images, 9, 1, 4) > 0.5).long()
    batch = Batch(images, torch.zeros(len(images)).long(), names, {"mask": mask})
    objective = AlignmentObjective(
        Segmentation(("bright",)), Aiva(), clusters, {name: int(name) % CLUSTERS for name in names}
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    return GradientStep(network, objective, optimizer, local_fabric(accelerator="cpu")), batch


if __name__ == "__main__":
    main()
