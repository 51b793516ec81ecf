"""The leakage gate where every pair of images looks alike, as slices of brains do: 100 thumbnails,
all 4,950 pairs proposed, against the same pair by pair."""

from __future__ import annotations

import numpy as np
from ratio import compare
from scipy.ndimage import gaussian_filter

from allograft.cohort import near_duplicates
from allograft.cohort.near_duplicates import SIDE, near_duplicate_pairs, standardised

IMAGES, FLOOR, LIMIT = 100, 0.95, 0.2


def main() -> None:
    rng = np.random.default_rng(0)
    common = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 6)
    own = np.stack([gaussian_filter(rng.normal(size=(SIDE, SIDE)), 3) for _ in range(IMAGES)])
    images = standardised(common / common.std() + 0.15 * own / own.std())
    images[-1] = standardised((images[0] + 0.001 * own[1])[None])[0]
    names, dense = [str(number) for number in range(IMAGES)], near_duplicates._DENSE

    def by_blocks() -> list[tuple[int, int, float]]:
        near_duplicates._DENSE = dense
        return list(near_duplicate_pairs(images, names, FLOOR))

    def by_pairs() -> list[tuple[int, int, float]]:
        near_duplicates._DENSE = 2.0
        return list(near_duplicate_pairs(images, names, FLOOR))

    assert (0, IMAGES - 1) in [pair[:2] for pair in by_blocks()]
    assert [pair[:2] for pair in by_blocks()] == [pair[:2] for pair in by_pairs()]
    compare("gate_pairs_by_blocks", by_blocks, by_pairs, limit=LIMIT, rounds=3)


if __name__ == "__main__":
    main()
