"""The report: one file without a network, nothing hidden, nobody named."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.tiny import a_row

from allograft.figure import Images, Lines
from allograft.phantoms.brain import write_brain
from allograft.recipe import parse_recipe, title
from allograft.report import Extra, Picture, Shows, Slice, draw_overlay, ordinals, page, write_annotate, write_report
from allograft.report.annotate import to_annotate
from allograft.report.cells import gain
from allograft.report.facts import hider
from allograft.report.gallery import fitting
from allograft.report.plots import Costs, Strip, strip_plot
from allograft.report.svg import ticks
from allograft.results.analysis.sheet import Sheet
from allograft.results.evidence import marked, verdicts_of
from allograft.results.record import Record
from allograft.results.scores import seed_scores, subject_scores
from allograft.results.select import Line, lines
from allograft.results.standing import Standing
from allograft.studies import rebuild, run_study
from allograft.study.plan import Plan, Row
from allograft.study.reading import make_study
from allograft.study.spec import Study

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
    rows = [
        a_row(r, site, s, 0, f"{title(r)}.{site}.{s}")
        for s in range(study.seeds)
        for r in recipes
        for site in study.target
    ]
    return Plan(tuple(rows), study.seeds, study.made_task)


def _cases(site: str, level: float, rng: np.random.Generator, subjects: int) -> tuple[dict[str, Any], ...]:
    cases = []
    for number in range(subjects):
        dice = float(np.clip(level + 0.05 * (number - subjects / 2) + rng.normal(0, 0.02), 0, 1))
        scores = {
            "dice": dice,
            "iou": dice / (2 - dice),
            "hd95": 40 * (1 - dice),
            "asd": None if number == 0 else 8 * (1 - dice),
        }
        for eye in "LR":
            cases.append(
                {"case": f"scans/jane-doe-{number}{eye}.png", "subject": f"{site}-jane-doe-{number}", **scores}
            )
    return tuple(cases)


def a_record(plan: Plan, row: Row, site: str, part: str, level: float, subjects: int) -> Record:
    rng = np.random.default_rng([row.seed, len(site), round(level * 100)])
    cases = _cases(site, level, rng, subjects)
    recipe = {"name": title(row.recipe).split()[0], "parameters": {}}
    cost = {
        "train_seconds": 100 * level**3,
        "peak_memory_mb": 900.0,
        "trainable_parameters": 120_000,
        "predict_seconds": 1.0,
    }
    versions = {"allograft": "0.1", "torch": "2.9", "device": "cpu"}
    return Record(
        row.unit,
        recipe,
        row.seed,
        "tuned",
        0,
        site,
        part,
        metrics=plan.task.aggregate(cases),
        cases=cases,
        cost=cost,
        environment=versions,  # type: ignore[arg-type]
    )


def some_records(plan: Plan, study: Study, subjects: int = 5, error: str = "") -> dict[str, Record]:
    records = []
    for row in plan.rows:
        level = LEVEL[title(row.recipe)]
        if error and row.seed == 1 and title(row.recipe).startswith("finetune") and row.target == "chase":
            records.append(
                Record(
                    row.unit,
                    {"name": "finetune"},
                    row.seed,
                    "failed",
                    0,
                    row.target,
                    "test",
                    status="failed",
                    error=error,
                )
            )
            continue
        records += [a_record(plan, row, site, "test", level, subjects) for site in study.target]
        records += [a_record(plan, row, "drive", part, 0.8 - level / 10, 3) for part in ("val", "test")]
    return {record.name: record for record in records}


def a_table(study: Study, **more: Any) -> tuple[Plan, list[Line]]:
    plan = a_plan(study)
    return plan, lines(plan, some_records(plan, study, **more), study.selection)


def standing(study: Study, plan: Plan, table: Sequence[Line], done: int = 18, total: int = 18) -> Standing:
    verdicts = verdicts_of(study, plan, table) if done == total else {}
    return Standing(tuple(marked(table, verdicts)), verdicts, done, total)


def written(
    folder: Path, study: Study, plan: Plan, table: Sequence[Line], pictures: Any = None, done: int = 18, total: int = 18
) -> str:
    path = folder / "report.html"
    write_report(
        path, study=study, plan=plan, standing=standing(study, plan, table, done, total), shows=Shows(pictures or {})
    )
    return path.read_text(encoding="utf-8")


def test_it_stands_alone_and_names_nobody(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    html = written(
        tmp_path, study, plan, table, {("supervised", "chase"): [Picture("worst", "scans/jane-doe-0L.png", b"png")]}
    )
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
    plan, table = a_table(study, subjects=10)
    html = written(tmp_path, study, plan, table)
    assert "Which recipe adapts a model best from drive to chase and stare?" in html
    assert page._question(replace(study, source=(), pool=("chase",), recipes=(parse_recipe("target_supervised"),))) == (
        "Which recipe trains the best model for chase and stare?"
    )
    given = replace(study, source=(), start="theirs.pt")
    assert page._question(given) == "Which recipe adapts a model best from its source to chase and stare?"
    assert html.count("allograft predict models/finetune-scope-top@chase IMAGES") == 1
    assert "the last stage of each run; the first seed" in html
    assert "How this was decided" in html
    assert "recommended" not in html
    assert "optimistic, chosen after the fact" in html
    assert "untuned" in html
    assert "Feather-Light Fourier Domain Adaptation" in html
    assert "doi:10.1007/978-3-031-16852-9_9" in html
    assert "adapt_steps: 200" in html
    verdict = standing(study, plan, table).verdicts["chase"]
    assert verdict.row == "finetune scope=top"
    head, rest = verdict.sentence.split(": ", 1)
    assert (
        f"<strong>{head}:</strong> {rest}".replace("<", "&lt;")
        .replace("&lt;strong>", "<strong>")
        .replace("&lt;/", "</")
        in html
    )
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
    assert html.count("no verdict yet") == 2
    assert html.count('<meta http-equiv="refresh" content="30">') == 1
    assert 'http-equiv="refresh' not in written(tmp_path, study, plan, a_table(study)[1])
    assert "not run yet" in html
    assert "Failed runs" not in html
    few = {name: record for name, record in some_records(plan, study).items() if record.seed == 0}
    html = written(tmp_path, study, plan, lines(plan, few, "last"), done=12, total=40)
    assert "12 of 40 units" in html
    assert "1 of 3" in html
    assert "2 to go" in html


def test_a_failed_run_is_shown_with_its_reason_and_no_name(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(
        study, error="chase-jane-doe-3 <b>broke /data/jane/scan.nii.gz: loss is nan after 12 steps\nTraceback: jane"
    )
    html = written(tmp_path, study, plan, table)
    assert "2 of 3" in html
    assert "1 failed" in html
    assert re.search(
        r"finetune scope=top</strong> at chase, seed 1: S\d{3} &lt;b&gt;broke \[file\] loss is nan after 12 steps", html
    )
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
        records[name] = replace(record, cases=cases, metrics=plan.task.aggregate(cases))
    html = written(tmp_path, study, plan, lines(plan, records, "last"))
    chase, stare = html.split('<section id="target-2">')
    assert ">undefined<" in chase
    assert ">not measured<" in stare
    assert "Nothing can be said of stare:</strong> no test subject has labels." in stare
    assert "0 at stare" in html


def test_oracle_is_marked(tmp_path: Path) -> None:
    study = a_study(selection="oracle")
    plan, table = a_table(study)
    html = written(tmp_path, study, plan, table)
    assert "It sees the test scores themselves" in html
    assert (
        html.count("the test scores chose the stages, settings and seeds") == 4
    )  # of two targets, and how it was decided


def test_it_stays_under_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = a_study()
    plan, table = a_table(study)
    bare = len(written(tmp_path, study, plan, table).encode())
    monkeypatch.setattr(page, "LIMIT", bare + 20_000 + 4 * 60_000)
    every = {
        (line.title, line.target): [Picture(word, "", word.encode() * 6_000) for word in ("worst", "best!")]
        for line in table
    }
    html = written(tmp_path, study, plan, table, every)
    assert len(html.encode()) < page.LIMIT
    kept = html.count("data:image/png")
    assert kept == 5
    assert "7 pictures left out to keep this file under 10 MB" in html
    # the first of each line before the second of any
    assert html.count('alt="worst, ') == 5


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
    values = [
        c["dice"] for run in tuned.runs for r in run.tests.get("chase", ()) for c in r.cases if c["subject"] == subject
    ]
    assert subject_scores(plan, tuned, "chase")[subject] == pytest.approx(sum(values) / len(values))


def test_plots_hold_every_dot_and_survive_the_odd() -> None:
    dots = {f"S{number:03d}": 0.5 + number / 100 for number in range(5)}
    svg = strip_plot([Strip("<b>", dots, 0.52, True), Strip("none", {}, None)], "dice", 0.5)
    assert svg.count("<circle") == 5
    assert "&lt;b&gt;" in svg
    assert strip_plot([Strip("a", {"S001": 0.7}, 0.7)], "dice", None).count("<circle") == 1
    assert strip_plot([], "dice", None) == ""
    assert strip_plot([Strip("a", {str(n): n / 1000 for n in range(1000)}, None)], "dice", None).count("<circle") == 200
    rows = [Strip(str(number), {"S001": 0.5}, 0.5) for number in range(3)]
    costs = Costs((10.0, 4.0, None), (4.0, 4.0, None))  # one that is built on a source model, one that is not
    drawn = strip_plot(rows, "dice", None, costs=costs)
    assert (drawn.count("<circle"), drawn.count('class="ring"'), drawn.count('class="link"')) == (6, 1, 1)
    assert "0: 10.0 seconds with the training of the source model" in drawn
    assert strip_plot(rows, "dice", None, costs=Costs((None,) * 3, (None,) * 3)) == strip_plot(rows, "dice", None)
    for low, high in ((0.0, 1.0), (-3.0, 950.0), (0.7, 0.7), (0.0, 0.0), (1e5, 1e5)):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 9


def test_slices_are_kept_evenly_once_every_picture_has_its_place() -> None:
    one = b"x" * 600
    size = 4 * len(one) // 3 + 1000
    volume = Picture("worst", "", one, 3, 9, (Slice(0, one), Slice(8, one), Slice(5, one)))
    every = {("a", "t"): [volume, Picture("best", "", one)], ("b", "t"): [volume]}
    kept, dropped = fitting(every, 6 * size)  # three pictures and three slices
    assert [[len(picture.slices) for picture in kept[key]] for key in every] == [[3, 1], [2]]
    assert dropped == 3
    assert [each.place for each in kept["a", "t"][0].slices] == [0, 3, 8]
    assert fitting(every, 10**9) == (every, 0)
    assert fitting(every, 0) == ({}, 9)


def test_a_volume_comes_with_a_slider_and_shows_its_central_slice_without_one(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    volume = Picture("worst", "S001", b"c", 4, 9, (Slice(0, b"a"), Slice(8, b"z")))
    html = written(tmp_path, study, plan, table, {("supervised", "chase"): [volume]})
    images = re.findall(r"<img [^>]*>", html)
    assert [(" hidden" in image, re.findall(r"slice \d of 9", image)[-1]) for image in images] == [
        (True, "slice 1 of 9"),
        (False, "slice 5 of 9"),
        (True, "slice 9 of 9"),
    ]
    assert '<label hidden><span>slice</span><input type="range" min="0" max="2" value="1"' in html
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_figures_and_further_sections_stand_with_their_target(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    curve = Lines(
        "loss of chase-jane-doe-1", (1.0, 2.0), {"dice/vessel": (1.0, 0.5), "total": (2.0, 1.0)}, "step", "loss"
    )
    extra = Extra(
        "Fairness",
        (Sheet("by age", ("group", "dice"), (("chase-jane-doe-2 <i>", "0.5"),), ("A note.",)),),
        (curve,),
        ("The end.",),
    )
    shows = Shows(figures={("supervised", "chase"): {"loss": curve}}, extras={"stare": [extra]})
    write_report(tmp_path / "report.html", study=study, plan=plan, standing=standing(study, plan, table), shows=shows)
    chase, stare = (tmp_path / "report.html").read_text().split('<section id="target-2">')
    assert "What each recipe shows" in chase
    assert "What each recipe shows" not in stare
    assert "dice/vessel" in chase
    assert ">Fairness<" in stare
    assert ">Fairness<" not in chase
    assert re.search(r'<th scope="row"[^>]*>S\d{3} &lt;i&gt;</th><td[^>]*>0.5</td>', stare)
    assert "A note." in stare
    assert "The end." in stare
    assert "jane" not in chase + stare


def test_empty_tables_and_sections_are_left_out(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    empty, full = Sheet("nobody", ("group", "dice"), (("old", ""), ("young", " "))), Sheet("all", ("a",), (("b", "1"),))
    extras = {"chase": [Extra("Hollow", (empty,), (), ("A note.",)), Extra("Half", (empty, full))]}
    shows = Shows(extras=extras)
    write_report(tmp_path / "report.html", study=study, plan=plan, standing=standing(study, plan, table), shows=shows)
    html = (tmp_path / "report.html").read_text()
    assert "Hollow" not in html
    assert "nobody" not in html
    assert ">Half<" in html
    assert "<caption>all</caption>" in html


def test_subjects_of_training_images_are_numbered_after_those_that_were_tested(tmp_path: Path) -> None:
    study = a_study()
    plan, table = a_table(study)
    names = ("drive-jane-doe-9", "drive-jane-doe-8", "chase-jane-doe-0")
    tiles = Images(
        "of drive-jane-doe-9", (("aa", "bb", "cc"),), captions=(("by drive-jane-doe-8", "", ""),), subjects=(names,)
    )
    shows = Shows(figures={("supervised", "chase"): {"tiles": tiles}})
    write_report(tmp_path / "report.html", study=study, plan=plan, standing=standing(study, plan, table), shows=shows)
    html = (tmp_path / "report.html").read_text()
    known = ordinals(table)
    first, second = (f"S{len(known) + number:03d}" for number in (1, 2))
    assert f"<h5>of {second}</h5>" in html
    told = re.findall(r'href="data:image/png;base64,(?:aa|bb|cc)"><title>([^<]*)</title>', html)
    assert told == [f"by {first}, {second}", first, known["chase-jane-doe-0"]]
    assert "jane" not in html
    assert ordinals(table, names) == {**known, names[1]: first, names[0]: second}


def without_labels(study: Study) -> tuple[Plan, list[Line]]:
    """A table whose target "stare" has no labels."""
    plan = a_plan(study)
    records = some_records(plan, study)
    for name, record in records.items():
        if record.site == "stare":
            cases = tuple({"case": case["case"], "subject": case["subject"], "entropy": 0.1} for case in record.cases)
            records[name] = replace(record, cases=cases, metrics={"label-free/entropy": 0.25})
    return plan, lines(plan, records, "last")


def test_at_a_target_without_labels_label_free_scores_stand_beside(tmp_path: Path) -> None:
    study = a_study()
    plan, table = without_labels(study)
    chase, stare = written(tmp_path, study, plan, table).split('<section id="target-2">')
    assert "entropy<small>label-free</small>" in stare
    assert stare.count(">0.250<small>± 0.000</small>") == 3
    assert "label-free" not in chase
    assert "Nothing can be said of stare:</strong> no test subject has labels." in stare
    assert "optimistic, chosen after" not in stare.split("<section")[0].split("</table>")[1]


def test_whom_to_annotate_is_drawn_without_scores_and_named_in_the_file_alone(tmp_path: Path) -> None:
    study = a_study()
    plan, table = without_labels(study)
    wanted = to_annotate(table, "stare")
    assert sorted(one.subject for one in wanted) == [f"stare-jane-doe-{number}" for number in range(5)]
    assert [one.subject for one in wanted] == [one.subject for one in to_annotate(table[::-1], "stare")]
    assert to_annotate(table, "chase") == []
    path = write_annotate(tmp_path, table)
    assert path is not None
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 10  # two cases each
    assert {(row["ordinal"], row["subject"]) for row in rows} == {
        (ordinals(table)[one.subject], one.subject) for one in wanted
    }
    assert [row["order"] for row in rows[:3]] == ["1", "1", "2"]
    html = written(tmp_path, study, plan, table)
    assert re.findall(r"<li>(S\d{3})</li>", html) == [one.ordinal for one in wanted]
    assert "annotate.csv" in html
    assert "jane" not in html
    _, labelled = a_table(study)
    assert write_annotate(tmp_path, labelled) is None
    assert not path.exists()


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """A small study on volumes, "b" without masks, and (done, total) of each time its report was
    written."""
    folder = tmp_path_factory.mktemp("study")
    manifest = write_brain(folder / "cohort", sites={"a": "none", "b": "severe"}, subjects=4, size=32, dims=3)
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(manifest, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "mask": "" if row["site"] == "b" else row["mask"]} for row in rows)
    spec = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "preprocessing": {"size": [16, 16, 16]},
        "network": {"unet": {"spatial_dims": 3, "channels": [4, 8], "num_res_units": 1}},
        "source": ["a"],
        "target": ["b"],
        "recipes": [{"fourier": {"beta": 0.1, "donors": 1}}],
        "test": {"fraction": 0.5, "val": 0.25},
        "seeds": 1,
        "budget": {"steps": 2, "adapt_steps": 1, "batch_size": 2},
    }
    seen: list[tuple[int, int]] = []

    def noted(path: Path, **arguments: Any) -> None:
        seen.append((arguments["standing"].done, arguments["standing"].total))
        write_report(path, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allograft.report.write_report", noted)
        patch.setattr("allograft.run.pictures.SLICES", 2)
        run_study(spec, folder / "out")
    return folder / "out", seen


def test_the_report_of_a_short_study_is_written_once(unlabelled: tuple[Path, list[tuple[int, int]]]) -> None:
    assert unlabelled[1] == [(3, 3)]


def test_a_study_without_labels_shows_slices_disagreement_and_curves_and_hides_all_images_when_asked(
    unlabelled: tuple[Path, list[tuple[int, int]]],
) -> None:
    out, _ = unlabelled
    html = (out / "report.html").read_text()
    assert "Where the recipes disagree" in html
    assert re.search(r"most disputed</strong> S\d{3}, differ at \d+%", html)
    assert re.search(r">surest, S\d{3}</label>", html)
    assert re.search(r"<strong>supervised</strong> entropy 0\.\d{3}", html)
    assert html.count("data-slices>") >= 3
    shown: dict[str, list[tuple[str, str]]] = {}
    for subject, row, place in re.findall(r'<img alt="(\w[^",]*, S\d{3}), ([^",]+), (slice \d+ of \d+)"', html):
        shown.setdefault(subject, []).append((row, place))
    rows = {row for row, _ in shown[min(shown)]}
    assert len(rows) == 3
    for every in shown.values():  # the same subjects for every row, in the same slices
        slices = {place for _, place in every}
        assert len(slices) == 2
        assert sorted(every) == sorted((row, place) for row in rows for place in slices)
    assert "loss of" in html
    assert "Whom to annotate for the evaluation" in html
    assert (out / "annotate.csv").exists()
    rebuild(out, pictures=False)
    bare = (out / "report.html").read_text()
    assert "<img" not in bare
    assert "data:image" not in bare
    assert "Where the recipes disagree" not in bare
    assert "loss of" in bare
    assert "units</strong>" not in bare
    subjects = {row["subject"] for row in csv.DictReader((out / "annotate.csv").open())}
    assert subjects
    assert not any(subject in html for subject in subjects)
