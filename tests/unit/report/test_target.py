"""What a page says of one target: each fact from the row and the site that it is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from markupsafe import Markup
from tests.unit.report.test_decision import RECIPES, SECONDS, a_study, a_table

from allograft.figure import Lines
from allograft.report import plots
from allograft.report import target as room
from allograft.report.drawn import Drawn
from allograft.report.target import Extra, Target, fitting_figures, target_of
from allograft.results.analysis.sheet import Sheet
from allograft.results.record import Record
from allograft.results.select import Line
from allograft.results.standing import Standing
from allograft.results.verdict import Verdict
from allograft.study.plan import Plan
from allograft.study.spec import Study

VERDICTS = {
    "b": Verdict(
        "change", "", "finetune", ("adabn", "finetune", "fourier"), "adabn", looked_at="adabn",
        marks={"finetune": ("forgets at home",), "adabn": ("loses here",)}, sentence="Change: to it: now", how=("so",),
    ),
    "c": Verdict("keep", "", label_free="supervised", tied=("adabn",), sentence="Keep your model: it is best"),
}  # fmt: skip
CHOSEN = {("b", "finetune"): "change", ("c", "supervised"): "keep"}


@pytest.fixture(scope="module")
def made() -> tuple[Study, Plan, list[Line]]:
    study = a_study()
    plan, table = a_table(study)
    return study, plan, [replace(line, verdict=CHOSEN.get((line.target, line.title), "")) for line in table]


def a_target(made: tuple[Study, Plan, list[Line]], site: str, **more: Any) -> Target:
    study, plan, table = made
    given: dict[str, Any] = {"figures": {}, "extras": (), "hide": str, "seconds": SECONDS, **more}
    verdicts: Mapping[str, Verdict] = given.pop("verdicts", VERDICTS)
    return target_of(study, plan, Standing(tuple(table), verdicts, 3, 8), site, **given)


def test_advice_is_of_the_row_that_the_verdict_of_the_target_names(made: tuple[Study, Plan, list[Line]]) -> None:
    advice = a_target(made, "b").advice
    assert (advice.kind, advice.head, advice.rest, advice.how) == ("change", "Change:", "to it: now", ("so",))
    assert advice.command == "allograft predict models/finetune@b IMAGES -o predictions"
    assert (advice.tied, advice.better, advice.label_free) == (("adabn", "fourier"), "", "adabn")
    assert advice.marks == ("forgets at home",)
    kept = a_target(made, "c").advice
    assert (kept.kind, kept.head, kept.rest, kept.how) == ("keep", "Keep your model:", "it is best", ())
    assert kept.command == "allograft predict models/supervised@c IMAGES -o predictions"
    # named beforehand and behind; the row without labels is itself
    assert (kept.tied, kept.better, kept.label_free, kept.marks) == ((), "adabn", "", ())
    unfinished = a_target(made, "b", verdicts={}).advice
    assert (unfinished.kind, unfinished.command) == ("unfinished", "")
    assert "3 of 8 units" in f"{unfinished.head} {unfinished.rest}"
    assert (unfinished.head[-1], unfinished.rest[-1]) == (":", ".")


def test_the_model_that_advice_names_is_of_a_run_that_finished(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    assert a_target(made, "b").advice.seed == 0
    turned = [
        replace(line, runs=(replace(line.runs[0], error="broke"), replace(line.runs[1], error=""))) for line in table
    ]
    assert a_target((study, plan, turned), "b").advice.seed == 1
    failed = [replace(line, runs=tuple(replace(run, error="broke") for run in line.runs)) for line in table]
    advice = a_target((study, plan, failed), "b").advice
    assert (advice.kind, advice.command, advice.how) == ("change", "", ("so",))


def test_a_target_has_its_own_rows_subjects_and_costs(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    found = a_target(made, "b")
    assert (found.site, found.titles, found.chosen) == ("b", RECIPES, ("finetune",))
    assert a_target(made, "c").chosen == ("supervised",)
    assert (found.subjects, found.smallest, found.hopeless, found.finished) == (6, "0.031", False, True)
    assert (found.has_costs, found.has_shared_costs, found.violins, found.thinned) == (True, True, False, False)
    assert [cells[1].text for _, cells in found.table.rows] == ["0.510", "0.635", "0.725", "failed"]
    assert found.table.rows[2][1][10].text == "300.0"
    assert found.classes is not None
    assert [cells[1].text for _, cells in found.classes.rows] == ["0.410", "0.535", "0.625", "failed"]
    one_sided = (replace(study, statistics=replace(study.statistics, alternative="greater")), plan, table)
    assert a_target(one_sided, "b").smallest == "0.016"
    few = [replace(line, runs=line.runs[:1]) if line.title == "fourier" else line for line in table]
    assert not a_target((study, plan, [line for line in few if line.title == "fourier"]), "b").finished
    assert found.reference == ""
    named = (study, replace(plan, reference="adabn"), table)
    assert a_target(named, "b").dashed == "adabn"
    assert "adabn" in a_target(named, "b").reference


def test_dots_marks_and_costs_of_a_row_are_its_own(made: tuple[Study, Plan, list[Line]]) -> None:
    drawn = str(a_target(made, "b").strips)
    dots = re.findall(r"<title>(S\d+): ([\d.]+)</title>", drawn)
    # subjects of b come first by name; means over the seeds, -.025 to .025 about .51, and so on
    assert [(ordinal, float(value)) for ordinal, value in dots] == [
        *((f"S00{n + 1}", pytest.approx(0.485 + 0.01 * n)) for n in range(6)),
        *((f"S00{n + 1}", pytest.approx(0.585 + 0.02 * n)) for n in range(6)),
        *((f"S00{n + 1}", pytest.approx(0.675 + 0.02 * n)) for n in range(6)),
    ]
    assert re.findall(r'class="mean([^"]*)"[^>]*><title>score of the table: ([\d.]+)', drawn) == [
        ("", "0.510"), ("", "0.635"), (" chosen", "0.725")
    ]  # fmt: skip
    assert re.findall(r"<title>([^<]*(?:seconds|model))</title>", drawn) == [
        "supervised: 100.0 seconds with the training of the source model",
        "supervised: 0.0 seconds",
        "adabn: 300.0 seconds with the training of the source model",
        "adabn: 200.0 seconds",
        "finetune: 400.0 seconds with the training of the source model",
        "finetune: 300.0 seconds",
    ]
    assert "<title>no adaptation</title>" in drawn
    assert dots != re.findall(r"<title>(S\d+): ([\d.]+)</title>", str(a_target(made, "c").strips))
    level, dashed = (re.findall(rf'class="{kind}"[^>]*x1="([\d.]+)"', drawn) for kind in ("mean", "reference"))
    assert level[0] == dashed[0]  # the dashed line stands at the score of the row without adaptation
    study, plan, table = made
    other = str(a_target((study, replace(plan, reference="adabn"), table), "b").strips)
    assert re.findall(r'class="reference"[^>]*x1="([\d.]+)"', other) == level[1:2]
    assert "<title>adabn</title>" in other


def test_costs_that_are_not_known_are_not_drawn(made: tuple[Study, Plan, list[Line]]) -> None:
    found = a_target(made, "b", seconds={})
    assert (found.has_costs, found.has_shared_costs) == (True, True)  # that of the source model alone
    assert "adabn: " not in str(found.strips)
    study, plan, table = made
    unshared = [line for line in table if line.title == "adabn"]
    found = a_target((study, plan, unshared), "b")
    assert (found.has_costs, found.has_shared_costs) == (True, False)


def test_many_subjects_are_thinned_and_said_to_be(
    made: tuple[Study, Plan, list[Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "MOST_DOTS", 6)
    assert not a_target(made, "b").thinned
    monkeypatch.setattr(plots, "MOST_DOTS", 5)
    assert a_target(made, "b").thinned
    monkeypatch.setattr(plots, "FEWEST", 6)
    assert a_target(made, "b").violins  # of some rows


def test_figures_are_of_the_target(made: tuple[Study, Plan, list[Line]]) -> None:
    drawn = {(row, site): (Drawn(f"{row} at {site}", Markup("")),) for row, site in (("adabn", "b"), ("finetune", "c"))}
    assert [(row, shown[0].title) for row, shown in a_target(made, "b", figures=drawn).figures] == [
        ("adabn", "adabn at b")
    ]
    assert [row for row, _ in a_target(made, "c", figures=drawn).figures] == ["finetune"]


def test_at_most_so_many_are_named_to_annotate_and_all_are_counted(
    made: tuple[Study, Plan, list[Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ANNOTATED", 2)
    assert (a_target(made, "b").annotate, a_target(made, "b").waiting) == ((), 0)
    study, plan, table = made
    cases = tuple({"case": f"b{n}", "subject": f"b-{n}", "entropy": 0.1} for n in range(3))
    bare = Record("u", {}, 0, "end", 0, "b", "test", cases=cases)
    unlabelled = [
        replace(line, scores={}, metrics={}, runs=(replace(line.runs[0], tests={"b": (bare,)}),))
        if line.target == "b"
        else line
        for line in table
    ]
    found = a_target((study, plan, unlabelled), "b")
    assert (len(found.annotate), found.waiting, found.strips) == (2, 3, "")
    assert set(found.annotate) < {"S001", "S002", "S003"}


def test_words_of_a_section_name_nobody_and_a_fold_stays_in_it(made: tuple[Study, Plan, list[Line]]) -> None:
    sheet = Sheet("sheet of jane", ("jane", "dice"), (("row of jane", "0.5"),), ("note of jane",))
    curve = Lines("curve of jane", (1.0, 2.0), {"jane": (1.0, 2.0)}, "jane", "jane")
    fold = Extra("Fold", notes=("jane in the fold",), figures=(curve,))
    hollow = Sheet("hollow", ("group", "dice"), (("old", " "),))
    extras = [
        Extra("Whole", (hollow, sheet), (curve,), ("jane below",), fold),
        Extra("Folded", folded=Extra("Inner", (sheet,))),
        Extra("Empty", (hollow,), (), ("a note",), Extra("Nothing", notes=("jane",))),
    ]
    whole, folded = a_target(made, "b", extras=extras, hide=lambda words: words.replace("jane", "S001")).extras
    assert whole.sheets == (Sheet("sheet of S001", ("S001", "dice"), (("row of S001", "0.5"),), ("note of S001",)),)
    assert (whole.title, whole.notes, whole.figures[0].title) == ("Whole", ("S001 below",), "curve of S001")
    assert whole.folded is not None
    assert (whole.folded.title, whole.folded.notes, len(whole.folded.figures)) == ("Fold", ("S001 in the fold",), 1)
    assert "jane" not in f"{whole} {folded}"
    assert folded.folded is not None
    assert (folded.title, folded.folded.title, len(folded.folded.sheets)) == ("Folded", "Inner", 1)


def test_figures_that_fit_are_the_first_ones_and_smaller_ones_still_find_room() -> None:
    def curve(title: str, length: int = 2) -> Lines:
        return Lines(title, tuple(map(float, range(length))), {"dice": (0.5,) * length}, "step", "dice")

    figures = {
        ("r1", "b"): {"one": curve("r1 one"), "two": curve("r1 two", 300)},
        ("r2", "b"): {"one": curve("r2 one")},
    }
    kept, lost = fitting_figures(figures, str, 10_000_000, {})
    assert [drawn.title for drawn in kept["r1", "b"]] == ["r1 one", "r1 two"]
    assert ([drawn.title for drawn in kept["r2", "b"]], lost) == (["r2 one"], 0)
    size = kept["r1", "b"][0].size
    kept, lost = fitting_figures(figures, str, 2 * size, {})
    assert ({key: [drawn.title for drawn in every] for key, every in kept.items()}, lost) == (
        {("r1", "b"): ["r1 one"], ("r2", "b"): ["r2 one"]},
        1,
    )
