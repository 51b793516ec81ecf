"""SR-SIM against piq's scores."""

from pathlib import Path

import numpy as np
import torch

from allograft.metrics.similarity import SrsimReference, srsim


def test_scores_of_piq(vectors_root: Path) -> None:
    with np.load(vectors_root / "srsim_piq.npz") as stored:
        images, pairs, expected = (torch.from_numpy(stored[name]) for name in ("images", "pairs", "score"))
    found = srsim(images[pairs[:, 0], None], images[pairs[:, 1], None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    first = SrsimReference.of(images[:, None]).scores(images[:1, None])
    torch.testing.assert_close(first[pairs[:5, 1]].double(), expected[:5], rtol=0, atol=2e-6)
