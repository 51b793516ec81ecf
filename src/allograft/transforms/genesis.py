"""The four distortions of Models Genesis: local pixel shuffling, an intensity curve, inner and
outer cut-outs, in 2-D and 3-D (Zhou et al. 2021, Medical Image Analysis 67:101840)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from allograft.errors import SpecError
from allograft.transforms.blocks import Windows, permutations, pixels_of

BLOCKS = {2: 40, 3: 10_000}
"""How many blocks are shuffled: POPAR's in 2-D, Models Genesis' in 3-D."""
KNOTS = 500
"""Points at which an intensity curve is evaluated."""


@dataclass(frozen=True)
class Shuffle:
    """What ``shuffle_pixels`` draws.

    Args:
        blocks: N windows; where they overlap, the later one stays.
        order: the permutations of all blocks one after another; entry i of a block says which of
            its pixels, counted in row-major order, comes to place i. A permutation of a block's
            pixels moves each channel alike; one of C times as many mixes the channels.
    """

    blocks: Windows
    order: Tensor


def draw_shuffle(
    shape: Sequence[int], rng: Generator, *, count: int | None = None, channels: int = 1, share: int = 10
) -> Shuffle:
    """Blocks with sides uniform in 1 .. side // ``share``, anywhere inside the image.

    Args:
        shape: the spatial shape.
        count: of blocks; None = 40 in 2-D, 10000 in 3-D.
        channels: more than 1 = pixels may change their channel, as in POPAR's released code.
        share: the largest block is this part of the image along each axis; at least 1 pixel.
    """
    longest = torch.tensor([max(1, side // share) for side in shape])
    count = BLOCKS[len(shape)] if count is None else count
    size = _uniform(torch.ones_like(longest), longest, rng, count)
    start = _uniform(torch.zeros_like(longest), torch.tensor(shape) - size, rng, count)
    length = channels * size.prod(1).numpy()
    chances = torch.rand(int(length.sum()), generator=rng, dtype=torch.float64).numpy()
    return Shuffle(Windows(start, size), torch.from_numpy(permutations(chances, length)))


def shuffle_pixels(image: Tensor, rng: Generator | None = None, *, drawn: Shuffle | None = None) -> Tensor:
    """Permute the pixels inside small blocks: texture is lost, layout stays.

    Every block is read from the image as it was, and written in turn, so a later block overwrites
    an earlier one. All blocks are one gather.

    Args:
        image: (C, *spatial), 2-D or 3-D.
        rng: draws the blocks, by ``draw_shuffle``, when ``drawn`` is None.
        drawn: blocks and permutations.

    Returns:
        (C, *spatial), a new tensor.

    Example:
        >>> image = torch.arange(6.0).view(1, 2, 3)
        >>> block = Windows(torch.tensor([[0, 0]]), torch.tensor([[1, 3]]))
        >>> shuffle_pixels(image, drawn=Shuffle(block, torch.tensor([2, 0, 1]))).tolist()
        [[[2.0, 0.0, 1.0], [3.0, 4.0, 5.0]]]
    """
    shape = tuple(image.shape[1:])
    drawn = draw_shuffle(shape, _given(rng)) if drawn is None else drawn
    voxels, channels = math.prod(shape), len(image)
    if not (count := int(drawn.blocks.size.prod(1).sum())) or len(drawn.order) not in (count, channels * count):
        raise SpecError(
            f"shuffle_pixels: found {len(drawn.order)} entries of order for blocks of {count} pixels in "
            f"{channels} channels; expected {count}, or {channels * count} to mix the channels"
        )
    mixed = channels if len(drawn.order) != count else 1
    goal, before = pixels_of(drawn.blocks, shape, mixed)
    taken = np.arange(mixed * voxels)
    taken[goal] = goal[drawn.order.numpy() + before]  # of repeated places the last one counts
    flat = image.reshape(-1) if mixed > 1 else image.reshape(channels, -1)
    return flat.index_select(-1, torch.from_numpy(taken).to(image.device)).reshape(image.shape)


def draw_curve(rng: Generator) -> tuple[Tensor, bool]:
    """The two inner control points (2, 2) of a Bezier curve, uniform in [0, 1], and whether the
    curve falls (one half of the time)."""
    values = torch.rand(5, generator=rng, dtype=torch.float64)
    return values[:4].view(2, 2), bool(values[4] < 0.5)


def bezier_curve(points: Tensor, *, falls: bool = False, knots: int = KNOTS) -> tuple[Tensor, Tensor]:
    """The cubic curve from (0, 0) over two control points to (1, 1), as a function of x: knots x,
    rising, and y.

    The y of a rising curve are sorted apart from the x, so it is monotonous whatever the control
    points. A falling curve pairs the sorted x with the y in the order of the curve from (1, 1) to
    (0, 0), as the released codes do: it maps 0 to 1 and 1 to 0, and need not be monotonous.

    Args:
        points: (2, 2); each row an (x, y) in [0, 1].

    Example:
        >>> x, y = bezier_curve(torch.tensor([[0.25, 0.75], [0.75, 0.25]]), falls=True)
        >>> x[[0, -1]].tolist(), y[[0, -1]].tolist()
        ([0.0, 1.0], [1.0, 0.0])
    """
    ends = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    corners = torch.stack([ends[0], *points.double(), ends[1]])
    t = torch.linspace(1, 0, knots, dtype=torch.float64)[:, None]  # from (1, 1) to (0, 0)
    weights = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    x, y = (weights @ corners).unbind(1)
    return x.sort().values, y if falls else y.sort().values


def remap_intensity(
    image: Tensor,
    rng: Generator | None = None,
    *,
    points: Tensor | None = None,
    falls: bool = False,
    table: int | None = None,
) -> Tensor:
    """Send intensities through a Bezier curve (non-linear transformation).

    Args:
        image: any shape, in [0, 1]; values outside are clamped.
        rng: draws the curve, by ``draw_curve``, when ``points`` is None.
        points, falls: of ``bezier_curve``.
        table: None interpolates between the curve's knots in float64. A number looks the result up
            in a table of so many equal steps instead, linear between them, which is faster; with
            4096 steps the error is below 0.01 for 300 drawn curves, at their steep ends, and below
            1e-5 in the mean.

    Returns:
        The image's shape and dtype, a new tensor.
    """
    if points is None:
        points, falls = draw_curve(_given(rng))
    x, y = bezier_curve(points, falls=falls)
    if table is None:
        values = np.interp(image.detach().cpu().double().numpy(), x.numpy(), y.numpy())
        return torch.as_tensor(values, dtype=image.dtype, device=image.device)
    steps = torch.from_numpy(np.interp(np.linspace(0, 1, table + 1), x.numpy(), y.numpy())).to(image)
    rise = torch.cat([steps.diff(), steps.new_zeros(1)])
    position = image.clamp(0, 1).flatten().mul_(table)
    step = position.to(torch.int32)
    rest = position.sub_(step)
    # several times faster than steps[step]
    return torch.addcmul(steps.index_select(0, step), rise.index_select(0, step), rest).view_as(image)


def draw_inner(shape: Sequence[int], rng: Generator, *, most: int = 5, gate: float = 0.95) -> Windows:
    """Up to ``most`` windows, each after the other by chance ``gate``, with sides of a sixth to a
    third of the image, at least 3 pixels from its border where there is room."""
    lengths = torch.tensor(shape)
    opened = torch.rand(most, generator=rng, dtype=torch.float64) < gate
    size = _uniform((lengths // 6).clamp_min(1), (lengths // 3).clamp_min(1), rng, most)
    return _kept(_placed(size, lengths, rng), int(opened.long().cumprod(0).sum()))


def draw_outer(shape: Sequence[int], rng: Generator, *, most: int = 5, gate: float = 0.95) -> Windows:
    """One window that is kept, and up to ``most`` - 1 more, with sides of about 3/7 to 4/7 of the
    image."""
    lengths = torch.tensor(shape)
    opened = torch.rand(most - 1, generator=rng, dtype=torch.float64) < gate
    size = lengths - _uniform(3 * lengths // 7, 4 * lengths // 7, rng, most)
    return _kept(_placed(size, lengths, rng), 1 + int(opened.long().cumprod(0).sum()))


def paint_in(
    image: Tensor, rng: Generator | None = None, *, windows: Windows | None = None, noise: Tensor | None = None
) -> Tensor:
    """Fill inner windows with noise (inner cut-out): in-painting is to bring them back.

    Args:
        image: (C, *spatial).
        rng: draws what is not given.
        windows: that are filled; ``draw_inner``.
        noise: (1, *spatial), the same for each channel, or (C, *spatial); uniform in [0, 1].

    Returns:
        (C, *spatial), a new tensor.
    """
    shape = image.shape[1:]
    windows = draw_inner(shape, _given(rng)) if windows is None else windows
    noise = torch.rand(1, *shape, generator=_given(rng)) if noise is None else noise
    return torch.where(windows.inside(shape).to(image.device), noise.to(image), image)


def paint_out(
    image: Tensor, rng: Generator | None = None, *, windows: Windows | None = None, noise: Tensor | None = None
) -> Tensor:
    """Keep a few large windows and fill all else with noise (outer cut-out).

    Args:
        image: (C, *spatial).
        rng: draws what is not given.
        windows: that are kept; ``draw_outer``.
        noise: (C, *spatial), uniform in [0, 1].

    Returns:
        (C, *spatial), a new tensor.
    """
    shape = image.shape[1:]
    windows = draw_outer(shape, _given(rng)) if windows is None else windows
    noise = torch.rand(image.shape, generator=_given(rng)) if noise is None else noise
    return torch.where(windows.inside(shape).to(image.device), image, noise.to(image))


@dataclass(frozen=True)
class Genesis:
    """A random mix of the four, in this order, on the image's own range; the defaults are Models
    Genesis'.

    Args:
        shuffle, remap, paint: the chance of each.
        inside: the chance that painting is inner; else it is outer.
        blocks: of ``draw_shuffle``; None = its default.
        mix_channels: whether shuffled pixels may change their channel, as in POPAR's released code.

    Example:
        >>> image = torch.rand(1, 32, 32)
        >>> bool((Genesis(0, 0, 0)(image, torch.Generator()) == image).all())
        True
    """

    shuffle: float = 0.5
    remap: float = 0.9
    paint: float = 0.9
    inside: float = 0.2
    blocks: int | None = None
    mix_channels: bool = False

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """(C, *spatial) of any range -> the same shape and range; a constant image stays as it
        is."""
        low, high = image.aminmax()
        gates = torch.rand(4, generator=rng, dtype=torch.float64).tolist()
        opened = [gate < chance for gate, chance in zip(gates, (self.shuffle, self.remap, self.paint), strict=False)]
        if low == high or not any(opened):
            return image.clone()
        image = (image - low).div_(high - low)
        if opened[0]:
            channels = len(image) if self.mix_channels else 1
            drawn = draw_shuffle(image.shape[1:], rng, count=self.blocks, channels=channels)
            image = shuffle_pixels(image, drawn=drawn)
        if opened[1]:
            image = remap_intensity(image, rng, table=4096)
        if opened[2]:
            image = paint_in(image, rng) if gates[3] < self.inside else paint_out(image, rng)
        return image.mul_(high - low).add_(low)


def _placed(size: Tensor, lengths: Tensor, rng: Generator) -> Windows:
    """Somewhere in the image, 3 pixels from its border where there is room."""
    margin = ((lengths - size) // 2).clamp(max=3)
    return Windows(_uniform(margin, lengths - size - margin, rng, len(size)), size)


def _kept(windows: Windows, count: int) -> Windows:
    return Windows(windows.start[:count], windows.size[:count])


def _uniform(low: Tensor, high: Tensor, rng: Generator, count: int) -> Tensor:
    """(count, D) int64, uniform in [low, high], ends included; the bounds are (D,) or (count,
    D)."""
    share = torch.rand(count, low.shape[-1], generator=rng, dtype=torch.float64)
    return low + (share * (high - low + 1)).long()


def _given(rng: Generator | None) -> Generator:
    if rng is None:
        raise SpecError("transforms.genesis: neither a generator nor all draws were given; pass rng=, or the draws")
    return rng
