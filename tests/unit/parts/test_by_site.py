"""Networks that are told the site of each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.parts.by_site import SitePredictor


def test_images_of_any_size_are_answered_by_their_own_sites_without_dropout() -> None:
    class Told(nn.Module):
        multiple = 4

        def forward(self, image: Tensor, site: Tensor) -> dict[str, Tensor]:
            assert not self.training
            assert all(side % 4 == 0 for side in image.shape[2:])
            return {"mask": image + site[:, None, None, None]}

    network: Any = Told().train()
    batch = Batch(torch.rand(2, 1, 6, 9), torch.tensor([3, 1]), ("a", "b"))
    found = SitePredictor(network)(batch)["mask"]
    torch.testing.assert_close(found, batch.image + torch.tensor([3.0, 1.0])[:, None, None, None])
    assert network.training
