"""Fine-tuning on kept features is fine-tuning: the same weights, to the byte where one case is a
step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.networks import build, trainable
from allograft.networks.cache import FrozenOutputs, OnKept

NETWORKS: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    "unet": ({"channels": [4, 8, 16], "norm": "batch", "dropout": 0.2}, {"mask": 2, "label": 3}, 16),
    "dynunet": ({"channels": [4, 8, 16]}, {"mask": 2}, 16),
    "segresnet": ({"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}, {"mask": 2}, 16),
    "swin_unetr": ({"spatial_dims": 2, "feature_size": 12, "depths": [1, 1, 1, 1]}, {"mask": 2}, 64),
    "resnet": ({"small_stem": True}, {"label": 2}, 16),
    "vit": ({"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3}, {"label": 2}, 32),
}


def images(size: int) -> list[Tensor]:
    return [torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(number)) for number in range(3)]


def loss(network: Any, batch: Batch) -> dict[str, Tensor]:
    return {key: value.square().mean() for key, value in network(batch.image).items()}


def tuned(name: str, scope: Any, size: int, *, cached: bool, in_memory: int = 2**30) -> dict[str, Tensor]:
    """The weights after five steps of ``size`` cases; dropout draws from the global generator."""
    arguments, outputs, side = NETWORKS[name]
    cases = images(side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build({"build": {name: {"in_channels": 1, "outputs": outputs, **arguments}}})
        objective = OnKept(loss, FrozenOutputs(3, in_memory=in_memory)) if cached else loss
        with trainable(network, scope) as moving:
            optimizer = torch.optim.SGD(moving, 0.01, momentum=0.9)
            for step in range(5):
                which = [(step + place) % 3 for place in range(size)]
                image = torch.cat([cases[one] for one in which])
                optimizer.zero_grad()
                terms = objective(
                    network, Batch(image, torch.zeros(size).long(), tuple(f"case {one}" for one in which))
                )
                torch.stack([*terms.values()]).sum().backward()
                optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "scope"), [*((name, "top") for name in NETWORKS), ("unet", "decoder"), ("swin_unetr", "decoder")]
)
def test_one_case_a_step_same_bytes(name: str, scope: str) -> None:
    plain, cached = (tuned(name, scope, 1, cached=cached) for cached in (False, True))
    for key, value in plain.items():
        assert torch.equal(cached[key], value), key


@pytest.mark.parametrize("name", NETWORKS)
def test_more_cases_a_step_up_to_rounding(name: str) -> None:
    """The frozen part has seen its cases one by one, where convolutions of a batch add in another
    order."""
    plain, cached = (tuned(name, "top", 2, cached=cached) for cached in (False, True))
    for key, value in plain.items():
        torch.testing.assert_close(cached[key], value, rtol=1e-5, atol=1e-6)


def test_a_file_changes_nothing() -> None:
    memory, file = (tuned("unet", "top", 2, cached=True, in_memory=room) for room in (2**30, 0))
    assert all(torch.equal(file[key], value) for key, value in memory.items())
