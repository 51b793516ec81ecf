"""What a module computes of images: all images once in order, and outputs caught on the way."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from allograft.cohort import Cohort


def images_in_order(cohorts: Iterable[Cohort], batch_size: int) -> Iterator[Tensor]:
    """All images once, in order, (B, C, *spatial); images of one size that follow each other share
    a batch."""
    waiting: list[Tensor] = []
    for cohort in cohorts:
        hidden = cohort.unlabelled()
        for index in range(len(hidden)):
            image = hidden.case(index).image
            if waiting and (len(waiting) == batch_size or waiting[0].shape != image.shape):
                yield torch.cat(waiting)
                waiting = []
            waiting.append(image)
    if waiting:
        yield torch.cat(waiting)


@contextmanager
def captured(module: nn.Module) -> Generator[list[Any], None, None]:
    """Inside, what the module returns is kept in the list too, so that one forward pass serves two
    losses."""
    kept: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


def last(features: Tensor | Sequence[Tensor]) -> Tensor:
    """The encoder's last feature, (B, C, h, w)."""
    return features if isinstance(features, Tensor) else features[-1]
