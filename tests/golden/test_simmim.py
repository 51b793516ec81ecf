"""Masks of SimMIM's released generator."""

from pathlib import Path

import numpy as np
import pytest
import torch

from allograft.methods.simmim import random_mask
from allograft.parts.patches import enlarged


@pytest.mark.parametrize("case", [0, 1, 2])
def test_masks_at_the_resolution_of_tokens(case: int, vectors_root: Path) -> None:
    with np.load(vectors_root / "simmim_mask_loss.npz") as stored:
        size, patch, token, ratio = stored[f"cfg{case}"].tolist()
        permutation, expected = torch.from_numpy(stored[f"perm{case}"]), torch.from_numpy(stored[f"mask{case}"])
        count = int(stored[f"count{case}"])
    side = int(size // patch)
    mask = random_mask((side, side), ratio, None, permutation=permutation)
    assert int(mask.sum()) == count
    assert torch.equal(enlarged(mask, int(patch // token))[0], expected.bool())
