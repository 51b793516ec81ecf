"""Samples of the five pretext tasks: the clean image, its distortion, and the class that is to be
recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.networks import rebuildable
from allograft.parts.visual_words import words_in
from allograft.transforms.genesis import Genesis
from allograft.transforms.pretexts import clear_centre, permutation_set, shuffle_blocks, turn, turn_blocks, turns
from allograft.transforms.sample import Sample, Tile

Pretext = Literal["rotation", "jigsaw", "rubik", "deep_clustering", "transvw"]
LABEL, FLAGS, MIX = "pretext class", "turned blocks", "mix of real and restored"
"""Attributes of a batch: (B,) int64; (B, 2^D) float, 1 = turned; (B,) float64 in [0, 1], where
between two images a gradient is penalised."""
CLEAN = "clean"
"""View of a batch: what is to be restored."""
CLASSES: Mapping[Pretext, int] = {"jigsaw": 1000, "rubik": 1000, "deep_clustering": 64, "transvw": 44}
"""1000 and 44 are the released code's, 64 is ours; a rotation has those of ``turns``."""
GAPS = {"jigsaw": 4 / 64, "rubik": 10 / 64}
"""Share of a side between the blocks: voxels 30 to 33 and 27 to 36 of 64."""


def posed(sample: Batch, clean: Tensor, distorted: Tensor, label: int, rng: Generator) -> Batch:
    """The sample (B = 1) as a task: distorted image, clean view, class; all else that lies on
    the image's grid is left out. Images are (C, *spatial)."""
    mix = torch.rand(1, generator=rng, dtype=torch.float64)
    attributes = {**sample.attributes, LABEL: torch.tensor([label]), MIX: mix}
    views = {CLEAN: clean[None]}
    bare = replace(sample, labels={}, region=None, spacing=None, extent=None)
    return replace(bare, image=distorted[None], views=views, attributes=attributes)


