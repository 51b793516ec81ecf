"""One verdict, wherever it is read: the terminal, the file, the card, the report, and the page over
all pairs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Command

from allograft.adapt import BEFORE, adapt_model
from allograft.phantoms.brain import write_brain
from allograft.predictor.card import read_card
from allograft.results.evidence import FILE

STUDY = """
cohort: {cohort}
task: {{segmentation: {{classes: [white-matter, grey-matter]}}}}
network: {{unet: {{channels: [4, 8], num_res_units: 1}}}}
preprocessing: {{size: [32, 32], intensity: zscore}}
augmentation: strong
source: [a]
target: [b]
recipes: [histogram, zscore]
test: {{fraction: 0.5}}
seeds: 1
budget: {{steps: {steps}, adapt_steps: 2, batch_size: 4}}
optimizer: {{adam: {{lr: 1.0e-2}}}}
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brain(
        tmp_path_factory.mktemp("cohort"), sites={"a": "none", "b": "none", "c": "severe"}, subjects=12, size=32
    )


def write_study(folder: Path, cohort: Path, steps: int = 8, **changes: Any) -> Path:
    text = STUDY.format(cohort=cohort, steps=steps)
    for key, value in changes.items():
        text = re.sub(rf"^{key}: .*$", f"{key}: {value}", text, flags=re.MULTILINE)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def seen(page: Path) -> str:
    """The words of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))).split())


def test_a_control_says_keep_your_model_everywhere(allograft: Command, cohort: Path, tmp_path: Path) -> None:
    """Site b has the scanner of site a: there is nothing to gain."""
    out = tmp_path / "out"
    answer = allograft("study", write_study(tmp_path, cohort), "--out", out)
    assert answer.code == 0
    verdict = json.loads((out / FILE).read_text())["b"]
    assert (verdict["action"], verdict["row"]) == ("keep", "")
    assert verdict["sentence"].startswith("Keep your model: dice 0.")
    assert verdict["sentence"] in answer.out
    assert "how this was decided:" in answer.out
    assert all(line in answer.out for line in verdict["how"])
    assert f"predict {out / 'models' / 'supervised@b'} IMAGES" in answer.out
    words = seen(out / "report.html")
    assert all(" ".join(line.split()) in words for line in (verdict["sentence"], *verdict["how"]))
    for row in ("supervised", "histogram", "zscore"):
        assert read_card(out / "models" / f"{row}@b")["verdict"]["sentence"] == verdict["sentence"]
    assert "recommended" not in words + answer.out
    again = allograft("report", out)
    assert verdict["sentence"] in again.out
    assert json.loads((out / FILE).read_text())["b"] == verdict


def test_an_unfinished_study_has_no_verdict(allograft: Command, cohort: Path, tmp_path: Path) -> None:
    out, study = tmp_path / "out", write_study(tmp_path, cohort)
    answer = allograft("study", study, "--out", out, "--shard", "1/3")
    assert "1 of 3 units done: no verdict yet" in answer.out
    assert not (out / FILE).exists()
    assert "1 of 3 units done: no verdict yet." in seen(out / "report.html")
    assert read_card(out / "models" / "supervised@b")["verdict"] == {"sentence": "1 of 3 units done: no verdict yet"}
    assert "verdict" in (out / "results.csv").read_text().splitlines()[0]
    done = allograft("study", study, "--out", out)
    assert "no verdict yet" not in done.out
    assert (out / FILE).exists()


def test_each_pair_has_its_sentence_on_the_page_over_all(allograft: Command, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = allograft(
        "study", write_study(tmp_path, cohort, source="[a, b]\npairs: all", target="[a, b]"), "--out", out
    )
    found = json.loads((out / FILE).read_text())
    assert list(found) == ["from a", "from b"]
    words = seen(out / "report.html")
    for part in found.values():
        ((_, verdict),) = part.items()
        assert verdict["sentence"] in answer.out
        assert " ".join(verdict["sentence"].split()) in words
    assert "recommended" not in words + answer.out


def test_adapt_keeps_the_old_model_beside_one_that_is_worse(allograft: Command, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    allograft("study", write_study(tmp_path, cohort, steps=60, recipes="[histogram]"), "--out", out)
    model, said = out / "models" / "supervised@b", list[str]()
    manifest = write_brain(tmp_path / "new", sites={"b": "none"}, subjects=12, size=32)
    ruined = {
        "optimizer": {"sgd": {"lr": 1e-12}},
        "budget": {"steps": 1, "adapt_steps": 3, "batch_size": 2},
        "test": {"fraction": 0.5},
    }
    fine = adapt_model(model, manifest, "finetune", tmp_path / "fine", overrides=ruined, say=said.append)
    assert not (fine.out / "models" / BEFORE).exists()
    ruined["optimizer"] = {"sgd": {"lr": 0.5}}
    worse = adapt_model(model, manifest, "finetune", tmp_path / "worse", overrides=ruined, say=said.append)
    (mark,) = worse.standing.verdicts["b"].marks["finetune first=start"]
    assert mark.startswith("loses ")
    kept = worse.out / "models" / BEFORE
    assert (kept / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert read_card(kept) == read_card(model)
    assert mark in said[-1]
    assert str(kept) in said[-1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_control_of_the_demo_says_keep_your_model(allograft: Command, tmp_path: Path) -> None:
    import allograft as package

    demo = Path(package.__file__).parents[2] / "examples" / "demo.yaml"
    if not demo.is_file():
        pytest.skip("the examples are not beside the package")
    manifest = tmp_path / "cohort"
    allograft("phantom", "brain", manifest, "--subjects", 20, "--seed", 0)
    answer = allograft("study", demo, "--out", tmp_path / "out", "--set", f"cohort={manifest / 'manifest.csv'}")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "out" / FILE).read_text())
    assert (found["b"]["action"], found["d"]["action"]) == ("change", "keep")
    assert found["d"]["sentence"].startswith("Keep your model: ")
    assert found["d"]["sentence"] in answer.out
    assert found["d"]["sentence"] in seen(tmp_path / "out" / "report.html")
