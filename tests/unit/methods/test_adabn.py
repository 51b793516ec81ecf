"""AdaBN: the statistics of all images together, whatever the batches; nothing else moves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.contract.world import request, session_of, write_cohort
from torch import nn

from allograft.errors import SpecError
from allograft.networks import Wrapped
from allograft.parts.target_statistics import adapt_statistics

CONTRACT = {
    "trains": False,
}


def _network() -> Wrapped:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))
    return Wrapped(inner, "mask")


def test_all_images_together_whatever_the_batches() -> None:
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8).view(-1, 1, 1, 1)
    network = _network()
    values = network.module[0](images).detach()
    expected = values.mean((0, 2, 3)), values.var((0, 2, 3))
    for batches in (images.split(7), images.split(3), images.split(1)):
        network.module[1].reset_running_stats()
        adapt_statistics(network, batches)
        torch.testing.assert_close(network.module[1].running_mean, expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(network.module[1].running_var, expected[1], rtol=1e-5, atol=1e-6)
    assert not any(module.training for module in network.modules())


def test_a_layer_sees_what_the_layers_before_make_of_their_own_batch() -> None:
    torch.manual_seed(0)
    network = Wrapped(
        nn.Sequential(*(layer for c in (1, 3) for layer in (nn.Conv2d(c, 3, 3), nn.BatchNorm2d(3), nn.ReLU()))), "mask"
    )
    trained = copy.deepcopy(network).train()
    for index in (1, 4):
        trained.module[index].momentum = 1.0
    images = 5 + 2 * torch.rand(4, 1, 8, 8)
    trained(images)
    adapt_statistics(network, [images])
    for index in (1, 4):
        torch.testing.assert_close(network.module[index].running_mean, trained.module[index].running_mean)
        torch.testing.assert_close(network.module[index].running_var, trained.module[index].running_var)


def test_images_of_the_source_give_the_sources_statistics_and_a_rescaled_site_is_undone() -> None:
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network, shifted = _network(), _network()
    with torch.no_grad():
        for one in (network, shifted):
            one.module[1].weight.copy_(torch.tensor([2.0, -1.0, 0.5]))
            one.module[1].eps = 1e-12
            one.module[0].padding = (0, 0)  # zeros at the border would not scale along
    adapt_statistics(network, images.split(2))
    adapt_statistics(shifted, (3 * images + 0.7).split(2))
    torch.testing.assert_close(shifted(3 * images + 0.7)["mask"], network(images)["mask"], rtol=1e-4, atol=1e-4)


def test_scale_and_shift_and_all_else_stay() -> None:
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    adapt_statistics(network, [torch.rand(2, 1, 8, 8)])
    changed = {
        key
        for key, value in network.state_dict().items()
        if not torch.equal(value, before[key]) and "tracked" not in key
    }
    assert changed == {"module.1.running_mean", "module.1.running_var"}


def test_without_batch_normalisation_or_images_it_says_so(tmp_path: Path) -> None:
    session = session_of(
        write_cohort(tmp_path / "cohort"),
        tmp_path / "out",
        request("adabn"),
        network={"unet": {"channels": [4, 8], "num_res_units": 1}},
    )
    with pytest.raises(SpecError, match="norm: batch"):
        session.prepare()
    with pytest.raises(SpecError, match="no image"):
        adapt_statistics(_network(), [])
