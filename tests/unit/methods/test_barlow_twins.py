"""Barlow Twins: its loss against a loop, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.networks.tiny import images, made
from tests.unit.pretraining import a_pretraining, pool_of

from allograft.batch import Batch
from allograft.context import Budget, Settings
from allograft.errors import SpecError
from allograft.methods.barlow_twins import BarlowTwins, Correlation
from allograft.seeds import Seeds

CONTRACT = {
    "arguments": {"width": 16},
    "study": {"pool": ["a", "d", "b"]},
    "options": {"balance": 0.5, "width": 8, "augmentation": "light", "epochs": 1, "pool": ["a"]},
    # at 0.1 one step moves weights by 2, and the training diverges with whatever rounding it has
    "processes_study": {
        "budget": {"steps": 3, "adapt_steps": 3, "batch_size": 8},
        "optimizer": {"sgd": {"lr": 1e-3}},
    },
    "own_settings": ("augmentation",),
    "marks": (),
}


@pytest.mark.parametrize("balance", [0.0, 0.3])
def test_the_loss_is_a_loop_over_channels_of_standardised_embeddings(balance: float) -> None:
    network, image = copy.deepcopy(made("resnet")).eval(), images("resnet", 4)
    with Seeds(0).everything():
        objective = Correlation(512, "second view", BarlowTwins(balance=balance, width=6))
    batch = Batch(image, torch.zeros(4).long(), tuple("abcd"), views={"second view": image.flip(-1)})

    def embedded(view: torch.Tensor) -> torch.Tensor:
        z = objective.projector(network.encoder(view)[-1].mean((2, 3))).detach().double()
        return (z - z.mean(0)) / (z.std(0) + 1e-6)

    first, second = embedded(image), embedded(image.flip(-1))
    expected = 0.0
    for i in range(6):
        for j in range(6):
            c = float((first[:, i] * second[:, j]).sum()) / 4
            expected += (1 - c) ** 2 if i == j else balance * c**2
    assert float(objective(network, batch)["correlation"].detach()) == pytest.approx(expected, rel=1e-3)


def test_the_projector_normalises_each_embedding_between_its_three_layers() -> None:
    objective = Correlation(5, "second view", BarlowTwins(width=6))
    assert [tuple(p.shape) for p in objective.projector.parameters() if p.ndim == 2] == [(6, 5), (6, 6), (6, 6)]
    features = torch.randn(3, 5)
    with torch.no_grad():
        projected = objective.projector(features)
        assert projected.abs().min() > 1e-4
        torch.testing.assert_close(objective.projector(7 * features), projected, rtol=1e-2, atol=1e-4)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    context, scenario = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "images", a=3)
    BarlowTwins().check(scenario, made("resnet"), context)
    with pytest.raises(SpecError, match="barlow_twins: the pool has one image"):
        BarlowTwins().check(pool_of(tmp_path / "single", a=1), made("resnet"), context)
    alone = replace(context, settings=Settings(Budget(batch_size=1)))
    with pytest.raises(SpecError, match="a batch of one image has no correlation"):
        BarlowTwins().check(scenario, made("resnet"), alone)
