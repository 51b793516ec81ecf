"""Features of all images of a cohort, of the kind and the size that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context, read, write_photographs
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks import Wrapped
from allograft.parts.domain_features import check_one_size, domain_features, feature_name, features_of


def a_network() -> Any:
    torch.manual_seed(0)
    return Wrapped(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()), "mask", multiple=4)


def test_features_are_those_of_each_image_alone_of_this_kind_and_size(tmp_path: Path) -> None:
    cohort, network = read(write_photographs(tmp_path, {"a": 5})), a_network().train()
    for kind, limit, width in (("batch-norm", 200, 3 * 8 * 8), ("batch-norm", 192, 192), ("gram", 192, 9)):
        found = features_of(network, cohort, a_context(), kind, limit)
        assert found.shape == (5, width)
        alone = [domain_features(network, cohort.case(index).image, kind, limit) for index in range(5)]
        torch.testing.assert_close(found, torch.cat(alone), rtol=1e-3, atol=1e-3)
    assert network.training
    assert network.module[1].num_batches_tracked == 0


def test_a_later_batch_normalisation_comes_before_an_earlier_layer_of_another_kind() -> None:
    mixed = nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2), nn.BatchNorm2d(2))
    assert feature_name(mixed) == "BatchNorm2d at 2"
    assert feature_name(mixed[:2]) == "InstanceNorm2d at 1"


def test_a_hook_is_gone_though_the_network_failed() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("broken")

    network = Wrapped(nn.Sequential(Failing(), nn.BatchNorm2d(1)), "mask", multiple=1)
    with pytest.raises(ValueError, match="broken"):
        domain_features(network, torch.rand(1, 1, 4, 4), "gram", 9)
    assert not network.module[1]._forward_hooks  # type: ignore[union-attr, index]


def test_one_image_of_another_size_anywhere_is_named_with_its_size(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path, {"a": 3})
    for file in write_photographs(tmp_path / "high", {"a": 3}, size=(20, 16)).parent.glob("a2*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SpecError, match=r"'a0\.png' \(1, 16, 16\) and 'a2\.png' \(1, 20, 16\)"):
        check_one_size([read(manifest)], "odex")
