"""The commands on a study of many pairs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tests.cli.conftest import Command
from tests.unit.tiny import write_photographs

STUDY = """
cohort: manifest.csv
task: {segmentation: {classes: [vessel]}}
network: {unet: {channels: [4, 8], num_res_units: 1}}
augmentation: strong
source: [a, b]
pairs: all
recipes: [histogram]
test: {fraction: 0.5}
near_duplicates: warn
seeds: 1
budget: {steps: 2, batch_size: 2}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_photographs(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def test_study_plan_report_and_cite(study: Path, allograft: Command) -> None:
    out = study.parent / "out"
    planned = allograft("study", study, "--out", out, "--plan")
    assert (planned.code, planned.out.count("== from")) == (0, 2), planned.err
    assert planned.out.count("units,") == 2
    assert not list(out.rglob("records"))
    ran = allograft("study", study, "--out", out)
    assert ran.code == 0, ran.err
    # read and checked, then run
    assert [ran.err.count(f"== from {site}") for site in "ab"] == [2, 2]
    assert "a -> b: dice" in ran.out
    assert "over 2 pairs: dice" in ran.out
    assert f"report over all parts: {out / 'report.html'}" in ran.out
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert allograft("report", out).code == 0
    assert (out / "report.html").read_bytes() == page
    assert "@" in allograft("cite", out).out


def test_a_label_budget_of_each_target_has_a_page_over_all_pairs(study: Path, allograft: Command) -> None:
    study.write_text(STUDY + "target_labels: {subjects: 1}\nbaselines: false\n")
    out = study.parent / "out"
    ran = allograft("study", study, "--out", out)
    assert ran.code == 0, ran.err
    assert "over 2 pairs: dice" in ran.out
    assert (out / "report.html").is_file()


def test_a_failed_run_ends_with_3(study: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from allograft.methods.histogram import Histogram

    def breaks(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Histogram, "run", breaks)
    answer = allograft("study", study, "--out", study.parent / "out")
    assert answer.code == 3
    assert "2 of 4 runs failed" in answer.err


def test_train_asks_for_one_pair(study: Path, allograft: Command) -> None:
    answer = allograft("train", study, "--out", study.parent / "one", "--set", "recipes=[supervised]")
    assert answer.code == 2
    assert "this study is made of parts" in answer.err


def test_several_budgets_leave_a_curve_that_report_makes_again(study: Path, allograft: Command) -> None:
    out = study.parent / "out"
    budgets = ["source=[a]", "target=[b]", "pairs=listed", "target_labels={subjects: [1, 2]}", "recipes=[finetune]"]
    words = [word for change in (*budgets, "budget.adapt_steps=2", "baselines=false") for word in ("--set", change)]
    ran = allograft("study", study, "--out", out, *words)
    assert ran.code == 0, ran.err
    assert "Target: b. At 2 subjects " in ran.out
    assert "A fitted learning curve needs 5 budgets; this study has 2 so far" in ran.out
    rows = list(csv.DictReader((out / "label_curve.csv").read_text().splitlines()))
    assert [
        (row["recipe"], row["budget"], row["labelled_subjects"]) for row in rows if row["recipe"] == "finetune"
    ] == [
        ("finetune", "1", "1.0"),
        ("finetune", "2", "2.0"),
    ]
    page = (out / "report.html").read_text()
    assert "<dd>1 or 2 subjects</dd>" in page
    assert page.count("<h2>How many labels?</h2>") == 1
    assert "needs 5 budgets; this study has 2 so far: add 3 to target_labels" in page
    assert "Budgets are nested" in page
    assert {folder.name for folder in (out / "models").iterdir()} >= {"finetune@b.subjects-1", "finetune@b.subjects-2"}
    kept = {name: (out / name).read_bytes() for name in ("report.html", "label_curve.csv")}
    assert allograft("report", out).code == 0
    assert {name: (out / name).read_bytes() for name in kept} == kept
