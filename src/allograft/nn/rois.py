"""Regions of interest: where a saliency map is high, what lies there, and how much each region
counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.errors import SpecError

Size = int | tuple[int, int]


def select_rois(saliency: Tensor, image_size: Size, crop_size: Size, count: int) -> Tensor:
    """Upper-left corners of the windows of an image in which a saliency map is highest, picked one
    after another.

    The map of each class is scaled to [0, 1], and the classes are summed. A window has
    ``round(crop * map / image)`` cells a side, at least one. The window with the largest mean is
    taken (the first in reading order among equals), its cells become 0, and so on (Yang et al.
    2023, section 2.1: "cropped where the responses are significant"; the greedy order is the
    released code's). Where we differ from that: a class whose map is constant adds nothing, where
    the released division by 0 gives nan; and no window is taken twice.

    Args:
        saliency: (N, C, h, w), any scale.
        image_size: (H, W) in pixels, or one number for both.
        crop_size: in pixels, likewise.
        count: K, windows an image.

    Returns:
        (N, K, 2) int64: (row, column) of the pixel at the upper left. A crop there may reach over
        the far edge where ``crop_size`` is no whole number of cells; ``crop`` moves it inside.

    Raises:
        SpecError: a crop larger than the image, or more windows than there are.

    Example:
        >>> select_rois(torch.tensor([[[[0.0, 1.0], [3.0, 2.0]]]]), 8, 4, 2)
        tensor([[[4, 0],
                 [4, 4]]])
    """
    image, size, cells = _pair(image_size), _pair(crop_size), saliency.shape[2:]
    if size[0] > image[0] or size[1] > image[1]:
        raise SpecError(f"select_rois: crops of {size} pixels from an image of {image}; expected crops no larger")
    window = [min(max(1, round(size[axis] * cells[axis] / image[axis])), cells[axis]) for axis in (0, 1)]
    rows, columns = cells[0] - window[0] + 1, cells[1] - window[1] + 1
    if not 1 <= count <= rows * columns:
        raise SpecError(
            f"select_rois: asks for {count} windows, a map of {cells[0]}x{cells[1]} has {rows * columns}; take fewer "
            "or smaller crops, or larger images"
        )
    low, high = saliency.amin((2, 3), keepdim=True), saliency.amax((2, 3), keepdim=True)
    total = ((saliency - low) / torch.where(high > low, high - low, 1.0)).sum(1).double()
    taken = torch.zeros(len(saliency), rows * columns, dtype=torch.bool, device=saliency.device)
    row_of, column_of = (torch.arange(number, device=saliency.device) for number in cells)
    corners = []
    for _ in range(count):
        means = F.avg_pool2d(total[:, None], window, 1).flatten(1).masked_fill(taken, -1.0)
        best = means.argmax(1)
        taken[torch.arange(len(best), device=best.device), best] = True
        corner = torch.stack([best // columns, best % columns], 1)
        corners.append(corner)
        inside = [
            (at >= corner[:, axis, None]) & (at < corner[:, axis, None] + window[axis])
            for axis, at in enumerate((row_of, column_of))
        ]
        total = total.masked_fill(inside[0][:, :, None] & inside[1][:, None], 0.0)
    scale = torch.tensor([image[0] / cells[0], image[1] / cells[1]], dtype=torch.float64)
    return (torch.stack(corners, 1).double() * scale.to(saliency.device)).round().long()


def crop(image: Tensor, corners: Tensor, size: Size) -> Tensor:
    """Cut windows out of images: (N, C, H, W), (N, K, 2) -> (N, K, C, h, w); a window that reaches
    over an edge is moved inside.

    The released code fills what is outside with the image's smallest value, and cuts the first
    channel alone.

    Example:
        >>> crop(torch.arange(9.0).view(1, 1, 3, 3), torch.tensor([[[1, 2]]]), 2)
        tensor([[[[[4., 5.],
                   [7., 8.]]]]])
    """
    height, width = _pair(size)
    row = corners[..., 0].clamp(0, image.shape[2] - height)[..., None] + torch.arange(height, device=image.device)
    column = corners[..., 1].clamp(0, image.shape[3] - width)[..., None] + torch.arange(width, device=image.device)
    image_index = torch.arange(len(image), device=image.device)[:, None, None, None]
    # two lists of indices apart from each other put their axes first: (N, K, h, w, C)
    return image[image_index, :, row[..., :, None], column[..., None, :]].movedim(-1, 2)


class GatedAttention(nn.Module):
    """The weighted mean of an image's regions: ``softmax_k(w . (tanh(V h_k) * sigmoid(U h_k)))``
    (Ilse et al. 2018, eq. 9).

    Args:
        channels: of a region's feature.
        hidden: rows of V and U; there are no biases.
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.tanh = nn.Linear(channels, hidden, bias=False)
        self.sigmoid = nn.Linear(channels, hidden, bias=False)
        self.weight = nn.Linear(hidden, 1, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, C) -> the fused feature (B, C), and the weights (B, K), which add up to 1."""
        scores = self.weight(self.tanh(features).tanh() * self.sigmoid(features).sigmoid())
        weights = scores.squeeze(-1).softmax(1)
        return (weights[..., None] * features).sum(1), weights


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
