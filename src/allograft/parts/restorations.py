"""What restorations of distorted images are worth: how far their features lie from those of the
images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from allograft.batch import Batch, collate
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.errors import TrainingError
from allograft.metrics.frechet import frechet_distance
from allograft.networks import Network
from allograft.predictor import evaluation_mode
from allograft.seeds import Seeds

MOST = 256
"""Images that are measured, evenly over the pool."""


def frechet_by_start(
    pool: Sequence[Cohort],
    transform: Transform,
    restore: Callable[[Batch], Mapping[str, Tensor]],
    start: Network,
    context: Context,
    *networks: nn.Module,
) -> dict[str, float]:
    """``frechet_start_encoder``: the Fréchet distance of restored images to clean ones, between
    means over space of the last feature of the encoder that the study starts from.

    No Inception features: it is compared with other rows of the same start and seed, which have the
    same encoder, images and distortions, and with no other number. Random weights are an encoder
    too. Nothing is measured in a rehearsal.

    Args:
        transform: that makes a sample; drawn by the number of the image.
        restore: batch -> images (B, C, *spatial), of which ``restored`` and ``true`` are compared.
        networks: set to evaluation mode meanwhile, as the start is.
    """
    items = [(cohort, index) for cohort in pool for index in range(len(cohort))]
    items = items[:: -(-len(items) // MOST)]
    if context.rehearsal is not None or len(items) < 2:
        return {}

    def distances() -> dict[str, float]:
        rows: tuple[list[Tensor], list[Tensor]] = ([], [])
        with evaluation_mode(start, *networks):
            for number, (cohort, index) in enumerate(items):
                sample = transform(cohort.case(index), Seeds(0).rng("measured", number))
                images = restore(context.fabric.to_device(collate([sample])))
                for kept, name in zip(rows, ("restored", "true"), strict=True):
                    kept.append(start.encoder(images[name])[-1].flatten(2).mean(2).cpu())
        restored, true = (torch.cat(row) for row in rows)
        if not bool(torch.isfinite(restored).all()):
            raise TrainingError(
                "restored images are not finite after the training; lower the learning rate, or clip the gradients "
                "(clip: 1.0)"
            )
        return {"frechet_start_encoder": frechet_distance(restored, true)}

    return context.once("frechet", distances)
