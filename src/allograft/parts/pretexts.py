"""What pre-trainings that restore images share: subjects held out of the pool, the sample with its
range, the step, and how good restorations are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.optim.lr_scheduler import LambdaLR

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.cohort.manifest import Case
from allograft.context import Context
from allograft.errors import SpecError
from allograft.figure import Images
from allograft.grey import grey_of, plane, window_of
from allograft.metrics.restoration import restoration_metrics
from allograft.networks import AnyNetwork, Network, reheaded
from allograft.nn.ssim import Ssim, multi_scale_ssim, ssim
from allograft.predictor.direct import Padded, evaluation_mode, padded
from allograft.recipe import Paper, Scenario, Stage
from allograft.schedule import Planned, Schedule
from allograft.seeds import Seeds
from allograft.step import GradientStep, Objective
from allograft.transforms.sample import Sample

PAPER = Paper(
    key="mamalakis2024sulcal",
    authors="Mamalakis, M. and de Vareilles, H. and Wu, S.-C. J. and Agartz, I. and M{\\o}rch-Johnsen, L. E. and "
    "Garrison, J. and Simons, J. and Lio, P. and Suckling, J. and Murray, G.",
    title="Contrastive-Adversarial and Diffusion: Exploring pre-training and fine-tuning strategies for sulcal "
    "identification",
    venue="arXiv",
    year=2024,
)
"""One paper, four pretexts: a file each."""
RANGE = "range of the image"
"""Attribute of a batch: (B,), the difference between the largest and the smallest value of each
whole image, before it was cropped."""
SHOWN = 4
"""Held-out images that are shown before and after."""
Restore = Callable[[Batch], Tensor]
"""Images without augmentation -> their restorations, (B, C, *spatial)."""


def held_out(pool: Sequence[Cohort], share: float, seed: int) -> tuple[tuple[Cohort, ...], tuple[Cohort, ...]]:
    """The pool's cases that train, and those of a share of its subjects that validate.

    The same subjects validate every pretext of a seed. At least one does where ``share`` is above
    0, and at least one trains. Where the study tests 10 % of the subjects, 2 / 9 of the rest are
    the paper's 20 %.
    """
    subjects = sorted({case.subject for cohort in pool for case in cohort.cases})
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1) if share else 0
    turns = Seeds(seed, ("held out of the pool",))
    chosen = set(sorted(subjects, key=turns.number)[:count])
    training = tuple(cohort.where(lambda case: case.subject not in chosen) for cohort in pool)
    validating = tuple(cohort.where(lambda case: case.subject in chosen) for cohort in pool)
    return tuple(filter(_filled, training)), tuple(filter(_filled, validating))


def _filled(cohort: Cohort) -> bool:
    return bool(cohort.cases)


@dataclass(frozen=True)
class Ranged:
    """A sample of a case that remembers the range of the whole image, which SSIM divides by."""

    sample: Transform

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1."""
        return with_range(self.sample(case, rng), case)


def with_range(sample: Batch, case: Batch) -> Batch:
    """The sample of a case, with the range of the case's whole image; 1 of a slice without
    structure, where SSIM depends on no range."""
    spread = (case.image.amax() - case.image.amin()).reshape(1)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return replace(sample, attributes={**sample.attributes, RANGE: spread})


def restoration_loss(restored: Tensor, image: Tensor, batch: Batch, settings: Ssim) -> Tensor:
    """1 - SSIM, mean over a batch of ``Ranged`` samples (eqs. 1 and 2): (B, C, *spatial) twice ->
    ()."""
    return (1 - ssim(restored.float(), image.float(), batch.attributes[RANGE], settings)).mean()


def dropped(context: Context, optimizer: torch.optim.Optimizer, steps: int, drop: float) -> Schedule | None:
    """The study's schedule where it names one; else the paper's: the learning rate times 0.1 after
    the share ``drop`` of the steps."""
    return context.schedule(optimizer, steps) or Planned(
        LambdaLR(optimizer, lambda number: 0.1 if number >= drop * steps else 1.0)
    )


