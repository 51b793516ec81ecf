"""Joint training on source images whose classes were given the target's intensities, the proof of
concept of CateNorm."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.parts.adapted_images import changed_images, middle_items
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class ClassAlignment:
    """Train from scratch on source and target labels together, each class of a source image brought
    to the intensities that it would have at the target (Xiao et al. 2022, appendix A).

    Each class of each case has a mean and a standard deviation in every channel. Over the cases of
    a source site these are standardised, and given the mean and the spread that they have over the
    labelled target cases; the pixels of the class are then moved to the new mean and deviation.
    Apart from its images the training is that of ``joint``, with which to compare it. Images that
    are predicted stay as they are, because their classes are not known: the model is for the
    target, and what it scores at a source site says little.

    Where we differ: the paper does not say how its test images were aligned, nor what follows from
    a spread of 0 (a single labelled target case, say), which standardises to 0 here, or from a
    deviation that would be negative, which is 0. Pixels without a class, and classes that a
    case lacks, stay as they are. Padding and what lies outside a region count in no mean, and move
    with the class of their mask.
    """

    paper: ClassVar[Paper | None] = Paper(
        key="xiao2022catenorm",
        authors="Xiao, J. and Yu, L. and Zhou, Z. and Bai, Y. and Xing, L. and Yuille, A. and Zhou, Y.",
        title="CateNorm: Categorical Normalization for Robust Medical Image Segmentation",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_labels=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without masks, and for slices with neighbours, whose
        classes are not those of the slice."""
        if (key := context.supervised_task.key) != "mask":
            raise SpecError(f"class_alignment: the task predicts '{key}', expected a segmentation; use joint")
        if any(cohort.slices is not None and cohort.slices.neighbours for cohort in scenario.source):
            raise SpecError(
                "class_alignment: found slices with neighbours as channels, whose classes are not those of the slice; "
                "expected slices: {neighbours: 0}"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """As many updates as the source model had, ``budget.steps``; the moments of each case are
        found once."""
        network.train()
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        names = ("background", *context.supervised_task.coding.mask)
        own = context.once("moments", lambda: moments_by_case((*scenario.source, *labelled), len(names)))
        new = new_moments(scenario.source, labelled, own, names)
        batches = context.loader((*scenario.source, *labelled), "joint")
        assert batches.transform is not None
        aligned = Aligned(batches.transform, {name: own[name] for name in new}, new)
        batches = replace(batches, transform=aligned)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        title = "source images whose classes are aligned with the target's"
        sides = middle_items(scenario.source), middle_items(labelled)
        changed = ("source", sides[0], lambda batch: aligned.aligned(batch).image)
        context.show("aligned", changed_images(title, changed, ("target, labelled", sides[1])))
        yield stage
        return Carry(network, named_state(step.optimizer, network))


def class_moments(image: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Mean and standard deviation of the pixels of each class (eq. 6 and 7), and by how much they
    may be off for no other reason than rounding: 4 units in the last place of the largest pixel.

    Args:
        image: (C, *spatial) float.
        mask: (*spatial) integers; a pixel below 0 has no class.

    Returns:
        (classes, C, 3) float64; NaN for a class that has no pixel.

    Raises:
        SpecError: an image that is not floating point, or not of the mask's shape.

    Example:
        >>> class_moments(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([0, 0, 1]), 2)[:, 0, :2]
        tensor([[2., 1.],
                [9., 0.]], dtype=torch.float64)
    """
    if not image.is_floating_point() or image.shape[1:] != mask.shape:
        found = f"an image of shape {tuple(image.shape)} and {image.dtype} with a mask of shape {tuple(mask.shape)}"
        raise SpecError(f"class_moments: found {found}; expected (C, *spatial) floating point and (*spatial)")
    moments = torch.full((classes, len(image), 3), torch.nan, dtype=torch.float64)
    for label in range(classes):
        if (inside := mask == label).any():
            pixels = image[:, inside].double()
            rounding = 4 * torch.finfo(image.dtype).eps * pixels.abs().amax(1)
            moments[label] = torch.stack([pixels.mean(1), pixels.std(1, correction=0), rounding], 1)
    return moments


def aligned_moments(source: Tensor, target: Tensor) -> Tensor:
    """The mean and the deviation that each class of each source case would have at the target (eq.
    8 to 11).

    A class that a case lacks does not count there. A spread over the source's cases that is no
    larger than rounding standardises to 0; a deviation is at least 0.

    Args:
        source, target: (cases, classes, C, 3) as ``class_moments`` makes them.

    Returns:
        (source cases, classes, C, 2); NaN where the case lacks the class, or every target case.

    Example:
        >>> domains = torch.tensor([[4.0, 1.0], [6.0, 1.0]]), torch.tensor([[10.0, 2.0], [30.0, 2.0]])
        >>> source, target = (torch.cat([two, torch.zeros(2, 1)], 1)[:, None, None] for two in domains)
        >>> aligned_moments(source, target)[:, 0, 0]
        tensor([[10.,  2.],
                [30.,  2.]])
    """
    own, rounding = source[..., :2], source[..., 2:].nan_to_num(0).amax(0)
    mean, spread = _mean_and_spread(own)
    wanted, wide = _mean_and_spread(target[..., :2])
    differs = spread > rounding
    standard = torch.where(differs, (own - mean) / torch.where(differs, spread, 1), own * 0)
    new = standard * wide + wanted
    return torch.stack([new[..., 0], new[..., 1].clamp_min(0)], -1)


def with_moments(image: Tensor, mask: Tensor, own: Tensor, new: Tensor) -> Tensor:
    """Pixels of each class brought from the mean and deviation that they have to others (eq. 12).

    Args:
        image: (C, *spatial) float.
        mask: (*spatial) integers.
        own, new: (classes, C, 2 or more), means and deviations; pixels of a class that is NaN, or
            below 0, stay as they are.

    Returns:
        A new tensor of the image's shape and dtype.

    Example:
        >>> own, new = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[20.0, 5.0]]])
        >>> with_moments(torch.tensor([[1.0, 3.0]]), torch.tensor([0, 0]), own, new)
        tensor([[15., 25.]])
    """
    (mean, deviation), (wanted, width) = (table[..., :2].double().unbind(-1) for table in (own, new))
    factor = torch.where(deviation > 0, width / torch.where(deviation > 0, deviation, 1), 0)
    stays = (mean + wanted).isnan()
    table = torch.stack([mean.where(~stays, 0), factor.where(~stays, 1), wanted.where(~stays, 0)])
    table = torch.cat([table, table.new_tensor([0, 1, 0])[:, None, None].expand(3, 1, len(image))], 1)  # no class
    classes = mask.long().where(mask >= 0, len(own))
    before, factors, after = table[:, classes].movedim(-1, 1)
    moved: Tensor = ((image.double() - before) * factors + after).to(image.dtype)
    return moved


def _mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Over the first axis, without NaN, 1/n."""
    mean = values.nanmean(0)
    return mean, ((values - mean) ** 2).nanmean(0).sqrt()


