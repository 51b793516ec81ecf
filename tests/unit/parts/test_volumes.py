"""Slices and tiles with enough foreground: of whom, how much, and what is cut with them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.tiny import read, write_photographs, write_volumes

from allograft.batch import Batch
from allograft.cohort import Slices
from allograft.errors import SpecError
from allograft.parts.volumes import (
    CutIntoTiles,
    Volume,
    by_dataset,
    check_tiles,
    checked_volumes,
    foreground,
    tiles_of,
    volumes_of,
)


def test_each_data_set_has_its_own_least_and_unlabelled_pixels_are_no_foreground(tmp_path: Path) -> None:
    scans = read(write_volumes(tmp_path / "scans", [(4, 3, 5)]), slices=Slices(2))  # odd slices are full: 12 pixels
    images = read(write_photographs(tmp_path / "images", {"b": 2}))
    tiles = [foreground(tile) for tile in tiles_of(images.case(0).labels["mask"], 2)]  # type: ignore[arg-type]
    found = volumes_of([scans, images], [12, max(tiles)], 2)
    assert [(volume.dataset, volume.depth) for volume in found][:2] == [(0, 2), (1, tiles.count(max(tiles)))]
    assert found[0].items == ((0, 1), (0, 3))
    assert found[1].tiles == tuple(place for place, count in enumerate(tiles) if count == max(tiles))
    assert all(volume.dataset == 1 for volume in volumes_of([scans, images], [13, 1], 2))
    assert by_dataset(found, 2)[0] == ((0, 1), (0, 3))
    assert all(number == 1 for number, _ in by_dataset(found, 2)[1])
    assert foreground(torch.tensor([0, 1, 2, -100])) == 2


def test_a_part_has_the_places_that_are_asked_for() -> None:
    photograph, scan = Volume(0, ((0, 3),), (4, 5, 7)), Volume(0, ((0, 3), (0, 4), (0, 8)))
    assert (photograph.part([0, 2]).tiles, photograph.part([0, 2]).items) == ((4, 7), ((0, 3),))
    assert scan.part([2, 0]).items == ((0, 8), (0, 3))
    assert (photograph.depth, scan.depth) == (3, 3)


def test_a_site_that_is_not_named_needs_one_pixel(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 1, "b": 1}))
    found = checked_volumes([cohort.site("a"), cohort.site("b")], {"b": 12}, 4)
    masks = [tiles_of(cohort.case(number).labels["mask"], 4) for number in range(2)]  # type: ignore[arg-type]
    for volume, tiles, least in zip(found, masks, (1, 12), strict=True):
        assert volume.tiles == tuple(place for place, tile in enumerate(tiles) if foreground(tile) >= least)
        assert 0 < len(volume.tiles) < 16


def test_tiles_are_bounded_by_the_short_side_and_slices_need_none(tmp_path: Path) -> None:
    wide = read(write_photographs(tmp_path / "wide", {"a": 1}, size=(10, 16)))
    with pytest.raises(SpecError, match=r"10 x 16 pixels and .* 12 x 12 tiles; ask for at most 100 shots"):
        checked_volumes([wide], 1, 12)
    with pytest.raises(SpecError, match="10 x 16 pixels"):
        checked_volumes([read(write_photographs(tmp_path / "large", {"a": 1})), wide], 1, 12)
    scans = read(write_volumes(tmp_path / "scans", [(6, 6, 3)]), slices=Slices(2))
    network: Any = SimpleNamespace(multiple=4)
    check_tiles([scans], 3, network)
    check_tiles([wide], 1, network)
    with pytest.raises(SpecError, match=r"2 x 2 tiles of 5 x 8 pixels.*multiples of 4"):
        check_tiles([scans, wide], 2, network)


def test_a_region_is_cut_with_its_tile_and_a_label_of_the_image_stays() -> None:
    number = torch.arange(24).view(1, 1, 4, 6)
    case = Batch(
        number.float(),
        torch.zeros(1).long(),
        ("a",),
        {"mask": number, "label": torch.tensor([5])},
        region=number % 5 == 0,
        extent=torch.tensor([[4, 6]]),
    )
    made = CutIntoTiles(lambda tile, rng: tile, {"a": (1, 2)}, 2)(case, torch.Generator())
    for row, place in enumerate((1, 2)):
        assert torch.equal(made.image[row], tiles_of(number, 2)[place][0].float())
        assert torch.equal(made.labels["mask"][row], tiles_of(number, 2)[place][0])  # type: ignore[arg-type]
        assert torch.equal(made.region[row], tiles_of(number % 5 == 0, 2)[place][0])  # type: ignore[index]
    assert made.labels["label"].tolist() == [5, 5]  # type: ignore[union-attr]
    assert made.extent is None
