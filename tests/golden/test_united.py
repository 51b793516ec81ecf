"""Turns and jigsaws of the released stepwise pre-training."""

from pathlib import Path

import numpy as np
import torch

from allograft.transforms.pretexts import clear_centre, permutation_set, shuffle_blocks, turn


def test_quarter_turns_and_where_the_released_labels_differ(vectors_root: Path) -> None:
    with np.load(vectors_root / "stepwise_rotation8.npz") as stored:
        cube, released = torch.from_numpy(stored["cube"]), torch.from_numpy(stored["rot_cube"])
    ours = [turn(cube, label) for label in range(10)]
    for label in range(4):
        assert torch.equal(ours[label], released[label])
    assert torch.equal(released[4], released[0])  # one label, told apart from another by nothing
    for label in range(5, 8):  # mirrored: no turn at all
        assert not any(torch.equal(released[label], one) for one in ours)


def test_blocks_of_the_released_jigsaw(vectors_root: Path) -> None:
    """Volumes are kept at every fourth voxel."""
    with np.load(vectors_root / "stepwise_jigsaw.npz") as stored:
        shuffled, whole, orders = (torch.from_numpy(stored[key]) for key in ("x_sub", "y_sub", "perms"))
    for image, expected, order in zip(whole, shuffled, orders.tolist(), strict=True):
        volume = torch.full((1, 64, 64, 64), -1.0, dtype=image.dtype)
        volume[:, ::4, ::4, ::4] = image
        ours = shuffle_blocks(clear_centre(volume, 4 / 64), order)
        assert torch.equal(ours[:, ::4, ::4, ::4], expected)


def test_the_released_table_holds_permutations_that_are_close(vectors_root: Path) -> None:
    with np.load(vectors_root / "stepwise_jigsaw.npz") as stored:
        released, shape = torch.from_numpy(stored["table_first20"]), stored["table_shape"].tolist()
    assert shape == [*permutation_set(8, 1000).shape]

    def least(rows: torch.Tensor) -> int:
        apart = (rows[:, None] != rows[None]).sum(2)
        return int(apart[~torch.eye(len(rows), dtype=torch.bool)].min())

    assert least(released) == 2
    assert least(permutation_set(8, 20)) == 8 - 1