@dataclass(frozen=True)
class Turned:
    """The image is turned by quarters, then distorted as by Models Genesis; it is to be restored
    turned."""

    sample: Transform
    genesis: Genesis

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1."""
        sample = self.sample(case, rng)
        label = int(torch.randint(len(turns(sample.image.ndim - 2)), (1,), generator=rng))
        clean = turn(sample.image[0], label)
        return posed(sample, clean, self.genesis(clean, rng), label, rng)


@dataclass(frozen=True)
class Shuffled:
    """The image in 2^D blocks with a gap between them, in one of so many orders; it is to be
    restored in true order, without the gap.

    Args:
        orders: classes.
        gap: share of a side; it is filled with the image's smallest value.
        turned: each block is also turned by 180 degrees in one of the planes or in none, which are
            as likely; the flags that say so are under ``FLAGS``.
    """

    sample: Transform
    orders: int
    gap: float
    turned: bool = False

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1."""
        sample = self.sample(case, rng)
        clean, dims = sample.image[0], sample.image.ndim - 2
        table = permutation_set(2**dims, self.orders)
        label = int(torch.randint(len(table), (1,), generator=rng))
        shuffled = shuffle_blocks(clear_centre(clean, self.gap, float(clean.min())), table[label].tolist())
        if not self.turned:
            return posed(sample, clean, shuffled, label, rng)
        planes = torch.randint(1 + dims * (dims - 1) // 2, (2**dims,), generator=rng)
        made = posed(sample, clean, turn_blocks(shuffled, planes.tolist()), label, rng)
        return replace(made, attributes={**made.attributes, FLAGS: (planes > 0).float()[None]})


@dataclass(frozen=True)
class Distorted:
    """The image is distorted as by Models Genesis; its class comes later, by its name."""

    sample: Transform
    genesis: Genesis

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1."""
        sample = self.sample(case, rng)
        return posed(sample, sample.image[0], self.genesis(sample.image[0], rng), 0, rng)


@dataclass(frozen=True)
class AtPlaces:
    """A crop at the place of a visual word, distorted as by Models Genesis; its class is that
    place. Which of an image's words it is, is drawn.

    Args:
        classes: name of an image -> its words.
        places: (K, D) in [0, 1]; see ``Words``.
        crop: pixels of a crop along each axis.
        strength: of the augmentation.
    """

    classes: Mapping[str, tuple[int, ...]]
    places: Tensor
    crop: tuple[int, ...]
    strength: str
    genesis: Genesis

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1."""
        words = self.classes[case.cases[0]]
        label = words[int(torch.randint(len(words), (1,), generator=rng))]
        way = zip(self.places[label].tolist(), case.image.shape[2:], self.crop, strict=True)
        # in the middle along an axis that the crop does not fit, as ``crop_centre``
        centre = tuple(
            (wanted - 1) / 2 + int(share * (given - wanted + 1)) if given >= wanted else (given - 1) / 2
            for share, given, wanted in way
        )
        sample = Sample(self.strength, self.crop, centre=centre)(case, rng)
        return posed(sample, sample.image[0], self.genesis(sample.image[0], rng), label, rng)


@dataclass(frozen=True)
class PretextTask:
    """What a pretext trains on.

    Args:
        pool: images that take part.
        transform: that makes a sample.
        classes, flags: the outputs of its head.
    """

    pool: tuple[Cohort, ...]
    transform: Transform
    classes: int
    flags: int = 0

    def head(self, channels: int, hidden: Sequence[int], dropout: float) -> PretextHead:
        """For the last feature of an encoder."""
        arguments = {"channels": channels, "dims": self.pool[0].case(0).image.ndim - 2, "hidden": list(hidden)}
        return rebuildable(PretextHead, **arguments, outputs=self.classes + self.flags, dropout=dropout)


def task_of(
    pretext: Pretext, classes: int, neighbours: int, pool: tuple[Cohort, ...], crop: tuple[int, ...], context: Context
) -> PretextTask:
    """The pretext task on the images of a pool.

    Args:
        classes: permutations, clusters or words; at most that many permutations as there are.
        neighbours: of a visual word; see ``draw_words``.
        crop: pixels of a sample along each axis.
    """
    strength, patch = context.settings.augmentation, context.settings.patch
    sample, genesis, dims = Sample(strength, patch), Genesis(), len(crop)
    if pretext == "rotation":
        return PretextTask(pool, Turned(sample, genesis), len(turns(dims)))
    if pretext == "deep_clustering":
        cut = sample if patch is None else Tile(patch, strength)
        return PretextTask(pool, Distorted(cut, genesis), classes)
    if pretext == "transvw":
        members, named, places = words_in(pool, classes, neighbours, context)
        return PretextTask(members, AtPlaces(named, places, crop, strength, genesis), classes)
    transform = Shuffled(sample, classes, GAPS[pretext], turned=pretext == "rubik")
    return PretextTask(pool, transform, len(permutation_set(2**dims, classes)), 2**dims if pretext == "rubik" else 0)


class PretextHead(nn.Module):
    """The encoder's features -> (B, outputs) logits: the last feature, averaged to two cells along
    each axis, and linear layers with ReLU and dropout between them.

    The released jigsaw has 2048 and 1024 hidden units and a dropout of 0.5. The mean over all of
    space would not tell where a block is.

    Args:
        channels, dims: of the last feature.
        outputs: classes and flags.
        hidden: units of the hidden layers.
    """

    def __init__(self, channels: int, dims: int, outputs: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2) if dims == 2 else nn.AdaptiveAvgPool3d(2)
        widths = [channels * 2**dims, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.layers(self.pool(features[-1]).flatten(1))
        return logits

    def reset(self) -> None:
        """Draw all weights again, from the global generators."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


def pretext_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the class (eq. 1), a mean over images; with flags, plus the mean binary
    cross-entropy of these.

    Args:
        logits: (B, K), or (B, K + 2^D) where the batch has flags.
    """
    flags = batch.attributes.get(FLAGS)
    if flags is None:
        return F.cross_entropy(logits, batch.attributes[LABEL])
    order, turned = logits.split([logits.shape[1] - flags.shape[1], flags.shape[1]], 1)
    return F.cross_entropy(order, batch.attributes[LABEL]) + F.binary_cross_entropy_with_logits(turned, flags)
