"""Images before and after a change: which are shown, in what greys, and of whom."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.unit.tiny import read, write_photographs, write_volumes

from allograft.cohort import Slices
from allograft.grey import grey_of, plane, window_of
from allograft.parts.adapted_images import changed_images, middle_items
from allograft.parts.thumbnails import subject_of


def pixels(png: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_cohorts_take_turns_and_no_subject_comes_twice(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 3, "b": 1}, per_subject=2))
    every = middle_items([cohort.site("a"), cohort.site("b")])
    assert [subject_of(item) for item in every] == ["a0", "b0", "a1", "a2"]
    assert [subject_of(item) for item in middle_items([cohort])] == ["a0", "a1", "a2", "b0"]


def test_of_a_scan_in_slices_it_is_the_middle_one_as_it_lies_in_its_volume(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(5, 4, 3), (5, 4, 7)]), slices=Slices(2, 1))
    items = middle_items([cohort])
    assert [cohort.items[index] for _, index in items] == [(0, 1), (1, 3)]
    other_way = replace(cohort, cases=cohort.cases[::-1])
    assert [subject_of(item) for item in middle_items([other_way])] == ["v0", "v1"]  # by name, whatever the manifest's
    figure = changed_images("toys", ("target", items, lambda batch: batch.image), ("source", items[1:]))
    volumes = [read(tmp_path / "manifest.csv").case(number).image[0].numpy() for number in range(2)]
    window = window_of(volumes[1][..., 2:5])  # a slice and its two neighbours
    for png, volume, place in zip(figure.rows[0], volumes, (1, 3), strict=True):
        assert np.array_equal(pixels(png), grey_of(plane(volume, place), window) // 4 * 4)


def test_the_change_and_what_it_adds(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2, "b": 3}))
    target, source = middle_items([cohort.site("b")]), middle_items([cohort.site("a")])
    step = torch.zeros(1, 1, 16, 16)
    step[..., 8:, :] = 40.0
    figure = changed_images("toys", ("target", target, lambda batch: batch.image + step), ("source", source))
    assert [name.split(",")[0] for name in figure.names] == ["target", "target", "difference", "source"]
    assert figure.names[2] == "difference, at most 40"
    assert figure.subjects == (("b0", "b1", "b2"),) * 3 + (("a0", "a1"),)
    theirs = np.stack([cohort.case(index).image.numpy() for _, index in source])
    image = target[0][0].case(target[0][1]).image
    for row, values in ((0, image), (1, image + step)):
        expected = grey_of(values[0, 0].numpy(), window_of(theirs))
        assert np.array_equal(pixels(figure.rows[row][0]), expected // 4 * 4)
    added = pixels(figure.rows[2][0])
    assert np.unique(added[:8]).tolist() == [128]
    assert np.unique(added[8:]).tolist() == [252]
    less = changed_images("toys", ("target", target, lambda batch: batch.image - step), ("source", source))
    assert less.names[2] == "difference, at most 40"
    assert np.unique(pixels(less.rows[2][0])[8:]).tolist() == [0]


def test_nothing_changed_is_grey_throughout(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 1}))
    items = middle_items([cohort])
    figure = changed_images("toys", ("target", items, lambda batch: batch.image), ("source", items))
    assert figure.names[2] == "difference, at most 0"
    assert figure.rows[0] == figure.rows[1] == figure.rows[3]