def dropping_step(network: Network, objective: Objective, context: Context, steps: int, drop: float) -> GradientStep:
    """The update of an objective, with the learning rate of ``dropped``."""
    step = context.gradient_step(network, objective)
    step.schedule = dropped(context, step.optimizer, steps, drop)
    return step


def restorer(network: AnyNetwork, pool: Sequence[Cohort], context: Context) -> Network:
    """The network with a head that gives the pool's images, ready to be trained."""
    channels = pool[0].case(0).image.shape[1]
    return reheaded(network, {"paired": channels})[0].to(context.fabric.device).train()


# ------------------------------------------------------------------ what restorations are worth
def restored_stage(
    restore: Restore,
    validating: Sequence[Cohort],
    context: Context,
    settings: Ssim,
    lengths: tuple[int, int],
    *,
    sites: tuple[str, ...],
    loss: Callable[[Batch], Tensor] | None = None,
) -> Stage:
    """The one stage of a pre-training: how well it restores held-out images, some of which are
    shown.

    Args:
        restore, validating, context, settings, loss: as of ``validation_of``.
        lengths: steps of all and of an epoch.
        sites: that were seen.
    """
    steps, epoch = lengths
    measures = validation_of(restore, validating, context, settings, loss=loss)
    show_restored(restore, validating, context)
    return Stage("pretrained", seen=sites, facts={"steps": steps, "steps_per_epoch": epoch, **measures})


def validation_of(
    restore: Restore,
    cohorts: Sequence[Cohort],
    context: Context,
    settings: Ssim,
    *,
    loss: Callable[[Batch], Tensor] | None = None,
) -> dict[str, float]:
    """How well held-out images are restored, as means over images: facts of a stage.

    ``validation_loss`` (1 - SSIM), ``ms_ssim`` with its ``ms_ssim_scales``, and ``dice``,
    ``hausdorff`` and ``hd95`` of the masks that ``restoration_metrics`` makes of image and
    restoration. Each image is a crop of the study's patch about its middle, or the whole; without
    augmentation. Nothing is measured in a rehearsal, which only times steps.

    Args:
        loss: the validation loss of a batch, where it is not 1 - SSIM of what ``restore`` gives.
    """

    def measured(batch: Batch) -> dict[str, float]:
        restored = restore(batch)
        close, scales = multi_scale_ssim(restored.float(), batch.image, batch.attributes[RANGE], settings)
        missed = restoration_loss(restored, batch.image, batch, settings) if loss is None else loss(batch)
        spacing = None if batch.spacing is None else batch.spacing[0].tolist()
        return {
            "validation_loss": float(missed),
            "ms_ssim": float(close.mean()),
            "ms_ssim_scales": float(scales),
            **restoration_metrics(restored[0].float().cpu(), batch.image[0].cpu(), spacing),
        }

    def measures() -> dict[str, float]:
        rows = [measured(batch) for batch in views_of(cohorts, context)]
        return {key: _mean([row[key] for row in rows]) for key in (rows[0] if rows else ())}

    means = context.once("validation", measures)
    return {key: value for key, value in means.items() if math.isfinite(value)}


def views_of(cohorts: Iterable[Cohort], context: Context, most: int | None = None) -> Iterable[Batch]:
    """Each image of the cohorts without augmentation, on the device, with its range; none in a
    rehearsal."""
    items = [(cohort, index) for cohort in cohorts for index in range(len(cohort))]
    if context.rehearsal is not None:
        return
    for cohort, index in items[:most]:
        case = cohort.case(index)
        middle = tuple((side - 1) / 2 for side in case.image.shape[2:])
        sample = Sample("none", context.settings.patch, centre=middle)(case, Seeds(0).rng())
        moved: Batch = context.fabric.to_device(with_range(sample, case))
        yield moved


def restored_by(network: Padded, image: Tensor) -> Tensor:
    """What a network makes of an image of any size, in evaluation mode."""
    assert isinstance(network, torch.nn.Module)
    with evaluation_mode(network):
        return padded(network, image)["paired"]


