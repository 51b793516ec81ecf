"""The fundus phantom: vessels that are vessels, the shift in appearance alone, and the same bytes
each time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from allograft.errors import OutputError, SpecError
from allograft.phantoms import fundus
from allograft.phantoms.parts import draws


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def eyes(count: int, size: int = 64) -> list[fundus.Eye]:
    return [fundus.draw_eye(draws(0, str(number)), size) for number in range(count)]


def test_written_cohort(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe"}
    one, two, other = (
        fundus.write_fundus(tmp_path / name, sites=sites, subjects=2, size=48, seed=seed)
        for name, seed in (("one", 5), ("two", 5), ("three", 6))
    )
    assert written(one.parent) == written(two.parent)
    assert written(other.parent) != written(two.parent)
    lines = one.read_text().splitlines()
    assert lines[0] == "image,mask,region,subject,site"
    assert lines[-1] == "images/b-001.png,masks/b-001.png,regions/b-001.png,b-001,b"
    image, mask, region = (np.asarray(Image.open(one.parent / name)) for name in lines[1].split(",")[:3])
    assert (image.dtype, image.shape, mask.shape, region.shape) == (np.uint8, (48, 48, 3), (48, 48), (48, 48))
    assert np.unique(mask).tolist() == np.unique(region).tolist() == [0, 1]
    assert (image[region == 0] == 0).all()
    assert (mask[region == 0] == 0).all()
    facts = json.loads((one.parent / "shift.json").read_text())
    assert (facts["phantom"], facts["dims"], facts["size"], facts["subjects"], facts["seed"]) == ("fundus", 2, 48, 2, 5)
    assert facts["sites"]["b"] == {"shift": "severe", **json.loads(json.dumps(asdict(fundus.SHIFTS["severe"])))}


def test_a_subject_depends_on_nothing_but_seed_site_and_number(tmp_path: Path) -> None:
    small = written(fundus.write_fundus(tmp_path / "small", sites={"b": "none"}, subjects=1, size=32).parent)
    large = written(
        fundus.write_fundus(tmp_path / "large", sites={"a": "none", "b": "severe"}, subjects=2, size=32).parent
    )
    assert small["masks/b-000.png"] == large["masks/b-000.png"]  # the shift is in appearance alone
    assert small["images/b-000.png"] != large["images/b-000.png"]


def test_a_straight_vessel_covers_what_it_should() -> None:
    cover = fundus.draw_vessels(np.array([[[0.0, x, 0.2], [0.0, x + 0.035, 0.2]] for x in np.arange(-2, 2, 0.035)]), 40)
    np.testing.assert_allclose(cover[:, 20], cover[:, 5], atol=0.02)
    apart = np.abs(np.arange(40) - 19.5)  # the centre line lies between the rows 19 and 20
    np.testing.assert_allclose(cover[:, 20], (0.2 * 20 - apart + 0.5).clip(0, 1), atol=0.02)
    thin = fundus.draw_vessels(
        np.array([[[0.025, x, 0.001], [0.025, x + 0.035, 0.001]] for x in np.arange(-2, 2, 0.035)]), 40
    )
    assert ((thin >= 0.5).sum(0) == 1).all()  # never thinner than a pixel


def test_branches_keep_the_sum_of_cubes() -> None:
    segments = fundus.grow_tree(np.random.default_rng(0), np.array([0.0, 0.4]), 1.0, 0.03)
    starts = {tuple(np.round(end, 9)): width for _, end, width in ((s[0, :2], s[1, :2], s[1, 2]) for s in segments)}
    daughters: dict[tuple[float, ...], list[float]] = {}
    for segment in segments:
        daughters.setdefault(tuple(np.round(segment[0, :2], 9)), []).append(segment[0, 2])
    parted = [(starts[place], widths) for place, widths in daughters.items() if len(widths) == 2 and place in starts]
    assert len(parted) > 5
    for mother, widths in parted:
        assert widths[0] ** 3 / 0.992**3 + widths[1] ** 3 == pytest.approx(mother**3, rel=1e-6)


def test_eyes_have_vessels_out_of_the_disc_and_none_in_the_macula() -> None:
    for eye in eyes(20):
        share = eye.mask[eye.view].mean()
        assert 0.06 < share < 0.4
        assert (eye.mask & (eye.disc > 0.5)).any()
        pieces, _ = ndimage.label(eye.mask, np.ones((3, 3)))
        assert (
            np.bincount(pieces[pieces > 0]).max() > 0.97 * eye.mask.sum()
        )  # one tree; specks where the rim cuts a branch
        sides = [eye.disc[:, :32].sum(), eye.disc[:, 32:].sum()]
        assert min(sides) == 0
        assert max(sides) > 10
    assert len({bool(eye.disc[:, :32].any()) for eye in eyes(20)}) == 2  # left and right eyes


def test_veins_are_wider_than_arteries() -> None:
    drawn = eyes(6, 96)
    assert sum(eye.vein.sum() for eye in drawn) > 1.1 * sum(eye.artery.sum() for eye in drawn)


def test_masks_match_the_image() -> None:
    clean = replace(fundus.SHIFTS["none"], noise=0.0, blur=0.0)
    for number, eye in enumerate(eyes(5)):
        image = fundus.photograph(eye, clean, draws(1, str(number))).astype(float)[..., 1]
        bare = fundus.photograph(
            replace(eye, artery=0 * eye.artery, vein=0 * eye.vein), clean, draws(1, str(number))
        ).astype(float)[..., 1]
        darker = (bare - image) / bare.clip(1)
        assert (darker[eye.mask == 1] > 0.15).all()
        untouched = eye.view & (eye.artery == 0) & (eye.vein == 0)
        assert (darker[untouched] == 0).all()
    thick = eyes(1, 128)[0]
    assert (
        abs(thick.mask[thick.view].mean() - eyes(1, 64)[0].mask[eyes(1, 64)[0].view].mean()) < 0.12
    )  # the same eye at any size


def test_shifts_are_ordered_and_the_control_has_none(tmp_path: Path) -> None:
    distance = {}
    for shift, camera in fundus.SHIFTS.items():
        pairs = [
            (fundus.photograph(eye, fundus.SHIFTS["none"], draws(2)), fundus.photograph(eye, camera, draws(2)))
            for eye in eyes(6)
        ]
        distance[shift] = np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs])
    assert distance["none"] == 0 < distance["subtle"] < 0.6 * distance["severe"]
    manifest = fundus.write_fundus(
        tmp_path, sites={"a": "none", "b": "severe", "c": "subtle", "d": "none"}, subjects=16, size=32
    )

    def colours(site: str) -> list[float]:
        images = (
            np.asarray(Image.open(manifest.parent / f"images/{site}-{number:03d}.png"), float) for number in range(16)
        )
        return [float(image[..., 1].sum() / image[..., 0].sum()) for image in images]

    source = colours("a")
    assert stats.ks_2samp(source, colours("d")).pvalue > 0.05
    assert stats.ks_2samp(source, colours("c")).pvalue < 1e-3
    assert stats.ks_2samp(source, colours("b")).pvalue < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {"a": "sever"}}, "did you mean 'severe'"),
        ({"size": 31}, "at least 32"),
        ({"dims": 3}, "fundus phantom: dims is 3; it is a photograph"),
        ({"subjects": 0}, "at least one"),
        ({"sites": {}}, "at least one"),
        ({"sites": {"../a": "none"}}, "file name"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        fundus.write_fundus(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [{"blur": -1}, {"noise": math.nan}, {"tint": (1.0, -1.0, 1.0)}])
def test_bad_camera(arguments: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=next(iter(arguments))):
        fundus.Camera(**arguments)  # type: ignore[arg-type]


def test_bad_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="fundus phantom cannot be written"):
        fundus.write_fundus(tmp_path / "file", subjects=1, size=32)


def test_phantoms_need_no_torch() -> None:
    script = (
        "import sys, tempfile\nfrom pathlib import Path\nfrom allograft.phantoms import chest, fundus, skin\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    for write in (fundus.write_fundus, chest.write_chest, skin.write_skin):\n"
        "        write(Path(folder) / write.__name__, subjects=1, size=32, sites={'a': 'none'})\n"
        "print(sorted({'torch', 'monai', 'pandas', 'nibabel'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )
