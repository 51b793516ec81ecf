"""What a study leaves open and its images decide: channels, the network's dimensions and
normalisation, and the size of a training sample."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import torch

from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, copied
from allograft.predictor import evaluation_mode
from allograft.predictor.direct import padded
from allograft.recipe import candidates, every_recipe, title
from allograft.run.images import network_shape
from allograft.study.spec import Study
from allograft.table import find

LONGEST_CROP = {2: 128, 3: 64}
"""Longest side of a crop that no study named, by the number of axes."""
LONGEST_WHOLE = {2: 512, 3: 128}
"""Longest side to which images of several sizes are padded, where a label is of the whole image."""
MOST_PIXELS = 2**20
"""Of a batch of whole images that no study asked for: a step of the default network on more takes a
processor half a second or longer."""
Say = Callable[[str], None]
Multiple = Callable[[Study, int], int]
"""A study and its images' channels -> what the sides of the network's input must be multiples
of."""


@dataclass(frozen=True)
class _Seen:
    """The images of a study as the network gets them.

    Args:
        channels: of the first.
        sizes: of each image, along each spatial axis.
    """

    channels: int
    sizes: tuple[tuple[int, ...], ...]

    @property
    def distinct(self) -> list[tuple[int, ...]]:
        """Every size once, sorted."""
        return sorted(set(self.sizes))

    @property
    def words(self) -> str:
        """``584 x 565``, or ``2 sizes from 584 x 565 to 960 x 999``."""
        first, *_, last = (" x ".join(map(str, size)) for size in (*self.distinct, self.distinct[-1]))
        return first if len(self.distinct) == 1 else f"{len(self.distinct)} sizes from {first} to {last}"


def with_defaults(study: Study, cohorts: Sequence[Cohort], say: Say, *, multiple: Multiple, own_network: bool) -> Study:
    """The study with what it leaves open filled in, each in a line that is said. Every image is
    prepared on the way. What a study names itself stays.

    Args:
        cohorts: all images of the study.
        own_network: whether the network is the user's own module, or that of a model folder.

    Raises:
        ImageError: a file that cannot be read.
        SpecError: images of several sizes, too large to be padded, whose labels are of the whole.
    """
    named = study
    say(f"preparing {sum(len(cohort.cases) for cohort in cohorts)} images")
    if (channels := _mixed_channels(cohorts)) is not None:
        say(f"preprocessing.channels: {channels}, because some images have {channels} and others 1, which is repeated")
        study = replace(study, preprocessing=replace(study.preprocessing, channels=channels))
        cohorts = [_with_channels(cohort, channels) for cohort in cohorts]
    shapes = [network_shape(cohort, case) for cohort in cohorts for case in cohort.cases]
    seen = _Seen(shapes[0][0], tuple(shape[1:] for shape in shapes))
    if len({len(size) for size in seen.sizes}) > 1:
        return named  # planes among volumes, which are refused by name
    if not own_network:
        study = replace(study, network=_network(study, len(seen.sizes[0]), say))
    return replace(study, patch=_patch(study, seen, multiple(study, seen.channels), say))


def refused_sizes(network: AnyNetwork, shapes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], str]:
    """Shape (C, *spatial) of an image -> why a network cannot take it, padded as it is predicted.

    Tried without computing anything; where that fails, for reasons of its own perhaps, in earnest.
    """
    empty, refused = copied(network).to("meta"), dict[tuple[int, ...], str]()
    for shape in sorted(set(shapes)):
        try:
            with evaluation_mode(empty):
                padded(empty, torch.empty((1, *shape), device="meta"))
        except Exception:  # of a module that reads values, which there are none
            try:
                with evaluation_mode(network):
                    padded(network, torch.zeros((1, *shape)))
            except (RuntimeError, ValueError) as error:
                refused[shape] = str(error).splitlines()[0] if str(error) else type(error).__name__
    return refused


def _mixed_channels(cohorts: Sequence[Cohort]) -> int | None:
    """The larger number of channels where images have 1 or that many, and no study says which."""
    channels: set[int] = set()
    for cohort in cohorts:
        for case in cohort.cases:
            channels.add(len(cohort.prepared.image(case)[0]))
            open_ = cohort.prepared.preprocessing.channels is None
            if open_ and len(channels) == 2 and min(channels) == 1:
                return max(channels)
    return None


def _with_channels(cohort: Cohort, channels: int) -> Cohort:
    given = cohort.prepared.preprocessing
    made = given if given.channels is not None else replace(given, channels=channels)
    return replace(cohort, prepared=replace(cohort.prepared, preprocessing=made))


def _network(study: Study, dims: int, say: Say) -> dict[str, dict[str, object] | None]:
    """The network with the images' dimensions where it names none, and, where a study names no
    network, with batch normalisation if a recipe is about that."""
    ((name, given),) = study.network.items()
    added: dict[str, object] = {}
    if dims == 3 and "spatial_dims" not in (given or {}) and _takes_dimensions(name):
        added["spatial_dims"] = dims
    if not given and name == "unet" and study.start == "scratch" and (needy := _about_batch_norm(study)):
        added["norm"] = "batch"
        say(f"network: {name} with batch normalisation, which {', '.join(needy)} adapts; name a network to choose")
    if "spatial_dims" in added:
        say(f"network: {name} with spatial_dims: {dims}, as the images have")
    return {name: {**(given or {}), **added} if added else given}


def _takes_dimensions(name: str) -> bool:
    return not name.startswith("monai.") and "spatial_dims" in inspect.signature(find("network", name)).parameters


def _about_batch_norm(study: Study) -> list[str]:
    """Titles of the rows that no network without batch normalisation has a use for."""
    return [
        title(recipe)
        for row in study.rows
        for recipe in candidates(row)
        if any(getattr(inner, "needs_batch_norm", False) for inner in every_recipe(recipe))
    ]


def _patch(study: Study, seen: _Seen, multiple: int, say: Say) -> tuple[int, ...] | None:
    """The size of a training sample: the study's; None where all images have one that the network
    takes, and a batch of them is not large; else that size padded, or a crop."""
    if study.patch is not None:
        return study.patch
    largest = tuple(max(lengths) for lengths in zip(*seen.sizes, strict=True))
    padded = tuple(length + -length % multiple for length in largest)
    whole = "label" in study.made_task.outputs
    is_slow = not whole and not _names_size(study) and study.budget.batch_size * math.prod(padded) > MOST_PIXELS
    if len(seen.distinct) == 1 and padded == largest and not is_slow:
        return None
    if whole or (len(seen.distinct) == 1 and not is_slow):
        if len(seen.distinct) > 1 and max(padded) > LONGEST_WHOLE[len(padded)]:
            raise SpecError(
                f"preprocessing.size: images have {seen.words}, and a batch needs one; a crop may not show what a "
                f"label says: set preprocessing: {{size: {list(_middle(seen, multiple))}}}, or name a patch"
            )
        say(f"patch: {list(padded)}, because images have {seen.words}: they are padded to it for training")
        return padded
    longest = max(multiple, LONGEST_CROP[len(padded)] // multiple * multiple)
    crop = tuple(min(length, longest) for length in _middle(seen, multiple))
    slow = ", and training on complete ones is slow" if len(seen.distinct) == 1 else ""
    say(f"patch: {list(crop)}, crops for training, because images have {seen.words}{slow}; name a patch to choose")
    return crop


def _names_size(study: Study) -> bool:
    return study.preprocessing.size is not None or any(
        "size" in member.preprocessing for member in study.cohorts.values()
    )


def _middle(seen: _Seen, multiple: int) -> tuple[int, ...]:
    """The median length along each axis, rounded down to a multiple."""
    return tuple(max(multiple, median_low(lengths) // multiple * multiple) for lengths in zip(*seen.sizes, strict=True))
