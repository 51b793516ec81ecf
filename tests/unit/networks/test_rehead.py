"""Other heads on the same body, and weights that move part by part: what is kept is kept bit for
bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.unit.networks.test_networks import TINY, images, made
from torch import Tensor, nn

from allograft.errors import ModelError, SpecError
from allograft.networks import Network, Wrapped, build, rebuilt, reheaded, transfer
from allograft.networks.network import operate, spec_of
from allograft.networks.parts import DENSE
from allograft.seeds import Seeds
from allograft.tree import digest

UNET: dict[str, Any] = {"in_channels": 1, "channels": [4, 8, 8]}
VIT: dict[str, Any] = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "num_heads": 2}


def network(builder: str, outputs: dict[str, int], seed: int = 0, **arguments: Any) -> Network:
    with Seeds(seed).everything():
        built = build({"build": {builder: {"in_channels": 1, "outputs": outputs, **arguments}}})
    assert isinstance(built, Network)
    return built.eval()


def tiny(key: str, outputs: dict[str, int], seed: int = 0) -> Network:
    return network(TINY[key].name, outputs, seed, **TINY[key].arguments)


def other(key: str) -> dict[str, int]:
    """The outputs of a network of the table, each with a channel more."""
    return {name: count + 1 for name, count in TINY[key].outputs.items()}


def names_in(module: nn.Module, *parts: str) -> set[str]:
    return {name for name in module.state_dict() if name.startswith(tuple(f"{part}." for part in parts))}


def same(one: nn.Module, two: nn.Module, names: set[str]) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return bool(names) and all(torch.equal(first[name], second[name]) for name in names)


def decoded(net: Network, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        features = net.encoder(image)
        return [*features, net.decoder(features)] if net.decoder is not None else list(features)


# ---------------------------------------------------------- networks without heads
@pytest.mark.parametrize("key", TINY)
def test_without_heads_there_is_an_encoder_and_a_decoder_where_the_builder_has_one(key: str) -> None:
    bare, image = tiny(key, {}), images(key, 1)
    assert [name for name, _ in bare.parts() if name != "heads"] == (
        ["encoder", "decoder"] if "mask" in TINY[key].outputs else ["encoder"]
    )
    assert (len(bare.heads), bare(image)) == (0, {})
    assert bare.multiple == made(key).multiple
    assert names_in(bare, "encoder") == names_in(made(key), "encoder")
    again = rebuilt(bare.spec, bare.state_dict())
    assert isinstance(again, Network)
    assert all(torch.equal(a, b) for a, b in zip(decoded(bare, image), decoded(again.eval(), image), strict=True))


@pytest.mark.parametrize("key", TINY)
def test_the_weights_of_a_network_without_heads_arrive_where_the_report_says(key: str) -> None:
    bare, target, image = tiny(key, {}, seed=1), copy.deepcopy(made(key)).eval(), images(key, 1)
    heads = {name: value.clone() for name, value in target.state_dict().items() if name.startswith("heads.")}
    report = transfer(bare.state_dict(), target)
    body = names_in(target, "encoder", "decoder")
    assert set(report.matched) == body == set(bare.state_dict())
    assert set(report.missing) == set(heads)
    assert (report.reshaped, report.skipped, report.anew) == ((), (), ())
    assert same(bare, target, body)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in heads.items())
    assert all(torch.equal(a, b) for a, b in zip(decoded(bare, image), decoded(target, image), strict=True))


def test_a_classifier_takes_the_encoder_of_a_network_that_has_a_decoder() -> None:
    bare, target = network("unet", {}, 1, **UNET), network("unet", {"label": 3}, **UNET)
    report = transfer(bare.state_dict(), target)
    assert set(report.matched) == names_in(target, "encoder")
    assert {text.split(".")[0] for text in report.skipped} == {"decoder"}
    assert same(bare, target, names_in(target, "encoder"))


def test_a_monai_class_cannot_be_without_a_head() -> None:
    with pytest.raises(
        SpecError, match="gives one output, the task asks for a network without heads; choose a network of our table"
    ):
        spec_of({"monai.UNet": {}}, 1, {})


# ---------------------------------------------------------- reheaded
@pytest.mark.parametrize("key", TINY)
def test_the_same_outputs_keep_every_bit(key: str) -> None:
    given = made(key)
    again, report = reheaded(given, TINY[key].outputs)
    assert again is not given
    assert again.spec == given.spec
    assert digest(again) == digest(given)
    assert report.matched == tuple(given.state_dict())
    assert (report.reshaped, report.skipped, report.missing, report.anew) == ((), (), (), ())


@pytest.mark.parametrize("key", TINY)
def test_other_outputs_keep_the_body_and_draw_every_head(key: str) -> None:
    given, image, outputs = made(key).eval(), images(key, 1), other(key)
    before = digest(given)
    with Seeds(3).everything():
        again, report = reheaded(given, outputs)
    fresh, body, heads = tiny(key, outputs, seed=3), names_in(given, "encoder", "decoder"), names_in(again, "heads")
    assert digest(given) == before
    assert same(again, given, body)
    assert all(torch.equal(a, b) for a, b in zip(decoded(again, image), decoded(given, image), strict=True))
    assert same(again, fresh, heads)  # as building draws them
    assert again.spec == fresh.spec
    assert again.aliases == fresh.aliases
    assert set(report.matched) == body
    assert set(report.missing) == heads
    assert {text.split(":")[0] for text in report.skipped} == names_in(given, "heads")
    assert len(report.anew) == len(outputs)
    with torch.no_grad():
        assert {name: value.shape[1] for name, value in again(image).items()} == outputs


@pytest.mark.parametrize("key", TINY)
def test_a_head_is_replaced_whole(key: str) -> None:
    """Tensors of an old head whose shape goes with no output, a slope or a hidden layer, do not
    stay behind."""
    given = copy.deepcopy(made(key))
    for tensor in given.heads.state_dict(keep_vars=True).values():
        tensor.data.fill_(7)
    again, _ = reheaded(given, other(key))
    assert not any((tensor == 7).any() for tensor in again.heads.state_dict().values())


@pytest.mark.parametrize("key", [key for key in TINY if "mask" in TINY[key].outputs])
def test_a_pretext_and_back(key: str) -> None:
    """Heads come and go; encoder and decoder stay, and a head that is asked for again is drawn
    again."""
    given = made(key)
    restoring, _ = reheaded(given, {"paired": 1})
    back, report = reheaded(restoring, TINY[key].outputs)
    body = names_in(given, "encoder", "decoder")
    assert set(restoring.heads) == {"paired"}
    assert same(back, given, body)
    assert set(report.matched) == body
    assert set(report.missing) == names_in(back, "heads")
    assert back.spec == given.spec


def test_a_head_of_the_same_output_is_kept_beside_a_new_one() -> None:
    given = network("unet", {"mask": 2}, **UNET)
    again, report = reheaded(given, {"label": 3, "mask": 2})
    assert same(again, given, set(given.state_dict()))
    assert report.missing == ("heads.label.linear.weight", "heads.label.linear.bias")
    assert report.anew == ("head 'label' starts at random: the network had none",)
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(again(image)["mask"], given(image)["mask"])
    bare, _ = reheaded(given, {})
    drawn, _ = reheaded(bare, {"mask": 2})
    assert not same(drawn, given, names_in(given, "heads"))  # taken off first, so drawn


def test_the_report_says_that_the_last_block_of_the_unet_goes_with_the_head() -> None:
    given = network("unet", {"mask": 2}, **UNET)
    again, report = reheaded(given, {"mask": 3})
    assert report.anew == (
        "head 'mask' starts at random: the network's has 2 channels, requested are 3, and the last up-sampling block "
        "is part of it",
    )
    assert str(report).endswith(report.anew[0])
    convolutions = [name for name in report.missing if name.endswith("conv.weight")]
    # from below and the skip to the output's channels, and its residual unit
    assert len(convolutions) == 2
    assert set(report.missing) == names_in(again, "heads.mask.block")
    _, of_segresnet = reheaded(made("segresnet"), {"mask": 3})
    assert of_segresnet.anew == ("head 'mask' starts at random: the network's has 2 channels, requested are 3",)


def test_a_decoder_is_drawn_where_there_is_none_and_left_out_for_labels() -> None:
    given = network("unet", {"label": 3}, **UNET)
    again, report = reheaded(given, {"mask": 2})
    assert set(report.missing) == names_in(again, "decoder", "heads")
    assert report.anew[0] == "the decoder starts at random: the network had none"
    assert same(again, given, names_in(given, "encoder"))
    back, report = reheaded(again, {"label": 3})
    assert back.decoder is None
    assert any(text.startswith("decoder.") for text in report.skipped)


@pytest.mark.parametrize(
    ("surgery", "arguments"),
    [
        ("catenorm", {"classes": 2}),
        ("dsbn", {"sites": ["a", "b"]}),
        ("lora", {"rank": 2}),
        ("translator", {"channels": 1, "width": 4, "blocks": 1}),
    ],
)
def test_surgery_stays(surgery: str, arguments: dict[str, Any]) -> None:
    with Seeds(0).everything():
        given = operate(network("unet", {"mask": 2}, norm="batch", **UNET), surgery, **arguments)
    again, report = reheaded(given, {"paired": 1})
    kept = {name for name in given.state_dict() if not name.startswith("heads.")}
    assert type(again) is type(given)
    assert set(report.matched) == kept
    assert same(again, given, kept)
    assert again.spec["surgery"] == given.spec["surgery"]
    moving = {name for name, p in given.named_parameters() if p.requires_grad and name in kept}
    assert moving == {name for name, p in again.named_parameters() if p.requires_grad and name in kept}


def test_the_mode_and_the_precision_stay() -> None:
    given = network("resnet", {"label": 3}, small_stem=True).double().train()
    again, _ = reheaded(given, {"label": 2})
    assert again.training
    assert not reheaded(given.eval(), {"label": 2})[0].training
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    assert same(again, given, names_in(given, "encoder"))


def test_what_cannot_have_other_heads() -> None:
    with pytest.raises(SpecError, match="one opaque module without heads; choose a network of our table"):
        reheaded(Wrapped(nn.Conv2d(1, 2, 1), "mask"), {"mask": 3})
    with pytest.raises(SpecError, match="network resnet: gives 'label', the task asks for paired"):
        reheaded(made("resnet"), {"paired": 1})
    with pytest.raises(SpecError, match="gives one of 'mask' or 'paired' and 'label', the task asks for mask, paired"):
        reheaded(made("unet"), dict.fromkeys(DENSE, 1))


# ---------------------------------------------------------- transfer
@pytest.mark.parametrize("key", TINY)
def test_the_encoder_alone_from_a_whole_network_or_from_itself(key: str) -> None:
    source = tiny(key, TINY[key].outputs, seed=1)
    for state in (source.state_dict(), source.encoder.state_dict()):
        target = copy.deepcopy(made(key))
        report = transfer(state, target, parts=["encoder"])
        encoder = names_in(target, "encoder")
        assert set(report.matched) == encoder
        assert set(report.missing) == set(target.state_dict()) - encoder
        assert same(target, source, encoder)
        assert same(target, made(key), set(target.state_dict()) - encoder)


@pytest.mark.parametrize("part", ["decoder", "heads.mask", "encoder.levels.0", "decoder.ups.0"])
def test_any_part_named(part: str) -> None:
    source, target = tiny("unet", TINY["unet"].outputs, seed=1), copy.deepcopy(made("unet"))
    inner = source.get_submodule(part).state_dict()
    for state in (source.state_dict(), inner):
        target = copy.deepcopy(made("unet"))
        report = transfer(state, target, parts=[part])
        assert set(report.matched) == names_in(target, part)
        assert len(report.skipped) == len(state) - len(inner)
        assert same(target, source, names_in(target, part))
        assert same(target, made("unet"), set(target.state_dict()) - names_in(target, part))


def test_a_part_is_not_one_whose_name_begins_alike() -> None:
    source = network("vit", {"label": 3}, 1, depth=11, **VIT)
    target, before = (network("vit", {"label": 3}, depth=11, **VIT) for _ in range(2))
    transfer(source.state_dict(), target, parts=["encoder.body.blocks.1"])
    assert same(target, source, names_in(target, "encoder.body.blocks.1"))
    assert same(target, before, names_in(target, "encoder.body.blocks.10"))


def test_names_of_the_library_and_other_channels_fit_as_they_do_in_a_file() -> None:
    import timm

    reference, target = timm.create_model("resnet18", num_classes=7), network("resnet", {"label": 2})
    report = transfer(reference.state_dict(), target)
    assert report.reshaped == ("encoder.body.conv1.weight: channels 3 -> 1",)
    assert sorted(report.skipped) == ["fc.bias: no such tensor here", "fc.weight: no such tensor here"]
    assert set(report.missing) == names_in(target, "heads")
    assert torch.equal(target.state_dict()["encoder.body.bn1.weight"], reference.state_dict()["bn1.weight"])


def refused(state: dict[str, Tensor], target: nn.Module, told: str, **options: Any) -> None:
    before = digest(target)
    with pytest.raises(ModelError, match=told):
        transfer(state, target, **options)
    assert digest(target) == before


def test_what_does_not_fit_is_refused_by_name_and_nothing_is_loaded() -> None:
    target = copy.deepcopy(made("unet"))
    wide = network("unet", {"mask": 2}, channels=[4, 8, 16]).state_dict()
    refused(
        wide,
        target,
        r"encoder.levels.2.\S+ \(shape \(16, 8, 3, 3\), here \(8, 8, 3, 3\)\).* and \d+ more; transfer from a network",
    )
    bare = network("resnet", {"label": 3}).state_dict()
    refused(bare, target, r"encoder.levels.0.\S+ \(not among the weights\)")
    encoder = {name: value for name, value in made("unet").state_dict().items() if name.startswith("encoder.")}
    refused(encoder, target, r"transfer: encoder, decoder: .*decoder.ups.0.\S+ \(not among the weights\)")
    assert transfer(encoder, target, parts=["encoder"]).skipped == ()
    refused(
        wide,
        target,
        r"transfer: heads.label: .*heads.label.linear.weight \(not among the weights\)",
        parts=["heads.label"],
    )
    refused({}, target, "not among the weights")


def test_more_blocks_than_the_part_has_places_for_are_refused() -> None:
    deep, shallow = (network("vit", {"label": 3}, depth=depth, **VIT) for depth in (4, 3))
    refused(deep.state_dict(), shallow, r"encoder.body.blocks.3.norm1.weight \(no such tensor here\)")
    refused(deep.encoder.state_dict(), shallow, r"encoder.body.blocks.3.norm1.weight \(no such tensor here\)")
    assert transfer(deep.state_dict(), shallow, parts=["encoder.body.blocks.2"]).matched


def test_parts_that_a_network_has_not() -> None:
    state = made("unet").state_dict()
    with pytest.raises(SpecError, match="transfer: unknown part of the network 'encodr'; did you mean 'encoder'"):
        transfer(state, copy.deepcopy(made("unet")), parts=["encodr"])
    with pytest.raises(SpecError, match="unknown part of the network 'heads'"):
        transfer(state, network("unet", {}, **UNET), parts=["heads"])
    opaque = Wrapped(nn.Conv2d(1, 2, 1), "mask")
    with pytest.raises(SpecError, match=r"no part is named.*name parts: \['module'\]"):
        transfer(state, opaque)
    given = nn.Conv2d(1, 2, 1)
    assert transfer(given.state_dict(), opaque, parts=["module"]).missing == ()
    assert torch.equal(opaque.state_dict()["module.weight"], given.weight)
