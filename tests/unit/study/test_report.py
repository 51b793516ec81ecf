"""The report: one file without a network, nothing hidden, nobody named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allograft.recipe import parse_recipe, title
from allograft.study.plan import Plan, Row
from allograft.study.record import Record
from allograft.study.report import Picture, draw_overlay, ordinals, page, write_report
from allograft.study.report.cells import gain, seed_scores, subject_scores
from allograft.study.report.facts import hider
from allograft.study.report.plots import Point, Strip, scatter, strip_plot, ticks
from allograft.study.select import Line, lines
from allograft.study.spec import Study, make_study

RECIPES = ("supervised", {"fourier": {"beta": 0.02}}, {"finetune": {"scope": "top"}})
LEVEL = {"supervised": 0.45, "fourier beta=0.02": 0.58, "finetune scope=top": 0.74}


def a_study(**changes: Any) -> Study:
    tree = {
        "cohort": "/somewhere/private/vessels/manifest.csv",
        "task": {"segmentation": {"classes": ["vessel"]}},
        "source": ["drive"],
        "target": ["chase", "stare"],
        "target_labels": {"subjects": 4},
        "recipes": RECIPES,
        "seeds": 3,
    }
    return make_study({**tree, **changes})


def a_plan(study: Study) -> Plan:
    recipes = [parse_recipe(recipe) for recipe in RECIPES]
    rows = [Row(r, site, s, 0, f"{title(r)}.{site}.{s}") for s in range(study.seeds) for r in recipes for site in study.target]
    return Plan(tuple(rows), study.seeds, study.made_task)


def _cases(site: str, level: float, rng: np.random.Generator, subjects: int) -> tuple[dict[str, Any], ...]:
    cases = []
    for number in range(subjects):
        dice = float(np.clip(level + 0.05 * (number - subjects / 2) + rng.normal(0, 0.02), 0, 1))
        scores = {"dice": dice, "iou": dice / (2 - dice), "hd95": 40 * (1 - dice), "asd": None if number == 0 else 8 * (1 - dice)}
        for eye in "LR":
            cases.append({"case": f"scans/jane-doe-{number}{eye}.png", "subject": f"{site}-jane-doe-{number}", **scores})
    return tuple(cases)


def a_record(plan: Plan, row: Row, site: str, part: str, level: float, subjects: int) -> Record:
    rng = np.random.default_rng([row.seed, len(site), round(level * 100)])
    cases = _cases(site, level, rng, subjects)
    recipe = {"name": title(row.recipe).split()[0], "parameters": {}}
    cost = {"train_seconds": 100 * level**3, "peak_memory_mb": 900.0, "trainable_parameters": 120_000, "predict_seconds": 1.0}
    versions = {"allograft": "0.1", "torch": "2.9", "device": "cpu"}
    return Record(
        row.unit,
        recipe,
        row.seed,
        "tuned",
        0,
        site,
        part,
        metrics=plan.task.pool(cases),
        cases=cases,
        cost=cost,
        environment=versions,  # type: ignore[arg-type]
    )


def some_records(plan: Plan, study: Study, subjects: int = 5, error: str = "") -> dict[str, Record]:
    records = []
    for row in plan.rows:
        level = LEVEL[title(row.recipe)]
        if error and row.seed == 1 and title(row.recipe).startswith("finetune") and row.target == "chase":
            records.append(Record(row.unit, {"name": "finetune"}, row.seed, "failed", 0, row.target, "test", status="failed", error=error))
            continue
        records += [a_record(plan, row, site, "test", level, subjects) for site in study.target]
        records += [a_record(plan, row, "drive", part, 0.8 - level / 10, 3) for part in ("val", "test")]
    return {record.name: record for record in records}


def a_table(study: Study, **more: Any) -> tuple[Plan, list[Line]]:
    plan = a_plan(study)
    return plan, lines(plan, some_records(plan, study, **more), study.selection)


def written(folder: Path, study: Study, plan: Plan, table: Sequence[Line], pictures: Any = None, done: int = 18, total: int = 18) -> str:
    path = folder / "report.html"
    write_report(path, study=study, plan=plan, lines=table, pictures=pictures or {}, done=done, total=total)
    return path.read_text(encoding="utf-8")


def test_it_stands_alone_and_names_nobody(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    html = written(tmp_path, study, plan, table, {("supervised", "chase"): [Picture("worst", "scans/jane-doe-0L.png", b"png")]})
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"<script[^>]*src|<link|@import|url\(", html)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', html))
    assert all(place.startswith("#") for place in re.findall(r'href="([^"]*)', html))
    assert "jane" not in html
    assert "/somewhere/private" not in html
    assert ".../vessels/manifest.csv" in html
    assert "S001" in html
    assert "Research use only; not a medical device" in html


def test_it_answers_the_question(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    html = written(tmp_path, study, plan, table)
    assert "Which recipe carries a model from drive to chase and stare?" in html
    assert html.count("allograft predict models/finetune-scope-top@chase IMAGES") == 1
    assert "the recipe listed last in the study" in html
    assert "optimistic, chosen after the fact" in html
    assert "untuned" in html
    assert "Feather-Light Fourier Domain Adaptation" in html
    assert "doi:10.1007/978-3-031-16852-9_9" in html
    assert "adapt_steps: 200" in html
    score = next(line for line in table if line.recommended and line.target == "chase").score("chase")
    assert f"dice {score:.3f}" in html
    assert "units" not in html.split("<dl")[0]


def test_names_are_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'&"
    study = a_study(target=[bad, "stare"])
    plan, table = a_table(study)
    table = [replace(line, title=f"{bad} {line.title}") for line in table]
    pictures = {(line.title, line.target): [Picture(bad, bad, b"png")] for line in table}
    html = written(tmp_path, study, plan, table, pictures)
    assert "<script>alert" not in html
    assert html.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in html


def test_an_unfinished_study_says_so(tmp_path: Path) -> None:
    study = a_study()
    plan, _ = a_table(study)
    html = written(tmp_path, study, plan, lines(plan, {}, "last"), done=0, total=40)
    assert "0 of 40 units" in html
    assert "Nothing to recommend yet" in html
    assert "not run yet" in html
    assert "Failed runs" not in html
    few = {name: record for name, record in some_records(plan, study).items() if record.seed == 0}
    html = written(tmp_path, study, plan, lines(plan, few, "last"), done=12, total=40)
    assert "12 of 40 units" in html
    assert "1 of 3" in html
    assert "2 to go" in html


def test_a_failed_run_is_shown_with_its_reason_and_no_name(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study, error="chase-jane-doe-3 <b>broke /data/jane/scan.nii.gz: loss is nan after 12 steps\nTraceback: jane")
    html = written(tmp_path, study, plan, table)
    assert "2 of 3" in html
    assert "1 failed" in html
    assert re.search(r"finetune scope=top</strong> at chase, seed 1: S\d{3} &lt;b&gt;broke \[file\] loss is nan after 12 steps", html)
    assert "jane" not in html


def test_names_are_taken_out_and_numbers_stay() -> None:
    _, table = a_table(a_study())
    known, hide = ordinals(table), hider(table)
    assert sorted(known.values())[0] == "S001"
    assert list(known) == sorted(known)
    assert hide("loss 0.5 at step 12, expected 4 channels") == "loss 0.5 at step 12, expected 4 channels"
    assert hide("chase-jane-doe-1: found 3") == f"{known['chase-jane-doe-1']}: found 3"
    assert "jane" not in hide("scans/jane-doe-1L.png and jane_doe.dcm")


@pytest.mark.parametrize(("subjects", "hopeless", "p"), [(4, True, "0.12"), (5, True, "0.062"), (6, False, "0.031")])
def test_few_subjects_cannot_be_significant(tmp_path: Path, subjects: int, hopeless: bool, p: str) -> None:
    study = a_study()
    plan, table = a_table(study, subjects=subjects)
    html = written(tmp_path, study, plan, table)
    assert (f"cannot be significant with {subjects} subjects" in html) == hopeless
    assert f"with {subjects} subjects is {p}" in html


def test_a_target_without_labels_is_not_measured_and_an_undefined_metric_is_undefined(tmp_path: Path) -> None:
    study = a_study()
    plan = a_plan(study)
    records = {name: record for name, record in some_records(plan, study).items() if record.site != "stare"}
    for name, record in records.items():
        cases = tuple({**case, "asd": None} for case in record.cases)
        records[name] = replace(record, cases=cases, metrics=plan.task.pool(cases))
    html = written(tmp_path, study, plan, lines(plan, records, "last"))
    chase, stare = html.split('<section id="target-2">')
    assert ">undefined<" in chase
    assert ">not measured<" in stare
    assert "nothing is ranked" in stare
    assert "0 at stare" in html


def test_oracle_is_marked(tmp_path: Path) -> None:
    study = a_study(selection="oracle")
    plan, table = a_table(study)
    assert "The rule sees the test scores themselves" in written(tmp_path, study, plan, table)


def test_it_stays_under_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = a_study()
    plan, table = a_table(study)
    bare = len(written(tmp_path, study, plan, table).encode())
    monkeypatch.setattr(page, "LIMIT", bare + 20_000 + 4 * 60_000)
    every = {(line.title, line.target): [Picture(word, "", word.encode() * 6_000) for word in ("worst", "best!")] for line in table}
    html = written(tmp_path, study, plan, table, every)
    assert len(html.encode()) < page.LIMIT
    kept = html.count("data:image/png")
    assert kept == 5
    assert "7 pictures left out to keep this file under 10 MB" in html
    assert html.count("<strong>worst</strong>") == 5  # the first of each line before the second of any


def test_same_bytes_for_the_same_study(tmp_path: Path) -> None:
    study = a_study()
    mask = np.eye(32, dtype=int)
    pages = []
    for number in range(2):
        plan, table = a_table(study)
        pictures = {("supervised", "chase"): [Picture("worst", "dice 0.1", draw_overlay(np.eye(32), mask, mask))]}
        pages.append(written(tmp_path / str(number), study, plan, table, pictures))
    assert pages[0] == pages[1]
    assert not re.search(r"20\d\d-\d\d-\d\d", pages[0])


def test_scores_are_means_over_cases_then_seeds_and_gains_are_paired() -> None:
    study = a_study()
    plan, table = a_table(study, error="broke")
    here = {line.title: line for line in table if line.target == "chase"}
    tuned, base = here["finetune scope=top"], here["supervised"]
    ours, theirs = seed_scores(plan, tuned, "chase"), seed_scores(plan, base, "chase")
    assert sorted(ours) == [0, 2]
    assert gain(plan, tuned, base, "chase") == pytest.approx(sum(ours[s] - theirs[s] for s in (0, 2)) / 2)
    assert gain(plan, base, base, "chase") is None
    subject = "chase-jane-doe-2"
    values = [c["dice"] for run in tuned.runs for r in run.tests.get("chase", ()) for c in r.cases if c["subject"] == subject]
    assert subject_scores(plan, tuned, "chase")[subject] == pytest.approx(sum(values) / len(values))


def test_plots_hold_every_dot_and_survive_the_odd() -> None:
    dots = {f"S{number:03d}": 0.5 + number / 100 for number in range(5)}
    svg = strip_plot([Strip("<b>", dots, 0.52, True), Strip("none", {}, None)], "dice", 0.5)
    assert svg.count("<circle") == 5
    assert "&lt;b&gt;" in svg
    assert strip_plot([Strip("a", {"S001": 0.7}, 0.7)], "dice", None).count("<circle") == 1
    assert strip_plot([], "dice", None) == ""
    assert strip_plot([Strip("a", {str(n): n / 1000 for n in range(1000)}, None)], "dice", None).count("<circle") == 200
    same = [Point(f"recipe {number}", 0.0, 0.5) for number in range(30)]
    assert scatter(same, "seconds", "dice").count("<circle") == 30
    for low, high in ((0.0, 1.0), (-3.0, 950.0), (0.7, 0.7), (0.0, 0.0), (1e5, 1e5)):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 9
