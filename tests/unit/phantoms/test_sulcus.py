"""A sulcus that is absent, small or present."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from allograft.errors import SpecError
from allograft.phantoms.brain import CSF, draw_head, label_head, write_brain
from allograft.phantoms.sulcus import LABELS, SKELETON, SULCUS, Sulcus, draw_sulcus, with_sulcus


def sulcus(label: str, extent: float) -> Sulcus:
    return Sulcus(label, side=-1, lateral=0.16, radius=0.6, start=0.0, extent=extent)


@pytest.mark.parametrize("shape", [(64, 64), (48, 48, 48)])
def test_a_longer_sulcus_is_larger_and_an_absent_one_changes_nothing(shape: tuple[int, ...]) -> None:
    head = draw_head(np.random.default_rng(0), len(shape))
    sizes = []
    for label, extent in (("absent", 0.0), ("small", 22.0), ("present", 70.0)):
        tissue, mask = with_sulcus(head, sulcus(label, extent), shape)
        sizes.append(int((mask == SULCUS).sum()))
        assert set(np.unique(mask)) <= {0, SKELETON, SULCUS}
        assert (tissue[mask == SULCUS] == CSF).all()
        assert (mask == SKELETON).sum() > 20
        if label == "absent":
            assert (tissue == label_head(head, shape)).all()
    assert sizes[0] == 0 < 1.5 * sizes[1] < sizes[2]
    # in one piece, but where another sulcus crosses it
    assert ndimage.label(mask == SULCUS, np.ones((3,) * len(shape)))[1] <= 2


def test_it_lies_in_the_left_half_in_front() -> None:
    shape = (64, 64, 64)
    _, mask = with_sulcus(draw_head(np.random.default_rng(1), 3), sulcus("present", 60.0), shape)
    centre = np.argwhere(mask == SULCUS).mean(0)
    assert centre[0] > 32  # in front
    assert centre[1] < 32


def test_labels_are_as_likely_and_drawn_by_subject(tmp_path: Path) -> None:
    drawn = [draw_sulcus(np.random.default_rng(seed)).label for seed in range(300)]
    assert all(80 < drawn.count(label) < 120 for label in LABELS)
    few, more = (write_brain(tmp_path / str(n), subjects=n, sites={"a": "none"}, structure="sulcus") for n in (2, 4))
    lines = [list(csv.DictReader(path.read_text().splitlines())) for path in (few, more)]
    assert lines[0] == lines[1][:2]
    assert set(lines[0][0]) == {"image", "mask", "label", "subject", "site"}
    assert (few.parent / "images/a-000.png").read_bytes() == (more.parent / "images/a-000.png").read_bytes()


def test_heads_are_those_of_the_phantom_without_it(tmp_path: Path) -> None:
    plain, folded = (
        write_brain(tmp_path / name, subjects=8, sites={"a": "none"}, structure=name) for name in ("tissue", "sulcus")
    )
    rows = list(csv.DictReader(folded.read_text().splitlines()))
    absent = next(row for row in rows if row["label"] == "absent")
    present = next(row for row in rows if row["label"] == "present")
    assert np.array_equal(*(np.asarray(Image.open(path.parent / absent["image"])) for path in (plain, folded)))
    assert not np.array_equal(*(np.asarray(Image.open(path.parent / present["image"])) for path in (plain, folded)))


def test_another_structure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown structure 'sulci'; did you mean 'sulcus'"):
        write_brain(tmp_path, structure="sulci")
