"""The U-Net on a backbone of timm: against the library of its decoder, from files, and in recipes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as library
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import allograft
from allograft.errors import SpecError
from allograft.networks import build
from allograft.networks.load import load_weights
from allograft.phantoms.brain import write_brain
from allograft.seeds import Seeds

CHANNELS = [8, 8, 4, 4, 4]


def unet(channels: int = 3, outputs: dict[str, int] | None = None, **arguments: Any) -> Any:
    given = {"in_channels": channels, "outputs": outputs or {"mask": 2}, "decoder_channels": CHANNELS, **arguments}
    with Seeds(0).everything("network"):
        return build({"build": {"timm_unet": given}})


def image(channels: int = 3, size: int = 64) -> Tensor:
    return torch.randn((2, channels, size, size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_with_the_weights_of_the_decoder_s_library_it_is_that_library_s_u_net(encoder: str, tmp_path: Path) -> None:
    theirs = library.Unet(encoder, encoder_weights=None, classes=2, decoder_channels=CHANNELS).eval()
    for module in theirs.modules():  # statistics that a fresh network has not
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    torch.save(theirs.state_dict(), tmp_path / "unet.pth")
    ours = unet(encoder=encoder.removeprefix("tu-")).eval()
    report = load_weights(ours, tmp_path / "unet.pth")
    assert report.missing == () == report.reshaped
    torch.testing.assert_close(ours(image())["mask"], theirs(image()))


@pytest.mark.parametrize("channels", [1, 5])
def test_a_file_of_timm_fits_the_encoder_for_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    with Seeds(7).everything():
        published = timm.create_model("resnet18")
    save_file(published.state_dict(), tmp_path / "resnet18.safetensors")
    network = unet(channels)
    report = load_weights(network, tmp_path / "resnet18.safetensors")
    assert [name for name in report.missing if name.startswith("encoder.")] == []
    torch.testing.assert_close(network.encoder.body.layer4[1].conv2.weight, published.layer4[1].conv2.weight)
    assert network(image(channels))["mask"].shape == (2, 2, 64, 64)


def test_instance_normalisation_is_in_every_place_and_takes_published_weights(tmp_path: Path) -> None:
    network = unet(norm="instance")
    kinds = [type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__]
    assert set(kinds) == {"InstanceNorm2d"}
    assert len(kinds) == sum(isinstance(module, nn.BatchNorm2d) for module in unet().modules())
    published = timm.create_model("resnet18")
    nn.init.normal_(published.bn1.weight)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    load_weights(network, tmp_path / "resnet18.pth")
    torch.testing.assert_close(network.encoder.body.bn1.weight, published.bn1.weight)


def test_an_encoder_that_begins_at_a_quarter_of_the_size_has_two_blocks_without_a_skip() -> None:
    network = unet(encoder="convnext_atto")
    skips = [block.conv1[0].in_channels for block in network.decoder.unet.blocks]
    assert skips == [320 + 160, 8 + 80, 8 + 40, 4, 4]
    assert network(image())["mask"].shape == (2, 2, 64, 64)


def test_a_label_comes_from_the_last_feature_and_needs_no_decoder() -> None:
    both, label = unet(outputs={"mask": 2, "label": 3}), unet(outputs={"label": 3})
    assert label.decoder is None
    assert both(image())["label"].shape == label(image())["label"].shape == (2, 3)
    assert copy.deepcopy(both).multiple == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"encoder": "vit_tiny_patch16_224"}, r"'vit_tiny_patch16_224' has features at strides \[16, .*resnet18"),
        ({"encoder": "resnet81"}, "did you mean 'resnet"),
        ({"decoder_channels": [8, 8]}, r"decoder_channels is \[8, 8\]; 'resnet18' halves the image 5 times"),
        ({"norm": "layer"}, "norm is 'layer'; expected batch or instance"),
        ({"norm": "instance", "encoder": "mobilenetv3_small_050"}, "choose a ResNet, or keep norm: batch"),
        ({"pretrained": True}, "networks fetch no weights"),
        ({"outputs": {"boxes": 2}}, "gives one of 'mask' or 'paired'"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        unet(**arguments)


def test_recipes_adapt_it_on_images_of_a_size_that_is_no_multiple(tmp_path: Path) -> None:
    """AdaBN needs its batch normalisation, LoRA its convolutions, ``first`` its levels."""
    manifest = write_brain(tmp_path / "brains", sites={"a": "none", "b": "medium"}, subjects=4, size=40)
    study = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white-matter", "grey-matter"]}},
        "network": {"timm_unet": {"decoder_channels": CHANNELS}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 1},
        "recipes": ["adabn", {"lora": {"rank": 2}}, *({"finetune": {"scope": each}} for each in ("first", "decoder"))],
        "baselines": False,
        "seeds": 1,
        "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2},
    }
    result = allograft.run_study(study, tmp_path / "out", report=False)
    assert result.failed == 0
    rows = {"supervised", "adabn", "lora rank=2", "finetune scope=first", "finetune scope=decoder"}
    assert {recipe for recipe, _ in result.models} == rows
    (predicted, *_) = allograft.load(result.models["finetune scope=first", "b"]).predict(str(manifest))
    assert predicted.answer.mask.shape == (40, 40)
