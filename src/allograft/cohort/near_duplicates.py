"""Which images are the same picture: a hash of decoded pixels, a perceptual hash that proposes, a
correlation that disposes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from allograft.cohort.picture import Picture

SIDE, SHIFT = 64, 3
"""Pixels of a thumbnail's side, and by how many of them two thumbnails may be moved against each
other."""
DISTANCE = 12
"""Bits of 64 in which two perceptual hashes may differ to be compared at all: generous, the
correlation decides."""
# what a shift lifts above 0.95 correlates at least so much unmoved: 0.85 on real cohorts, 0.80 on
# smooth noise
_UNMOVED = 0.75
# by how much less two thumbnails of half the side may correlate than whole ones: odd shifts fall
# between their pixels
_COARSE = 0.06
_BLOCK = 2048
# images a side of a block that is correlated as a whole, and the share of its pairs from which on
# that is sooner than pair by pair
_SQUARE, _DENSE = 256, 1 / 32


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image to find its near_duplicate_pairs.

    Args:
        pixels: 24 hex digits of its decoded pixels; the same for a grey image, its RGB copy and any
            lossless file format.
        thumbnail: (SIDE, SIDE) float32, mean 0 and norm 1; zeros for a constant image; None for a
            volume.
    """

    pixels: str
    thumbnail: np.ndarray | None


def fingerprint(picture: Picture) -> Fingerprint:
    """Hash and thumbnail of one image.

    >>> ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    >>> fingerprint(Picture(ramp, None)).pixels == fingerprint(Picture(np.repeat(ramp, 3, 0), None)).pixels
    True
    """
    array = picture.array
    if len(array) > 1 and all(np.array_equal(channel, array[0]) for channel in array[1:]):
        array = array[:1]
    flat = array.ndim == 3
    return Fingerprint(_pixel_hash(array), standardised(thumbnail(array)) if flat else None)


