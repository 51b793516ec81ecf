"""Images of any size, and a network left as it was found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.unit.tiny import case
from torch import Tensor, nn

from allograft.batch import Boxes
from allograft.networks import build
from allograft.predictor import Direct, evaluation_mode
from allograft.predictor.direct import padded
from allograft.predictor.whole import stem, whole_prediction


class Seen(nn.Module):
    """Notes what it is given; answers with the image and a number a case."""

    multiple = 4

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.image = image
        return {"mask": image, "label": image.flatten(1).mean(1, keepdim=True)}


@pytest.mark.parametrize("size", [(4, 8), (5, 7), (3, 4), (9, 1), (3, 5, 6)])
def test_padded_at_the_far_end_by_the_border_and_cropped_back(size: tuple[int, ...]) -> None:
    network, image = Seen(), torch.randn(2, 1, *size)
    found = padded(network, image)
    assert torch.equal(found["mask"], image)
    assert found["label"].shape == (2, 1)
    assert all(
        given % 4 == 0 and 0 <= given - wanted < 4 for given, wanted in zip(network.image.shape[2:], size, strict=True)
    )
    for axis, wanted in enumerate(size, 2):
        beyond = network.image.narrow(axis, wanted - 1, network.image.shape[axis] - wanted + 1)
        assert torch.equal(beyond, beyond.narrow(axis, 0, 1).expand_as(beyond))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_unet_takes_any_size(dims: int) -> None:
    arguments = {"in_channels": 1, "outputs": {"mask": 2}, "spatial_dims": dims, "channels": [2, 3, 4]}
    direct = Direct(build({"build": {"unet": arguments}}))
    for size in ((9, 14, 11), (8, 8, 8), (5, 6, 7)):
        batch = replace(case("a"), image=torch.randn(1, 1, *size[:dims]))
        assert direct(batch)["mask"].shape == (1, 2, *size[:dims])


def test_evaluation_mode_restores_modes_and_keeps_no_graph() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Conv2d(1, 1, 1))
    network[1].eval()
    modes = [module.training for module in network.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(network):  # noqa: PT012 - leaving by an error is what is tested
        assert not any(module.training for module in network.modules())
        assert not network(torch.ones(1, 1, 2, 2)).requires_grad
        raise ZeroDivisionError
    assert [module.training for module in network.modules()] == modes


def test_a_network_that_trains_answers_as_one_that_is_done() -> None:
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 3], "norm": "BATCH"}}}
    )
    batch = replace(case("a"), image=torch.randn(1, 1, 8, 8))
    found = Direct(network.train())(batch)["mask"]
    assert network.training
    torch.testing.assert_close(found, Direct(network.eval())(batch)["mask"], rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [1, 2, 3, 10])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.predictor.whole.CHUNK", chunk)
    network = Seen()
    batch = replace(case("a"), image=torch.randn(5, 1, 4, 4), site=torch.zeros(5), cases=tuple("abcde"))
    found = whole_prediction(Direct(network), batch)
    assert torch.equal(found["mask"], batch.image)
    assert len(network.image) == (5 % chunk or chunk if chunk < 5 else 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b.nii.gz", "a/b"), ("B.PNG", "B"), ("a.b.tiff", "a.b"), ("x.nii.gz;y.nii.gz", "x"), ("raw", "raw")],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(name) == expected


class Boxed(Seen):
    """Finds a box in the padding, and one that reaches into it."""

    def forward(self, image: Tensor) -> dict[str, object]:  # type: ignore[override]
        corners = torch.tensor([[0.0, 0.0, 3.0, 4.0], [1.0, 1.0, 8.0, 8.0]])
        return {"boxes": (Boxes(corners, torch.tensor([1, 1])),)}


def test_boxes_end_where_the_image_does() -> None:
    (found,) = padded(Boxed(), torch.rand(1, 1, 5, 7))["boxes"]  # type: ignore[arg-type]
    assert found.xyxy.tolist() == [[0.0, 0.0, 3.0, 4.0], [1.0, 1.0, 7.0, 5.0]]  # (x, y, x, y)
