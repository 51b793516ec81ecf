"""The pool of a pre-training: which of it, how large its samples are, what is refused beforehand,
and what is shown of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from allograft.batch import Batch, collate
from allograft.cohort import Cohort, Loader
from allograft.cohort.loader import Transform
from allograft.cohort.manifest import Case
from allograft.cohort.orders import Turns, by_cohort
from allograft.context import Context
from allograft.errors import SpecError, nearest
from allograft.figure import Images
from allograft.grey import grey_of, plane, window_of
from allograft.networks import Network
from allograft.predictor import evaluation_mode
from allograft.seeds import Seeds
from allograft.train import History

SHOWN = 4
"""Images of the pool that a figure shows."""


def chosen_pool(pool: Sequence[Cohort], names: Sequence[str], method: str) -> tuple[Cohort, ...]:
    """The part of a pool that ``names`` name, sites or cohorts of the study; all of it for no
    names.

    Raises:
        SpecError: a name that no site of the pool has.
    """
    if not names:
        return tuple(pool)
    sites = {case.site for cohort in pool for case in cohort.cases}
    known = sites | {site.partition("/")[0] for site in sites}
    for name in names:
        if name not in known:
            raise SpecError(f"{method}: pool: {nearest(name, known, 'site of the pool')}")
    parts = (
        cohort.where(lambda case: any(case.site == name or case.site.startswith(f"{name}/") for name in names))
        for cohort in pool
    )
    return tuple(cohort for cohort in parts if len(cohort))


def check_several(pool: Sequence[Cohort], method: str) -> None:
    """Raise ``SpecError`` for a pool of a single image."""
    if sum(map(len, pool)) < 2:
        raise SpecError(f"{method}: the pool has one image; expected at least 2; name more sites in pool")


def check_patches(
    pool: Sequence[Cohort], context: Context, patch: int, method: str, *, multiple: int = 1, field: str = "patch"
) -> None:
    """Raise ``SpecError`` for a pool whose samples cannot be cut into patches.

    One of a single image, a sample that is smaller than a patch, and one whose sides are no
    multiple of the patch or of ``multiple``, the pixels of the network's last feature.
    """
    check_several(pool, method)
    for cohort in pool:
        if not len(cohort):
            continue
        case = cohort.case(0)
        size = context.settings.patch or tuple(case.image.shape[2:])
        samples = f"{method}: samples of {'x'.join(map(str, size))}"
        if min(size) < patch:
            raise SpecError(
                f"{samples} ('{case.cases[0]}') are smaller than a patch of {patch}; raise preprocessing: size, or "
                f"lower {field}"
            )
        for unit, what in ((patch, f"patches of {patch}"), (multiple, f"the network's last feature, of {multiple}")):
            if any(side % unit for side in size):
                raise SpecError(
                    f"{samples} ('{case.cases[0]}') cannot be cut into {what} pixels; set preprocessing: size, or "
                    f"patch, to a multiple, or change {field}"
                )


def check_masks(dataset: Sequence[Cohort], pixels: int, method: str) -> None:
    """Raise ``SpecError`` for a data set of which no image has a mask; warn of a class that has
    fewer pixels than are sampled."""
    counts = [class_pixels(cohort, case) for cohort in dataset for case in cohort.cases if "mask" in case.labels]
    if not counts:
        sites = ", ".join(sorted({case.site for cohort in dataset for case in cohort.cases}))
        raise SpecError(f"{method}: {sites}: no image has a mask; drop it from pool, or add its masks")
    for number, name in enumerate(dataset[0].prepared.coding.mask, 1):
        if 0 < (count := max(each[number] for each in counts)) < pixels:
            warnings.warn(
                f"{method}: class '{name}' has at most {count} pixels in an image, fewer than the {pixels} to be "
                "sampled; all of them are taken; lower pixels, or leave it so",
                stacklevel=3,
            )


def class_pixels(cohort: Cohort, case: Case) -> tuple[int, ...]:
    """How many pixels of a case's mask are of the background and of each class; counted once a
    case, whatever the number of rows."""
    key = f"{cohort.prepared.fingerprint(case)} {dict(cohort.prepared.coding.mask)}"
    if key not in _COUNTED:
        mask = cohort.prepared.mask(case)
        counts = np.bincount(mask[mask >= 0].ravel(), minlength=len(cohort.prepared.coding.mask) + 1)
        _COUNTED[key] = tuple(map(int, counts))
    return _COUNTED[key]


_COUNTED: dict[str, tuple[int, ...]] = {}
"""Fingerprint of a case and its classes -> its counts."""


def feature_shapes(network: Network, shape: Sequence[int]) -> list[torch.Size]:
    """What the encoder makes of an image of this shape."""
    device = next(network.parameters()).device
    with evaluation_mode(network):
        return [feature.shape for feature in network.encoder(torch.zeros(tuple(shape), device=device))]


def sample_shape(pool: Sequence[Cohort], context: Context) -> tuple[int, ...]:
    """(1, C, *spatial) of a sample of the pool: of the study's patch, or of the first image."""
    image = pool[0].unlabelled().case(0).image  # whose label the task may not know
    return (*image.shape[:2], *(context.settings.patch or image.shape[2:]))


