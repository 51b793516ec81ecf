"""MoCo v3: its loss against a loop, whom the slow copy follows, and what it refuses."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.networks.tiny import images, made
from tests.unit.pretraining import a_pretraining, pool_of, rng

from allograft.batch import Batch
from allograft.context import Budget, Settings
from allograft.errors import SpecError
from allograft.methods.moco_v3 import Contrast, Following, MocoV3, contrast, momentum_at
from allograft.networks import Wrapped
from allograft.seeds import Seeds

CONTRACT = {
    "arguments": {"width": 16, "dimension": 8},
    "study": {
        "pool": ["a", "d", "b"],
        "network": {
            "unetr": {
                "spatial_dims": 2,
                "image_size": 32,
                "feature_size": 4,
                "hidden_size": 12,
                "mlp_dim": 12,
                "num_heads": 2,
            }
        },
    },
    "options": {
        "temperature": 0.5,
        "momentum": 0.5,
        "width": 8,
        "dimension": 4,
        "augmentation": "light",
        "freeze_patches": False,
        "epochs": 1,
        "pool": ["a"],
    },
    "processes_study": {
        "network": {
            "unetr": {
                "spatial_dims": 2,
                "image_size": 32,
                "feature_size": 4,
                "hidden_size": 12,
                "mlp_dim": 12,
                "num_heads": 2,
            }
        }
    },
    "own_settings": ("augmentation",),
    "marks": (),
}


def test_the_loss_is_a_loop_over_queries_and_keys() -> None:
    query, keys = torch.randn(3, 5, generator=rng()), torch.randn(6, 5, generator=rng(1))
    total = 0.0
    for i in range(3):
        weights = []
        for j in range(6):
            cosine = float(query[i].double() @ keys[j].double() / query[i].double().norm() / keys[j].double().norm())
            weights.append(math.exp(cosine / 0.2))
        total -= math.log(weights[i + 2] / sum(weights))
    assert float(contrast(query, keys, 0.2, offset=2)) == pytest.approx(2 * 0.2 * total / 3, rel=1e-5)
    keys.requires_grad_()
    query.requires_grad_()
    contrast(query, keys, 0.2).backward()
    assert keys.grad is None
    assert query.grad is not None


def test_momentum_rises_along_a_cosine() -> None:
    values = [momentum_at(step, 10, 0.9) for step in range(11)]
    assert values == sorted(values)
    assert values[5] == pytest.approx(0.95)


def objective_of(key: str, **changes: Any) -> tuple[Any, Contrast, Batch]:
    network, image = copy.deepcopy(made(key)).train(), images(key)
    with Seeds(0).everything():
        channels = network.encoder(image)[-1].shape[1]
        objective = Contrast(network, channels, "second view", MocoV3(width=8, dimension=4, **changes))
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), views={"second view": image.flip(-1)})
    return network, objective, batch


@pytest.mark.parametrize("key", ["vit", "swin", "unetr", "resnet"])
def test_each_view_predicts_the_key_of_the_other(key: str) -> None:
    network, objective, batch = objective_of(key, freeze_patches=False)
    network.eval()
    objective.eval()
    both = [batch.image, batch.views["second view"]]
    fast = [objective.predictor(objective.projector(network.encoder(view)[-1].flatten(2).mean(2))) for view in both]
    with torch.no_grad():
        slow = [objective.slow_projector(objective.slow_encoder(view)[-1].flatten(2).mean(2)) for view in both]
    expected = contrast(fast[0], slow[1], 0.2) + contrast(fast[1], slow[0], 0.2)
    torch.testing.assert_close(objective(network, batch)["contrast"], expected)


@pytest.mark.parametrize(("frozen", "key"), [(True, "vit"), (False, "vit"), (True, "resnet")])
def test_patches_are_frozen_and_slow_copies_have_no_gradient(frozen: bool, key: str) -> None:
    network, objective, batch = objective_of(key, freeze_patches=frozen)
    objective(network, batch)["contrast"].backward()
    without = [name for name, p in network.encoder.named_parameters() if p.grad is None]
    expected = ["body.patch_embed.proj.weight", "body.patch_embed.proj.bias"] if frozen and key == "vit" else []
    assert without == expected
    assert all(p.grad is None for name, p in objective.named_parameters() if name.startswith("slow"))
    assert all(p.grad is not None for name, p in objective.named_parameters() if not name.startswith("slow"))


def test_slow_copies_follow_by_the_momentum() -> None:
    network, objective, _ = objective_of("resnet")
    with torch.no_grad():
        for p in (*network.parameters(), *objective.projector.parameters()):
            p.add_(1.0)
    before = {name: p.clone() for name, p in objective.named_parameters() if name.startswith("slow")}
    objective.follow(network, 0.75)
    for name, p in objective.named_parameters():
        if name.startswith("slow"):
            torch.testing.assert_close(p, before[name] + 0.25)


def test_slow_copies_follow_ever_less_before_each_step() -> None:
    told: list[Any] = []
    slow = SimpleNamespace(follow=lambda network, momentum: told.append((network, momentum)))
    following = Following(lambda batch: told.append(batch), slow, "network", 0.5, 3)  # type: ignore[arg-type, return-value]
    for number in range(3):
        following(number)  # type: ignore[arg-type]
    assert told == [each for number in range(3) for each in (("network", momentum_at(number, 3, 0.5)), number)]


def test_bad_input_is_refused(tmp_path: Path) -> None:
    context, scenario = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "images", a=3)
    MocoV3().check(scenario, made("vit"), context)
    opaque = Wrapped(torch.nn.Conv2d(1, 2, 1), "mask")
    opaque.spec = {"build": {"custom": {}}, "surgery": []}
    with pytest.raises(SpecError, match="moco_v3: the network is one opaque module"):
        MocoV3().check(scenario, opaque, context)
    with pytest.raises(SpecError, match="moco_v3: the pool has one image"):
        MocoV3().check(pool_of(tmp_path / "single", a=1), made("vit"), context)
    alone = replace(context, settings=Settings(Budget(batch_size=1)))
    with pytest.raises(SpecError, match="a batch of one image has no negatives"):
        MocoV3().check(scenario, made("vit"), alone)
