"""Every network of the table: what it gives, that it is built again from its spec, and that every
scope trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.networks import nets
from tests.unit.networks.tiny import TINY, images, made
from torch import Tensor

from allograft.errors import SpecError
from allograft.networks import SCOPES, build, rebuilt, scope_parameters, trainable
from allograft.seeds import Seeds
from allograft.table import rows
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation


def test_the_table_is_covered() -> None:
    # a detector has outputs of its own kind: test_detector.py
    assert {tiny.name for tiny in TINY.values()} | {"faster_rcnn"} == set(rows("network"))


@pytest.mark.parametrize("key", TINY)
def test_outputs_features_and_levels(key: str) -> None:
    network, image, tiny = made(key).eval(), images(key), TINY[key]
    with torch.no_grad():
        outputs, features = network(image), network.encoder(image)
    expected = {"mask": (2, 2, *tiny.size), "label": (2, 3)}
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        name: expected[name] for name in tiny.outputs
    }
    assert tuple(feature.shape[1] for feature in features) == tiny.channels
    assert len(network.levels()) == len(features)
    assert all(size % network.multiple == 0 for size in tiny.size)
    sizes = [feature[0, 0].numel() for feature in features]
    assert sizes == sorted(sizes, reverse=True)  # finest first


@pytest.mark.parametrize("key", TINY)
def test_a_spec_builds_the_same_network_again(key: str) -> None:
    network, image = made(key).eval(), images(key, 1)
    again = rebuilt(network.spec, network.state_dict()).eval()
    assert again.spec == network.spec
    with torch.no_grad():
        found, expected = again(image), network(image)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("key", "scope"), [(key, scope) for key in TINY for scope in SCOPES])
def test_every_scope_trains(key: str, scope: Any) -> None:
    network, image, tiny = copy.deepcopy(made(key)), images(key), TINY[key]
    for p in network.parameters():  # what a library begins at 0 hides the gradients of what is before it
        p.data = p.data if p.any() else p.data + 0.1
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    tuned = dict(scope_parameters(network, scope))
    with trainable(network, scope) as parameters, Seeds(0).everything():
        optimizer = torch.optim.SGD(parameters, 1e-3)
        loss = sum(uneven(value) for value in network(image).values())
        loss.backward()
        optimizer.step()
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= set(tuned)
    assert len(moved) > 0.3 * len(tuned)  # a bias before a normalisation has no gradient
    assert 0 < len(tuned) <= len(before)
    assert (
        scope != "decoder"
        or set(tiny.outputs) == {"mask", "label"}
        or {name.split(".")[0] for name in tuned} == {"heads"}
    )
    parts = ("encoder.", "heads.") if network.heads_are_added else ("encoder.",)
    assert scope != "first" or all(name.startswith(parts) for name in tuned)


def uneven(value: Tensor) -> Tensor:
    """A loss that no normalisation makes constant."""
    return (value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum()


def test_first_is_the_entrance_of_an_encoder_and_levels_hold_each_parameter_once() -> None:
    for key in ("resnet", "densenet121", "vit", "timm", "deeplabv3plus", "timm_unet"):
        network = made(key)
        held = [id(p) for level in network.encoder.levels for p in level.parameters()]  # type: ignore[union-attr]
        assert sorted(held) == sorted(id(p) for p in network.encoder.parameters())
    first = [name for name, _ in scope_parameters(made("resnet"), "first")]
    assert first[0] == "encoder.body.conv1.weight"
    assert all(name.startswith(("encoder.body.conv1", "encoder.body.bn1", "encoder.body.layer1")) for name in first)
    assert any(name.endswith("pos_embed") for name, _ in scope_parameters(made("vit"), "first"))


@pytest.mark.parametrize("key", ["swin_unetr", "swin_unetr-3d"])
def test_frozen_stages_of_swin_unetr_are_fused_and_give_the_same(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = copy.deepcopy(made(key)), images(key)
    fused, gradients = [], {}
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (fused.append(1), attention(*a, **k))[1]
    )
    for scope in ("full", "top"):
        with trainable(network, scope) as parameters:  # type: ignore[arg-type]
            uneven(network(image)["mask"]).backward()
            gradients[scope] = {
                n: p.grad.clone()
                for n, p in network.named_parameters()
                if any(p is q for q in parameters) and p.grad is not None
            }
            network.zero_grad(set_to_none=True)
        assert len(fused) == (0 if scope == "full" else sum(TINY[key].arguments["depths"]))
    for name, gradient in gradients["top"].items():
        torch.testing.assert_close(
            gradient, gradients["full"][name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
        )


def test_stages_of_swin_unetr_learn_behind_a_frozen_embedding() -> None:
    network, image = copy.deepcopy(made("swin_unetr")), images("swin_unetr")
    embedding, *stages = [level["stage"] for level in network.encoder.levels if "stage" in level]  # type: ignore[union-attr]
    embedding.requires_grad_(False)
    uneven(network(image)["mask"]).backward()
    for stage in stages:
        assert all(p.grad is not None for p in stage.blocks.parameters())


def test_the_skip_blocks_of_swin_unetr_belong_to_its_encoder() -> None:
    network = made("swin_unetr-3d")
    ours = {theirs.split(".")[0]: name.split(".")[0] for theirs, name in network.aliases.items()}
    assert {ours[name] for name in ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10")} == {
        "encoder"
    }
    assert {ours[f"decoder{number}"] for number in range(1, 6)} == {"decoder"}
    decoder = sum(p.numel() for _, p in scope_parameters(network, "decoder"))
    assert decoder < 0.5 * sum(p.numel() for p in network.parameters())


def rearrange(x: Tensor, pattern: str) -> Tensor:
    """The four patterns that MONAI uses of einops, which need not be installed."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(letter) for letter in after])


