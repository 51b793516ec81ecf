"""The skin phantom: tones that our estimate reads back, outlines that decide the label, confounding
of the asked strength."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from allograft.errors import SpecError
from allograft.phantoms import skin
from allograft.phantoms.parts import draws
from allograft.transforms.skin_tone import estimate_skin_tone, fitzpatrick_type, typology_angle


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def drawn(number: int, size: int = 64, *, tone: int = 2, melanoma: bool = False, hairy: bool = False) -> skin.Lesion:
    return skin.draw_lesion(draws(0, str(number)), size, tone=tone, melanoma=melanoma, hairy=hairy)


def test_written_cohort(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe"}
    one, two, other = (
        skin.write_skin(tmp_path / name, sites=sites, subjects=4, size=48, seed=seed)
        for name, seed in (("one", 5), ("two", 5), ("three", 6))
    )
    assert written(one.parent) == written(two.parent)
    assert written(other.parent) != written(two.parent)
    rows = rows_of(one)
    assert list(rows[0]) == ["image", "mask", "label", "subject", "site", "tone", "ita"]
    assert [row["label"] for row in rows] == ["naevus", "melanoma"] * 4
    for row in rows:
        image, mask = (np.asarray(Image.open(one.parent / row[key])) for key in ("image", "mask"))
        assert (image.dtype, image.shape, mask.shape) == (np.uint8, (48, 48, 3), (48, 48))
        assert np.unique(mask).tolist() == [0, 1]
        assert fitzpatrick_type(float(row["ita"])) == int(row["tone"])
    facts = json.loads((one.parent / "shift.json").read_text())
    assert (facts["phantom"], facts["dims"], facts["size"], facts["subjects"], facts["seed"]) == ("skin", 2, 48, 4, 5)
    assert (facts["sites"]["b"]["shift"], facts["sites"]["b"]["confounding"], facts["sites"]["b"]["blur"]) == (
        "severe",
        0.0,
        0.8,
    )


def test_a_subject_depends_on_nothing_but_seed_site_and_number(tmp_path: Path) -> None:
    small = written(skin.write_skin(tmp_path / "small", sites={"b": "none"}, subjects=2, size=32).parent)
    large = written(skin.write_skin(tmp_path / "large", sites={"a": "none", "b": "severe"}, subjects=3, size=32).parent)
    assert small["masks/b-001.png"] == large["masks/b-001.png"]
    assert small["images/b-001.png"] != large["images/b-001.png"]


@pytest.mark.parametrize("angle", [-35.0, 0.0, 14.0, 24.0, 48.0, 65.0])
def test_the_colour_has_the_angle(angle: float) -> None:
    lightness, _, b = skin.skin_colour(angle)
    assert typology_angle(lightness, b) == pytest.approx(angle, abs=1e-9)
    assert 30 < lightness < 85


@pytest.mark.parametrize(("size", "count"), [(64, 24), (128, 12)])
def test_the_estimate_agrees_with_the_skin(size: int, count: int) -> None:
    same, apart = 0, []
    for number in range(count):
        tone = number % 6 + 1
        lesion = drawn(number, size, tone=tone, melanoma=number % 4 > 1, hairy=number % 3 == 0)
        found = estimate_skin_tone(skin.photograph(lesion, skin.SHIFTS["none"], draws(1, str(number))), strict=False)
        assert found.type is not None
        assert abs(found.type - tone) <= 1, (number, found, lesion.angle)
        same += found.type == tone
        apart.append(abs(found.angle - lesion.angle))
    assert same > 0.9 * count
    assert np.median(apart) < 2  # degrees


def test_a_cast_moves_the_angle() -> None:
    moved = []
    for number in range(12):
        lesion = drawn(number, tone=number % 6 + 1)
        pictures = (skin.photograph(lesion, skin.SHIFTS[shift], draws(1, str(number))) for shift in ("none", "severe"))
        first, second = (estimate_skin_tone(picture, strict=False).angle for picture in pictures)
        moved.append(abs(first - second))
    assert np.median(moved) > 5


def asymmetry(mask: np.ndarray) -> float:
    """Share of a lesion that does not fall on itself when it is turned by half about its centre."""
    places = np.argwhere(mask)
    turned = np.rint(2 * places.mean(0) - places).astype(int).clip(0, len(mask) - 1)
    return 1 - float(mask[tuple(turned.T)].mean())


def raggedness(mask: np.ndarray) -> float:
    """Pixels at the rim for the root of the area."""
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return float((mask.sum() - inner.sum()) / np.sqrt(mask.sum()))


def test_outline_and_nothing_else_tells_the_label() -> None:
    pairs = [
        [drawn(number, 128, tone=number % 6 + 1, melanoma=melanoma) for number in range(30)]
        for melanoma in (False, True)
    ]
    for naevus, melanoma in zip(*pairs, strict=True):
        assert (naevus.label, melanoma.label) == ("naevus", "melanoma")
        assert naevus.angle == melanoma.angle
    for measure in (asymmetry, raggedness):
        benign, malignant = ([measure(one.mask) for one in group] for group in pairs)
        assert (
            stats.mannwhitneyu(malignant, benign, alternative="greater").statistic / 900 > 0.9
        )  # the area under the ROC curve
    areas, depths = ([[measured(one) for one in group] for group in pairs] for measured in (area, depth))
    assert stats.ks_2samp(*areas).pvalue > 0.05
    assert stats.ks_2samp(*depths).pvalue > 0.05


def area(lesion: skin.Lesion) -> float:
    return float(lesion.mask.mean())


def depth(lesion: skin.Lesion) -> float:
    return float(lesion.colour[lesion.mask == 1, 0].mean() / lesion.colour[lesion.mask == 0, 0].mean())


def test_masks_match_the_image() -> None:
    for number in range(12):
        lesion = drawn(number, tone=number % 6 + 1, melanoma=number % 2 == 1)
        image = skin.photograph(lesion, skin.SHIFTS["none"], draws(1, str(number))).astype(float).sum(2)
        inside, outside = image[lesion.mask == 1], image[lesion.mask == 0]
        assert np.percentile(inside, 90) < np.percentile(outside, 10)


def test_hairs_leave_the_mask_alone() -> None:
    bare, hairy = drawn(3), drawn(3, hairy=True)
    assert np.array_equal(bare.mask, hairy.mask)
    changed = (bare.colour != hairy.colour).any(2)
    assert 0.02 < changed.mean() < 0.5
    assert (hairy.colour[changed, 0] <= bare.colour[changed, 0] + 1e-9).all()


def phi(rows: list[dict[str, str]]) -> float:
    light = [int(row["tone"]) <= skin.LIGHT for row in rows]
    return float(np.corrcoef(light, [row["label"] == "melanoma" for row in rows])[0, 1])


def test_confounding_of_the_asked_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(rng: object, size: int, *, tone: int, melanoma: bool, hairy: bool) -> skin.Lesion:
        return skin.Lesion(np.zeros((2, 2, 3)), np.zeros((2, 2)), float(melanoma), 0.0)

    monkeypatch.setattr(skin, "draw_lesion", quick)  # what is drawn is looked at elsewhere
    monkeypatch.setattr(skin, "photograph", lambda *arguments: None)
    monkeypatch.setattr(skin, "write_cohort", lambda out, rows, facts: list(rows))
    strength = {"a": 0.7, "b": 1.0, "c": -0.4}
    rows: Any = skin.write_skin(tmp_path, sites=dict.fromkeys("abcd", "none"), subjects=1000, confounding=strength)
    found = {site: phi([row for row in rows if row["site"] == site]) for site in "abcd"}
    assert found["b"] == pytest.approx(1)
    for site, wanted in {**strength, "d": 0.0}.items():
        assert found[site] == pytest.approx(wanted, abs=0.08)  # 2.5 standard errors
    assert {row["tone"] for row in rows if row["site"] == "d"} == set("123456")
    everywhere: Any = skin.write_skin(tmp_path, sites={"a": "none"}, subjects=40, confounding=-1)
    assert phi(everywhere) == pytest.approx(-1)


def test_shifts_are_ordered_and_the_control_has_none(tmp_path: Path) -> None:
    distance = {}
    for shift, camera in skin.SHIFTS.items():
        lesions = [drawn(number, tone=number % 6 + 1) for number in range(6)]
        pairs = [
            (skin.photograph(one, skin.SHIFTS["none"], draws(2)), skin.photograph(one, camera, draws(2)))
            for one in lesions
        ]
        distance[shift] = np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs])
    assert distance["none"] == 0 < distance["subtle"] < 0.6 * distance["severe"]
    manifest = skin.write_skin(
        tmp_path, sites={"a": "none", "b": "severe", "c": "subtle", "d": "none"}, subjects=16, size=32, hairy=0
    )

    def grain(site: str) -> list[float]:
        """How far neighbouring pixels are apart."""
        images = (
            np.asarray(Image.open(manifest.parent / f"images/{site}-{number:03d}.png"), float) for number in range(16)
        )
        return [float(np.abs(np.diff(image[..., 0])).mean()) for image in images]

    source = grain("a")
    assert stats.ks_2samp(source, grain("d")).pvalue > 0.05
    assert stats.ks_2samp(source, grain("b")).pvalue < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {"a": "sever"}}, "did you mean 'severe'"),
        ({"size": 31}, "at least 32"),
        ({"dims": 3}, "skin phantom: dims is 3"),
        ({"subjects": 0}, "at least one"),
        ({"confounding": 1.5}, "correlation from -1 to 1"),
        ({"confounding": {"z": 0.5}}, "no site 'z'"),
        ({"hairy": 2}, "share from 0 to 1"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        skin.write_skin(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [{"blur": -1}, {"noise": math.nan}, {"cast": (1.0, -1.0, 1.0)}])
def test_bad_dermatoscope(arguments: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=next(iter(arguments))):
        skin.Dermatoscope(**arguments)  # type: ignore[arg-type]
