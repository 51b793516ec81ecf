"""Small images of a cohort: a slice looks as it does in its volume, and no label is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.unit.tiny import read, write_photographs, write_volumes

from allograft.cohort import Cohort, Slices
from allograft.grey import grey_of, plane, window_of
from allograft.parts.thumbnails import subject_of, thumbnail


def _items(cohort: Cohort) -> list[tuple[Cohort, int]]:
    return [(cohort, index) for index in range(len(cohort))]


def test_a_slice_looks_as_it_does_in_its_volume(tmp_path: Path) -> None:
    manifest = write_volumes(tmp_path, [(5, 4, 3)])
    whole = read(manifest)
    volume = whole.case(0).image[0].numpy()
    for axis in range(3):
        for neighbours in (0, 1):
            items = _items(read(manifest, slices=Slices(axis, neighbours)))
            upright = [
                grey_of(plane(np.moveaxis(volume, 1 + axis, -1), n), window_of(volume)) for n in range(len(items))
            ]
            assert len(items) == volume.shape[1 + axis]
            assert all(np.array_equal(thumbnail(item), expected) for item, expected in zip(items, upright, strict=True))
    assert thumbnail((whole, 0)).shape == (4, 5)
    assert np.array_equal(
        thumbnail((whole, 0)), thumbnail(_items(read(manifest, slices=Slices(2)))[1])
    )  # the middle one


def test_an_empty_slice_is_as_dark_as_in_its_volume() -> None:
    rng = np.random.default_rng(0)

    class PreparedImages:
        def image(self, case: Any) -> tuple[NDArray[np.float32], None]:
            return np.concatenate([rng.uniform(0, 0.01, (1, 8, 8, 1)), rng.uniform(0, 1, (1, 8, 8, 3))], -1).astype(
                np.float32
            ), None

    class Sliced:
        slices, prepared, cases, items = Slices(2), PreparedImages(), ("x",), ((0, 0),)

        def unlabelled(self) -> Any:
            return self

        def case(self, index: int) -> Any:
            image = torch.from_numpy(self.prepared.image("x")[0][None, ..., 0])
            return type("Batch", (), {"image": image})

    assert thumbnail((Sliced(), 0)).max() < 10  # type: ignore[arg-type]


def test_no_label_is_read_and_the_subject_is_that_of_the_image(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2}, per_subject=2))
    for mask in tmp_path.glob("*-mask.png"):
        mask.unlink()
    with pytest.raises(Exception, match="mask"):
        cohort.case(0)
    assert [thumbnail(item).shape for item in _items(cohort)] == [(16, 16)] * 4
    assert [subject_of(item) for item in _items(cohort)] == ["a0", "a0", "a1", "a1"]
