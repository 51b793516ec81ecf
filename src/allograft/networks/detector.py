"""Faster R-CNN (Ren et al. 2015) of torchvision's parts: a backbone with a feature pyramid as the
encoder, proposals and classes as the head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from allograft.batch import Boxes
from allograft.errors import SpecError
from allograft.networks.network import Network
from allograft.nn.processes import count_over_processes, processes

TERMS = {
    "loss_classifier": "classification",
    "loss_box_reg": "box_regression",
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposal_regression",
}
"""torchvision's names of the four terms (Ren et al. 2015, eq. 1) -> ours."""


class PyramidEncoder(nn.Module):
    """(B, C, H, W) -> the levels of a feature pyramid, finest first, each (B, 256, h, w)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.body(image).values())


class DetectionHead(nn.Module):
    """Region proposals and, within them, classes and boxes.

    Args:
        rpn, roi_heads: torchvision's.
        names: of the pyramid's levels, as ``roi_heads`` knows them.
        stride: pixels of the image for one of the finest level.
    """

    def __init__(self, rpn: nn.Module, roi_heads: nn.Module, names: Sequence[str], stride: int) -> None:
        super().__init__()
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.names = tuple(names)
        self.stride = stride

    def forward(self, features: Sequence[Tensor], decoded: Tensor | None) -> tuple[Boxes, ...]:
        """The boxes found in each image, most certain first, whatever the mode."""
        images, levels = self._images(features), OrderedDict(zip(self.names, features, strict=True))
        with self._mode(training=False):
            proposals, _ = self.rpn(images, levels)
            every, _ = self.roi_heads(levels, proposals, images.image_sizes)
        return tuple(Boxes(each["boxes"], each["labels"], each["scores"]) for each in every)

    def losses(self, features: Sequence[Tensor], boxes: Sequence[Boxes | None]) -> dict[str, Tensor]:
        """The four terms, each the mean over the images that have boxes of the image's own loss; an
        image without a box teaches that all is background, one with None nothing.

        Images are taken one by one: torchvision's means are over all anchors of a batch, which
        several processes could not share; and which anchors are drawn depends on the image, not on
        its neighbours.
        """
        labelled = [number for number, each in enumerate(boxes) if each is not None]
        count = count_over_processes(features[0].new_tensor([each is not None for each in boxes], dtype=torch.bool))
        base = _of_first_process(torch.randint(2**31, (1,), device=features[0].device))
        terms = {name: features[0].sum() * 0 for name in TERMS.values()}
        for number in labelled:
            each = boxes[number]
            assert each is not None
            own = [level[number : number + 1] for level in features]
            with torch.random.fork_rng([own[0].device] if own[0].is_cuda else ()):
                torch.manual_seed(base + _content(each))
                for name, value in self._losses_of_one(own, each).items():
                    terms[TERMS[name]] = terms[TERMS[name]] + value / count
        return terms

    def _losses_of_one(self, features: Sequence[Tensor], boxes: Boxes) -> dict[str, Tensor]:
        images, levels = self._images(features), OrderedDict(zip(self.names, features, strict=True))
        targets = [{"boxes": boxes.xyxy, "labels": boxes.label}]
        with self._mode(training=True):
            proposals, of_proposals = self.rpn(images, levels, targets)
            _, of_boxes = self.roi_heads(levels, proposals, images.image_sizes, targets)
        return {**of_proposals, **of_boxes}

    @contextmanager
    def _mode(self, *, training: bool) -> Iterator[None]:
        """Torchvision's parts find boxes in one mode and losses in the other; nothing else in them
        depends on it."""
        modes = [(module, module.training) for module in self.modules()]
        try:
            self.train(training)
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _images(self, features: Sequence[Tensor]) -> ImageList:
        """What torchvision wants to know of the images: how many, and their size."""
        count, (height, width) = len(features[0]), (self.stride * side for side in features[0].shape[-2:])
        return ImageList(features[0].new_zeros(()).expand(count, 1, height, width), [(height, width)] * count)


def _of_first_process(value: Tensor) -> int:
    """Each process draws numbers of its own; an image's anchors must not depend on where it is."""
    if processes() > 1:
        dist.broadcast(value, 0)
    return int(value)


