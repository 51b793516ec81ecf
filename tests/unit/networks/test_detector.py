"""Faster R-CNN of our parts: its head finds boxes in any mode, and an image's loss does not depend
on its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.errors import SpecError
from allograft.networks import Network, build
from allograft.networks.detector import BACKBONES, DetectionHead
from allograft.networks.scopes import scope_parameters
from allograft.predictor import Direct

SPEC = {"build": {"faster_rcnn": {"in_channels": 1, "outputs": {"boxes": 2}, "backbone": "tiny"}}}
NONE = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = build(SPEC)
    assert isinstance(made, Network)
    return made.eval()


def _images(count: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(1))


def _box(*sides: float) -> Boxes:
    return Boxes(torch.tensor([sides], dtype=torch.float32), torch.tensor([1]))


def _head(network: Network) -> DetectionHead:
    head = network.heads["boxes"]
    assert isinstance(head, DetectionHead)
    return head


def _losses(network: Network, images: Tensor, boxes: list[Boxes | None]) -> dict[str, float]:
    torch.manual_seed(3)
    with torch.no_grad():
        terms = _head(network).losses(network.encoder(images), boxes)
    return {name: float(value) for name, value in terms.items()}


def test_boxes_are_the_same_in_training_mode_and_lie_in_the_image(network: Network) -> None:
    with torch.no_grad():
        features = network.encoder(_images(2))
        found = _head(network)(features, None)
        network.train()
        again = _head(network)(features, None)
    assert all(module.training for module in network.modules())
    network.eval()
    for first, second in zip(found, again, strict=True):
        assert torch.equal(first.xyxy, second.xyxy)
        assert len(first)
        assert first.score is not None
        assert (first.score.diff() <= 0).all()
        assert (first.xyxy >= 0).all()
        assert (first.xyxy <= torch.tensor([96.0, 64, 96, 64])).all()


def test_a_loss_is_the_mean_over_images_of_each_ones_own(network: Network) -> None:
    images, boxes = _images(3), [_box(4, 8, 30, 40), _box(50, 10, 90, 60), NONE]
    each = [_losses(network, images[n : n + 1], [boxes[n]]) for n in range(3)]
    together = _losses(network, images, [*boxes])
    for name, value in together.items():
        assert value == pytest.approx(sum(one[name] for one in each) / 3, rel=1e-4)
    assert each[2]["box_regression"] == 0  # nothing to regress, but background to learn
    assert each[2]["objectness"] > 0


def test_an_image_whose_boxes_are_hidden_teaches_nothing(network: Network) -> None:
    images = _images(2)
    alone = _losses(network, images[:1], [_box(4, 8, 30, 40)])
    assert _losses(network, images, [_box(4, 8, 30, 40), None]) == pytest.approx(alone, rel=1e-5)
    assert set(_losses(network, images, [None, None]).values()) == {0.0}


def test_images_of_any_size_are_padded_and_boxes_cut_to_them(network: Network) -> None:
    image = _images(1, 50, 70)
    prediction = Direct(network)(Batch(image, torch.tensor([0]), ("a",)))
    (boxes,) = prediction["boxes"]
    assert isinstance(boxes, Boxes)
    assert len(boxes)
    assert (boxes.xyxy <= torch.tensor([70.0, 50, 70, 50])).all()


def test_parts_and_scopes(network: Network) -> None:
    assert [name for name, _ in network.parts()] == ["encoder", "heads"]
    assert {name.split(".")[0] for name, _ in scope_parameters(network, "decoder")} == {"heads"}
    bare = build({"build": {"faster_rcnn": {**SPEC["build"]["faster_rcnn"], "outputs": {}}}})
    assert isinstance(bare, Network)
    assert not bare.heads


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_the_stated_stride_is_that_of_the_finest_level(backbone: str) -> None:
    make, names, stride, multiple, _ = BACKBONES[backbone]
    with torch.no_grad():
        levels = make(3).eval()(torch.zeros(1, 3, 2 * multiple, 4 * multiple))
    assert tuple(levels) == names
    finest = next(iter(levels.values()))
    assert tuple(finest.shape[-2:]) == (2 * multiple // stride, 4 * multiple // stride)


@pytest.mark.parametrize(
    ("anchors", "sizes"), [([8, 24], ((8, 24),) * 3), ([8, 16, 48], ((8,), (16,), (48,)))], ids=["shared", "a-level"]
)
def test_its_options_reach_the_parts_of_torchvision(anchors: list[int], sizes: tuple[tuple[int, ...], ...]) -> None:
    options = {"anchors": anchors, "detections": 7, "score": 0.2, "overlap": 0.3}
    made = build({"build": {"faster_rcnn": {**SPEC["build"]["faster_rcnn"], **options}}})
    assert isinstance(made, Network)
    roi, rpn = _head(made).roi_heads, _head(made).rpn
    assert rpn.anchor_generator.sizes == sizes
    assert (roi.detections_per_img, roi.score_thresh, roi.nms_thresh) == (7, 0.2, 0.3)


def test_what_it_cannot_give_is_refused() -> None:
    for arguments, words in (({"outputs": {"mask": 2}}, "gives 'boxes'"), ({"backbone": "vgg"}, "expected one of")):
        with pytest.raises(SpecError, match=words):
            build({"build": {"faster_rcnn": {**SPEC["build"]["faster_rcnn"], **arguments}}})
