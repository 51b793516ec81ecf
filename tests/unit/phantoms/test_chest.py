"""The chest phantom: opacities decide the label, the shift is in appearance alone, and the same
bytes each time."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from allograft.errors import SpecError
from allograft.phantoms import chest
from allograft.phantoms.parts import draws


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def drawn(number: int, *, pneumonia: bool, size: int = 64) -> chest.Chest:
    return chest.draw_chest(draws(0, str(number)), size, pneumonia=pneumonia)


def test_written_cohort(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe"}
    one, two, other = (
        chest.write_chest(tmp_path / name, sites=sites, subjects=3, size=48, seed=seed)
        for name, seed in (("one", 5), ("two", 5), ("three", 6))
    )
    assert written(one.parent) == written(two.parent)
    assert written(other.parent) != written(two.parent)
    with open(one, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["no-finding", "pneumonia", "no-finding"] * 2
    assert rows[-1] == {
        "image": "images/b-002.png",
        "mask": "masks/b-002.png",
        "label": "no-finding",
        "subject": "b-002",
        "site": "b",
    }
    for row in rows:
        image, mask = (np.asarray(Image.open(one.parent / row[key])) for key in ("image", "mask"))
        assert (image.dtype, image.shape, mask.shape) == (np.uint8, (48, 48), (48, 48))
        assert set(np.unique(mask)) == ({0, 1, 2} if row["label"] == "pneumonia" else {0, 1})
    facts = json.loads((one.parent / "shift.json").read_text())
    assert (facts["phantom"], facts["dims"], facts["size"], facts["subjects"], facts["seed"]) == ("chest", 2, 48, 3, 5)
    assert facts["sites"]["b"] == {"shift": "severe", **asdict(chest.SHIFTS["severe"])}


def test_a_subject_depends_on_nothing_but_seed_site_and_number(tmp_path: Path) -> None:
    small = written(chest.write_chest(tmp_path / "small", sites={"b": "none"}, subjects=2, size=32).parent)
    large = written(
        chest.write_chest(tmp_path / "large", sites={"a": "none", "b": "severe"}, subjects=3, size=32).parent
    )
    assert small["masks/b-001.png"] == large["masks/b-001.png"]
    assert small["images/b-001.png"] != large["images/b-001.png"]


@pytest.mark.parametrize("size", [32, 64])
def test_opacities_alone_decide_the_label(size: int) -> None:
    for number in range(25):
        sick, well = drawn(number, pneumonia=True, size=size), drawn(number, pneumonia=False, size=size)
        assert (sick.label, well.label) == ("pneumonia", "no-finding")
        # else the same chest
        np.testing.assert_allclose(sick.density - sick.opacity, well.density, atol=1e-12)
        found = sick.mask == chest.OPACITY
        assert found.sum() >= 3
        assert (sick.opacity[found] >= chest.FAINTEST / 2).all()
        assert np.array_equal(sick.mask > 0, well.mask > 0)
        assert (sick.opacity[~sick.lungs] < 0.5 * sick.opacity.max()).all()


def test_two_lungs_darker_than_what_is_around() -> None:
    for number in range(15):
        one = drawn(number, pneumonia=False)
        _, pieces = ndimage.label(one.lungs)
        assert pieces == 2
        assert 0.1 < one.lungs.mean() < 0.4
        around = ndimage.binary_dilation(one.lungs, iterations=4) & ~ndimage.binary_dilation(one.lungs, iterations=2)
        assert one.density[around].mean() - one.density[one.lungs].mean() > 0.2


def test_a_plain_machine_keeps_the_order_of_densities() -> None:
    plain = chest.Machine(noise=0, blur=0)
    one = drawn(0, pneumonia=True)
    image = chest.expose(one, plain, draws(1))
    assert stats.spearmanr(image.ravel(), one.density.ravel()).statistic > 0.99
    darker = chest.expose(one, replace(plain, gamma=2.0), draws(1))
    assert (darker <= image).all()
    np.testing.assert_allclose(darker / 255, (image / 255) ** 2, atol=0.01)
    flat = chest.expose(one, replace(plain, contrast=0.5), draws(1))
    np.testing.assert_allclose(flat / 255 - 0.5, (image / 255 - 0.5) / 2, atol=0.03 + 0.01)


def test_markers_and_frames() -> None:
    one, plain = drawn(0, pneumonia=False), chest.Machine(noise=0)
    bare = chest.expose(one, plain, draws(1))
    marked = chest.expose(one, replace(plain, marker=1.0), draws(1))
    changed = np.argwhere(marked != bare)
    assert 5 <= len(changed) <= 20
    assert changed[:, 0].max() < 64 / 2
    assert (marked[tuple(changed.T)] == 255).all()
    framed = chest.expose(one, replace(plain, border=0.1), draws(1))
    width = int(np.argmax(framed[32] > 0))
    assert 1 <= width <= 6
    assert np.array_equal(framed[width:-width, width:-width], bare[width:-width, width:-width])
    assert not framed[:width].any()
    assert not framed[:, -width:].any()


def test_shifts_are_ordered_and_the_control_has_none(tmp_path: Path) -> None:
    distance = {}
    for shift, machine in chest.SHIFTS.items():
        apart = []
        for number in range(6):
            one = drawn(number, pneumonia=bool(number % 2))
            a, b = chest.expose(one, chest.SHIFTS["none"], draws(2)), chest.expose(one, machine, draws(2))
            apart.append(np.abs(a.astype(float) - b).mean())
        distance[shift] = np.mean(apart)
    assert distance["none"] == 0 < distance["subtle"] < 0.6 * distance["severe"]
    manifest = chest.write_chest(
        tmp_path, sites={"a": "none", "b": "severe", "c": "subtle", "d": "none"}, subjects=16, size=32
    )

    def brightness(site: str) -> list[float]:
        images = (
            np.asarray(Image.open(manifest.parent / f"images/{site}-{number:03d}.png"), float) for number in range(16)
        )
        return [float(np.median(image)) for image in images]

    source = brightness("a")
    assert stats.ks_2samp(source, brightness("d")).pvalue > 0.05
    assert stats.ks_2samp(source, brightness("c")).pvalue < 1e-3
    assert stats.ks_2samp(source, brightness("b")).pvalue < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {"a": "sever"}}, "did you mean 'severe'"),
        ({"size": 31}, "at least 32"),
        ({"dims": 3}, "chest phantom: dims is 3"),
        ({"subjects": 0}, "at least one"),
        ({"sites": {"a b": "none"}}, "file name"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        chest.write_chest(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [{"gamma": -1}, {"noise": math.nan}, {"border": math.inf}])
def test_bad_machine(arguments: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(arguments))):
        chest.Machine(**arguments)
