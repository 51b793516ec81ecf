"""Segmentation: Dice and cross-entropy, judged by overlap and surface distance on the image's own
grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Coding, Whole
from allograft.cohort.picture import Grid
from allograft.errors import SpecError
from allograft.metrics.segmentation import Missed, case_metrics
from allograft.nn.processes import count_over_processes
from allograft.tasks.task import Answer, Forward, Outputs, Value, check_weights, defined, weighted

PerImage = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (B, K, *spatial), mask (B, *spatial) int64 and the pixels that count (B, *spatial) bool ->
(B,)."""


def dice_loss(logits: Tensor, mask: Tensor, counts: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice of each image, mean over the foreground classes (Milletari et al. 2016, with
    plain sums below the line).

    Args:
        logits: (B, K, *spatial).
        mask: (B, *spatial) int64; values outside ``counts`` are not read.
        counts: (B, *spatial) bool, the pixels that count.

    Returns:
        (B,).

    Example:
        >>> mask = torch.tensor([[[0, 1]]])
        >>> sure = 50.0 * F.one_hot(mask, 2).movedim(-1, 1)
        >>> dice_loss(sure, mask, torch.ones_like(mask, dtype=torch.bool)).round(decimals=3).tolist()
        [0.0]
    """
    weight = counts[:, None].to(logits.dtype)
    probabilities = logits.softmax(1) * weight
    truth = F.one_hot(mask.where(counts, 0), logits.shape[1]).movedim(-1, 1) * weight
    space = tuple(range(2, logits.ndim))
    both = (probabilities * truth).sum(space)
    total = probabilities.sum(space) + truth.sum(space)
    dice = (2 * both + smooth) / (total + smooth)
    return 1 - dice[:, 1:].mean(1)


def squared_dice_loss(logits: Tensor, mask: Tensor, counts: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - 2 sum y p / sum (y^2 + p^2) of each image, mean over all classes, the background
    included.

    The Dice loss of CateNorm (Xiao et al. 2022, section 3), whose labels y in L^D make the
    background one of L. Its released code takes a batch as one image where there are several
    classes.

    Args:
        logits: (B, K, *spatial).
        mask: (B, *spatial) int64; values outside ``counts`` are not read.
        counts: (B, *spatial) bool, the pixels that count.
        smooth: added above and below the line: a class neither there nor found costs nothing.

    Returns:
        (B,).

    Example:
        >>> unsure, mask = torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]])
        >>> squared_dice_loss(unsure, mask, mask >= 0).round(decimals=3).tolist()  # (1 - 3 / 4 + 1 - 1 / 2) / 2
        [0.375]
    """
    weight = counts[:, None].to(logits.dtype)
    probabilities = logits.softmax(1) * weight
    truth = F.one_hot(mask.where(counts, 0), logits.shape[1]).movedim(-1, 1) * weight
    space = tuple(range(2, logits.ndim))
    both, squares = (probabilities * truth).sum(space), (probabilities.square() + truth).sum(space)
    return (1 - (2 * both + smooth) / (squares + smooth)).mean(1)


def pixels_that_count(mask: Tensor, region: Tensor | None) -> Tensor:
    """Labelled pixels inside the region: mask (B, 1, *spatial) int64, -100 = not labelled, region
    (B, 1, *spatial) bool -> (B, *spatial) bool."""
    return mask[:, 0] >= 0 if region is None else (mask[:, 0] >= 0) & region[:, 0]


def cross_entropy(logits: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of each image, mean over the pixels that count: (B, K, *spatial), (B,
    *spatial), (B, *spatial) -> (B,)."""
    each = F.cross_entropy(logits, mask.where(counts, -100), ignore_index=-100, reduction="none").flatten(1)
    return each.sum(1) / counts.flatten(1).sum(1).clamp_min(1)


@dataclass(frozen=True)
class Segmentation:
    """Pixel-wise classes: softmax over background and ``classes``.

    Args:
        classes: names, the i-th standing for mask value i + 1; or name -> mask values. With a
            single class 255 is that class too.
        weights: factors on the loss's terms ``dice`` and ``cross_entropy``; 1 where not named, 0
            leaves a term out.
        missed: what the distance to a class is that only the truth or only the prediction has. It
            is "undefined", and with it the case's mean distance; "diagonal" adds ``hd95_diagonal``
            and ``asd_diagonal``, where it is the image's diagonal. It says how to
            evaluate: models and units stay the same.
        surface_dice: a tolerance in mm adds ``surface_dice``: the share of the surfaces that lies
            within it, 0 for a class that only the truth or only the prediction has. It needs images
            with a voxel size in mm. It too says how to evaluate.

    Raises:
        SpecError: no class, or a tolerance that is not above 0.
    """

    key: ClassVar[str] = "mask"
    headline: ClassVar[str] = "dice"
    terms: ClassVar[tuple[str, ...]] = ("dice", "cross_entropy")

    classes: tuple[str, ...] | dict[str, tuple[int, ...]]
    weights: dict[str, float] = field(default_factory=dict)
    missed: Missed = field(default="undefined", compare=False)
    surface_dice: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.surface_dice is not None and not 0 < self.surface_dice < math.inf:
            raise SpecError(
                f"task: segmentation: surface_dice is {self.surface_dice:g}; expected a tolerance in mm above 0, for "
                "example the distance between two readers: surface_dice: 1.0"
            )
        if not self.classes:
            raise SpecError("task: segmentation: classes is empty; name at least one, for example classes: [vessel]")
        check_weights(self.weights, self.terms, "segmentation")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, background excluded."""
        return tuple(self.classes)

    @property
    def coding(self) -> Coding:
        """Mask values of each class."""
        if isinstance(self.classes, dict):
            return Coding(mask=dict(self.classes))
        return Coding(mask={name: (value,) for value, name in enumerate(self.classes, 1)})

    @property
    def outputs(self) -> Mapping[str, int]:
        """One channel a class, and the background."""
        return {"mask": len(self.classes) + 1}

    def loss(self, output: Outputs, batch: Batch, *, dice: PerImage = dice_loss) -> Mapping[str, Tensor]:
        """Dice + cross-entropy, mean over the images that are labelled at all, so that processes
        may share a batch.

        Args:
            output, batch: logits (B, K, *spatial) under "mask", and the truth.
            dice: the loss of each image that the term ``dice`` is made of.
        """
        logits = output["mask"]
        mask = batch.labels["mask"]
        assert isinstance(mask, Tensor)
        counts = pixels_that_count(mask, batch.region)
        mask = mask[:, 0]
        labelled = counts.flatten(1).any(1)
        share = labelled.to(logits.dtype) / count_over_processes(labelled)
        terms = {
            "dice": (dice(logits, mask, counts) * share).sum(),
            "cross_entropy": (cross_entropy(logits, mask, counts) * share).sum(),
        }
        return weighted(terms, self.weights)

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """``loss`` of the network's output."""
        return self.loss(network(batch.image), batch)

    def probabilities(self, prediction: Outputs, whole: Whole) -> Tensor:
        """Class probabilities (K, *shape) on the image's own grid."""
        return whole.on_image(prediction["mask"].float().softmax(1).cpu())

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """The mask on the image's own grid, and the volume of each class in mm^3, or pixels of a
        photograph."""
        voxel, unit = whole.grid.voxel
        probabilities = self.probabilities(prediction, whole)
        mask = most_probable(probabilities)
        volumes: dict[str, float | str] = {
            name: float((mask == index).sum()) * voxel for index, name in enumerate(self.names, 1)
        }
        warnings = tuple(f"no {name} found" for name, volume in volumes.items() if volume == 0)
        return Answer(volumes, mask, dict(zip(self.names, probabilities[1:], strict=True)), warnings, unit=unit)

    def truth(self, whole: Whole) -> Tensor:
        """The stored mask, (*shape) int64 class indices."""
        return whole.mask

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """Dice, IoU, HD95 and average surface distance (mm; pixels for photographs) inside the
        region, each also by class; see ``case_metrics`` for what is undefined."""
        return self.measure_mask(most_probable(self.probabilities(prediction, whole)), whole)

    def measure_mask(self, mask: Tensor, whole: Whole) -> Mapping[str, Value]:
        """``measure`` of a mask of class indices (*shape) on the image's own grid, whatever made
        it."""
        self.check_millimetres(whole.grid, whole.case.name)
        spacing, truth = whole.geometry.stored_spacing, self.truth(whole)
        measured = case_metrics(
            mask, truth, self.names, spacing, whole.region, missed=self.missed, tolerance=self.surface_dice
        )
        return defined(measured)

    def check_millimetres(self, grid: Grid, name: str) -> None:
        """Raise ``SpecError`` for an image without a voxel size, where a tolerance is in mm."""
        if self.surface_dice is not None and grid.affine is None:
            raise SpecError(
                f"{name}: found pixels without a size in mm; expected one, since surface_dice has a tolerance of "
                f"{self.surface_dice:g} mm: store the image as NIfTI with its voxel size, or leave surface_dice out"
            )

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """Means over subjects of each subject's mean; undefined cases are left out and counted in
        ``undefined/METRIC``."""
        return mean_over_subjects(cases)


def most_probable(probabilities: Tensor) -> Tensor:
    """(K, *shape) -> (*shape) int64, the class of the largest; of equal ones the first.

    ``argmax`` over the first axis says the same several times slower.
    """
    return probabilities.max(0).indices


def mean_over_subjects(cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
    """Each metric's mean over subjects of the mean over the subject's cases. Undefined (None) cases
    are left out and counted.

    >>> mean_over_subjects([{"case": "a", "subject": "1", "dice": 0.5}, {"case": "b", "subject": "1", "dice": None}])
    {'dice': 0.5, 'undefined/dice': 1}
    """
    pooled: dict[str, float | None] = {}
    for key in [key for key in cases[0] if key not in ("case", "subject")] if cases else []:
        by_subject: dict[Value, list[Value]] = {}
        for case in cases:
            if case[key] is not None:
                by_subject.setdefault(case["subject"], []).append(case[key])
        means = [torch.tensor(values, dtype=torch.float64).mean().item() for values in by_subject.values()]
        pooled[key] = torch.tensor(means, dtype=torch.float64).mean().item() if means else None
        undefined = sum(case[key] is None for case in cases)
        if undefined:
            pooled[f"undefined/{key}"] = undefined
    return pooled