def _content(boxes: Boxes) -> int:
    return int((boxes.xyxy.double().sum() * 64).round()) % 2**31


def faster_rcnn(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    backbone: str = "mobilenet_v3_large",
    anchors: Sequence[int] = (16, 32, 64, 128, 256),
    detections: int = 300,
    score: float = 0.05,
    overlap: float = 0.5,
) -> Network:
    """Faster R-CNN. Images keep their size: nothing is resized inside the network.

    Args:
        in_channels: image channels.
        outputs: ``{"boxes": K}``, the background counted.
        backbone: ``resnet50`` (FPN, Lin et al. 2017), ``mobilenet_v3_large`` (for the CPU), or
            ``tiny`` (three convolutions and a narrow head, for tests). All have batch
            normalisation that is trained.
        anchors: sides of the anchors in pixels.
        detections: most boxes an image.
        score: boxes that are less certain are left out.
        overlap: of two boxes of a class with a larger intersection over union, the more certain is
            kept.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    if set(outputs) - {"boxes"}:
        raise SpecError(
            f"network faster_rcnn: gives 'boxes', the task asks for {', '.join(outputs)}; choose another network"
        )
    if backbone not in BACKBONES:
        raise SpecError(f"network faster_rcnn: backbone is '{backbone}'; expected one of {', '.join(BACKBONES)}")
    make, names, stride, multiple, width = BACKBONES[backbone]
    body = make(in_channels)
    # resnet50: one size for each level of the pyramid; else all sizes at every level
    sizes = [(side,) for side in anchors] if len(anchors) == len(names) else [tuple(anchors)] * len(names)
    whole = FasterRCNN(
        body,
        box_head=TwoMLPHead(body.out_channels * 7**2, width),
        box_predictor=FastRCNNPredictor(width, outputs.get("boxes", 2)),
        rpn_anchor_generator=AnchorGenerator(tuple(sizes), ((0.5, 1.0, 2.0),) * len(names)),
        box_score_thresh=score,
        box_nms_thresh=overlap,
        box_detections_per_img=detections,
    )
    head = DetectionHead(whole.rpn, whole.roi_heads, names, stride)
    return Network(PyramidEncoder(body), None, {"boxes": head} if outputs else {}, multiple=multiple)


def _resnet50(in_channels: int) -> nn.Module:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    body: Any = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    if in_channels != 3:
        body.body.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
    return body


def _mobilenet(in_channels: int) -> nn.Module:
    from torchvision.models.detection.backbone_utils import mobilenet_backbone

    body: Any = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=6
    )
    if in_channels != 3:
        body.body["0"][0] = nn.Conv2d(in_channels, 16, 3, 2, 1, bias=False)
    return body


def _tiny(in_channels: int) -> nn.Module:
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    def block(before: int, after: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

    body = nn.Sequential(OrderedDict(first=block(in_channels, 8, 2), second=block(8, 16, 2), third=block(16, 16, 2)))
    return BackboneWithFPN(body, {"second": "0", "third": "1"}, [16, 16], 16)


BACKBONES: Mapping[str, tuple[Callable[[int], Any], tuple[str, ...], int, int, int]] = {
    "resnet50": (_resnet50, ("0", "1", "2", "3", "pool"), 4, 32, 1024),
    "mobilenet_v3_large": (_mobilenet, ("0", "1", "pool"), 32, 32, 1024),
    "tiny": (_tiny, ("0", "1", "pool"), 4, 16, 64),
}
"""Name -> how it is made, the names of its pyramid's levels, pixels a cell of the finest, what
sides must be a multiple of, and the width of the head that looks at each box."""
