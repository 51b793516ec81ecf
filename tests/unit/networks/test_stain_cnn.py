"""Table 3's network, and the decoder that hangs on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from allograft.errors import SpecError
from allograft.networks import build
from allograft.networks.network import count_parameters
from allograft.networks.stain_cnn import StainDecoder


def test_it_is_the_papers_table() -> None:
    network = build({"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}}}}).eval()
    features = network.encoder(torch.zeros(1, 3, 256, 256))  # type: ignore[operator]
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (32, 128, 128),
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
    ]
    kinds = [type(module).__name__ for module in network.encoder.modules()]  # type: ignore[union-attr]
    assert [kinds.count(kind) for kind in ("Conv2d", "BatchNorm2d", "ReLU")] == [10, 10, 10]
    head = network.heads["label"].layers  # type: ignore[index,union-attr]
    assert [type(layer).__name__ for layer in head] == ["Dropout", "Linear", "ReLU", "Linear"]
    assert (head[0].p, head[1].weight.shape, head[3].weight.shape) == (0.5, (256, 512), (2, 256))
    weights = sum(
        9 * a * b
        for a, b in (
            (3, 32),
            (32, 32),
            (32, 64),
            (64, 64),
            (64, 128),
            (128, 128),
            (128, 256),
            (256, 256),
            (256, 512),
            (512, 512),
        )
    )
    norms = 2 * 2 * (32 + 64 + 128 + 256 + 512)
    assert count_parameters(network) == weights + norms + 512 * 256 + 256 + 256 * 2 + 2
    assert network.multiple == 32


def test_the_head_reads_the_mean_over_space() -> None:
    network = build(
        {"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}, "channels": [4], "hidden": 5}}}
    ).eval()
    feature = torch.rand(2, 4, 3, 5)
    head = network.heads["label"]  # type: ignore[index]
    torch.testing.assert_close(head([feature], None), head.layers(feature.mean((2, 3))))  # type: ignore[union-attr]


@pytest.mark.parametrize(("doublings", "size"), [(5, (64, 64)), (2, (20, 24)), (1.9, (17, 19))])
def test_the_decoder_gives_the_size_of_the_image(doublings: float, size: tuple[int, int]) -> None:
    decoder = StainDecoder(32, doublings)
    feature = torch.rand(2, 32, *(-(-side // 2 ** round(doublings)) for side in size))
    assert decoder(feature, size).shape == (2, 3, *size)
    assert len(decoder.stages) == round(doublings)
    assert min(m.out_channels for m in decoder.stages.modules() if isinstance(m, nn.Conv2d)) == (
        16 if doublings > 1.5 else 32
    )
    # nothing that differs between processes
    assert not [name for name, _ in decoder.named_buffers()]


def test_what_cannot_be_built_is_refused() -> None:
    for arguments, said in (
        ({"channels": []}, r"channels \[\]"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"outputs": {"mask": 2}}, "'label'"),
    ):
        with pytest.raises(SpecError, match=said):
            build({"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}, **arguments}}})
