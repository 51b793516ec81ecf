"""Starting weights: what fits is loaded, what can be made to fit is, what does not is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from monai.networks import nets
from safetensors.torch import save_file
from torch import Tensor, nn

from allograft.errors import ModelError
from allograft.networks import build
from allograft.networks.fit import inflated, rechannelled, repatched, resampled
from allograft.networks.load import load_weights
from allograft.networks.stored_weights import stored_weights
from allograft.predictor import Direct, save_predictor

UNET: dict[str, Any] = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}}
VIT: dict[str, Any] = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}


def network(name: str, outputs: dict[str, int], channels: int = 1, **arguments: Any) -> Any:
    return build({"build": {name: {"in_channels": channels, "outputs": outputs, **arguments}}}).eval()


def test_a_model_folder(tmp_path: Path) -> None:
    trained, fresh = build(UNET), build(UNET)
    save_predictor(Direct(trained), tmp_path, {})
    report = load_weights(fresh, tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), fresh.state_dict().values(), strict=True)
    )
    assert (len(report.matched), report.skipped, report.missing) == (len(fresh.state_dict()), (), ())


def test_a_file_that_fits_in_part(tmp_path: Path) -> None:
    save_file(
        {"0.weight": torch.ones(2, 2), "1.weight": torch.ones(3, 3), "x": torch.ones(1)}, tmp_path / "w.safetensors"
    )
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False))
    report = load_weights(network, tmp_path / "w.safetensors")
    assert (network[0].weight == 1).all()
    assert report.matched == ("0.weight",)
    assert report.skipped == ("1.weight: shape (3, 3), here (3, 2)", "x: no such tensor here")
    assert report.missing == ("1.weight",)
    assert str(report) == "1 tensors matched, 2 skipped, 1 missing"


class Pickled:
    """Not a tensor."""


def test_what_is_refused(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    torch.save({"weight": torch.ones(2, 2), "config": Pickled()}, tmp_path / "pickle.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    for name, told in (
        ("absent", "no such weights"),
        ("pickle.pt", "no plain state dict"),
        ("list.pt", "holds no weights"),
        ("text.pth", "no plain state dict"),
        ("text.safetensors", "no safetensors file"),
        ("other.safetensors", "none of its 1 tensors fits"),
    ):
        with pytest.raises(ModelError, match=told) as error:
            load_weights(network, tmp_path / name)
        assert name in str(error.value)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "model._orig_mod.",
        "net.model.",
        "_orig_mod.module.",
        "unet.",
        "student.unet.",
    ],
)
def test_prefixes_of_wrappers_are_removed_in_any_number(tmp_path: Path, prefix: str) -> None:
    trained, fresh = build(UNET), build(UNET)
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.ones(3)}}, tmp_path / "w.pt")
    report = load_weights(fresh, tmp_path / "w.pt")
    assert (len(report.matched), report.skipped, report.missing) == (
        len(state),
        ("loss.weight: no such tensor here",),
        (),
    )
    assert all(torch.equal(value, fresh.state_dict()[key.removeprefix(prefix)]) for key, value in state.items())


def test_parts_that_were_compiled_alone_fit(tmp_path: Path) -> None:
    whole = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3)))
    state = {"0._orig_mod.weight": torch.ones(2, 2), "_orig_mod.1._orig_mod.0._orig_mod.bias": torch.ones(3)}
    torch.save(state, tmp_path / "w.pt")
    assert load_weights(whole, tmp_path / "w.pt").matched == ("0.weight", "1.0.bias")


def test_a_file_of_another_network_is_refused_with_both_names_or_both_shapes(tmp_path: Path) -> None:
    torch.save({"layer1.conv.weight": torch.ones(2, 2)}, tmp_path / "names.pt")
    torch.save({"module.weight": torch.ones(3, 3), "module.bias": torch.ones(3)}, tmp_path / "shapes.pt")
    with pytest.raises(
        ModelError, match=r"by name; the file begins with 'layer1\.conv\.weight', the network with 'weight'"
    ):
        load_weights(nn.Linear(2, 2), tmp_path / "names.pt")
    with pytest.raises(ModelError, match=r"shapes do not: 'weight' has shape \(3, 3\), here \(2, 2\)"):
        load_weights(nn.Linear(2, 2), tmp_path / "shapes.pt")


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.int64(3), np.bool_(True), np.float32(1), np.str_("a"), np.arange(3.0)], ids=repr
)
def test_numpy_values_beside_the_tensors_are_named_and_not_read(tmp_path: Path, value: Any) -> None:
    kept = {"network_weights": nn.Linear(2, 2).state_dict(), "epoch": 3, "best": value, "log": {"dice": [value, value]}}
    torch.save(kept, tmp_path / "w.pt")
    fresh = nn.Linear(2, 2)
    report = load_weights(fresh, tmp_path / "w.pt")
    assert (fresh.weight == kept["network_weights"]["weight"]).all()
    assert report.unread == ("best", "log.dice")
    assert str(report) == "2 tensors matched, 0 skipped, 0 missing; NumPy values not read: best, log.dice"


def test_checkpoints_of_an_older_numpy_are_read(tmp_path: Path) -> None:
    torch.save(
        {"weight": torch.ones(2, 2), "best": np.float64(0.5)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False
    )
    old = (tmp_path / "w.pt").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "w.pt").write_bytes(old)
    assert load_weights(nn.Linear(2, 2), tmp_path / "w.pt").unread == ("best",)


def test_an_object_in_a_checkpoint_is_named_and_never_made(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 2), "config": Pickled()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"it holds \S*Pickled, which is no tensor") as error:
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    assert str(error.value).isprintable()  # no escape codes of a terminal
    assert "weights_only" not in str(error.value)  # nor advice to run what is in it


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    state = nn.BatchNorm1d(4).state_dict()
    state["running_var"][1:3] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"2 of 4 values of 'running_var' are NaN or infinite.*earlier checkpoint"):
        load_weights(nn.BatchNorm1d(4), tmp_path / "w.safetensors")


def test_a_buffer_may_be_infinite_where_the_network_s_own_is(tmp_path: Path) -> None:
    masked = nn.Linear(1, 1)
    masked.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    save_file(masked.state_dict(), tmp_path / "w.safetensors")
    assert "mask" in load_weights(masked, tmp_path / "w.safetensors").matched


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("units", [0, 2])
def test_a_plain_monai_unet(tmp_path: Path, units: int, *, wrapped: bool) -> None:
    reference = nets.UNet(2, 1, 2, channels=(4, 8, 8), strides=(2, 2), num_res_units=units, norm="instance").eval()
    state: Any = reference.state_dict()
    if wrapped:
        state = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(state, tmp_path / "unet.pt")
    ours = build({"build": {"unet": {**UNET["build"]["unet"], "channels": [4, 8, 8], "num_res_units": units}}}).eval()
    report = load_weights(ours, tmp_path / "unet.pt")
    assert (report.skipped, report.missing, report.reshaped) == ((), (), ())
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(ours(image)["mask"], reference(image))


def test_a_timm_state_dict_of_other_channels_and_classes(tmp_path: Path) -> None:
    reference = timm.create_model("resnet18", num_classes=7).eval()
    save_file(reference.state_dict(), tmp_path / "r.safetensors")
    ours = network("resnet", {"label": 2})
    report = load_weights(ours, tmp_path / "r.safetensors")
    assert report.reshaped == ("encoder.body.conv1.weight: channels 3 -> 1",)
    assert sorted(report.skipped) == ["fc.bias: no such tensor here", "fc.weight: no such tensor here"]
    assert report.missing == ("heads.label.linear.weight", "heads.label.linear.bias")
    grey = torch.randn(1, 1, 32, 32)
    features = reference.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours.encoder(grey)[-1], features, rtol=1e-4, atol=1e-4)


def test_a_head_for_other_classes_is_left_as_drawn(tmp_path: Path) -> None:
    trained, fresh = network("vit", {"label": 5}, **VIT), network("vit", {"label": 2}, **VIT)
    head = fresh.heads["label"].linear.weight.clone()
    torch.save(trained.state_dict(), tmp_path / "vit.pt")
    report = load_weights(fresh, tmp_path / "vit.pt")
    assert report.skipped[0] == "heads.label.linear.weight: shape (5, 8), here (2, 8)"
    assert torch.equal(fresh.heads["label"].linear.weight, head)
    assert torch.equal(fresh.encoder.body.pos_embed, trained.encoder.body.pos_embed)


def test_position_tables_are_resampled(tmp_path: Path) -> None:
    trained = network("vit", {"label": 2}, **VIT)
    fresh = network("vit", {"label": 2}, **{**VIT, "image_size": 24})
    torch.save(trained.state_dict(), tmp_path / "vit.pt")
    report = load_weights(fresh, tmp_path / "vit.pt")
    assert report.reshaped == ("encoder.body.pos_embed: table resampled",)
    # the class token
    assert torch.equal(fresh.encoder.body.pos_embed[:, 0], trained.encoder.body.pos_embed[:, 0])
    swin: dict[str, Any] = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1], "num_heads": [2]}
    trained, fresh = (network("swin", {"label": 2}, window_size=size, **swin) for size in (4, 8))
    torch.save(trained.state_dict(), tmp_path / "swin.pt")
    report = load_weights(fresh, tmp_path / "swin.pt")
    assert [text.split(".")[-1] for text in report.reshaped] == ["relative_position_bias_table: table resampled"]


def test_2d_weights_in_a_3d_network(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"channels": [4, 8, 8]}
    flat = build({"build": {"dynunet": {"in_channels": 1, "outputs": {"mask": 2}, **arguments}}}).eval()
    deep = build(
        {"build": {"dynunet": {"in_channels": 1, "outputs": {"mask": 2}, "spatial_dims": 3, **arguments}}}
    ).eval()
    torch.save(flat.state_dict(), tmp_path / "flat.pt")
    report = load_weights(deep, tmp_path / "flat.pt")
    assert (report.skipped, report.missing) == ((), ())
    assert all(text.endswith(": 2-D -> 3-D") for text in report.reshaped)
    plane = torch.randn(1, 1, 9, 9)
    kernel = torch.randn(2, 1, 3, 3)
    volume = plane[:, :, None].expand(-1, -1, 5, -1, -1)
    found = nn.functional.conv3d(volume, inflated(kernel, 3))
    torch.testing.assert_close(found, nn.functional.conv2d(plane, kernel)[:, :, None].expand_as(found))


def test_the_weights_of_an_encoder_alone(tmp_path: Path) -> None:
    trained, fresh = build(UNET), build(UNET)
    torch.save(trained.encoder.state_dict(), tmp_path / "encoder.pt")  # type: ignore[union-attr]
    report = load_weights(fresh, tmp_path / "encoder.pt")
    assert report.skipped == ()
    assert all(not name.startswith("encoder.") for name in report.missing)


@pytest.mark.parametrize(("stored", "wanted"), [(3, 1), (1, 3), (3, 4), (4, 2)])
def test_channels_keep_the_response_to_an_image_that_is_grey(stored: int, wanted: int) -> None:
    weight = torch.randn(5, stored, 3, 3)
    grey = torch.randn(2, 1, 7, 7)

    def response(kernel: Tensor) -> Tensor:
        return nn.functional.conv2d(grey.expand(-1, kernel.shape[1], -1, -1), kernel)

    torch.testing.assert_close(response(rechannelled(weight, wanted)), response(weight), rtol=1e-4, atol=1e-5)


def test_only_convolutions_on_the_image_change_channels(tmp_path: Path) -> None:
    small, large = build(UNET), build({"build": {"unet": {**UNET["build"]["unet"], "channels": [8, 8]}}})
    torch.save(small.state_dict(), tmp_path / "w.pt")
    assert load_weights(large, tmp_path / "w.pt").reshaped == ()


def test_a_table_without_a_grid_is_left() -> None:
    assert resampled(torch.zeros(1, 7, 4), torch.zeros(1, 17, 4), 2) is None
    # no class token to take
    assert resampled(torch.zeros(1, 16, 4), torch.zeros(1, 17, 4), 2) is None
    smooth = torch.arange(27.0)[:, None].expand(-1, 2)
    assert resampled(smooth, torch.zeros(125, 2), 3).shape == (125, 2)  # type: ignore[union-attr]


def test_timm_weights_on_an_offline_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repository: str, file: str) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALLOGRAFT_WEIGHTS", raising=False)
    ours = network("resnet", {"label": 2})
    with pytest.raises(ModelError) as error:
        load_weights(ours, "timm:resnet18.a1_in1k")
    place = os.path.join("weights", "resnet18.a1_in1k.safetensors")
    assert (
        f"'model.safetensors' of the Hugging Face repository 'timm/resnet18.a1_in1k', and put it here: {place}"
        in str(error.value)
    )

    state = timm.create_model("resnet18").state_dict()
    (tmp_path / "weights").mkdir()
    save_file(state, tmp_path / place)
    assert str(load_weights(ours, "timm:resnet18.a1_in1k")) == "119 tensors matched, 1 reshaped, 2 skipped, 2 missing"
    assert load_weights(
        ours, tmp_path / "timm:resnet18"
    ).reshaped  # as a study beside its file names it; the default tag
    with pytest.raises(ModelError, match="unknown set of timm weights 'resnet81"):
        load_weights(ours, "timm:resnet81")


def test_hub_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetched(repository: str, file: str) -> str:
        asked.append((repository, file))
        save_file({"weight": torch.ones(2, 2)}, tmp_path / "cached.safetensors")
        return str(tmp_path / "cached.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    monkeypatch.setenv("ALLOGRAFT_WEIGHTS", str(tmp_path / "kept"))
    assert stored_weights("hf:owner/name")[0]["weight"].shape == (2, 2)
    assert stored_weights("hf:owner/name/deep/w.safetensors")[0]["weight"].shape == (2, 2)
    assert asked == [("owner/name", "model.safetensors"), ("owner/name", "deep/w.safetensors")]
    kept = tmp_path / "kept" / "owner" / "name"
    kept.mkdir(parents=True)
    save_file({"own": torch.ones(1)}, kept / "model.safetensors")
    assert set(stored_weights("hf:owner/name")[0]) == {"own"}
    for wrong in ("hf:owner", "hf:owner/../x"):
        with pytest.raises(ModelError, match="expected hf:OWNER/NAME"):
            stored_weights(wrong)


def test_patches_of_another_size_keep_the_token_of_an_even_image(tmp_path: Path) -> None:
    for shape, size in (((3, 2, 4, 4), (8, 8)), ((3, 2, 4, 4), (2, 2)), ((3, 1, 2, 2, 2), (4, 4, 4))):
        weight = torch.randn(shape)
        torch.testing.assert_close(repatched(weight, size).flatten(2).sum(2), weight.flatten(2).sum(2))
    trained, fresh = network("vit", {"label": 2}, **VIT), network("vit", {"label": 2}, **{**VIT, "patch_size": 2})
    torch.save(trained.state_dict(), tmp_path / "vit.pt")
    report = load_weights(fresh, tmp_path / "vit.pt")
    assert report.reshaped == (
        "encoder.body.pos_embed: table resampled",
        "encoder.body.patch_embed.proj.weight: patch 4x4 -> 2x2",
    )


class Layers(nn.Module):
    """Two convolutions as nnU-Net's library lists them."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(Layer(before, after, stride), Layer(after, after, 1))

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.convs(image)
        return made