def show_restored(restore: Restore, cohorts: Sequence[Cohort], context: Context) -> None:
    """Keep a figure of held-out images before and after."""
    rows, subjects = [], []
    for batch in views_of(cohorts, context, SHOWN):
        pair = [batch.image[0].cpu().numpy(), restore(batch)[0].float().cpu().numpy()]
        window = window_of(pair[0])
        rows.append([grey_of(plane(each, each.shape[-1] // 2), window) for each in pair])
        subjects.append([batch.subjects[0]] * 2)
    if rows:
        names = [f"image {number}" for number, _ in enumerate(rows, 1)]
        captions = [["before", "after"]] * len(rows)
        title = "held-out images before and after restoration"
        context.show("restored", Images.from_arrays(title, rows, names=names, captions=captions, subjects=subjects))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


# ------------------------------------------------------------------ what is refused beforehand
def check_pool(
    method: str, scenario: Scenario, network: AnyNetwork, context: Context, *, share: float, settings: Ssim
) -> None:
    """Raise ``SpecError`` for a pool that a pretext cannot learn from.

    A network without an encoder, or one that gives no image; a pool of one subject where some are
    held out; images of different channels; one of constant value; one smaller than the patch or
    the window of SSIM.
    """
    if not isinstance(network, Network):
        raise SpecError(f"{method}: the network is one opaque module without an encoder; choose a network of our table")
    subjects = {case.subject for cohort in scenario.pool for case in cohort.cases}
    if share and len(subjects) < 2:
        raise SpecError(
            f"{method}: the pool has one subject, and held_out: {share:g} sets at least one aside; name a pool of "
            "several subjects, or set held_out: 0"
        )
    for cohort in scenario.pool:
        for case in cohort.cases:
            shape, spread = _shape_and_range(cohort, case)
            if not spread > 0:
                raise SpecError(f"{method}: {_constant(case.name)}")
            _check_size(f"{method}: image '{case.name}'", shape[1:], context.settings.patch, settings.window)
    reheaded(network, {"paired": check_channels(method, scenario.pool)})  # refuses a network that gives no image


def check_channels(method: str, pool: Sequence[Cohort]) -> int:
    """The channels of a pool's images; ``SpecError`` where they differ."""
    channels: dict[int, str] = {}
    for cohort in pool:
        for case in cohort.cases:
            channels.setdefault(_shape_and_range(cohort, case)[0][0], case.name)
    if len(channels) > 1:
        found = " and ".join(f"{count} ('{name}')" for count, name in sorted(channels.items()))
        raise SpecError(f"{method}: images of the pool have {found} channels; name sites whose images have as many")
    return next(iter(channels))


def _check_size(image: str, size: Sequence[int], patch: tuple[int, ...] | None, window: int) -> None:
    found = f"{image} of {'x'.join(map(str, size))}"
    if patch is not None and len(patch) == len(size) and any(a < b for a, b in zip(size, patch, strict=True)):
        wanted = "x".join(map(str, patch))
        raise SpecError(f"{found} is smaller than the patch of {wanted}; lower patch, or pad by preprocessing.size")
    if min(patch or size) < window:
        what = found if patch is None else f"{image}: a patch of {'x'.join(map(str, patch))}"
        raise SpecError(
            f"{what} is smaller than the window of SSIM, {window} pixels; raise patch or preprocessing.size, or lower "
            "ssim: {window: ...}"
        )


def _constant(name: str) -> str:
    return (
        f"image '{name}' has one value throughout, so its structural similarity has no range; remove its row from the "
        "manifest"
    )


_MEASURED: dict[str, tuple[tuple[int, ...], float]] = {}
"""Fingerprint of a case -> shape and range of its image: each is read once, whatever the number of
rows."""


def _shape_and_range(cohort: Cohort, case: Case) -> tuple[tuple[int, ...], float]:
    """(C, *spatial) of a sample of the case before it is cropped, and the range of its image."""
    key = cohort.prepared.fingerprint(case)
    if key not in _MEASURED:
        image, _ = cohort.prepared.image(case)
        _MEASURED[key] = tuple(image.shape), float(image.max()) - float(image.min())
    shape, spread = _MEASURED[key]
    if cohort.slices is not None:
        count, size = shape[0] * (2 * cohort.slices.neighbours + 1), list(shape[1:])
        del size[cohort.slices.axis]
        shape = (count, *size)
    return shape, spread