def moments_by_case(cohorts: Iterable[Cohort], classes: int) -> dict[str, Tensor]:
    """Case name -> ``class_moments``, over those of its slices that are in the cohort."""
    moments = {}
    for cohort in cohorts:
        items: dict[int, list[int]] = {}
        for index, (number, _) in enumerate(cohort.items):
            items.setdefault(number, []).append(index)
        for number, indices in items.items():
            whole = cohort.whole(number).batch
            places = [cohort.items[index][1] for index in indices]
            mask, counts = torch.cat([_mask(cohort.case(index)) for index in indices]), whole.inside()[places]
            if whole.region is not None:
                counts &= whole.region[places]
            image = whole.image[places].movedim(1, 0)
            moments[cohort.cases[number].name] = class_moments(image, mask.where(counts, -1)[:, 0], classes)
    return moments


def _mask(batch: Batch) -> Tensor:
    mask = batch.labels["mask"]
    assert isinstance(mask, Tensor)
    return mask


def new_moments(
    source: Sequence[Cohort], target: Sequence[Cohort], own: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Source case -> ``aligned_moments``, each site by itself.

    Args:
        own: as ``moments_by_case`` has them.
        names: of the classes, the background's first.

    Raises:
        SpecError: a class of the source that no labelled target case has.
    """
    wanted = torch.stack([own[case.name] for cohort in target for case in cohort.cases])
    new: dict[str, Tensor] = {}
    for cohort in source:
        here = torch.stack([own[case.name] for case in cohort.cases])
        absent = wanted[..., 0].isnan().all(0).any(-1) & ~here[..., 0].isnan().all(0).any(-1)
        if absent.any():
            raise SpecError(
                f"class_alignment: class '{names[int(absent.int().argmax())]}' is in no labelled target case, and the "
                "source has it; label cases that show it"
            )
        new |= {case.name: moved for case, moved in zip(cohort.cases, aligned_moments(here, wanted), strict=True)}
    return new


@dataclass(frozen=True)
class Aligned:
    """A loader's transform that aligns a source case before anything else.

    Args:
        then: crop and augmentation.
        own, new: case name -> the moments that its classes have, and those that they get; other
            cases stay as they are.
    """

    takes_narrow: ClassVar[bool] = True

    then: Transform
    own: Mapping[str, Tensor] = field(repr=False)
    new: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        return self.then(self.aligned(case), rng)

    def aligned(self, case: Batch) -> Batch:
        """The case, or the slice ``NAME#PLACE`` of one, with its source's classes aligned."""
        name = case.cases[0] if case.cases[0] in self.new else case.cases[0].rpartition("#")[0]
        if name not in self.new:
            return case
        moved = with_moments(case.image[0], _mask(case)[0, 0], self.own[name], self.new[name])
        return replace(case, image=moved[None])
