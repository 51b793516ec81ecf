"""The histology phantom: its physics by hand, a class that no colour tells, a shift in colour
alone, and the same bytes each time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from allograft.errors import OutputError, SpecError
from allograft.phantoms import histology
from allograft.phantoms.histology import SHIFTS, Laboratory, absorb, stain, tissue, write_histology


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_beer_and_lambert_by_hand() -> None:
    found = absorb([[0.5, 2.0]], [[1.0, 0.0, 0.3], [0.1, 0.9, 0.0]], [0.9, 1.0, 0.8])
    expected = [0.9 * math.exp(-0.5 - 0.2), math.exp(-1.8), 0.8 * math.exp(-0.15)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)


def test_twice_the_stain_squares_the_light() -> None:
    amounts = tissue(rng(), 32, "small")
    once, twice = (
        stain(amounts, Laboratory(spread=0, noise=0, lamp=(1, 1, 1), haematoxylin_amount=n, eosin_amount=n), rng())
        for n in (1, 2)
    )
    np.testing.assert_allclose(twice, once**2)


@pytest.mark.parametrize("shift", SHIFTS)
def test_haematoxylin_is_the_bluer_stain_everywhere(shift: str) -> None:
    """It absorbs red before blue, eosin blue before red: what a nucleus is can be told at every
    laboratory."""
    first, second = SHIFTS[shift].stains
    np.testing.assert_allclose(np.linalg.norm([first, second], axis=1), 1)
    assert first[0] > first[2] + 0.1
    assert second[0] < second[2]


def test_no_mean_amount_tells_the_class() -> None:
    means = {
        kind: np.array([tissue(rng(seed), 64, kind).mean((0, 1)) for seed in range(30)]) for kind in histology.CLASSES
    }
    for stain_ in range(2):
        small, large = means["small"][:, stain_], means["large"][:, stain_]
        assert abs(small.mean() - large.mean()) < 0.75 * small.std()


def test_the_size_of_nuclei_does() -> None:
    areas = {kind: [] for kind in histology.CLASSES}  # type: ignore[var-annotated]
    for kind, found in areas.items():
        for seed in range(12):
            labels, count = ndimage.label(tissue(rng(seed), 64, kind)[..., 0] > 0.5)
            found.append(np.median(ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))))
    assert max(areas["small"]) < min(areas["large"])


def test_sites_differ_in_colour_alone(tmp_path: Path) -> None:
    """A laboratory has no part in the draws of the tissue."""
    manifest = write_histology(tmp_path / "a", sites={"x": "none"}, subjects=4, size=32)
    other = write_histology(tmp_path / "b", sites={"x": "severe"}, subjects=4, size=32)
    assert manifest.read_text() == other.read_text()
    for number in range(4):
        first, second = (
            np.asarray(Image.open(one.parent / f"images/x-{number:03d}.png"), float) for one in (manifest, other)
        )
        assert np.abs(first - second).mean() > 15
        # the same tissue in green
        assert np.corrcoef(first[..., 1].ravel(), second[..., 1].ravel())[0, 1] > 0.8


def test_the_same_bytes_and_subjects_that_do_not_move(tmp_path: Path) -> None:
    once = write_histology(tmp_path / "a", subjects=2, size=32)
    again = write_histology(tmp_path / "b", subjects=4, size=32)
    assert {row.split(",")[1] for row in once.read_text().splitlines()[1:]} == set(histology.CLASSES)
    for file in (tmp_path / "a" / "images").iterdir():
        assert file.read_bytes() == (again.parent / "images" / file.name).read_bytes()
    assert write_histology(tmp_path / "c", subjects=2, size=32).read_bytes() == once.read_bytes()
    facts = json.loads((tmp_path / "a" / "shift.json").read_text())
    assert {site: told["shift"] for site, told in facts["sites"].items()} == dict(histology.SITES)
    assert facts["sites"]["b"]["eosin_amount"] == SHIFTS["severe"].eosin_amount
    assert Image.open(tmp_path / "a" / "images" / "a-000.png").mode == "RGB"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for arguments, said in (
        ({"dims": 3}, "dims is 3"),
        ({"size": 8}, "size is 8"),
        ({"subjects": 0}, "0 subjects"),
        ({"sites": {"a": "sever"}}, "did you mean 'severe'"),
        ({"sites": {"../a": "none"}}, "becomes a file name"),
    ):
        with pytest.raises(SpecError, match=said):
            write_histology(tmp_path, **arguments)  # type: ignore[arg-type]
    for wrong in ({"eosin": (0, 0, 0)}, {"noise": -1.0}, {"lamp": (math.inf, 1, 1)}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            Laboratory(**wrong)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_histology(tmp_path / "file", subjects=1, size=32)
