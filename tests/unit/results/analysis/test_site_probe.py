"""The linear probe of the site: what it finds, what it must not be helped by, and the script that
uses it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests.unit.tiny import read, write_photographs
from torch import nn

from allograft.errors import SpecError
from allograft.networks import build
from allograft.networks.network import Wrapped
from allograft.predictor import Direct, save_predictor
from allograft.results.analysis import site_probe as probing
from allograft.results.analysis.site_probe import seen, site_probe

ROOT = Path(__file__).parents[4]


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


def test_sites_that_differ_are_told_apart_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    sites = ["a"] * 60 + ["b"] * 60
    noise = rng.normal(size=(120, 3))
    apart = site_probe(noise + 6 * (np.array(sites) == "b")[:, None], sites, names(120))
    alike = site_probe(noise, sites, names(120))
    assert apart.accuracy == 1
    assert abs(alike.accuracy - 0.5) < 0.15
    assert (apart.chance, apart.subjects) == (0.5, 120)


def test_chance_is_the_share_of_the_commonest_site() -> None:
    found = site_probe(np.zeros((10, 2)), ["a"] * 7 + ["b"] * 3, names(10))
    assert (found.accuracy, found.chance, found.recalls) == (0.7, 0.7, {"a": 1.0, "b": 0.0})


def test_a_subject_is_never_probed_by_its_own_cases() -> None:
    """Features that tell the subject and nothing of the site: a probe that saw the subject would
    name each site."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(20), 6)
    sites = np.where(people < 10, "a", "b")
    rows = 5 * np.eye(20)[people] + 0.01 * rng.normal(size=(120, 20))
    fitted = LogisticRegression(max_iter=1000).fit(rows, sites).score(rows, sites)
    found = site_probe(rows, sites.tolist(), [str(one) for one in people])
    assert fitted == 1
    assert found.accuracy < 0.75
    assert found.subjects == 20


def test_with_a_fold_a_subject_it_is_leave_one_pair_out() -> None:
    """Against a loop: two subjects a site give two folds, whichever way they are paired."""
    rows = np.array([[0.0], [1.0], [0.4], [2.0]])
    sites = np.array(["a", "a", "b", "b"])

    def loop(pairs: list[tuple[int, int]]) -> float:
        right = []
        for held in pairs:
            rest = [one for one in range(4) if one not in held]
            scaler = StandardScaler().fit(rows[rest])
            probe = LogisticRegression().fit(scaler.transform(rows[rest]), sites[rest])
            right += list(probe.predict(scaler.transform(rows[list(held)])) == sites[list(held)])
        return float(np.mean(right))

    found = site_probe(rows, sites.tolist(), names(4)).accuracy
    assert found in {loop([(0, 2), (1, 3)]), loop([(0, 3), (1, 2)])}


@pytest.mark.parametrize(
    ("rows", "sites", "people", "told"),
    [
        (np.zeros((2, 1)), ["a", "a"], ["p", "q"], "one site"),
        (np.zeros((3, 1)), ["a", "a", "b"], ["p", "q", "r"], "'b' has one subject"),
        (np.full((4, 1), np.nan), ["a", "a", "b", "b"], names(4), "nan or infinite"),
        (np.zeros((3, 1)), ["a", "a", "b", "b"], names(4), r"shape \(3, 1\), 4 sites"),
        (np.zeros(4), ["a", "a", "b", "b"], names(4), r"expected \(N, C\)"),
    ],
    ids=["one site", "one subject", "nan", "lengths", "no table"],
)
def test_what_cannot_be_probed_is_said(rows: np.ndarray, sites: list[str], people: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        site_probe(rows, sites, people)


def tiny_model() -> Direct:
    torch.manual_seed(0)
    return Direct(
        build({"build": {"stain_cnn": {"in_channels": 1, "outputs": {"label": 2}, "channels": [4, 8], "hidden": 4}}})
    )


def test_features_are_the_encoders_and_labels_are_not_shown(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2, "b": 1}))
    model = tiny_model()
    rows, predictions = seen(model, cohort)
    model.network.eval()
    with torch.no_grad():
        image = torch.cat([cohort.whole(which).batch.image for which in range(3)])
        expected = model.network.encoder(image)[-1].mean((2, 3))
    torch.testing.assert_close(torch.from_numpy(rows).float(), expected, rtol=1e-5, atol=1e-6)
    assert [sorted(one) for one in predictions] == [["label"]] * 3


def test_images_go_where_the_network_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, devices = tiny_model(), set[str]()
    model.network.to("meta")
    monkeypatch.setattr(
        probing, "whole_prediction", lambda predictor, batch: devices.add(batch.image.device.type) or {}
    )
    with pytest.raises(SpecError, match="without its encoder"):
        seen(model, read(write_photographs(tmp_path, {"a": 1})))
    assert devices == {"meta"}


def test_a_network_without_an_encoder_is_refused(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 1}))
    with pytest.raises(SpecError, match="opaque"):
        seen(Direct(Wrapped(nn.Conv2d(1, 2, 1), "mask")), cohort)


def test_the_script_prints_the_probe_and_the_score_within_each_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_photographs(tmp_path / "images", {"a": 4, "b": 3})
    lines = manifest.read_text().splitlines()
    labels = [("ill", "well")[number % 2] if ",a" in line else "ill" for number, line in enumerate(lines[1:])]
    manifest.write_text(
        "\n".join(
            [lines[0] + ",label", *(f"{line},{label}" for line, label in zip(lines[1:], labels, strict=True)), ""]
        )
    )
    card = {
        "task": {"classification": {"classes": ["well", "ill"]}},
        "preprocessing": {"intensity": "unit"},
        "channels": 1,
    }
    save_predictor(tiny_model(), tmp_path / "model", card)
    monkeypatch.setattr(sys, "argv", ["chest_site_probe.py", str(tmp_path / "model"), str(manifest)])
    runpy.run_path(str(ROOT / "examples/chest_site_probe.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "of 7 subjects" in told
    assert "chance 0.571" in told
    assert "AUROC within a: 0." in told or "AUROC within a: 1." in told
    assert "AUROC within b: undefined" in told
