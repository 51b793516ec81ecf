"""The seam between embedding and body: nothing changes across it, and nothing leaks past it."""

import copy

import pytest
import torch
from monai.networks import nets
from tests.unit.networks.tiny import images, made

from allograft.errors import SpecError
from allograft.networks import Network, build
from allograft.networks.fit import fitted
from allograft.networks.tokens import token_encoder
from allograft.seeds import Seeds

KEYS = ["vit", "swin", "unetr", "unetr-3d"]


@pytest.mark.parametrize("key", KEYS)
def test_embedding_and_body_together_are_the_encoder(key: str) -> None:
    network, image = made(key).eval(), images(key)
    encoder = token_encoder(network, "test")
    with torch.no_grad():
        tokens = encoder.embed(image)
        found, expected = encoder.encode(tokens), network.encoder(image)
    grid = tuple(-(-side // encoder.token_size) for side in image.shape[2:])
    assert tuple(tokens.shape) == (2, *grid, encoder.token_channels)
    assert torch.equal(found[-1], expected[-1])
    if not key.startswith("unetr"):  # whose finer features are of the image and of convolutions
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_transformer_of_timm_has_the_seam_too() -> None:
    arguments = {"name": "vit_tiny_patch16_224", "img_size": 32, "depth": 2}
    with Seeds(0).everything():
        network = build({"build": {"timm": {"in_channels": 1, "outputs": {"label": 2}, **arguments}}}).eval()
    assert isinstance(network, Network)
    encoder, image = token_encoder(network, "test"), torch.randn(1, 1, 32, 32, generator=torch.Generator())
    with torch.no_grad():
        for found, expected in zip(encoder.encode(encoder.embed(image)), network.encoder(image), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("key", KEYS)
def test_a_token_sees_its_own_patch_only(key: str) -> None:
    encoder, image = token_encoder(made(key).eval(), "test"), images(key).requires_grad_()
    tokens = encoder.embed(image)
    first = tokens[(0, *[0] * (tokens.ndim - 2))]
    (first * torch.linspace(-1, 2, len(first))).sum().backward()  # a plain sum is what a normalisation makes constant
    assert image.grad is not None
    outside = image.grad.clone()
    outside[(0, slice(None), *[slice(0, encoder.token_size)] * (image.ndim - 2))] = 0
    assert image.grad.abs().sum() > 0
    assert not outside.any()


@pytest.mark.parametrize("key", ["unet", "resnet", "timm"])
def test_networks_without_tokens_are_refused(key: str) -> None:
    with pytest.raises(SpecError, match=r"simmim: network '\w+' embeds no patches.*choose vit, swin or unetr"):
        token_encoder(made(key), "simmim")


def test_unetr_is_monais() -> None:
    network = made("unetr-3d").eval()
    with Seeds(0).everything():
        whole = nets.UNETR(1, 2, (32, 16, 16), feature_size=4, hidden_size=12, mlp_dim=12, num_heads=2).eval()
    renamed = {network.aliases[name]: value for name, value in whole.state_dict().items()}
    assert set(renamed) == {name for name in network.state_dict() if not name.startswith("heads.label")}
    twin = copy.deepcopy(network)
    twin.load_state_dict(renamed, strict=False)
    image = images("unetr-3d")
    with torch.no_grad():
        assert torch.equal(twin(image)["mask"], whole(image))


def test_positions_of_another_image_size_are_resampled() -> None:
    network = made("unetr").eval()
    table = network.encoder.levels[0]["embedding"].position_embeddings  # type: ignore[union-attr,index]
    with torch.no_grad():
        assert network.encoder._positions((2, 2)) is table  # type: ignore[operator]
        other = network.encoder._positions((3, 2))  # type: ignore[operator]
        assert other.shape == (1, 6, 12)
        found, _ = fitted("position_embeddings", table, torch.zeros(1, 16, 12), in_channels=1, dims=2) or (None, "")
        torch.testing.assert_close(network.encoder._positions((4, 4)), found)  # type: ignore[operator]


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(SpecError, match=r"image_size is 40; expected 3 multiples of 16"):
        build({"build": {"unetr": {"in_channels": 1, "outputs": {"mask": 2}, "image_size": 40}}})
    with pytest.raises(SpecError, match=r"an image of 8x48 is smaller than a patch of 16"):
        made("unetr").encoder(torch.zeros(1, 1, 8, 48))


def swin(window: int) -> Network:
    """Two stages of 6 x 6 and 3 x 3 windows, or of 7 x 7."""
    arguments = {"image_size": 4 * 2 * window, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}
    with Seeds(0).everything():
        network = build(
            {"build": {"swin": {"in_channels": 1, "outputs": {}, **arguments, "window_size": window, "drop_path": 0}}}
        )
    assert isinstance(network, Network)
    return network.eval()


def test_another_window_takes_the_tables_over_resampled() -> None:
    from allograft.networks.load import matched

    six, seven = swin(6), swin(7)
    tables = [name for name in six.state_dict() if name.endswith("relative_position_bias_table")]
    assert {six.state_dict()[name].shape[0] for name in tables} == {11**2}
    match = matched(seven, six.state_dict(), {})
    seven.load_state_dict(match.loaded, strict=False)
    assert all(any(name in line and "resampled" in line for line in match.report.reshaped) for name in tables)
    for name in tables:
        table, wider = six.state_dict()[name], seven.state_dict()[name]
        assert wider.shape == (13**2, table.shape[1])
        # the bias of no offset stays in the middle, to what a resampling moves it by
        torch.testing.assert_close(wider[13**2 // 2], table[11**2 // 2], atol=0.02, rtol=0)
    same = swin(6)
    unchanged = matched(same, six.state_dict(), {})
    assert not unchanged.report.reshaped
    same.load_state_dict(unchanged.loaded)
    image = torch.randn(1, 1, 48, 48, generator=torch.Generator())
    with torch.no_grad():
        assert torch.equal(same.encoder(image)[-1], six.encoder(image)[-1])
