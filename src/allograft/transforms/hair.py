"""Dark hairs on a photograph of skin: where they are, and the photograph without them (Bevan and
Atapour-Abarghouei 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import SpecError


def remove_hair(rgb: Any, *, size: int = 17, threshold: int = 10, radius: float = 1) -> Any:
    """Paint over dark hairs: black-hat of the grey image above a threshold, in-painted by Telea's
    method.

    The paper names black-hat morphology only; the structuring element (a cross of 17 pixels), the
    threshold (more than 10 of 255) and the in-painting radius (1 pixel) are those of its released
    code.

    Args:
        rgb: (H, W, 3) uint8, an array or a tensor.
        size: side of the cross in pixels.
        threshold: grey levels by which a hair is darker than its closing.
        radius: of the neighbourhood that fills a pixel, in pixels.

    Returns:
        (H, W, 3) uint8 of the kind given, a new image.

    Raises:
        SpecError: not (H, W, 3) uint8.

    Example:
        >>> skin = np.full((40, 40, 3), 180, dtype=np.uint8)
        >>> skin[:, 20] = 20
        >>> int(remove_hair(skin).min())
        180
    """
    import cv2

    image = as_colours(rgb)
    painted = np.asarray(
        cv2.inpaint(image, hair_of(image, size, threshold).astype(np.uint8) * 255, radius, cv2.INPAINT_TELEA)
    )
    return torch.from_numpy(painted) if isinstance(rgb, Tensor) else painted


def hair_of(image: NDArray[np.uint8], size: int = 17, threshold: int = 10) -> NDArray[np.bool_]:
    """The pixels of hairs, (H, W); arguments as of ``remove_hair``."""
    import cv2

    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (size, size))
    return np.asarray(cv2.morphologyEx(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.MORPH_BLACKHAT, cross) > threshold)


def as_colours(rgb: Any) -> NDArray[np.uint8]:
    """An array or tensor as an array, (H, W, 3) uint8.

    Raises:
        SpecError: not that.
    """
    image = rgb.cpu().numpy() if isinstance(rgb, Tensor) else np.asarray(rgb)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise SpecError(
            f"image is {image.dtype} of shape {image.shape}; expected colours, (H, W, 3) uint8; a grey image has no "
            "skin tone"
        )
    return np.ascontiguousarray(image)
