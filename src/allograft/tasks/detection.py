"""Detection: boxes of classes, judged by COCO's average precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.cohort import Coding, Whole
from allograft.cohort.boxes import boxes_from_grid
from allograft.errors import SpecError
from allograft.metrics.detection import THRESHOLDS, Matches, detection_metrics, match
from allograft.networks import Network
from allograft.networks.detector import DetectionHead
from allograft.tasks.classification import check_classes
from allograft.tasks.task import Answer, Forward, Outputs, Value, check_weights, defined, weighted

MOST = 300
"""Boxes an image and class that count, COCO's ``maxDets``."""


@dataclass(frozen=True)
class Detection:
    """Boxes around things, each of one of ``classes``: the manifest's column ``boxes``.

    Metrics are COCO's (``metrics.detection``), pooled over the images of a test set: a ranking of
    boxes is no property of a single image. Resampling draws subjects, with all their images.
    Where several readers drew boxes, ``boxes`` holds the first one's, which alone are trained on
    and give the headline, and ``boxes_reader2`` and the like those of the others: the same metrics
    against each, ``ap50/reader2`` say, over the images which that reader has seen. There are no
    crowds: an import of COCO files leaves them out, and a box found in one is a false one.

    Args:
        classes: names, as the boxes files have them.
        weights: factors on the loss's terms (Ren et al. 2015): ``objectness`` and
            ``proposal_regression`` of the proposals, ``classification`` and ``box_regression`` of
            the boxes.
        confidence: boxes that are less certain do not count as answers in ``predict`` and in
            pictures; AP and AR rank all of them.
    """

    key: ClassVar[str] = "boxes"
    headline: ClassVar[str] = "ap50"
    terms: ClassVar[tuple[str, ...]] = ("objectness", "proposal_regression", "classification", "box_regression")

    classes: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)
    confidence: float = 0.5

    def __post_init__(self) -> None:
        check_classes(self.classes, "detection", least=1)
        check_weights(self.weights, self.terms, "detection")
        if not 0 <= self.confidence <= 1:
            raise SpecError(f"task: detection: confidence is {self.confidence}; expected a share from 0 to 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, background excluded."""
        return self.classes

    @property
    def coding(self) -> Coding:
        """Names to labels from 1."""
        return Coding(boxes=self.classes)

    @property
    def outputs(self) -> Mapping[str, int]:
        """The classes and the background."""
        return {"boxes": len(self.classes) + 1}

    def loss(self, output: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """A detector's loss needs the proposals inside the network, see ``objective``."""
        raise SpecError(
            "task: detection: this method needs the loss of a network's output, and a detector has it inside; "
            "choose a method that trains by the task's objective, such as finetune or joint"
        )

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """The four terms of the network's head, mean over the images that have boxes files."""
        if not (isinstance(network, Network) and isinstance(head := network.heads["boxes"], DetectionHead)):
            raise SpecError("task: detection: the network is no detector of our table; set network: {faster_rcnn: {}}")
        boxes = batch.labels["boxes"]
        assert isinstance(boxes, tuple)
        return weighted(head.losses(network.encoder(batch.image), boxes), self.weights)

    def found(self, prediction: Outputs, whole: Whole) -> Boxes:
        """The boxes of a prediction, in the image's own pixels, most certain first."""
        (boxes,) = cast("tuple[Boxes, ...]", prediction["boxes"])
        assert boxes.score is not None
        return boxes_from_grid(boxes[boxes.score.argsort(descending=True, stable=True)], whole.geometry)

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """How many boxes of each class are certain enough, and the boxes."""
        boxes = self.found(prediction, whole)
        assert boxes.score is not None
        certain = boxes[boxes.score >= self.confidence]
        counts: dict[str, float | str] = {
            name: int((certain.label == index).sum()) for index, name in enumerate(self.classes, 1)
        }
        warnings = tuple(f"no {name} found" for name, count in counts.items() if count == 0)
        return Answer(counts, boxes=certain, warnings=warnings)

    def truth(self, whole: Whole) -> Boxes:
        """The boxes of the manifest, in the image's own pixels."""
        return whole.boxes

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """What an image contributes to AP and AR: of each box found its score, its class and the
        thresholds under which it is a true one, as bits; and the true boxes of each class.

        Beside them ``f1``, of the boxes that are certain enough and overlap by half; 1 where there
        is nothing and nothing was found. Further readers have ``matched/READER`` and
        ``truths/READER``: which boxes count, and in which order, is no matter of the reader.
        """
        predicted, truth = self.found(prediction, whole), self.truth(whole)
        assert predicted.score is not None
        own = match(predicted.xyxy, predicted.label, predicted.score, truth.xyxy, truth.label, most=MOST)
        certain = own.matched[own.score >= self.confidence, THRESHOLDS.index(0.5)]
        both = len(certain) + len(truth)
        further: dict[str, Value] = {}
        for reader, other in whole.further_boxes.items():
            theirs = match(predicted.xyxy, predicted.label, predicted.score, other.xyxy, other.label, most=MOST)
            further |= self._contribution(theirs, f"/{reader}")
        return {
            "f1": 2 * int(certain.sum()) / both if both else 1.0,
            "scores": own.score.tolist(),
            "labels": own.label.double().tolist(),
            **self._contribution(own),
            **further,
        }

    def _contribution(self, own: Matches, reader: str = "") -> dict[str, Value]:
        bits = (own.matched.long() << torch.arange(len(THRESHOLDS))).sum(1)
        return {
            f"matched{reader}": bits.double().tolist(),
            f"truths{reader}": [float(own.truths.get(index, 0)) for index, _ in enumerate(self.classes, 1)],
        }

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """``ap50``, ``ap75``, ``ap`` and ``ar`` of all images together, and of each further reader
        those of the images that they have seen."""
        scores: dict[str, float | None] = {}
        suffixes = [key.removeprefix("truths") for case in cases for key in case if key.split("/")[0] == "truths"]
        for reader in dict.fromkeys(suffixes):
            seen = [_matches(case, reader) for case in cases if f"truths{reader}" in case]
            scores |= {f"{name}{reader}": value for name, value in defined(detection_metrics(seen)).items()}
        return scores


def _matches(case: Mapping[str, Value], reader: str = "") -> Matches:
    keys = ("scores", "labels", f"matched{reader}", f"truths{reader}")
    scores, labels, bits, truths = (cast("list[float]", case[key]) for key in keys)
    matched = (torch.tensor(bits, dtype=torch.int64)[:, None] >> torch.arange(len(THRESHOLDS))) & 1
    return Matches(
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(labels, dtype=torch.int64),
        matched.bool(),
        {index: int(count) for index, count in enumerate(truths, 1) if count},
    )
