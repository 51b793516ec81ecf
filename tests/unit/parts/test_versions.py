"""Versions of images: each goes to the network with all that is known of its own case."""

from __future__ import annotations

from typing import Any

import torch

from allograft.batch import Batch
from allograft.parts.versions import mean_prediction


def test_each_version_has_the_name_site_region_and_sizes_of_its_case_and_no_label() -> None:
    rng = torch.Generator().manual_seed(0)
    image, versions = torch.rand(2, 1, 4, 3, generator=rng), torch.rand(2, 3, 1, 4, 3, generator=rng)
    batch = Batch(
        image,
        torch.tensor([4, 7]),
        ("a", "b"),
        {"mask": torch.zeros(2, 1, 4, 3).long()},
        {"age": torch.tensor([30.0, 50.0])},
        region=torch.rand(2, 1, 4, 3, generator=rng) > 0.5,
        spacing=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        extent=torch.tensor([[4, 3], [2, 3]]),
    )
    seen: list[Batch] = []

    def inner(given: Batch) -> Any:
        seen.append(given)
        return {"mask": torch.cat([given.image, -given.image], 1)}

    found = mean_prediction(inner, batch, versions, several=False)
    (given,) = seen
    assert torch.equal(given.image, versions.flatten(0, 1))
    assert given.cases == ("a",) * 3 + ("b",) * 3
    assert given.site.tolist() == [4] * 3 + [7] * 3
    assert given.attributes["age"].tolist() == [30.0] * 3 + [50.0] * 3
    assert given.labels == {}
    for number in range(6):
        for name in ("region", "spacing", "extent"):
            assert torch.equal(getattr(given, name)[number], getattr(batch, name)[number // 3])
    mean = torch.cat([versions, -versions], 2).softmax(2).mean(1)
    torch.testing.assert_close(found["mask"].exp(), mean)
