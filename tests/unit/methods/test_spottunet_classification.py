"""SpotTUNet of classifiers: the encoder's levels alone are gated, those of timm's backbones too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of
from torch import Tensor, nn

from allograft.context import Store
from allograft.errors import SpecError
from allograft.figure import Heatmap
from allograft.networks import Wrapped, build, rebuilt
from allograft.networks.gates import blocks, members
from allograft.networks.network import operate
from allograft.phantoms.chest import CLASSES, write_chest

NETWORKS: dict[str, tuple[dict[str, Any], int, set[str]]] = {
    # name -> arguments, gates, parameters of the encoder in no block
    "unet": ({"channels": [4, 8, 8]}, 3, set()),
    "resnet": ({"small_stem": True}, 5, set()),
    "densenet121": ({}, 5, set()),
    "vit": ({"image_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 3}, 3, {"body.cls_token", "body.pos_embed"}),
    "swin": (
        {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        2,
        set(),
    ),
}


def _with_gates(network: Any, gates: Tensor) -> None:
    network.policy = nn.Module()
    network.policy.forward = lambda image: torch.stack([-gates, gates], -1).expand(len(image), -1, -1)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_is_frozen_and_zero_is_tuned_image_by_image(name: str) -> None:
    arguments, gates, outside = NETWORKS[name]
    torch.manual_seed(0)
    plain = build({"build": {name: {"in_channels": 1, "outputs": {"label": 2}, **arguments}}}).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        before = plain(image)["label"]
        network: Any = operate(
            plain, "spottunet", policy="small", in_channels=1, spatial_dims=2, temperature=0.1
        ).eval()
        found = blocks(network)
        inside = {id(p) for block in found for p in block.parameters()}
        assert (len(found), {key for key, p in network.encoder.named_parameters() if id(p) not in inside}) == (
            gates,
            outside,
        )
        torch.testing.assert_close(network(image)["label"], before)
        assert torch.equal(rebuilt(network.spec, network.state_dict()).eval()(image)["label"], network(image)["label"])
        for block in found:
            for p in block.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        _with_gates(network, torch.ones(1, gates))
        torch.testing.assert_close(network(image)["label"], before)
        _with_gates(network, -torch.ones(1, gates))
        tuned = network(image)["label"]
        assert not torch.allclose(tuned, before, atol=1e-3)
        _with_gates(network, torch.tensor([[1.0] * gates, [-1.0] * gates]))
        mixed = network(image)["label"]
    torch.testing.assert_close(mixed[0], before[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[1], tuned[1], rtol=1e-4, atol=1e-5)


def test_a_level_of_a_backbone_is_its_stem_with_the_first_feature_and_what_leads_to_each_other() -> None:
    torch.manual_seed(0)
    network = build({"build": {"resnet": {"in_channels": 1, "outputs": {"label": 2}}}})
    body = network.encoder.body  # type: ignore[union-attr]
    expected = [[body.conv1, body.bn1], [body.layer1], [body.layer2], [body.layer3], [body.layer4]]
    assert [list(members(block)) for block in blocks(network)] == expected


def test_what_cannot_be_gated_is_refused_by_name() -> None:
    network = Wrapped(nn.Conv2d(1, 2, 1), "label")
    network.spec = {"build": {"monai.DenseNet121": {}}, "surgery": []}
    with pytest.raises(
        SpecError, match=r"network 'monai\.DenseNet121' is not made of levels.*for labels the unet, resnet"
    ):
        operate(network, "spottunet", policy="small", in_channels=1, spatial_dims=2, temperature=0.1)


@pytest.mark.parametrize(("name", "levels"), [("unet", 2), ("resnet", 5)])
def test_a_row_is_tuned_and_shows_its_encoder(name: str, levels: int, tmp_path: Path) -> None:
    manifest = write_chest(tmp_path / "cohort", sites={"a": "none", "b": "severe"}, subjects=8, size=32)
    arguments = {"unet": {"channels": [4, 8], "num_res_units": 1}, "resnet": {"small_stem": True}}[name]
    changes = {
        "task": {"classification": {"classes": list(CLASSES)}},
        "network": {name: arguments},
        "preprocessing": {"intensity": "unit"},
    }
    _, row, records = run(session_of(manifest, tmp_path / "out", "spottunet", source=["a"], **changes))
    assert {record.status for record in records.values()} == {"done"}, [record.error for record in records.values()]
    shown = Store(tmp_path / "out" / "units" / row.unit).figures()["policy"]
    assert isinstance(shown, Heatmap)
    assert (len(shown.rows), shown.columns) == (levels, ("encoder",))
    found = Store(tmp_path / "out" / "units" / row.unit).load()
    assert found is not None
    tuned = found[0].network
    frozen = {key: value for key, value in tuned.frozen.state_dict().items() if "weight" in key}
    own = nn.ModuleList(blocks(tuned)).state_dict()
    assert any(not torch.equal(value, own[key]) for key, value in frozen.items())
