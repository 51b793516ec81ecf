"""TransVW's visual words: one place in patients that are alike (Haghighi et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.seeds import Seeds

SIDES = {2: 32, 3: 16}
"""Dimensions -> pixels along each side that the autoencoder sees."""
CODE, STEPS, BATCH = 64, 200, 16
"""The length of its code, and its training, by Adam at 1e-3: ours."""


class Autoencoder(nn.Module):
    """Images (B, C, *(side,) * D) -> themselves, through a code of 64 numbers and no shortcut.

    Args:
        channels: of the images.
        dims: 2 or 3.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        widths, self.shape = (channels, 8, 16, 32), (32, *(SIDES[dims] // 8,) * dims)
        down = [layer for a, b in pairwise(widths) for layer in (convolution(a, b, 3, 2, 1), nn.ReLU())]
        count = math.prod(self.shape)
        self.encode = nn.Sequential(*down, nn.Flatten(), nn.Linear(count, CODE))
        up: list[nn.Module] = [nn.Linear(CODE, count), nn.ReLU(), nn.Unflatten(1, self.shape)]
        for a, b in ((32, 16), (16, 8), (8, channels)):
            up += [nn.Upsample(scale_factor=2), convolution(a, b, 3, 1, 1), nn.ReLU()]
        self.decode = nn.Sequential(*up[:-1])

    def forward(self, image: Tensor) -> Tensor:
        restored: Tensor = self.decode(self.encode(image))
        return restored


def words_in(
    pool: Sequence[Cohort], count: int, neighbours: int, context: Context
) -> tuple[tuple[Cohort, ...], dict[str, tuple[int, ...]], Tensor]:
    """Visual words of a pool, the same in every phase of a pre-training of one seed.

    Returns:
        The images that have one; name of an image -> its classes; (K, D) places.
    """
    items = [(number, index) for number, cohort in enumerate(pool) for index in range(len(cohort))]

    def kept_words() -> dict[str, Any]:
        cases = [pool[number].case(index) for number, index in items]
        images = torch.cat([small(case.image) for case in cases])
        seeds = Seeds(context.seeds.seed, ("visual words",))
        subjects = [case.subjects[0] for case in cases]
        words = draw_words(codes(images, seeds), subjects, count, neighbours, images.ndim - 2, seeds)
        return {"places": words.places, "members": words.members, "names": [case.cases[0] for case in cases]}

    kept = context.once("visual words", kept_words)
    classes: dict[int, tuple[int, ...]] = {}
    for label, row in enumerate(kept["members"].tolist()):
        for member in row:
            classes[member] = (*classes.get(member, ()), label)
    parts = (
        [index for n, index in map(items.__getitem__, sorted(classes)) if n == number] for number in range(len(pool))
    )
    members = (restricted(cohort, part) for cohort, part in zip(pool, parts, strict=True) if part)
    return tuple(members), {kept["names"][member]: own for member, own in classes.items()}, kept["places"]


def small(image: Tensor) -> Tensor:
    """(B, C, *spatial) in the size that the autoencoder sees."""
    dims = image.ndim - 2
    return F.interpolate(image, (SIDES[dims],) * dims, mode="area")


def restricted(cohort: Cohort, items: Sequence[int]) -> Cohort:
    """These images of a cohort, or of a sliced one these slices."""
    kept = [cohort.items[index] for index in items]
    held = {case_index for case_index, _ in kept}
    chosen = frozenset((cohort.cases[case_index].name, slice_index) for case_index, slice_index in kept)
    cases = tuple(case for case_index, case in enumerate(cohort.cases) if case_index in held)
    return replace(cohort, cases=cases, chosen=chosen if cohort.slices else None)


def codes(images: Tensor, seeds: Seeds) -> Tensor:
    """The codes of an autoencoder that is trained on these very images: (N, C, *(side,) * D) ->
    (N, 64). The same seeds give the same codes; the global generators are left alone."""
    images = (images - images.mean()) / images.std().clamp_min(1e-6)
    with seeds.everything("autoencoder"):
        coder = Autoencoder(images.shape[1], images.ndim - 2)
        optimizer = torch.optim.Adam(coder.parameters(), 1e-3)
        for _ in range(STEPS):
            batch = images[torch.randperm(len(images))[:BATCH]]
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(coder(batch), batch).backward()
            optimizer.step()
    with torch.no_grad():
        return torch.cat([coder.encode(part) for part in images.split(BATCH)])


@dataclass(frozen=True)
class Words:
    """Where each class is found, and in whose images.

    Args:
        places: (K, D) float64 in [0, 1]; the share of the way that a crop can go along each axis.
        members: (K, M) int64, images of the pool; the reference first, then its nearest.
    """

    places: Tensor
    members: Tensor


def draw_words(codes: Tensor, subjects: Sequence[str], count: int, neighbours: int, dims: int, seeds: Seeds) -> Words:
    """A place for each of ``count`` classes, with a reference patient of its own and the images
    whose codes are nearest to the reference's by Euclidean distance.

    A reference for each class is our reading: the paper of United names neither the references nor
    how many neighbours a word has.

    Args:
        codes: (N, L) of the images.
        subjects: whose image each is.
        neighbours: images beside the reference's, of any patient; all where there are fewer.

    Raises:
        SpecError: fewer patients than classes.
    """
    first = {subject: number for number, subject in reversed(list(enumerate(subjects)))}
    if len(first) < count:
        raise SpecError(
            f"draw_words: {len(first)} patients for {count} classes, each of which has a reference patient of its own; "
            "ask for fewer classes"
        )
    rng = seeds.rng("words")
    names = sorted(first)
    references = torch.tensor([first[names[n]] for n in torch.randperm(len(names), generator=rng)[:count].tolist()])
    distances = torch.cdist(codes[references].double(), codes.double())
    distances[torch.arange(count), references] = -1.0  # the reference itself comes first
    members = distances.argsort(dim=1, stable=True)[:, : neighbours + 1]
    return Words(torch.rand(count, dims, generator=rng, dtype=torch.float64), members)
