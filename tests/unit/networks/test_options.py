"""No option of a network is ignored: another value of any one makes another function."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
import torch
from tests.unit.networks.tiny import TINY, images
from torch import Tensor

from allograft.networks import build
from allograft.networks.deeplab import deeplabv3plus
from allograft.seeds import Seeds
from allograft.table import find, rows

OTHER: dict[str, dict[str, Any]] = {
    "unet": {"channels": [4, 8, 16], "strides": [1, 2], "num_res_units": 1, "norm": "batch", "dropout": 0.5},
    "dynunet": {"channels": [4, 8, 16], "strides": [1, 2, 1], "kernel_size": 1, "residual": True},
    "segresnet": {"init_filters": 16, "blocks_down": [1, 2], "blocks_up": [2]},
    "swin_unetr": {
        "feature_size": 24,
        "depths": [1, 1, 1, 1],
        "num_heads": [3, 6, 12, 12],
        "window_size": 4,
        "drop_path": 0.9,
    },
    "unetr": {"image_size": 64, "feature_size": 8, "hidden_size": 16, "mlp_dim": 16, "num_heads": 3, "dropout": 0.5},
    "transformer_unet": {
        "channels": [4, 8, 16],
        "num_res_units": 1,
        "norm": "batch",
        "image_size": 32,
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_heads": 3,
        "depth": 1,
        "dropout": 0.5,
    },
    "diffusion_unet": {
        "channels": [4, 16],
        "attention": [False, False],
        "num_res_blocks": 2,
        "head_channels": 4,
        "norm_groups": 2,
    },
    "deeplabv3plus": {"encoder": "resnet10t", "output_stride": 8, "channels": 4},
    "timm_unet": {"encoder": "resnet10t", "decoder_channels": [8, 8, 8, 4, 4], "norm": "instance"},
    "resnet": {"depth": 34, "small_stem": False},
    "resnet-3d": {"depth": 34, "small_stem": True},
    "densenet121": {},
    "vit": {"image_size": 24, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 4, "drop_path": 0.9},
    "swin": {
        "image_size": 8,
        "patch_size": 1,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [1, 4],
        "window_size": 2,
        "drop_path": 0.9,
    },
    "timm": {"name": "mobilenetv3_small_075"},
    "stain_cnn": {"channels": [4, 8, 16], "hidden": 8, "dropout": 0.1},
}
ELSEWHERE = {"spatial_dims", "use_checkpoint"}
"""The first has a network of its own in ``TINY``; the second changes no number."""


def function_of(key: str, arguments: dict[str, Any]) -> list[Tensor]:
    """What the network answers in training mode, with the weights and masks of one seed."""
    tiny = TINY[key]
    with Seeds(0).everything(), torch.no_grad():
        network = build({"build": {tiny.name: {"in_channels": 1, "outputs": tiny.outputs, **arguments}}})
        return list(network.train()(images(key)).values())


@cache
def usual_function(key: str) -> list[Tensor]:
    return function_of(key, TINY[key].arguments)


def test_every_option_has_another_value() -> None:
    # a detector has no numbers to compare: test_detector.py; the head of another network: test_upsampling_head.py
    assert {TINY[key].name for key in OTHER} | {"faster_rcnn", "upsampling_head"} == set(rows("network"))
    for key, others in OTHER.items():
        stated = inspect.signature(find("network", TINY[key].name)).parameters.values()
        options = {each.name for each in stated if each.kind is inspect.Parameter.KEYWORD_ONLY} - ELSEWHERE
        assert options == set(others), key


@pytest.mark.parametrize(("key", "option"), [(key, option) for key, others in OTHER.items() for option in others])
def test_no_option_of_a_network_is_ignored(key: str, option: str) -> None:
    before, after = usual_function(key), function_of(key, {**TINY[key].arguments, option: OTHER[key][option]})
    assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_checkpointing_computes_the_transformer_twice_and_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or real(*a, **k))
    before = function_of("swin_unetr", TINY["swin_unetr"].arguments)
    assert calls == []
    after = function_of("swin_unetr", {**TINY["swin_unetr"].arguments, "use_checkpoint": True})
    assert calls
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_deeplabs_pyramid_has_the_rates_of_its_stride(stride: int, rates: list[int]) -> None:
    made: Any = deeplabv3plus(1, {"mask": 2}, encoder="resnet18", output_stride=stride, channels=4)
    convolutions = (m for m in made.decoder.pyramid.modules() if isinstance(m, torch.nn.Conv2d))
    assert [m.dilation[0] for m in convolutions if m.kernel_size == (3, 3)] == rates
