"""What a restored image is worth as a mask: both images are cut at one threshold, and the masks are
compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from allograft.errors import SpecError
from allograft.metrics.segmentation import dice, hausdorff95, surface_distances


def hausdorff(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor) -> float:
    """The full Hausdorff distance in mm: the largest distance from a surface voxel of either mask
    to the surface of the other.

    Args:
        prediction: (*spatial) bool.
        target: (*spatial) bool, the same shape.
        spacing: voxel size in mm, one positive number per axis.

    Returns:
        The distance; nan when either mask is empty.

    Raises:
        SpecError: as ``metrics.segmentation.surface_distances``.

    Example:
        >>> import torch
        >>> hausdorff(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]), (1.0, 0.5))
        1.0
    """
    there, back = surface_distances(prediction, target, spacing)
    return float(max(there.max(), back.max())) if len(there) and len(back) else float("nan")


def otsu_threshold(image: Tensor) -> float:
    """The threshold that parts the values of an image into two groups of least variance (Otsu
    1979).

    Args:
        image: (*spatial); values above the threshold are the mask.

    Example:
        >>> import torch
        >>> 0 < otsu_threshold(torch.tensor([0.0, 1.0, 9.0, 10.0])) < 9
        True
    """
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(image.detach().cpu().double().numpy()))


def restoration_metrics(restored: Tensor, image: Tensor, spacing: Sequence[float] | None = None) -> dict[str, float]:
    """Dice and Hausdorff distances of the masks of an image and its restoration.

    The threshold is Otsu's of the true image, of the mean over channels, and cuts both. Mamalakis
    et al. 2024 report a Hausdorff distance and a Dice of restorations (fig. 2) and name no
    threshold.

    Args:
        restored: (C, *spatial).
        image: the same shape, the truth.
        spacing: voxel size in mm; None = distances in pixels.

    Returns:
        ``dice``, ``hausdorff`` and ``hd95``; nan where a mask is empty.

    Raises:
        SpecError: shapes that differ.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> restoration_metrics(image, image)
        {'dice': 1.0, 'hausdorff': 0.0, 'hd95': 0.0}
    """
    if restored.shape != image.shape:
        raise SpecError(
            f"the restored image has shape {tuple(restored.shape)}, the true one {tuple(image.shape)}; bring them to "
            "one grid"
        )
    truth, made = image.double().mean(0), restored.double().mean(0)
    threshold = otsu_threshold(truth)
    masks = made > threshold, truth > threshold
    size = tuple(np.ones(truth.ndim)) if spacing is None else tuple(spacing)
    return {"dice": dice(*masks), "hausdorff": hausdorff(*masks, size), "hd95": hausdorff95(*masks, size)}
