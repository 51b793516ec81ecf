"""What a predictor is, and the plain one: a network's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.batch import Batch, Boxes
from allograft.cohort.boxes import inside
from allograft.errors import ModelError
from allograft.networks import AnyNetwork

Prediction = Mapping[str, Tensor | tuple[Boxes | None, ...] | tuple[str, ...]]
"""Keyed like labels, for B images:

"mask", "label": (B, K, *spatial) or (B, K) logits; log-probabilities are logits too. "paired": (B,
C, *spatial). "boxes": B ``Boxes``. "score": (B,) float, how sure or how far from the training data,
in the method's own scale. "spread": (B,) float, how much several samples of a prediction differ.
"chosen": (B,) int64, which of several models answered. "neighbours": B texts, the training cases
that an answer was made of. "warnings": B texts, "" for none.
"""


class Predictor(Protocol):
    """A frozen dataclass whose fields are JSON values, tensors, networks or predictors; so one save
    and one load do for all."""

    def __call__(self, batch: Batch) -> Prediction:
        """A prediction for ``batch.unlabelled()`` that does not depend on which cases stand beside
        each other."""


class Padded(Protocol):
    """A network, or what stands for one: images -> outputs, and the number that their sides must be
    a multiple of."""

    @property
    def multiple(self) -> int:
        """Of every side of an image."""

    def __call__(self, image: Tensor, /) -> Mapping[str, Tensor]:
        """(B, C, *spatial) -> outputs."""


@dataclass(frozen=True)
class Direct:
    """The network's own output; images are padded to the multiple it needs, outputs cropped
    back."""

    network: AnyNetwork

    def __call__(self, batch: Batch) -> Prediction:
        with evaluation_mode(self.network):
            return padded(self.network, batch.image)


@dataclass(frozen=True)
class Weights:
    """A network that other recipes build on, and that answers nothing: what a pre-training leaves.
    ``start:`` takes its folder."""

    network: AnyNetwork

    def __call__(self, batch: Batch) -> Prediction:
        raise ModelError(
            "holds pre-trained weights only, which predict nothing; start a study from this folder: start: FOLDER"
        )


def padded(network: Padded, image: Tensor) -> dict[str, Tensor]:
    """Run a network on an image of any size.

    Args:
        image: (B, C, *spatial); padded at the far end of each axis by its border values.

    Returns:
        Outputs; those with the padded spatial size are cropped to the image's own.
    """
    sizes = image.shape[2:]
    whole = padded_image(image, network.multiple)
    if whole is image:
        return dict(network(image))
    cut: tuple[EllipsisType | slice[int, int, int | None], ...] = (..., *(slice(0, size) for size in sizes))
    return {
        key: (value[cut] if value.shape[2:] == whole.shape[2:] else value)
        if isinstance(value, Tensor)
        else tuple(inside(boxes, sizes) for boxes in value)
        for key, value in network(whole).items()
    }


def padded_image(image: Tensor, multiple: int) -> Tensor:
    """(B, C, *spatial) with sides that are multiples of ``multiple``, padded at the far end of each
    axis by its border values; the image itself where they are already.

    >>> padded_image(torch.tensor([[[1.0, 2.0, 3.0]]]), 2)
    tensor([[[1., 2., 3., 3.]]])
    """
    missing = [-size % multiple for size in image.shape[2:]]
    if not any(missing):
        return image
    return F.pad(image, [amount for gap in reversed(missing) for amount in (0, gap)], mode="replicate")


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for each in modules for module in each.modules()]
    for each in modules:
        each.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
