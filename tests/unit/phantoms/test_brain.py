"""The brain phantom: the physics by hand, the shift in appearance alone, and the same bytes each
time."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from allograft.errors import OutputError, SpecError
from allograft.phantoms import brain, head


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_spin_echo_by_hand() -> None:
    assert brain.spin_echo(0.8, 1000.0, 50.0, 1000.0, 50.0) == pytest.approx(
        0.8 * (1 - math.exp(-1)) * math.exp(-1), rel=1e-12
    )
    assert brain.spin_echo(1.0, math.log(2) ** -1, 1.0, 1.0, 0.0) == pytest.approx(
        0.5, rel=1e-12
    )  # TR = T1 ln 2: half recovered
    # proton density alone
    assert brain.spin_echo(0.7, 600.0, 75.0, 1e9, 0.0) == pytest.approx(0.7, rel=1e-12)


def test_longer_t1_is_darker_and_longer_t2_brighter() -> None:
    times = np.linspace(50, 4000, 40)
    assert (np.diff(brain.spin_echo(1.0, times, 80.0, 500, 15)) < 0).all()
    assert (np.diff(brain.spin_echo(1.0, 900.0, times, 4000, 90)) > 0).all()


@pytest.mark.parametrize("shift", brain.SHIFTS)
def test_tissues_keep_their_order(shift: str) -> None:
    scanner = brain.SHIFTS[shift]
    signal = {
        tissue: brain.spin_echo(*at[scanner.field_strength], scanner.tr, scanner.te)
        for tissue, at in brain.TISSUES.items()
    }
    order = [brain.SKULL, brain.CSF, brain.GREY_MATTER, brain.WHITE_MATTER, brain.SCALP]
    assert sorted(signal, key=lambda tissue: signal[tissue]) == order
    assert signal[brain.WHITE_MATTER] / signal[brain.GREY_MATTER] > 1.05


def test_background_is_rayleigh_and_signal_is_rician() -> None:
    scanner = brain.Scanner(bias=0, blur=0, noise=0.5, scale=1000)
    drawn = brain.draw_acquisition(np.random.default_rng(0), (400, 400))
    white = float(brain.spin_echo(*brain.TISSUES[brain.WHITE_MATTER][1.5], scanner.tr, scanner.te))
    sigma, grey_value = 0.5 * white, 1000 * drawn.gain
    means = {head.AIR: sigma * math.sqrt(math.pi / 2), brain.WHITE_MATTER: stats.rice.mean(white / sigma, scale=sigma)}
    for tissue, expected in means.items():
        image = brain.scan(np.full((400, 400), tissue, dtype=np.uint8), scanner, drawn)
        assert image.mean() == pytest.approx(grey_value * expected, rel=0.01)


def test_bias_field_is_bounded_smooth_and_multiplicative() -> None:
    drawn = brain.draw_acquisition(np.random.default_rng(3), (64, 64))
    water = np.full((64, 64), brain.CSF, dtype=np.uint8)
    flat = brain.scan(water, brain.Scanner(bias=0, noise=0, blur=0), drawn)
    biased = brain.scan(water, brain.Scanner(bias=0.5, noise=0, blur=0), drawn)
    log_gain = np.log(biased / flat)
    assert np.abs(log_gain).max() == pytest.approx(0.5, rel=1e-4)
    assert np.abs(np.diff(log_gain, axis=0)).max() < 0.1


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (32, 32, 32)])
def test_every_head_has_every_tissue_inside_the_image(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        tissue = brain.anatomy(np.random.default_rng(seed), shape)
        share = np.bincount(tissue.ravel(), minlength=6) / tissue.size
        assert share.shape == (6,)
        assert (share > 0.005).all(), (seed, share)
        assert not np.isin(tissue[[0, -1]], (brain.WHITE_MATTER, brain.GREY_MATTER)).any()


def test_subjects_differ_in_shape() -> None:
    first, second = (brain.anatomy(np.random.default_rng(seed), (64, 64)) for seed in (0, 1))
    assert (first != second).mean() > 0.05


def test_written_cohort_2d(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe"}
    manifest = brain.write_brain(tmp_path / "one", sites=sites, subjects=2, size=48, seed=5)
    again = brain.write_brain(tmp_path / "two", sites=sites, subjects=2, size=48, seed=5)
    assert _bytes(manifest.parent) == _bytes(again.parent)
    assert _bytes(brain.write_brain(tmp_path / "three", sites=sites, subjects=2, size=48, seed=6).parent) != _bytes(
        again.parent
    )
    lines = manifest.read_text().splitlines()
    assert lines[0] == "image,mask,subject,site"
    assert lines[-1] == "images/b-001.png,masks/b-001.png,b-001,b"
    image, mask = (np.asarray(Image.open(manifest.parent / name)) for name in lines[1].split(",")[:2])
    assert (image.dtype, mask.dtype, image.shape) == (np.uint16, np.uint8, (48, 48))
    assert np.unique(mask).tolist() == [0, 1, 2]
    facts = json.loads((manifest.parent / "shift.json").read_text())
    assert (facts["dims"], facts["size"], facts["subjects"], facts["seed"]) == (2, 48, 2, 5)
    assert facts["sites"]["b"] == {"shift": "severe", **asdict(brain.SHIFTS["severe"])}


def test_written_cohort_3d(tmp_path: Path) -> None:
    one, two = (
        brain.write_brain(tmp_path / name, dims=3, sites={"a": "none"}, subjects=1, size=32) for name in ("one", "two")
    )
    assert _bytes(one.parent) == _bytes(two.parent)
    image, mask = (nibabel.load(one.parent / folder / "a-000.nii.gz") for folder in ("images", "masks"))
    assert image.shape == mask.shape == (32, 32, 32)
    assert np.array_equal(image.affine, np.eye(4))
    assert np.array_equal(mask.affine, np.eye(4))
    assert mask.get_data_dtype() == np.uint8
    assert np.unique(np.asarray(mask.dataobj)).tolist() == [0, 1, 2]


def test_a_subject_depends_on_nothing_but_seed_site_and_number(tmp_path: Path) -> None:
    small = _bytes(brain.write_brain(tmp_path / "small", sites={"b": "none"}, subjects=1, size=32).parent)
    large = _bytes(
        brain.write_brain(tmp_path / "large", sites={"a": "none", "b": "severe"}, subjects=2, size=32).parent
    )
    assert small["masks/b-000.png"] == large["masks/b-000.png"]  # the shift is in appearance alone
    assert small["images/b-000.png"] != large["images/b-000.png"]


def test_a_site_without_shift_looks_like_the_source(tmp_path: Path) -> None:
    manifest = brain.write_brain(tmp_path, sites={"a": "none", "b": "severe", "d": "none"}, subjects=40, size=32)

    def variation(site: str) -> list[float]:
        """Coefficient of variation in the white matter: noise, blur and bias."""
        pairs = (
            (manifest.parent / folder / f"{site}-{number:03d}.png" for folder in ("images", "masks"))
            for number in range(40)
        )
        images = (np.asarray(Image.open(image))[np.asarray(Image.open(mask)) == 1] for image, mask in pairs)
        return [float(white.std() / white.mean()) for white in images]

    source = variation("a")
    assert stats.ks_2samp(source, variation("d")).pvalue > 0.05
    assert stats.ks_2samp(source, variation("b")).pvalue < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {"a": "sever"}}, "did you mean 'severe'"),
        ({"size": 31}, "at least 32"),
        ({"dims": 4}, "expected 2 or 3"),
        ({"subjects": 0}, "at least one"),
        ({"sites": {}}, "at least one"),
        ({"sites": {"../a": "none"}}, "file name"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        brain.write_brain(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [{"field_strength": 7.0}, {"tr": 0}, {"te": -1}, {"noise": math.nan}, {"scale": math.inf}]
)
def test_bad_scanner(arguments: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(arguments))):
        brain.Scanner(**arguments)


def test_bad_shape_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="axes"):
        brain.anatomy(np.random.default_rng(0), (32,))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder"):
        brain.write_brain(tmp_path / "file")
