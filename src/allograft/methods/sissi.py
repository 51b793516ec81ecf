"""SISSI: boxes that are wrong or missing are corrected while a detector trains (Elbatel, Bornberg
et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torchvision.ops import batched_nms

from allograft.batch import Boxes
from allograft.cohort import Cohort, Loader
from allograft.cohort.orders import Shares, by_cohort, dealt
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.networks.detector import DetectionHead
from allograft.parts.box_figures import boxes_of, change_figure, correction_images, relabelled
from allograft.parts.box_views import fuse, views
from allograft.parts.early_learning import early_learning_figure, fit_early_learning, noisy_ap50
from allograft.parts.held_out import mean_loss, split_subjects
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.train import train_with_checkpoints
from allograft.transforms.cloning import MixedBatch, clone_detections

__all__ = ["Sissi", "clone_detections", "early_learning_ended", "fit_early_learning", "fuse"]


# ---------------------------------------------------------------- the paper's mathematics
def early_learning_ended(ap50: Sequence[float], threshold: float = 0.9) -> bool:
    """Whether the curve of AP50 against the noisy training boxes has slowed down (section 3.3).

    After ADELE (Liu et al. 2022): a (1 - exp(-x^b / c)) is fitted to the curve, later epochs
    counting more, and its slope at the last epoch is compared with that at the first.

    Args:
        ap50: one value in [0, 1] for each epoch so far.
        threshold: the relative loss of slope from which on the answer is yes.

    Returns:
        False for fewer than three epochs, and where nothing can be fitted.

    Example:
        >>> early_learning_ended([0.4, 0.6, 0.61, 0.61, 0.61]), early_learning_ended([0.1, 0.2])
        (True, False)
    """
    fitted = fit_early_learning(ap50)
    if fitted is None:
        return False
    first, last = (_slope(float(epoch), *fitted) for epoch in (1, len(ap50)))
    return first != 0 and abs(first - last) / abs(first) > threshold


def _slope(x: float, a: float, b: float, c: float) -> float:
    x += 1e-6
    return float(a * b / c * np.exp(-(x**b) / c) * x ** (b - 1))


# ---------------------------------------------------------------- the method
Watched = tuple[float, dict[str, Tensor]]


@dataclass(frozen=True)
class Sides:
    """The source that is trained on, what is held out of it, and the target with its noisy
    boxes."""

    source: tuple[Cohort, ...]
    held_out: tuple[Cohort, ...]
    target: tuple[Cohort, ...]


@dataclass(frozen=True)
class Sissi:
    """Train a detector on clean source and noisy target boxes until it begins to learn the noise;
    then, every epoch, replace the target's boxes by its own and train on images from which all else
    is blurred away (algorithm 1).

    A batch is half source, half target. The paper trains from COCO weights with SGD at 0.001,
    momentum 0.9, weight decay 0.0002, 8 images of 512 pixels; optimizer, batch and length are the
    study's here. Its six rows are ``start`` and ``background``; "A" is ``early-learning``.

    Where the manifest lists true boxes of training images as those of a further reader, in a column
    such as ``boxes_reader_true``, the report says how precise and how complete the boxes were that
    came, and the corrected ones. The method never sees them.

    Args:
        start: of the correction: ``early-learning``, where the AP50 against the noisy boxes slows
            down, or ``source-val``, the epoch of the least loss on held-out source subjects (one in
            five), found when it has not fallen for ``patience`` epochs.
        background: of the images trained on after the start: ``weak`` or ``strong`` blur, or
            ``none``: the images as they are, the usual self-training.
        slowed: the loss of slope at which early learning has ended.
        keep: least confidence of a box in a view.
        overlap, skip, fused_score: of ``fuse``.
        score: least confidence of a fused box.
        nms: of two fused boxes that overlap more, the more certain is kept.
        most: boxes an image.
        keep_empty: an image in which nothing is detected keeps its boxes, as in the released code;
            else it has none. Where nothing is detected in any image, all keep theirs in either
            case, and ``kept_epochs`` of the facts counts the epochs in which that was so.
        patience: for ``source-val``.
    """

    start: Literal["early-learning", "source-val"] = "early-learning"
    background: Literal["weak", "strong", "none"] = "strong"
    slowed: Annotated[float, Gt(0), Le(1)] = 0.9
    keep: Annotated[float, Ge(0), Le(1)] = 0.01
    overlap: Annotated[float, Gt(0), Le(1)] = 0.5
    skip: Annotated[float, Ge(0), Le(1)] = 0.25
    fused_score: Literal["paper", "released"] = "paper"
    score: Annotated[float, Ge(0), Le(1)] = 0.25
    nms: Annotated[float, Gt(0), Le(1)] = 0.2
    most: Annotated[int, Ge(1)] = 200
    keep_empty: bool = False
    patience: Annotated[int, Ge(1)] = 3

    paper: ClassVar[Paper | None] = Paper(
        key="elbatel2022seamless",
        authors="Elbatel, M. and Bornberg, C. and Kattel, M. and Almar, E. and Marrocco, C. and Bria, A.",
        title="Seamless Iterative Semi-Supervised Correction of Imperfect Labels in Microscopy Images",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_10",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_labels=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network that is no detector, an odd batch, or too few source
        subjects to hold one out."""
        _head(network)
        if context.batch_size % 2:
            raise SpecError(f"sissi: batch_size is {context.batch_size}; half a batch is source, so it must be even")
        self._sides(scenario, context)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1. An epoch is one pass over the target's images."""
        network.train()
        sides = self._sides(scenario, context)
        epochs = _epochs(sides.target, context)
        step = context.gradient_step(network, steps=epochs[-1].stop)
        curve: list[float] = []
        best: dict[str, Tensor] = {}
        began: int | None = None
        corrected: dict[int, Sequence[Cohort]] = {}  # by epoch
        kept = 0  # epochs whose correction would leave no box
        current: Sequence[Cohort] = sides.target
        for epoch, steps in enumerate(epochs):
            if began is None and self._begins(curve):
                began = epoch
                network.load_state_dict(best or network.state_dict())  # the optimizer's momentum stays
            if began is not None:
                latest = self._corrected(network, current, epoch, context)
                kept += latest is current
                current = corrected[epoch] = latest
            batches = self._batches(sides.source, current, epoch, began is not None, context)
            yield from train_with_checkpoints(
                step,
                batches,
                steps=steps,
                context=context,
                along=[Stage("corrected", Direct(network), scenario.sites)],
                total=epochs[-1].stop,
            )
            if began is None:
                value, weights = self._watched(network, sides, epoch, min(curve, default=math.inf), context)
                curve.append(value)
                best = weights or best
        self._show_start(curve, began, context)
        if corrected:
            self._show_boxes(sides.target, corrected, kept, context)
        yield Stage("corrected", Direct(network), scenario.sites, facts=_facts(sides.target, current, began, kept))
        return Carry(network)

    # ------------------------------------------------------------ the start of the correction
    def _sides(self, scenario: Scenario, context: Context) -> Sides:
        """For ``source-val`` one source subject in five is held out."""
        target = tuple(cohort for cohort in scenario.target if cohort.has_labels)
        if self.start == "early-learning":
            return Sides(scenario.source, (), target)
        kept, out = split_subjects(scenario.source, 0.2, context, "sissi", instead="set start: early-learning")
        return Sides(tuple(kept), tuple(out), target)

    def _begins(self, curve: Sequence[float]) -> bool:
        if self.start == "early-learning":
            return early_learning_ended(curve, self.slowed)
        return len(curve) > self.patience and int(np.argmin(curve)) < len(curve) - self.patience

    def _watched(self, network: AnyNetwork, sides: Sides, epoch: int, least: float, context: Context) -> Watched:
        """AP50 against the noisy boxes, or the loss on the held-out source; with the weights of an
        epoch whose loss is below ``least``."""
        if self.start == "early-learning":
            return context.once(f"ap50-{epoch}", lambda: noisy_ap50(network, sides.target, context)), {}

        def measured() -> tuple[float, dict[str, Tensor]]:
            with context.seeds.everything("held out", epoch):  # a detector draws the anchors that count
                loss = mean_loss(network, context.supervised_task, sides.held_out, context)
            return loss, dict(network.state_dict()) if loss < least else {}

        loss, weights = context.once(f"held-out-{epoch}", measured)
        return loss, weights

    # ------------------------------------------------------------ boxes and batches
    def _corrected(
        self, network: AnyNetwork, target: Sequence[Cohort], epoch: int, context: Context
    ) -> Sequence[Cohort]:
        """The target as it is now with the network's own boxes, made again each epoch; the target
        itself where nothing is detected in any image, which would leave nothing to learn from."""
        corrected, detected = [], 0
        for number, cohort in enumerate(target):
            make = partial(self._pseudo_labels, network, cohort, context)
            boxes = context.once(f"boxes-{epoch}-{number}", make)
            detected += sum(len(each["label"]) for each in boxes.values())
            corrected.append(cohort.relabelled({name: Boxes(**each) for name, each in boxes.items()}))
        return corrected if detected else target

    def _pseudo_labels(self, network: AnyNetwork, cohort: Cohort, context: Context) -> dict[str, dict[str, Tensor]]:
        made: dict[str, dict[str, Tensor]] = {}
        for index, case in enumerate(cohort.cases):
            image = context.fabric.to_device(cohort.case(index).image)
            boxes = self.pseudo_label(network, image)
            if len(boxes) or not self.keep_empty:
                made[case.name] = {"xyxy": boxes.xyxy, "label": boxes.label}
        return made

    def pseudo_label(self, network: AnyNetwork, image: Tensor) -> Boxes:
        """The fused boxes of an image (1, C, H, W), section 3.4."""
        detected = views(network, _head(network), image, keep=self.keep)
        rows, columns = image.shape[-2:]
        boxes = fuse(detected, (rows, columns), overlap=self.overlap, skip=self.skip, score=self.fused_score)
        assert boxes.score is not None
        boxes = boxes[boxes.score >= self.score]
        assert boxes.score is not None
        kept = batched_nms(boxes.xyxy, boxes.score, boxes.label, self.nms)
        return boxes[kept[: self.most]]

    def _batches(
        self, source: Sequence[Cohort], target: Sequence[Cohort], epoch: int, corrected: bool, context: Context
    ) -> Loader:
        cohorts, half = (*source, *target), context.batch_size // 2
        left, right = [len(cohort) for cohort in source], [len(cohort) for cohort in target]

        def share(number: int) -> tuple[int, ...]:
            return (*dealt(half, left, number), *dealt(half, right, number))

        name = f"epoch-{epoch}"
        order = Shares(by_cohort(cohorts), context.batch_size, context.loader_seeds(name), share)
        noisy = frozenset(case.name for cohort in target for case in cohort.cases)
        transform = MixedBatch(self.background if corrected else "none", noisy, context.settings.patch)
        return context.loader(cohorts, name, order=order, transform=transform)

    def _show_start(self, curve: Sequence[float], began: int | None, context: Context) -> None:
        """Figure 7 of the paper: the curve, and where the correction starts."""
        what, fitted = "loss on held-out source subjects", None
        if self.start == "early-learning":
            what, fitted = "AP50 against the noisy boxes", fit_early_learning(curve)
        context.show("start", early_learning_figure(what, curve, began, fitted))

    def _show_boxes(
        self, target: Sequence[Cohort], corrected: Mapping[int, Sequence[Cohort]], kept: int, context: Context
    ) -> None:
        """How many boxes change in each epoch, pictures of the last one's (Fig. 3), and the boxes
        for the report to compare with true ones."""
        by_epoch = {epoch: boxes_of(cohorts) for epoch, cohorts in corrected.items()}
        context.show("change", change_figure(boxes_of(target), by_epoch, kept))
        context.show("boxes", correction_images(target, corrected[max(corrected)], self.background))
        context.show("relabelled", relabelled(target, by_epoch))


def _epochs(target: Sequence[Cohort], context: Context) -> list[range]:
    """The steps of each epoch, one pass over the target; the last may be shorter, so that all make
    up the budget."""
    budget = context.settings.budget
    length = budget.steps_per_epoch or max(1, -(-2 * sum(map(len, target)) // context.batch_size))
    total = budget.adaptation(length)
    return [range(first, min(first + length, total)) for first in range(0, total, length)]


def _head(network: AnyNetwork) -> DetectionHead:
    head = network.heads["boxes"] if isinstance(network, Network) and "boxes" in network.heads else None
    if not isinstance(head, DetectionHead):
        raise SpecError("sissi: corrects boxes; set task: {detection: {classes: [...]}} and network: {faster_rcnn: {}}")
    return head


def _facts(
    target: Sequence[Cohort], current: Sequence[Cohort], began: int | None, kept: int
) -> dict[str, float | int | str]:
    start: dict[str, float | int | str] = {"start_epoch": "never" if began is None else began}
    before, after = (sum(map(len, boxes_of(cohorts))) for cohorts in (target, current))
    return {**start, "noisy_boxes": before, "corrected_boxes": after, "kept_epochs": kept}
