"""Segmentation and classification by one network: what is seen, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Coding, Whole
from allograft.errors import SpecError
from allograft.tasks.classification import Classification
from allograft.tasks.segmentation import PerImage, Segmentation, dice_loss
from allograft.tasks.task import Answer, Forward, Outputs, Value, check_weights, weighted

LABEL = ("label", "probabilities")


@dataclass(frozen=True)
class Multitask:
    """Masks and one class per image together, from one encoder.

    The cases of the study are those with a mask; among them a case without a class trains the mask
    alone, and is evaluated by it alone.

    Args:
        segmentation: the arguments of the task ``segmentation``.
        classification: those of ``classification``.
        weight: of the classification's loss; the segmentation's is 1.
        weights: factors on the terms ``dice``, ``cross_entropy`` and ``label_cross_entropy``, on
            top of ``weight`` and of the tasks' own.
    """

    key: ClassVar[str] = "mask"
    headline: ClassVar[str] = "dice"
    terms: ClassVar[tuple[str, ...]] = ("dice", "cross_entropy", "label_cross_entropy")

    segmentation: Segmentation
    classification: Classification
    weight: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise SpecError(f"task: multitask: weight is {self.weight}; expected 0 or more")
        check_weights(self.weights, self.terms, "multitask")
        both = set(self.segmentation.names) & set(self.classification.names)
        if both:
            raise SpecError(
                f"task: multitask: '{sorted(both)[0]}' is a class of both tasks; rename one, results are named by class"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of both tasks' classes."""
        return (*self.segmentation.names, *self.classification.names)

    @property
    def coding(self) -> Coding:
        """Of masks and of labels."""
        return Coding(mask=self.segmentation.coding.mask, label=self.classification.classes)

    @property
    def outputs(self) -> Mapping[str, int]:
        """Both tasks' outputs."""
        return {**self.segmentation.outputs, **self.classification.outputs}

    def loss(self, output: Outputs, batch: Batch, *, dice: PerImage = dice_loss) -> Mapping[str, Tensor]:
        """The terms of both; ``label_cross_entropy`` is the classification's, ``dice`` as for
        ``Segmentation``."""
        terms = dict(self.segmentation.loss(output, batch, dice=dice))
        unlabelled = batch.site.new_full(
            (len(batch),), -100
        )  # where no case of this batch has a class, another process's may
        labels = {"label": unlabelled, **batch.labels}
        terms["label_cross_entropy"] = (
            self.weight * self.classification.loss(output, replace(batch, labels=labels))["cross_entropy"]
        )
        return weighted(terms, self.weights)

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """``loss`` of the network's output."""
        return self.loss(network(batch.image), batch)

    def probabilities(self, prediction: Outputs, whole: Whole) -> Tensor:
        """Of the segmentation, (K, *shape) on the image's own grid."""
        return self.segmentation.probabilities(prediction, whole)

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """The mask with its volumes, and the class with its probabilities."""
        mask, label = (task.answer(prediction, whole) for task in (self.segmentation, self.classification))
        return Answer({**mask.values, **label.values}, mask.mask, mask.maps, mask.warnings, unit=mask.unit)

    def truth(self, whole: Whole) -> Tensor:
        """The stored mask, (*shape) int64 class indices."""
        return whole.mask

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """What both record; ``label`` is None where the case has none."""
        measured = self.segmentation.measure(prediction, whole)
        if "label" in whole.case.labels:
            return {**measured, **self.classification.measure(prediction, whole)}
        return {**measured, "label": None, "probabilities": self.classification.probabilities(prediction).tolist()}

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """Masks as means over subjects, classes pooled over the cases that have one."""
        masks = [{key: value for key, value in case.items() if key not in LABEL} for case in cases]
        labelled = [case for case in cases if case["label"] is not None]
        return self.segmentation.aggregate(masks) | self.classification.aggregate(labelled)