def last_channels(network: Network, pool: Sequence[Cohort], context: Context) -> int:
    """Channels of the encoder's last feature of a sample of the pool."""
    return int(feature_shapes(network, sample_shape(pool, context))[-1][1])


def steps_of(context: Context, epochs: int | None, epoch: int) -> int:
    """Steps of a pre-training: of so many epochs, by default the budget's."""
    return context.settings.budget.training(epoch) if epochs is None else epochs * epoch


def pool_loader(pool: Sequence[Cohort], context: Context, transform: Transform) -> Loader:
    """Batches named ``pool``, in which every image is as likely, however large its site."""
    items = tuple(item for group in by_cohort(pool) for item in group)
    order = Turns((items,), context.batch_size, context.loader_seeds("pool"))
    return context.loader(pool, "pool", order=order, transform=transform)


def mean_of_last(history: History, count: int) -> dict[str, float]:
    """Each term's mean over the last ``count`` steps of a training: facts of a stage."""
    return {term: sum(values[-count:]) / len(values[-count:]) for term, values in history.terms.items() if values}


def show_pool(
    pool: Sequence[Cohort],
    transform: Transform,
    drawn: Callable[[Batch], Mapping[str, Tensor]],
    context: Context,
    title: str,
    *networks: nn.Module,
) -> None:
    """Keep a figure of a few images of the pool under the name ``restored``.

    Args:
        transform: that makes a sample; drawn by the number of the image.
        drawn: batch -> caption -> images (B, C, *spatial); the last one sets the grey window.
        networks: set to evaluation mode meanwhile.
    """
    items = [(cohort, index) for cohort in pool for index in range(len(cohort))]
    step = max(1, len(items) // SHOWN)
    rows, captions, subjects = [], [], []
    for number, (cohort, index) in enumerate(items[::step][:SHOWN]):
        batch = context.fabric.to_device(collate([transform(cohort.case(index), Seeds(0).rng("shown", number))]))
        with evaluation_mode(*networks):
            images = {name: value[0].float().cpu().numpy() for name, value in drawn(batch).items()}
        window = window_of(list(images.values())[-1])
        rows.append([grey_of(plane(each, each.shape[-1] // 2), window) for each in images.values()])
        captions.append(list(images))
        subjects.append([cohort.cases[cohort.items[index][0]].subject] * len(images))
    names = [f"image {number}" for number in range(1, len(rows) + 1)]
    context.show("restored", Images.from_arrays(title, rows, names=names, captions=captions, subjects=subjects))


@dataclass(frozen=True)
class TwoViews:
    """Two random views of a case, each from a crop and augmentation of its own.

    Args:
        sample: makes a view.
        name: of the second view among the batch's views.
    """

    sample: Transform
    name: str = "second view"

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        first, second = self.sample(case, rng), self.sample(case, rng)
        return replace(first, views={**first.views, self.name: second.image})
