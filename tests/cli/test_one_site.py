"""A study within one site, from light skin to dark: every command meets the parted site under its
name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.cli.conftest import Command

from allograft.cohort.prepared_images import file_hash
from allograft.phantoms.skin import write_skin
from allograft.results.record import read_all

PART = "a (tone 4, 5, 6)"
STUDY = """
cohort: cohort/manifest.csv
task: {classification: {classes: [naevus, melanoma]}}
network: {vit: {image_size: 32, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 2}}
preprocessing: {orientation: null, intensity: unit}
source: [a]
target: [a]
where: {source: {tone: [1, 2, 3]}, target: {tone: [4, 5, 6]}}
recipes: [{unlearning: {attributes: [tone]}}]
test: {fraction: 0.7, val: 0.3}
seeds: 1
budget: {steps: 4, batch_size: 8}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("one-site")
    write_skin(made / "cohort", sites={"a": "none"}, subjects=120, size=32)
    (made / "study.yaml").write_text(STUDY)
    return made


def tones(folder: Path) -> dict[str, str]:
    """Image -> tone."""
    with open(folder / "cohort" / "manifest.csv", newline="") as file:
        return {row["image"]: row["tone"] for row in csv.DictReader(file)}


def test_one_site_from_light_skin_to_dark(folder: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "allograft.results.scores.bootstrap_pooled", lambda *arguments, **options: {}
    )  # thousands of draws a row
    out, tone = folder / "out", tones(folder)
    first = allograft("study", folder / "study.yaml", "--out", out)
    assert first.code == 0, first.err
    records = read_all(out)
    assert {record.site for record in records.values()} == {"a", PART}
    for record in records.values():
        light = {tone[case["case"]] <= "3" for case in record.cases}
        assert light == {record.site == "a"}
    with open(out / "splits.csv", newline="") as file:
        placed = {row["subject"]: (row["site"], row["split"]) for row in csv.DictReader(file)}
    assert len(placed) == 120
    assert {split for site, split in placed.values() if site == PART} == {"train", "test"}
    with open(out / "results.csv", newline="") as file:
        assert {(row["target"], row["site"]) for row in csv.DictReader(file)} == {(PART, PART), (PART, "a")}
    page = (out / "report.html").read_text()
    assert f"Target: {PART}" in page
    assert "by tone" in page
    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    again = allograft("study", folder / "study.yaml", "--out", out)
    assert (again.code, "[1 of" in again.err) == (0, False)  # nothing runs twice
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before
    assert allograft("report", out, "--without-images").code == 0  # from the study as it was kept


def test_its_models_have_seen_one_side_and_go_on(folder: Path, allograft: Command, tmp_path: Path) -> None:
    """Runs after the study, on the models it kept."""
    if not (folder / "out" / "models").is_dir():
        assert allograft("study", folder / "study.yaml", "--out", folder / "out").code == 0
    cohort, tone = folder / "cohort", tones(folder)
    of = {file_hash(cohort / image): tone[image] for image in tone}
    models = {path.name.split("@")[0]: path for path in (folder / "out" / "models").iterdir()}
    seen = {name: json.loads((path / "card.json").read_text())["training_images"] for name, path in models.items()}
    assert len(seen) == 3
    assert all({of[one] for one in hashes} == {"1", "2", "3"} for hashes in seen.values())
    model, new = models["supervised"], write_skin(tmp_path / "new", sites={"a": "none"}, subjects=8, size=32, seed=1)
    predicted = allograft("predict", model, new, "-o", tmp_path / "predicted")
    assert predicted.code == 0, predicted.err
    judged = allograft("evaluate", model, new)
    assert (judged.code, judged.out.startswith("a: ")) == (0, True), judged.err
    refused = allograft("evaluate", model, cohort / "manifest.csv")
    assert (refused.code, "was trained on" in refused.err) == (2, True)
    quick = ("--set", "budget={adapt_steps: 1, batch_size: 2}", "--set", "test.fraction=0.4")
    adapted = allograft("adapt", model, new, "--recipe", "finetune", "-o", tmp_path / "adapted", *quick)
    assert adapted.code == 0, adapted.err


def test_without_where_the_command_says_how_to_part_it(folder: Path, allograft: Command) -> None:
    answer = allograft(
        "study",
        folder / "study.yaml",
        "--out",
        folder / "no",
        "--set",
        "where={source: {tone: [1, 4]}, target: {tone: 4}}",
    )
    assert answer.code == 2
    assert "target: site 'a' is a source too" in answer.err
    assert "where: {source: {tone: [1, 2]}, target: {tone: [3, 4]}}" in answer.err
