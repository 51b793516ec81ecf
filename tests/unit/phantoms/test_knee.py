"""The knee phantom: thickness that a radiograph shows on the mean alone, and what changes over years."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allograft.errors import SpecError
from allograft.phantoms import knee
from allograft.phantoms.parts import draws


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_written_cohort(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe"}
    one, two, fewer, other = (
        knee.write_knee(tmp_path / name, sites=sites, subjects=count, size=32, seed=seed)
        for name, count, seed in (("one", 3, 5), ("two", 3, 5), ("fewer", 2, 5), ("other", 3, 6))
    )
    assert written(one.parent) == written(two.parent)
    assert written(other.parent) != written(two.parent)
    more, less = written(one.parent), written(fewer.parent)
    assert all(more[name] == data for name, data in less.items() if name.endswith(".png"))
    with open(one, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2 * 3
    assert len({row["image"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"image", "paired", "label", "subject", "site", "side", "timepoint", "progresses"}
        assert row["label"] in knee.GRADES
        for column in ("image", "paired"):
            with Image.open(one.parent / row[column]) as picture:
                assert (picture.size, picture.mode) == ((32, 32), "L")


def test_cartilage_only_gets_thinner_and_grades_only_rise() -> None:
    for number in range(40):
        one = knee.draw_knee(draws(0, str(number)), 32)
        maps = [one.thickness(years) for years in knee.YEARS]
        assert all((later <= earlier + 1e-12).all() for earlier, later in pairwise(maps))
        assert all((each >= 0).all() and (each <= knee.THICKEST).all() for each in maps)
        grades = [knee.GRADES.index(one.grade(years)) for years in (*knee.YEARS, 10)]
        assert grades == sorted(grades)
        assert one.progresses(0) == (one.grade(6) != one.grade(0))


def test_every_grade_and_both_courses_occur() -> None:
    knees = [knee.draw_knee(draws(0, str(number)), 32) for number in range(200)]
    assert {one.grade(0) for one in knees} == set(knee.GRADES)
    assert 0.1 < np.mean([one.progresses(0) for one in knees]) < 0.9


def test_the_radiograph_shows_the_mean_from_front_to_back_and_no_more() -> None:
    one = knee.draw_knee(draws(0, "x"), 32)
    turned = knee.Knee(one.femoral[::-1], one.tibial[::-1], (-one.place[0], one.place[1]), one.bones, 0.6, 0.0)
    same = knee.Knee(one.femoral, one.tibial, one.place, one.bones, 0.6, 0.0)
    pictures = [knee.expose(each, 0, knee.SHIFTS["none"], np.random.default_rng(1)) for each in (same, turned)]
    assert np.array_equal(*pictures)
    assert not np.allclose(same.thickness(0), turned.thickness(0))
    healthy = knee.Knee(one.femoral, one.tibial, one.place, one.bones, 0.0, 0.0)
    lit = knee.expose(healthy, 0, knee.SHIFTS["none"], np.random.default_rng(1)).astype(float)
    assert lit[12:20].mean() < pictures[0][12:20].mean()  # a wider dark space
    severe = knee.expose(healthy, 0, knee.SHIFTS["severe"], np.random.default_rng(1))
    assert not np.array_equal(severe, lit)


def test_bad_requests(tmp_path: Path) -> None:
    for wrong in ({"size": 8}, {"dims": 3}, {"sites": {"a": "sever"}}, {"subjects": 0}):
        with pytest.raises(SpecError, match="knee phantom"):
            knee.write_knee(tmp_path, **wrong)  # type: ignore[arg-type]
