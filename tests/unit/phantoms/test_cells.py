"""The cells phantom: true boxes, wrong ones where they are asked for, the same bytes each time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allograft.errors import SpecError
from allograft.phantoms.box_noise import BoxNoise
from allograft.phantoms.cells import NOISE, READERS, cells, write_cells


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    return {row["subject"]: row for row in csv.DictReader((folder / "manifest.csv").read_text().splitlines())}


def _boxes(folder: Path, subject: str) -> list[list[float]]:
    found: list[list[float]] = json.loads((folder / "boxes" / f"{subject}.json").read_text())["boxes"]
    return found


def test_boxes_are_those_of_the_cells() -> None:
    body, _, boxes = cells(np.random.default_rng(3), 64)
    inside = np.zeros_like(body, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        part = body[int(y0) : int(y1), int(x0) : int(x1)] > 0.5
        assert part.any(0).all()
        assert part.any(1).all()
        inside[int(y0) : int(y1), int(x0) : int(x1)] = True
    assert not (body > 0.5)[~inside].any()


def test_only_training_boxes_of_the_noisy_site_are_wrong(tmp_path: Path) -> None:
    write_cells(tmp_path / "noisy", subjects=10)
    write_cells(tmp_path / "clean", subjects=10, noise={})
    for subject, row in _rows(tmp_path / "noisy").items():
        same = _boxes(tmp_path / "noisy", subject) == _boxes(tmp_path / "clean", subject)
        assert same == (row["site"] != "b" or row["split"] == "test")
        images = [(tmp_path / kind / row["image"]).read_bytes() for kind in ("noisy", "clean")]
        assert images[0] == images[1]
        assert bool(row["boxes_reader_true"]) != same  # wherever boxes are wrong, and nowhere else
        if not same:
            assert _boxes(tmp_path / "noisy", f"{subject}-reader_true") == _boxes(tmp_path / "clean", subject)
        further = [row[f"boxes_{reader}"] for reader in READERS]
        assert all(further) if row["split"] == "test" else not any(further)
    tests = [name for name, row in _rows(tmp_path / "noisy").items() if row["split"] == "test"]
    first, second, third = (
        [len(_boxes(tmp_path / "noisy", f"{name}{reader}")) for name in tests]
        for reader in ("", *(f"-{one}" for one in READERS))
    )
    assert sum(third) < sum(second) < sum(first)
    splits = [row["split"] for row in _rows(tmp_path / "noisy").values() if row["site"] == "a"]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (6, 2, 2)


def test_the_same_arguments_write_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_cells(tmp_path / name, sites={"b": "severe"}, subjects=5, size=48, seed=seed)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    assert any((tmp_path / "one" / f).read_bytes() != (tmp_path / "other" / f).read_bytes() for f in files)
    assert Image.open(tmp_path / "one" / "images" / "b-000.png").size == (48, 48)


def test_each_kind_of_noise_does_what_it_says() -> None:
    grid = np.array([[x, y, x + 8, y + 8] for x in range(0, 400, 20) for y in range(0, 400, 20)], float)
    size, rng = (400, 400), np.random.default_rng(0)
    assert BoxNoise()(grid, size, rng).tolist() == grid.tolist()
    assert len(BoxNoise(drop=0.4)(grid, size, rng)) == pytest.approx(240, abs=40)
    assert len(BoxNoise(drop=1.0)(grid, size, rng)) == 0
    moved = BoxNoise(jitter=0.1)(grid, size, rng) - grid
    assert moved.std() == pytest.approx(0.8, rel=0.1)
    merged = BoxNoise(merge=0.2)(grid, size, rng)
    wide = merged[:, 2:] - merged[:, :2]
    assert {tuple(sides) for sides in wide.tolist()} == {(8.0, 8.0), (28.0, 8.0), (8.0, 28.0)}
    pairs = int((wide.max(1) > 8).sum())
    assert len(merged) == len(grid) - pairs
    assert pairs == pytest.approx(70, abs=25)
    invented = BoxNoise(invent=0.25)(grid, size, rng)
    assert len(invented) == 500
    assert (invented[400:, 2:] - invented[400:, :2]).tolist() == pytest.approx(np.full((100, 2), 8.0))
    assert NOISE["b"].drop == 0.4


def test_what_is_no_share_is_refused(tmp_path: Path) -> None:
    for values, words in (({"drop": 1.5}, "from 0 to 1"), ({"jitter": -1}, "jitter is -1")):
        with pytest.raises(SpecError, match=words):
            BoxNoise(**values)
    with pytest.raises(SpecError, match="at least 5"):
        write_cells(tmp_path, subjects=4)
