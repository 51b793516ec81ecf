"""One foreground against the background: an objective for networks with two softmax channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.networks import AnyNetwork
from allograft.nn.overlap_losses import LOSSES
from allograft.nn.processes import count_over_processes


@dataclass(frozen=True)
class Foreground:
    """The loss of the foreground against the background, of each image, mean over images that have
    a labelled pixel.

    Args:
        loss: one of ``LOSSES``, of the logit that the two softmax channels make: their difference.
    """

    loss: str

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """One term, named as the loss; pixels outside the region do not count."""
        logits = network(batch.image)["mask"]
        truth = batch.labels["mask"]
        assert isinstance(truth, Tensor)
        known, each = [], []
        for number, logit in enumerate(logits[:, 1] - logits[:, 0]):
            counts = truth[number, 0] >= 0
            if batch.region is not None:
                counts = counts & batch.region[number, 0]
            known.append(counts.any())
            if bool(known[-1]):
                each.append(LOSSES[self.loss](logit[counts], truth[number, 0][counts].to(logit.dtype)))
        total = count_over_processes(torch.stack(known))
        return {self.loss: (torch.stack(each) if each else logits * 0).sum() / total}