class Layer(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1)
        self.norm = nn.InstanceNorm2d(after, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, nn.LeakyReLU())

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.all_modules(image)
        return made


class Stages(nn.Module):
    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        before = [channels, *widths]
        self.stages = nn.Sequential(
            *(nn.Sequential(Layers(before[n], width, 2 if n else 1)) for n, width in enumerate(widths))
        )


class Upwards(nn.Module):
    def __init__(self, encoder: Stages, widths: list[int], classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.stages = nn.ModuleList(Layers(2 * up, up) for _, up in pairs)
        self.transpconvs = nn.ModuleList(nn.ConvTranspose2d(low, up, 2, 2) for low, up in pairs)
        self.seg_layers = nn.ModuleList(nn.Conv2d(up, classes, 1) for _, up in pairs)


class PlainUNet(nn.Module):
    """The names and shapes of nnU-Net's plain U-Net, in 2-D."""

    def __init__(self, channels: int, widths: list[int], classes: int) -> None:
        super().__init__()
        self.encoder = Stages(channels, widths)
        self.decoder = Upwards(self.encoder, widths, classes)

    def forward(self, image: Tensor) -> Tensor:
        skips = []
        for stage in self.encoder.stages:
            image = stage(image)
            skips.append(image)
        for number, up in enumerate(self.decoder.transpconvs):
            image = self.decoder.stages[number](torch.cat([up(image), skips[-2 - number]], 1))
        made: Tensor = self.decoder.seg_layers[-1](image)
        return made


def a_checkpoint(folder: Path, theirs: nn.Module, **beside: Any) -> Path:
    """A file of the layout of nnU-Net and nnssl."""
    for up in theirs.decoder.transpconvs:
        nn.init.zeros_(up.bias)
    kept = {"network_weights": theirs.state_dict(), "current_epoch": 7, "init_args": {"plans": {"a": 1}}, **beside}
    torch.save(kept, folder / "checkpoint_final.pth")
    return folder / "checkpoint_final.pth"


def test_a_plain_unet_of_nnunet_gives_what_it_gave(tmp_path: Path) -> None:
    theirs = PlainUNet(1, [4, 8, 8], 2).eval()
    path = a_checkpoint(tmp_path, theirs, logging={"mean_fg_dice": [np.float32(0.5)]}, trainer_name="nnUNetTrainer")
    ours = build({"build": {"dynunet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8, 8]}}}).eval()
    report = load_weights(ours, path)
    assert report.missing == ()
    assert {text.split(": ")[0].rsplit(".", 1)[1] for text in report.skipped} == {"bias", "weight"}
    coarser = [text for text in report.skipped if "seg_layers" in text and ".weight" in text]
    assert [text.split(":")[0] for text in coarser] == ["decoder.seg_layers.0.weight"]
    assert all("conv" in text or "seg_layers" in text for text in report.skipped)
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(ours(image)["mask"], theirs(image), rtol=1e-4, atol=1e-5)


def test_a_pre_training_of_that_layout_loads_into_other_channels_and_heads(tmp_path: Path) -> None:
    theirs = PlainUNet(3, [4, 8, 8], 3)
    path = a_checkpoint(tmp_path, theirs, nnssl_adaptation_plan={"architecture_plans": {"arch_class_name": "plain"}})
    arguments = {"in_channels": 1, "outputs": {"mask": 5, "label": 2}, "channels": [4, 8, 8]}
    ours = build({"build": {"dynunet": arguments}})
    report = load_weights(ours, path)
    assert report.reshaped == ("encoder.chain.levels.0.conv1.conv.weight: channels 3 -> 1",)
    assert all(name.startswith("heads.") for name in report.missing)
    expected = theirs.encoder.stages[0][0].convs[0].conv.weight.sum(1, keepdim=True)
    torch.testing.assert_close(ours.encoder.levels[0].conv1.conv.weight, expected)


@pytest.mark.parametrize(("teachers", "said"), [(1, "weights taken from 'state_dict', not from 'teacher'"), (2, "")])
def test_other_weights_in_a_file_are_named_where_they_are_as_many(tmp_path: Path, teachers: int, said: str) -> None:
    weights = {str(number): torch.zeros(2) for number in range(teachers)}
    torch.save({"state_dict": {"0": torch.ones(2)}, "teacher": weights}, tmp_path / "w.pt")
    tensors, _, taken = stored_weights(str(tmp_path / "w.pt"))
    assert (float(tensors["0"].sum()), taken) == (2.0, said)
