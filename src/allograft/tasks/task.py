"""The interface of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.cohort import Coding, Whole
from allograft.errors import SpecError, nearest

Outputs = Mapping[str, Tensor]
"""What a network gives, keyed like labels: logits "mask" (B, K, *spatial) and "label" (B, K),
"paired" (B, C, *spatial). A detector gives "boxes", B ``Boxes``, which only its task looks at."""
Forward = Callable[[Tensor], Outputs]
"""Images (B, C, *spatial) -> outputs: a network."""
Value = float | str | list[float] | None
"""What a record says of a case under one name; None = undefined."""


@dataclass(frozen=True)
class Answer:
    """What a prediction says of one image: numbers for a table, and pictures on the image's own
    grid.

    Args:
        values: name -> number or word, a column each: volumes in ``unit``, class probabilities.
        mask: (*shape) int64 class indices, or None.
        maps: name -> (*shape) float: a class's probability in every pixel, or an image that was
            made, as shares of ``span``.
        warnings: what a reader of the result should know.
        span: what 0 and 1 of the maps stand for, in the unit of the image.
        boxes: with their scores, in the image's own pixels, or None.
        unit: of the volumes: mm3, mm2 of a plane whose thickness is not known, pixels of a
            photograph; None without a mask.
    """

    values: Mapping[str, float | str]
    mask: Tensor | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    unit: str | None = None
    boxes: Boxes | None = None


class Task(Protocol):
    """What is predicted. A frozen dataclass; its fields come from the study's ``task:``."""

    key: ClassVar[str]
    """The label it needs, and the network's output it reads: "mask", "label", ..."""
    headline: ClassVar[str]
    """The metric that tables and selection use; larger is better."""
    terms: ClassVar[tuple[str, ...]]
    """The names of the loss's terms."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Factors on terms of the loss, a field of every task; a term that is not named has 1, and
        one of 0 is left out."""

    @property
    def coding(self) -> Coding:
        """How the manifest's labels become numbers."""

    @property
    def outputs(self) -> Mapping[str, int]:
        """Network output -> channels."""

    def loss(self, output: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Named terms of the supervised loss of a network's output; cases with ignore values do not
        count."""

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """The supervised loss as an ``Objective``."""

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """What the prediction of a complete case says of its image; no label is looked at."""

    def truth(self, whole: Whole) -> Tensor | Boxes | int | list[float]:
        """The label of a complete case on the image's own grid; ``KeyError`` where it is hidden."""

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """Everything a record says of one case, whose label is shown."""

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """Metrics of a test set from its cases. None = undefined. A resampling of a test set draws
        subjects, with all their cases."""


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Terms of a loss by their factors; a factor of 1 leaves the bits alone, one of 0 the term out.

    >>> import torch
    >>> weighted({"dice": torch.tensor(0.5), "cross_entropy": torch.tensor(2.0)}, {"dice": 3.0, "cross_entropy": 0.0})
    {'dice': tensor(1.5000)}
    """
    factors = {name: weights.get(name, 1.0) for name in terms}
    return {
        name: value if factors[name] == 1 else factors[name] * value
        for name, value in terms.items()
        if factors[name] != 0
    }


def check_weights(weights: Mapping[str, float], terms: Sequence[str], task: str) -> None:
    """Raise ``SpecError`` for a factor of an unknown term, one that is negative or not finite, or
    when no term is left."""
    for name, factor in weights.items():
        if name not in terms:
            raise SpecError(f"task: {task}: weights: {nearest(name, terms, 'term of the loss')}")
        if not 0 <= factor < math.inf:
            raise SpecError(f"task: {task}: weights: {name} is {factor}; expected 0 (left out) or more, and finite")
    if all(weights.get(name, 1.0) == 0 for name in terms):
        raise SpecError(
            f"task: {task}: weights: every term is 0, so nothing would be learned; give {' or '.join(terms)} more"
        )


def defined(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The same numbers with None for nan, as records keep them.

    >>> defined({"dice": 0.5, "hd95": float("nan")})
    {'dice': 0.5, 'hd95': None}
    """
    return {key: None if value != value else value for key, value in metrics.items()}
