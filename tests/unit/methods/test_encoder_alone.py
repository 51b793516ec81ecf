"""The encoder alone: it arrives, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.pretraining import a_pretraining, finished, pool_of
from torch import nn

from allograft.errors import SpecError
from allograft.methods.encoder_alone import EncoderAlone
from allograft.methods.united import United
from allograft.networks import Wrapped, build

CONTRACT = {
    "arguments": {"first": {"united": {"ingredients": "D+R", "hidden": [8]}}},
    "study": {"pool": ["a", "d", "b"]},
    "processes": {
        "first": {"united": {"ingredients": "D+R", "hidden": [8], "dropout": 0.0, "restorative_weight": 1.0}}
    },
    "trains": False,
    "marks": (),
}


def test_the_encoder_arrives_and_the_decoder_is_the_starts(tmp_path: Path) -> None:
    context, scenario = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "images", a=4)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8, 8]}}})
    restored = United(ingredients="D+R+A", hidden=(8,))
    _, whole = finished(restored, scenario, network, context)
    stages, alone = finished(EncoderAlone(first=restored), scenario, network, context)
    assert [stage.name for stage in stages] == ["pretrained", "encoder"]
    before, after, kept = (one.state_dict() for one in (network, whole.network, alone.network))
    for name, value in kept.items():
        assert torch.equal(value, (after if name.startswith("encoder.") else before)[name])
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("decoder.") for name in moved)
    assert "missing" in stages[-1].facts["weights"]
    assert set(alone.parts) == {"discriminator", "adversary"}


def test_an_opaque_network_is_refused(tmp_path: Path) -> None:
    context, scenario = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "images", a=2)
    with pytest.raises(SpecError, match="encoder_alone: the network is one opaque module without an encoder"):
        EncoderAlone().check(scenario, Wrapped(nn.Conv2d(1, 1, 1), "mask"), context)
