"""Noise of a sampler, keyed by what is in an image: the same image has the same answer, whatever
its name or its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from allograft.seeds import Seeds


def content_noise(image: Tensor, shape: Sequence[int], *path: str | int) -> Tensor:
    """Standard normal noise for each image of a batch, on its device.

    Args:
        image: (B, C, *spatial); its values name the draw, all of them.
        shape: of the noise of one image.
        path: further names, such as the number of the sample.

    Returns:
        (B, *shape) float32.

    Example:
        >>> image = torch.rand(2, 1, 4, 4)
        >>> bool((content_noise(image, (3,))[1:] == content_noise(image[1:], (3,))).all())
        True
    """
    drawn = []
    for single in image.detach().cpu().float():
        name = hashlib.blake2b(single.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        drawn.append(torch.randn(tuple(shape), generator=Seeds(0, ("noise", name)).rng(*path)))
    return torch.stack(drawn).to(image.device)
