"""The matching of cluster centres against the released code's."""

from pathlib import Path

import numpy as np
import torch

from allograft.methods.aiva import match_clusters


def test_matchings(vectors_root: Path) -> None:
    with np.load(vectors_root / "aiva_matching.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    for k in (3, 5):
        found = match_clusters(arrays[f"sc_{k}"], arrays[f"tc_{k}"])
        assert found.tolist() == arrays[f"match_{k}"].tolist()
