"""Surface Dice by its definition, slow and plain: the reference of a test, and a peer of
``benchmarks/surface_dice.py``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from monai.metrics.utils import get_code_to_measure_table
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects


def surface_dice_by_definition(
    prediction: NDArray[np.bool_], target: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> float:
    """Surface Dice as Nikolov et al. 2018 define it: elements with an area, and a distance
    transform of each whole surface.

    The areas are those that the authors released, one for each kind of neighbourhood, as MONAI
    carries them; ours come from scikit-image's marching cubes.

    Args:
        prediction: (*spatial), 2-D or 3-D, not empty.
        target: (*spatial), not empty.
        spacing: voxel size in mm, one number per axis.
        tolerance: in mm.
    """
    (box,) = find_objects((prediction | target).astype(np.int8))
    areas = get_code_to_measure_table(tuple(spacing))[0].numpy().astype(np.float64)
    codes = [_neighbourhoods(np.pad(mask[box], 1)) for mask in (prediction, target)]
    surfaces = [(code > 0) & (code < len(areas) - 1) for code in codes]
    near = total = 0.0
    for own, other in ((0, 1), (1, 0)):
        distance = distance_transform_edt(~surfaces[other], sampling=spacing)[surfaces[own]]
        area = areas[codes[own][surfaces[own]]]
        near += float(area[distance <= tolerance].sum())
        total += float(area.sum())
    return near / total


def _neighbourhoods(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(*spatial) -> (*spatial - 1): which of the 2^D voxels around each inner corner are inside,
    the first as the highest bit."""
    code = np.zeros([size - 1 for size in mask.shape], dtype=np.uint8)
    for bit, corner in enumerate(itertools.product((1, 0), repeat=mask.ndim)):
        part = tuple(slice(first, size - 1 + first) for first, size in zip(corner, mask.shape, strict=True))
        code |= mask[part].astype(np.uint8) << np.uint8(bit)
    return code