def thumbnail(array: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(C, H, W) -> (side, side) float32: the mean of the channels, each new pixel the mean of those
    it covers."""
    from PIL import Image

    # colour of eight bits shrinks as it is, many times faster
    if array.dtype == np.uint8 and len(array) == 3:
        colour = Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, -1)))
        return np.asarray(colour.resize((side, side), Image.Resampling.BOX), np.float32).mean(-1)
    grey = array[0].astype(np.float32) if len(array) == 1 else array.mean(0, dtype=np.float32)
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BOX), np.float32)


def standardised(values: np.ndarray) -> np.ndarray:
    """(..., H, W) -> mean 0 and norm 1 over the last two axes; zeros where they are constant."""
    centred = values.astype(np.float32) - values.mean((-2, -1), keepdims=True, dtype=np.float32)
    norm = np.linalg.norm(centred, axis=(-2, -1), keepdims=True)
    largest = np.abs(values).max((-2, -1), keepdims=True)
    return np.where(norm > 1e-5 * largest * values.shape[-1], centred / np.maximum(norm, 1e-30), 0).astype(np.float32)


def perceptual_hash(thumbnails: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE) -> (N,) uint64: which of the 8 x 8 lowest cosine coefficients lie above their
    median.

    >>> noise = np.random.default_rng(0).normal(size=(1, SIDE, SIDE))
    >>> bool(perceptual_hash(noise) == perceptual_hash(3 * noise + 1))
    True
    """
    basis = _cosines()
    low = np.einsum("ui,nij,vj->nuv", basis, thumbnails, basis, optimize=True).reshape(len(thumbnails), 64)
    low[:, 0] = 0  # the mean, which says nothing
    bits = low > np.median(low, 1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def propose(hashes: np.ndarray, distance: int = DISTANCE) -> Iterator[np.ndarray]:
    """Pairs (K, 2) of indices whose hashes differ in at most ``distance`` bits, block by block.

    A popcount costs a nanosecond: 20,000 images are compared with each other in about a second.

    >>> [pairs.tolist() for pairs in propose(np.array([0b0, 0b11, 2**40 - 1], np.uint64), 2)]
    [[[0, 1]]]
    """
    for start in range(0, len(hashes), _BLOCK):
        rows = hashes[start : start + _BLOCK]
        for other in range(start, len(hashes), _BLOCK):
            apart = np.bitwise_count(rows[:, None] ^ hashes[None, other : other + _BLOCK])
            first, second = np.nonzero(apart <= distance)
            pairs = np.stack([first + start, second + other], 1)[first + start < second + other]
            if len(pairs):
                yield pairs


def correlate(
    first: np.ndarray, second: np.ndarray, shift: int = SHIFT, spread: np.ndarray | None = None
) -> np.ndarray:
    """Highest correlation of two thumbnails over all shifts of up to ``shift`` pixels: (N, S, S)
    twice, of norm 1 -> (N,).

    The inner part of ``second`` is moved over ``first``; flips are not tried, a left lung is no
    copy of a right one. ``spread``: ``window_spread(first, shift)``, for one who has it already.

    >>> wave = np.sin(np.add.outer(np.arange(66) ** 1.5, np.arange(66.0)))
    >>> bool(correlate(standardised(wave[None, :64, :64]), standardised(wave[None, 2:, 1:65])) > 0.999)
    True
    """
    size = first.shape[-1] - 2 * shift
    inner = slice(shift, shift + size)
    # its mean is 0, so that the window's mean need not be taken off
    template = standardised(second[:, inner, inner]) if shift else second
    spread = window_spread(first, shift) if spread is None else spread
    best = np.zeros(len(first), np.float32)
    for row in range(2 * shift + 1):
        for column in range(2 * shift + 1):
            window = first[:, row : row + size, column : column + size]
            np.maximum(best, np.einsum("nij,nij->n", template, window) / spread[:, row, column], out=best)
    return best


def window_spread(thumbnails: np.ndarray, shift: int) -> np.ndarray:
    """(N, S, S) -> (N, 2 shift + 1, 2 shift + 1): the norm of what lies under the moved window, its
    mean taken off.

    >>> window_spread(np.ones((1, 8, 8)), 1).max() < 0.001
    np.True_
    """
    size = thumbnails.shape[-1] - 2 * shift
    sums = []
    for values in (thumbnails, np.square(thumbnails)):
        table = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(1, dtype=np.float64).cumsum(2)
        sums.append(
            table[:, size:, size:] - table[:, size:, :-size] - table[:, :-size, size:] + table[:, :-size, :-size]
        )
    return np.asarray(np.sqrt(np.maximum(sums[1] - sums[0] ** 2 / size**2, 1e-8)), np.float32)


def correlate_pairs(
    thumbnails: np.ndarray, pairs: np.ndarray, shift: int = SHIFT, spread: np.ndarray | None = None
) -> np.ndarray:
    """``correlate`` of pairs (K, 2) of indices into thumbnails (N, S, S) -> (K,).

    A cohort of one kind, such as slices of brains, proposes nearly every pair. Where pairs are
    dense, a block of images is correlated with a block by matrix products, fifty times faster than
    pair by pair; the numbers differ by what a float32 sum rounds.
    """
    spread = window_spread_of(thumbnails, shift) if spread is None else spread
    result = np.zeros(len(pairs), np.float32)
    block = pairs // _SQUARE * _SQUARE
    _, of, counts = np.unique(block, axis=0, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    order = np.argsort(of.reshape(-1), kind="stable")
    for count, end in zip(counts, ends, strict=True):
        here = order[end - count : end]
        if count < _DENSE * _SQUARE**2:
            for start in range(0, count, 512):
                some = here[start : start + 512]
                first, second = pairs[some].T
                result[some] = correlate(thumbnails[first], thumbnails[second], shift, spread[first])
            continue
        (row, column), size = block[here[0]], _SQUARE
        square = _correlate_all(
            thumbnails[row : row + size], thumbnails[column : column + size], shift, spread[row : row + size]
        )
        result[here] = square[pairs[here, 0] - row, pairs[here, 1] - column]
    return result


def _correlate_all(first: np.ndarray, second: np.ndarray, shift: int, spread: np.ndarray) -> np.ndarray:
    """``correlate`` of each of N thumbnails with each of M -> (N, M)."""
    size = first.shape[-1] - 2 * shift
    inner = slice(shift, shift + size)
    templates = (standardised(second[:, inner, inner]) if shift else second).reshape(len(second), -1).T
    best = np.zeros((len(first), len(second)), np.float32)
    for row in range(2 * shift + 1):
        for column in range(2 * shift + 1):
            windows = first[:, row : row + size, column : column + size].reshape(len(first), -1)
            np.maximum(best, windows @ templates / spread[:, row, column, None], out=best)
    return best


def window_spread_of(thumbnails: np.ndarray, shift: int) -> np.ndarray:
    """``window_spread``, a few images at a time, which take less memory."""
    parts = [window_spread(thumbnails[at : at + 512], shift) for at in range(0, len(thumbnails), 512)]
    return np.concatenate(parts) if parts else window_spread(thumbnails, shift)


def near_duplicate_pairs(
    thumbnails: np.ndarray, groups: Sequence[str], floor: float
) -> Iterator[tuple[int, int, float]]:
    """(i, j, correlation) of all proposed pairs of different ``groups`` (subjects) whose
    correlation exceeds ``floor``."""
    if not len(thumbnails):
        return
    _, of = np.unique(np.asarray(groups), return_inverse=True)
    halves = standardised(thumbnails.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4)))
    shift = (SHIFT + 1) // 2
    spread_of_halves, spread = window_spread_of(halves, shift), window_spread_of(thumbnails, SHIFT)
    for proposed in propose(perceptual_hash(thumbnails)):
        pairs = proposed[of[proposed[:, 0]] != of[proposed[:, 1]]]
        pairs = pairs[correlate_pairs(halves, pairs, 0, np.ones((len(halves), 1, 1), np.float32)) > _UNMOVED]
        pairs = pairs[correlate_pairs(halves, pairs, shift, spread_of_halves) > floor - _COARSE]
        for (i, j), value in zip(pairs, correlate_pairs(thumbnails, pairs, SHIFT, spread), strict=True):
            if value > floor:
                yield int(i), int(j), float(value)


def without_common(thumbnails: np.ndarray, sites: Sequence[str]) -> np.ndarray:
    """What each image has beyond the mean of its site, where that has four images or more: a disc
    on black is no sign of a copy."""
    result = thumbnails.copy()
    names = np.asarray(sites)
    for site in set(sites):
        if (here := names == site).sum() >= 4:
            result[here] -= thumbnails[here].mean(0)
    return standardised(result) if len(result) else result


def _pixel_hash(array: np.ndarray) -> str:
    if array.dtype.kind == "f" and np.abs(array).max() < 2**24 and np.array_equal(array, np.rint(array)):
        array = array.astype(np.int32)  # whole numbers are the same image whatever type holds them
    if array.dtype.kind in "iu":
        kinds = (np.uint8, np.uint16, np.int32, np.int64)
        low, high = int(array.min()), int(array.max())
        array = array.astype(
            next((kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), array.dtype)
        )
    total = hashlib.blake2b(f"{array.dtype.name} {array.shape}".encode(), digest_size=12)
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@cache
def _cosines() -> np.ndarray:
    """(8, SIDE): the lowest rows of the orthonormal cosine transform."""
    from scipy.fft import dct

    return np.asarray(dct(np.eye(SIDE), axis=0, norm="ortho")[:8], np.float32)
