"""Classification: one class an image, softmax and cross-entropy, judged by the whole test set at
once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Coding, Whole
from allograft.errors import SpecError
from allograft.metrics.classification import classification_metrics
from allograft.nn.processes import count_over_processes
from allograft.tasks.task import Answer, Forward, Outputs, Value, check_weights, defined, weighted


def label_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of the cases that are labelled: (B, K) and (B,) int64, -100 = not
    labelled, -> (); 0 when none is.

    >>> label_cross_entropy(torch.tensor([[50.0, 0.0], [0.0, 0.0]]), torch.tensor([0, -100])).item()
    0.0
    """
    total = F.cross_entropy(logits, label, ignore_index=-100, reduction="sum")
    return total / count_over_processes(label != -100)


@dataclass(frozen=True)
class Classification:
    """One class per image: softmax over ``classes``, which are the values of the manifest's column
    ``label``.

    Metrics are pooled over the cases of a test set, not averaged over its subjects: a ranking is no
    property of a single subject. A bootstrap of them resamples subjects, with all cases of each.
    With two classes the second is the finding: name the healthy one first.

    Args:
        classes: names, in the order of the network's output.
        weights: a factor on the loss's one term, ``cross_entropy``.
    """

    key: ClassVar[str] = "label"
    headline: ClassVar[str] = "auroc"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy",)

    classes: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_classes(self.classes, "classification", least=2)
        check_weights(self.weights, self.terms, "classification")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names."""
        return self.classes

    @property
    def coding(self) -> Coding:
        """Names to indices."""
        return Coding(label=self.classes)

    @property
    def outputs(self) -> Mapping[str, int]:
        """One logit a class."""
        return {"label": len(self.classes)}

    def loss(self, output: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy, mean over the cases that are labelled."""
        label = batch.labels["label"]
        assert isinstance(label, Tensor)
        return weighted({"cross_entropy": label_cross_entropy(output["label"], label)}, self.weights)

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """``loss`` of the network's output."""
        return self.loss(network(batch.image), batch)

    def probabilities(self, prediction: Outputs) -> Tensor:
        """Class probabilities (K,) of one case, float64; of a volume in slices the mean over its
        slices."""
        return prediction["label"].double().softmax(1).mean(0).cpu()

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """The most probable class, and the probability of each."""
        probabilities = self.probabilities(prediction).tolist()
        return Answer(
            {
                "label": self.classes[probabilities.index(max(probabilities))],
                **dict(zip(self.classes, probabilities, strict=True)),
            }
        )

    def truth(self, whole: Whole) -> int | list[float]:
        """The index of the class."""
        return whole.label

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """``label``, an index into ``classes``, and ``probabilities``: all that pooled metrics are
        made of."""
        return {"label": self.truth(whole), "probabilities": self.probabilities(prediction).tolist()}

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """``classification_metrics`` of all cases together."""
        if not cases:
            return {}
        probabilities = torch.tensor([case["probabilities"] for case in cases], dtype=torch.float64)
        return defined(
            classification_metrics(probabilities, torch.tensor([case["label"] for case in cases]), self.classes)
        )


COLUMNS = ("label", "image", "unit", "warnings", "score", "spread", "chosen", "neighbours", "ood_distance", "abstain")
"""What a table of predictions has columns for beside the classes."""


def check_classes(classes: Sequence[str], task: str, least: int) -> None:
    """Raise ``SpecError`` for too few names, or one that stands twice or cannot be a column or a
    part of ``a|b``."""
    if len(classes) < least:
        raise SpecError(
            f"task: {task}: classes has {len(classes)} names; expected at least {least}, for example [normal, "
            "pneumonia]"
        )
    if len(set(classes)) < len(classes):
        raise SpecError(f"task: {task}: a class is listed twice in {', '.join(classes)}; remove one")
    wrong = [name for name in classes if "|" in name or not name.strip() or name in COLUMNS]
    if wrong:
        raise SpecError(f"task: {task}: '{wrong[0]}' cannot be a class name; rename it in the manifest and here")
