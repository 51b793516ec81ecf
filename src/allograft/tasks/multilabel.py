"""Multi-label classification: any number of findings an image, each a question of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Coding, Whole
from allograft.metrics.classification import multilabel_metrics
from allograft.nn.processes import count_over_processes
from allograft.tasks.classification import check_classes
from allograft.tasks.task import Answer, Forward, Outputs, Value, check_weights, defined, weighted


def binary_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the answers that are known of the binary cross-entropy: (B, K) and (B, K), nan =
    not known, -> (); 0 when none is.

    >>> round(binary_cross_entropy(torch.tensor([[50.0, 0.0]]), torch.tensor([[1.0, float("nan")]])).item(), 6)
    0.0
    """
    known = ~label.isnan()
    each = F.binary_cross_entropy_with_logits(logits, label.where(known, 0.0).to(logits.dtype), reduction="none")
    return (each * known).sum() / count_over_processes(known)


@dataclass(frozen=True)
class Multilabel:
    """Any number of ``classes`` per image, written ``a|b`` in the manifest's column ``label``: a
    sigmoid each.

    Metrics are pooled over the cases of a test set, as in ``classification``. A case with none of
    the classes cannot be told from an unlabelled one, so give it a class of its own, ``no-finding``
    for example.

    Args:
        classes: names, in the order of the network's output.
        weights: a factor on the loss's one term, ``binary_cross_entropy``.
    """

    key: ClassVar[str] = "label"
    headline: ClassVar[str] = "auroc"
    terms: ClassVar[tuple[str, ...]] = ("binary_cross_entropy",)

    classes: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_classes(self.classes, "multilabel", least=1)
        check_weights(self.weights, self.terms, "multilabel")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names."""
        return self.classes

    @property
    def coding(self) -> Coding:
        """Sets of names to 0 and 1."""
        return Coding(label=self.classes, several=True)

    @property
    def outputs(self) -> Mapping[str, int]:
        """One logit a class."""
        return {"label": len(self.classes)}

    def loss(self, output: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Binary cross-entropy, mean over the answers that are known."""
        label = batch.labels["label"]
        assert isinstance(label, Tensor)
        return weighted({"binary_cross_entropy": binary_cross_entropy(output["label"], label)}, self.weights)

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """``loss`` of the network's output."""
        return self.loss(network(batch.image), batch)

    def probabilities(self, prediction: Outputs) -> Tensor:
        """Class probabilities (K,) of one case, float64; of a volume in slices the mean over its
        slices."""
        return prediction["label"].double().sigmoid().mean(0).cpu()

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """The classes with a probability of at least 0.5, and the probability of each."""
        probabilities = dict(zip(self.classes, self.probabilities(prediction).tolist(), strict=True))
        return Answer(
            {"label": "|".join(name for name, value in probabilities.items() if value >= 0.5), **probabilities}
        )

    def truth(self, whole: Whole) -> int | list[float]:
        """0.0 or 1.0 for each class."""
        return whole.label

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """``label``, a list of 0.0 and 1.0 in the order of ``classes``, and ``probabilities``."""
        return {"label": self.truth(whole), "probabilities": self.probabilities(prediction).tolist()}

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """``multilabel_metrics`` of all cases together."""
        if not cases:
            return {}
        probabilities = torch.tensor([case["probabilities"] for case in cases], dtype=torch.float64)
        return defined(multilabel_metrics(probabilities, torch.tensor([case["label"] for case in cases]), self.classes))
