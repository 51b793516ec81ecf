"""PLOP: which levels are held, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from tests.unit.tiny import a_context
from torch import nn

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.plop import Plop, PooledOutputs, local_pod
from allograft.networks import Wrapped, build
from allograft.parts.distillation import teacher_of
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {"strength": 10.0, "scales": 1},
}


def test_every_level_and_the_decoded_feature_are_held() -> None:
    torch.manual_seed(0)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4, 8], "num_res_units": 0}}}
    )
    network.eval()
    image = torch.randn(2, 1, 16, 16)
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), {"mask": (image > 0).long()})
    teacher = teacher_of(network)
    task = Segmentation(("vessel",))
    still = PooledOutputs(task, teacher, 0.5, 2)(network, batch)  # type: ignore[arg-type]
    assert float(still["features"]) == 0.0
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1
    moved = PooledOutputs(task, teacher, 0.5, 2)(network, batch)  # type: ignore[arg-type]
    apart = []
    for new, old in zip(
        (*network.encoder(image), network.decoder(network.encoder(image))),
        (*teacher.encoder(image), teacher.decoder(teacher.encoder(image))),
        strict=True,
    ):  # type: ignore[operator, union-attr]
        apart.append(float((local_pod(new, 2) - local_pod(old, 2)).square().sum(1).mean()))
    assert len(apart) == 4
    assert float(moved["features"]) == pytest.approx(0.5 * sum(apart) / 4, rel=1e-4)
    assert set(PooledOutputs(task, None, 0.5, 2)(network, batch)) == {"dice", "cross_entropy"}
    assert not any(p.requires_grad for p in teacher.parameters())


def test_an_opaque_network_is_refused() -> None:
    with pytest.raises(SpecError, match=r"plop: the network is one opaque module.*choose a network of our table"):
        Plop().check(Scenario(), Wrapped(nn.Conv2d(1, 2, 1), "mask"), a_context())
