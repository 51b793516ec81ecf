"""Seamless cloning: what lies in boxes, on a blurred image (Elbatel, Bornberg et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.errors import SpecError
from allograft.transforms.augmentation import Draw, apply
from allograft.transforms.boxes import move_boxes

KERNELS = {"weak": (21, 0.0), "strong": (71, 30.0)}
"""Side of the Gaussian kernel and its sigma (0: OpenCV's, 0.3 ((side - 1) / 2 - 1) + 0.8). The
paper's strong one, (12, 32), is even, which OpenCV refuses; this is the released code's."""


def clone_detections(image: np.ndarray, boxes: Tensor | np.ndarray, kernel: int, *, sigma: float = 30) -> np.ndarray:
    """The cells in their boxes, cloned seamlessly onto the blurred image (section 3.5 of the
    paper): what was not detected is blurred away. Gradients are mixed (Perez et al. 2003).

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) xyxy in pixels.
        kernel: side of the Gaussian kernel, odd.
        sigma: of the Gaussian in pixels; 0 = OpenCV's own for the kernel.

    Returns:
        (H, W, 3) uint8; the image itself where there is no box: nothing is cloned.

    Raises:
        SpecError: an even kernel, or no image of three channels of 8 bits.
    """
    import cv2

    if kernel < 1 or kernel % 2 == 0:
        raise SpecError(f"cloning: a Gaussian kernel of {kernel} pixels; expected an odd number")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise SpecError(f"cloning: an image of {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    height, width = image.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        rows = slice(max(int(np.floor(y0)), 0), max(int(np.ceil(y1)), 0))
        mask[rows, max(int(np.floor(x0)), 0) : max(int(np.ceil(x1)), 0)] = 255
    if not mask.any():
        return image.copy()
    edge = 2  # OpenCV solves inside the mask, which must not touch the border
    smooth = blurred(image, kernel, sigma)
    wide, background = (cv2.copyMakeBorder(each, *(edge,) * 4, cv2.BORDER_REPLICATE) for each in (image, smooth))
    inner = cv2.copyMakeBorder(mask, *(edge,) * 4, cv2.BORDER_CONSTANT, value=0)
    x, y, across, down = cv2.boundingRect(inner)
    cloned = cv2.seamlessClone(wide, background, inner, (x + across // 2, y + down // 2), cv2.MIXED_CLONE)
    return np.asarray(cloned[edge:-edge, edge:-edge])


def blurred(image: np.ndarray, kernel: int, sigma: float) -> np.ndarray:
    """(H, W, 3) uint8 -> the same, smoothed by a Gaussian of this kernel."""
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (kernel, kernel), sigma))


@dataclass(frozen=True)
class MixedBatch:
    """A training image: cloned onto its blurred self where it is a target's, then channel shuffle,
    blur, flips and shift-scale-rotate, each at random (section 4.1; ranges ours).

    Args:
        background: weak, strong or none.
        noisy: names of the target's cases.
        patch: size of a crop, or None.
    """

    background: str
    noisy: frozenset[str]
    patch: tuple[int, ...] | None = None

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1, C, H, W."""
        image = case.image[0]
        (boxes,) = case.labels["boxes"]
        if self.background != "none" and case.cases[0] in self.noisy and isinstance(boxes, Boxes):
            image = cloned(image, boxes, self.background)
        gates, values = torch.rand(2, 8, generator=rng, dtype=torch.float64).tolist()
        order = torch.randperm(len(image), generator=rng)
        image = image[order] if gates[0] < 0.5 else image
        moves = gates[1] < 0.5
        draw = Draw(
            angles=(90 * values[1] - 45,) if moves else (),
            log_scale=math.log(0.9 + 0.2 * values[2]) if moves else 0.0,
            flips=(gates[3] < 0.5, gates[4] < 0.5),
            blur_sigma=0.5 + values[5] if gates[5] < 0.5 else 0.0,
        )
        size = tuple(image.shape[1:])
        wanted = self.patch or size
        centre = self._centre(size, values[6:], shifted=moves)
        made, _ = apply(image, {}, draw, rng, size=wanted, centre=centre)
        if isinstance(boxes, Boxes):
            boxes = move_boxes(boxes, draw, size, size=wanted, centre=centre)
        return replace(case, image=made[None], labels={**case.labels, "boxes": (boxes,)}, region=None)

    def _centre(self, size: tuple[int, ...], draws: list[float], *, shifted: bool) -> tuple[float, ...]:
        """Of the crop: anywhere inside; of a whole image up to a sixteenth of a side away."""
        if self.patch is not None:
            room = [max(0, length - side) / 2 for length, side in zip(size, self.patch, strict=True)]
        else:
            room = [length / 16 if shifted else 0.0 for length in size]
        middle = ((length - 1) / 2 for length in size)
        return tuple(at + (2 * draw - 1) * far for at, draw, far in zip(middle, draws, room, strict=True))


def cloned(image: Tensor, boxes: Boxes, background: str) -> Tensor:
    """``clone_detections`` of an image (C, H, W) of any range; without a box all of it is blurred,
    since nothing in it is known. ``SpecError`` for other than one or three channels."""
    if len(image) not in (1, 3):
        raise SpecError(
            f"cloning: an image of {len(image)} channels; expected 1 or 3, set preprocessing: {{channels: 1}} or "
            "background: none"
        )
    low, high = image.min(), image.max()
    width = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
    grey = len(image) != 3
    bytes_ = ((image[:1].repeat(3, 1, 1) if grey else image) - low).div(width).mul(255).round().byte()
    array = bytes_.permute(1, 2, 0).contiguous().numpy()
    kernel, sigma = KERNELS[background]
    if len(boxes):
        made = clone_detections(array, boxes.xyxy, kernel, sigma=sigma)
    else:
        made = blurred(array, kernel, sigma)
    back = torch.from_numpy(made).permute(2, 0, 1).to(image.dtype) / 255 * width + low
    return back[: len(image)] if grey else back
