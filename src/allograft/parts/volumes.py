"""Tasks made of a volume's slices, or of the tiles of a photograph, that show enough
foreground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Generator, Tensor

from allograft.batch import Batch, collate
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.cohort.orders import Item
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.parts.organs import names_of, site_of


@dataclass(frozen=True)
class Volume:
    """What one volume, or one photograph, has for a task.

    Args:
        dataset: number of its cohort among those given.
        items: its slices with enough foreground, in order; of a photograph the image itself.
        tiles: of a photograph, its tiles with enough foreground; () of a volume.
    """

    dataset: int
    items: tuple[Item, ...]
    tiles: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """How many slices, or tiles, there are."""
        return len(self.tiles or self.items)

    def part(self, places: Sequence[int]) -> Volume:
        """Some of the slices, or tiles."""
        if self.tiles:
            return replace(self, tiles=tuple(self.tiles[number] for number in places))
        return replace(self, items=tuple(self.items[number] for number in places))


def by_dataset(volumes: Sequence[Volume], count: int) -> tuple[tuple[Item, ...], ...]:
    """The items of all volumes of each of ``count`` data sets."""
    return tuple(
        tuple(item for volume in volumes if volume.dataset == number for item in volume.items)
        for number in range(count)
    )


def volumes_of(cohorts: Sequence[Cohort], least: Sequence[int], grid: int) -> list[Volume]:
    """The volumes of each cohort that have a slice, or a tile, with at least so many foreground
    pixels.

    Args:
        least: foreground pixels, of each cohort.
        grid: tiles along each axis of a photograph.
    """
    volumes = []
    for number, cohort in enumerate(cohorts):
        by_case: dict[int, list[Item]] = {}
        for item, (case, _) in enumerate(cohort.items):
            mask = cohort.case(item).labels["mask"]
            assert isinstance(mask, Tensor)
            if cohort.slices is not None:
                by_case.setdefault(case, [])
                by_case[case] += [(number, item)] if foreground(mask) >= least[number] else []
            else:
                cut = [foreground(tile) for tile in tiles_of(mask, grid)]
                kept = tuple(place for place, count in enumerate(cut) if count >= least[number])
                volumes += [Volume(number, ((number, item),), kept)] if kept else []
        volumes += [Volume(number, tuple(items)) for items in by_case.values() if items]
    return volumes


def checked_volumes(source: Sequence[Cohort], least: int | Mapping[str, int], grid: int) -> list[Volume]:
    """``volumes_of``; ``SpecError`` for a data set that shows no foreground, or has neither slices
    nor an image as large as its tiles are many.

    Args:
        least: foreground pixels, of every data set, or by site or cohort; 1 where not named.
    """
    counts = [
        least if isinstance(least, int) else next((least[name] for name in names_of(cohort) if name in least), 1)
        for cohort in source
    ]
    for cohort in source:
        _check_plane(cohort, grid)
    volumes = volumes_of(source, counts, grid)
    for number, cohort in enumerate(source):
        if not any(volume.dataset == number for volume in volumes):
            raise SpecError(
                f"no slice or tile of '{site_of(cohort)}' shows {counts[number]} pixels of foreground; lower "
                f"foreground: {{{site_of(cohort)}: ...}}, or leave the site out"
            )
    return volumes


def _check_plane(cohort: Cohort, grid: int) -> None:
    site = site_of(cohort)
    size = cohort.case(0).image.shape[2:]
    if len(size) != 2:
        raise SpecError(f"the volumes of '{site}' are not cut; its tasks are of slices: set slices: {{axis: 2}}")
    if cohort.slices is None and grid > min(size):
        shape = " x ".join(map(str, size))
        raise SpecError(
            f"an image of '{site}' has {shape} pixels and cannot be cut into {grid} x {grid} tiles; ask for at most "
            f"{min(size) ** 2} shots, or set a larger preprocessing.size"
        )


def check_tiles(source: Sequence[Cohort], grid: int, network: AnyNetwork) -> None:
    """Raise ``SpecError`` where the sides of a photograph's tiles are no multiples of what the
    network needs."""
    for cohort in source if grid > 1 else ():
        size = cohort.case(0).image.shape[2:]
        if cohort.slices is None and any(side // grid % network.multiple for side in size):
            tile = " x ".join(str(side // grid) for side in size)
            raise SpecError(
                f"an image of '{site_of(cohort)}' is cut into {grid} x {grid} tiles of {tile} pixels, and the sides "
                f"that the network takes are multiples of {network.multiple}; set preprocessing.size to multiples of "
                f"{grid * network.multiple}, or ask for another number of shots"
            )


def foreground(mask: Tensor) -> int:
    """Pixels of any class but the background."""
    return int((mask > 0).sum())


def tiles_of(image: Tensor, grid: int) -> list[Tensor]:
    """(B, C, H, W) as grid x grid tiles, row by row; pixels that no whole tile holds are left out
    at the end.

    >>> import torch
    >>> [tile.flatten().tolist() for tile in tiles_of(torch.arange(10).view(1, 1, 2, 5), 2)]
    [[0, 1], [2, 3], [5, 6], [7, 8]]
    """
    height, width = (size // grid for size in image.shape[2:])
    return [
        image[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(grid)
        for column in range(grid)
    ]


@dataclass(frozen=True)
class CutIntoTiles:
    """A photograph becomes the tiles that are kept of it, each then cropped and augmented; all else
    is cropped and augmented whole.

    Args:
        each: crop and augmentation of a tile. Of a whole image it would move what the tiles hold.
        kept: name of a case -> its tiles.
        grid: tiles along each axis.
    """

    each: Transform
    kept: Mapping[str, tuple[int, ...]]
    grid: int

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """B = 1 -> B = number of tiles."""
        if case.cases[0] not in self.kept:
            return self.each(case, rng)
        size = case.image.shape[2:]
        images, region = tiles_of(case.image, self.grid), case.region
        parts = []
        for tile in self.kept[case.cases[0]]:
            labels = {
                key: tiles_of(value, self.grid)[tile]
                if isinstance(value, Tensor) and value.shape[2:] == size
                else value
                for key, value in case.labels.items()
            }
            counts = None if region is None else tiles_of(region, self.grid)[tile]
            cut = replace(case, image=images[tile], labels=labels, region=counts, extent=None)
            parts.append(self.each(cut, rng))
        return collate(parts)
