"""MetaMedSeg's losses and meta-update against the released code's values."""

from pathlib import Path

import numpy as np
import torch

from allograft.methods.metamedseg import inverse_distance_weights, meta_update
from allograft.nn.overlap_losses import bce_iou, focal_tversky, iou_loss


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


def test_losses(vectors_root: Path) -> None:
    found = arrays(vectors_root / "metamedseg_losses.npz")
    logits, mask = found["logits"], found["mask"].float()
    torch.testing.assert_close(iou_loss(logits, mask), found["iou_loss"])
    torch.testing.assert_close(focal_tversky(logits, mask, gamma=1.0), found["tversky"])
    torch.testing.assert_close(bce_iou(logits, mask, positive=3.0), found["combined2"])


def test_updates(vectors_root: Path) -> None:
    found = arrays(vectors_root / "metamedseg_update.npz")
    meta, local, lr = found["meta"], found["local"], float(found["meta_lr"])
    average = torch.full((len(local),), 1 / len(local), dtype=local.dtype)
    torch.testing.assert_close(meta_update(meta, local, average, lr), found["new_avg_inv"])
    weights = inverse_distance_weights(meta, local)
    torch.testing.assert_close(weights, found["paper_idw_weights"])
    torch.testing.assert_close(meta_update(meta, local, weights, lr), found["paper_idw_new"])