@pytest.mark.parametrize(
    ("key", "whole"),
    [
        (
            "swin_unetr",
            lambda: nets.SwinUNETR(1, 2, spatial_dims=2, feature_size=12, depths=(2, 1, 1, 1), window_size=3),
        ),
        ("swin_unetr-3d", lambda: nets.SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), window_size=2)),
        ("dynunet", lambda: nets.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8])),
        ("segresnet", lambda: nets.SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,))),
    ],
)
def test_same_weights_same_function_as_monai(key: str, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai.networks.nets.swin_unetr.rearrange", rearrange)
    network, reference = made(key).eval(), whole().eval()
    ours = network.state_dict()
    state = {theirs: ours[network.aliases[theirs]] for theirs in reference.state_dict()}
    reference.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(network(images(key))["mask"], reference(images(key)))


def test_the_3d_classifiers_are_monais() -> None:
    for key, whole in (
        ("resnet-3d", nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=3, conv1_t_stride=2)),
        ("densenet121-3d", nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=3)),
    ):
        network, ours = made(key).eval(), made(key).state_dict()
        head = {"weight": ours["heads.label.linear.weight"], "bias": ours["heads.label.linear.bias"]}
        state = {
            name: ours[network.aliases[name]] if name in network.aliases else head[name.split(".")[-1]]
            for name in whole.state_dict()
        }
        whole.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(network(images(key))["label"], whole.eval()(images(key)), rtol=1e-4, atol=1e-4)


def test_a_multitask_trains_mask_and_label_by_one_encoder() -> None:
    from allograft.batch import Batch
    from allograft.tasks.classification import Classification

    task = Multitask(Segmentation(("vessel",)), Classification(("a", "b", "c")))
    network = copy.deepcopy(made("unet"))
    assert set(task.outputs) == set(network(images("unet")))
    labels = {"mask": torch.zeros(2, 1, 16, 16, dtype=torch.int64), "label": torch.tensor([2, -100])}
    network.zero_grad()
    terms = task.objective(network, Batch(images("unet"), torch.zeros(2), ("a", "b"), labels))
    assert set(terms) == {"dice", "cross_entropy", "label_cross_entropy"}
    terms["label_cross_entropy"].backward()
    assert next(network.encoder.parameters()).grad is not None
    assert all(p.grad is None for p in network.decoder.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"resnet": {"outputs": {"mask": 2}}}, "network resnet: gives 'label', the task asks for mask"),
        ({"resnet": {"depth": 19}}, "depth 19 in 2-D; expected one of 18, 34, 50, 101, 152"),
        ({"timm": {"name": "resnet81"}}, "unknown timm model 'resnet81'; did you mean 'resnet"),
        ({"timm": {"name": "resnet18", "pretrained": True}}, "start: timm:resnet18"),
        ({"timm": {"name": "resnet18", "widht": 2}}, "timm model 'resnet18': .*widht"),
        ({"deeplabv3plus": {"outputs": {"mask": 2}, "output_stride": 4}}, "output_stride is 4; expected 16 or 8"),
        (
            {"unet": {"outputs": {"mask": 2, "paired": 1}, "channels": [4, 8]}},
            "gives one of 'mask' or 'paired' and 'label'",
        ),
    ],
)
def test_what_is_refused(spec: Any, told: str) -> None:
    ((name, arguments),) = spec.items()
    with pytest.raises(SpecError, match=told):
        build({"build": {name: {"in_channels": 1, "outputs": {"label": 2}, **arguments}}})


def test_too_small_for_its_normalisation_says_so() -> None:
    with pytest.raises(SpecError, match=r"swin_unetr: an image of 32x32 leaves one voxel.*more than 32"):
        made("swin_unetr")(torch.zeros(1, 1, 32, 32))
    with pytest.raises(SpecError, match="dynunet: an image of 4x4 leaves one voxel"):
        made("dynunet")(torch.zeros(1, 1, 4, 4))
    with pytest.raises(SpecError, match="cannot train on one image; set batch_size: 2"):
        copy.deepcopy(made("deeplabv3plus")).train()(torch.zeros(1, 1, 32, 32))
