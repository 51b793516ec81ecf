"""Training images under several stains, in colours: figures of recipes for stained tissue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.figure import Images
from allograft.networks import Network
from allograft.networks.stain_cnn import StainDecoder
from allograft.parts.adapted_images import middle_items
from allograft.parts.features import last
from allograft.parts.thumbnails import subject_of
from allograft.predictor import evaluation_mode

View = Callable[[Sequence[Batch]], Sequence[Tensor]]
"""Cases with B = 1, without labels -> as many images (1, 3, H, W)."""


def stained_images(title: str, cohorts: Sequence[Cohort], views: Mapping[str, View], white: float) -> Images:
    """A few training images as they are, and below each its views.

    Args:
        title: a sentence fragment.
        views: what it is called -> how it is made.
        white: the value of white.
    """
    items = middle_items([cohort.unlabelled() for cohort in cohorts])
    batches = [cohort.case(index) for cohort, index in items]
    images = [[batch.image for batch in batches], *(view(batches) for view in views.values())]
    rows = [[_colours(image, white) for image in row] for row in images]
    names = ["as it is", *views]
    return Images.from_arrays(title, rows, names=names, subjects=[list(map(subject_of, items))] * len(rows))


def restored_images(network: Network, decoder: StainDecoder, images: Sequence[Tensor]) -> list[Tensor]:
    """What a decoder makes of the encoder's last feature of each image (1, 3, H, W): as many (1, 3,
    H, W)."""
    together = [torch.cat(list(images))] if len({image.shape for image in images}) == 1 else images
    with evaluation_mode(network, decoder):
        made = [
            # twice, because it normalises by its batch, which needs more than one value
            decoder(last(network.encoder(torch.cat([each, each]))), each.shape[2:])[: len(each)]
            for each in together
        ]
    return [image[None] for batch in made for image in batch]


def _colours(image: Tensor, white: float) -> NDArray[np.uint8]:
    """(1, 3, H, W) -> (H, W, 3)."""
    levels: NDArray[np.uint8] = (image[0].float().cpu() / white * 255).round().clamp(0, 255).byte().numpy()
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
