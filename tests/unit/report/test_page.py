"""The page: each picture, figure and fact where it belongs."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.report.test_decision import SECONDS, a_study, a_table
from tests.unit.report.test_target import CHOSEN, VERDICTS
from tests.unit.tiny import a_row

from allograft.figure import Images, Lines
from allograft.recipe import parse_recipe
from allograft.report import Extra, Picture, Shows, Slice, facts, gallery, page, write_annotate, write_report
from allograft.report.annotate import to_annotate
from allograft.report.beside import beside, cases_of
from allograft.report.gallery import DISAGREEMENT, fitting, overlay_picture
from allograft.report.overlay import AGREE, EXTRA, MISSED, class_colour
from allograft.results.record import Record
from allograft.results.select import RULES, Line
from allograft.results.standing import Standing
from allograft.study.plan import Plan
from allograft.study.spec import Study


@pytest.fixture(scope="module")
def made() -> tuple[Study, Plan, list[Line]]:
    study = a_study()
    plan, table = a_table(study)
    return study, plan, [replace(line, verdict=CHOSEN.get((line.target, line.title), "")) for line in table]


def written(folder: Path, made: tuple[Study, Plan, list[Line]], shows: Shows | None = None, **more: Any) -> str:
    study, plan, table = made
    standing = Standing(tuple(table), VERDICTS, *more.get("done", (8, 8)))
    write_report(folder / "report.html", study=study, plan=plan, standing=standing, shows=shows)
    return (folder / "report.html").read_text(encoding="utf-8")


def png(words: str) -> str:
    return base64.b64encode(words.encode()).decode()


def test_each_row_has_its_own_picture_at_its_own_target(made: tuple[Study, Plan, list[Line]], tmp_path: Path) -> None:
    pictures = {
        (row, site): [Picture(f"worst, {site}", f"dice of {row} at {site}", f"{row}{site}".encode())]
        for row in ("finetune", "supervised", "adabn")
        for site in "bc"
        if (row, site) != ("adabn", "c")
    }
    pictures[DISAGREEMENT, "c"] = [
        Picture("disputed c", "differ b-case0", b"d2", 2, 9, (Slice(0, b"d0"), Slice(5, b"d5")))
    ]
    html = written(tmp_path, made, Shows(pictures))
    first, second = html.split('<section id="target-2">')
    side = (
        r'<figure( class="chosen")?>\s*<img alt="([^"]*)"[^>]*src="data:image/png;base64,([^"]*)">\s*'
        r"<figcaption><strong>([^<]*)</strong> ([^<]*)<"
    )
    assert re.findall(side, first) == [
        ("", "worst, b, supervised", png("supervisedb"), "supervised", "dice of supervised at b"),
        ("", "worst, b, adabn", png("adabnb"), "adabn", "dice of adabn at b"),
        (' class="chosen"', "worst, b, finetune", png("finetuneb"), "finetune", "dice of finetune at b"),
    ]
    assert [(chosen, row) for chosen, _, _, row, _ in re.findall(side, second)] == [
        (' class="chosen"', "supervised"), ("", "finetune")
    ]  # fmt: skip
    assert "Where the recipes disagree" not in first
    images = re.findall(
        r'<img alt="disagreement at c: disputed c, (slice \d of 9)"[^>]*?( hidden)? src="[^,]*,(\w+=*)"', second
    )
    assert images == [("slice 1 of 9", " hidden", png("d0")), ("slice 3 of 9", "", png("d2")),
                      ("slice 6 of 9", " hidden", png("d5"))]  # fmt: skip
    assert "<strong>disputed c</strong> differ [case] <output>slice 3 of 9</output>" in second


def test_the_page_has_what_it_was_given(made: tuple[Study, Plan, list[Line]], tmp_path: Path) -> None:
    study, plan, table = made
    curve = Lines("loss of b-case0", (1.0, 2.0), {"dice": (1.0, 0.5)}, "step", "loss")
    tiles = Images("tiles", (("aa",), ("bb",)), subjects=(("new1",), ("new2",)))
    shows = Shows(
        figures={("adabn", "c"): {"tiles": tiles}},
        extras={"c": [Extra("Only at c", notes=(), figures=(curve,))]},
        seconds=SECONDS,
        curves=[curve],
        frozen="frozen on Monday",
    )
    html = written(tmp_path, made, shows, done=(5, 8))
    first, second = html.split('<section id="target-2">')
    top = first.split('<section id="target-1">')[0]
    assert "frozen on Monday" in top
    assert "5 of 8 units" in top
    assert "<h5>loss of [case]</h5>" in top
    assert "case0" not in html
    assert ("Only at c" in first, "Only at c" in second) == (False, True)
    assert "<title>S031</title>" in second  # after the 30 of the tests
    assert "<title>S032</title>" in second
    assert ">300.0<small>400.0 in all<" in first
    facts_ = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", top))
    assert facts_["Test subjects"] == "6 at b, 6 at c"
    assert facts_["Recipes"] == "4, 2 seeds each"
    assert facts_["Task"] == "segmentation of x and y"
    assert "finetune</strong> at b, seed 1: broke" in second
    pictures = {("adabn", "b"): [Picture("worst", "", b"x")]}
    legend = written(tmp_path, made, Shows(pictures)).split("as every recipe sees them")[1]
    assert re.findall(r'background:(#\w+)"></i>(\w)<', legend) == [(class_colour(1), "x"), (class_colour(2), "y")]
    one = replace(study, task={"segmentation": {"classes": ["x"]}})
    legend = written(tmp_path, (one, replace(plan, task=one.made_task), table), Shows(pictures))
    assert re.findall(r'background:(#\w+)"></i>([a-z, ]+)<', legend) == [
        (AGREE, "predicted and true"), (MISSED, "true, not predicted"), (EXTRA, "predicted, not true")
    ]  # fmt: skip


def test_what_has_no_room_is_counted(
    made: tuple[Study, Plan, list[Line]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allograft.report.page.FIGURES", 100)
    monkeypatch.setattr("allograft.report.page.LIMIT", 100)
    curve = Lines("loss", (1.0, 2.0), {"dice": (1.0, 0.5)}, "step", "loss")
    shows = Shows({("adabn", "b"): [Picture("worst", "", b"x")]}, {("adabn", "b"): {"one": curve, "two": curve}})
    assert "1 picture and 2 figures of recipes left out" in written(tmp_path, made, shows)


@pytest.mark.parametrize("rule", ["last", "source-val", "entropy", "oracle"])
def test_the_page_says_what_its_rule_may_see(made: tuple[Study, Plan, list[Line]], tmp_path: Path, rule: Any) -> None:
    study, plan, table = made
    html = written(tmp_path, (replace(study, selection=rule), plan, table))
    said = {
        "last": "no score at all",
        "source-val": "scores on validation subjects of the source",
        "entropy": "predictions on training images of the target",
        "oracle": "the test scores themselves",
    }
    assert RULES[rule] in unescape(html)
    assert [key for key, words in said.items() if f"It sees {words}" in html] == [rule]


def test_made_images_have_a_legend_of_their_own(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    task: Any = SimpleNamespace(outputs={"paired": 1}, names=(), headline="ssim")
    assert page._content(study, replace(plan, task=task), table, None, str)["is_made"]
    assert not page._content(study, plan, table, None, str)["is_made"]


def test_papers_are_those_of_every_row(made: tuple[Study, Plan, list[Line]], tmp_path: Path) -> None:
    html = written(tmp_path, made)
    assert "Feather-Light Fourier Domain Adaptation" in html  # of the last row


# ---- facts


def test_each_site_is_on_its_side_with_its_subjects_and_cases(made: tuple[Study, Plan, list[Line]]) -> None:
    study, _, table = made
    assert facts.splits(study, table, None) == [
        *((site, "source", {"test": "6 subjects, 6 cases"}) for site in ("h1", "h2", "h3")),
        *((site, "target", {"test": "6 subjects, 6 cases"}) for site in "bc"),
    ]
    within = replace(study, source=("b",), target_labels="none")
    assert facts.splits(within, table, None)[0][:2] == ("b", "source")
    placed = (("b", "p", 3), ("b", "q", 1), ("h1", "r", 2))
    cases = [
        SimpleNamespace(site=site, subject=subject, name=f"{subject}{n}")
        for site, subject, count in placed
        for n in range(count)
    ]
    world: Any = SimpleNamespace(
        cases=lambda: cases,
        assignments={
            name: SimpleNamespace(split=split) for name, split in (("p", "train"), ("q", "train"), ("r", "val"))
        },
    )
    counted = {site: parts for site, _, parts in facts.splits(study, table, world)}
    assert counted == {
        "h1": {"val": "1 subject, 2 cases"}, "h2": {}, "h3": {}, "b": {"train": "2 subjects, 4 cases"}, "c": {}
    }  # fmt: skip


def test_cases_without_a_measure_are_none_of_a_test_set(made: tuple[Study, Plan, list[Line]]) -> None:
    study, _, table = made
    cases = ({"case": "b0", "subject": "b0", "dice": 0.5}, {"case": "b1", "subject": "b1", "entropy": 0.5})
    record = Record("u", {}, 0, "end", 0, "b", "test", cases=cases)
    line = replace(table[0], runs=(replace(table[0].runs[0], tests={"b": (record,)}),))
    assert dict((site, parts) for site, _, parts in facts.splits(study, [line], None))["b"] == {
        "test": "1 subject, 1 case"
    }


def test_failures_are_told_by_row_target_and_seed(made: tuple[Study, Plan, list[Line]]) -> None:
    _, _, table = made
    turned = [replace(line, runs=line.runs[::-1]) for line in table]
    assert [(one.recipe, one.target, one.seed) for one in facts.failures(turned, str)] == [
        ("finetune", "b", 1), ("finetune", "c", 1), ("fourier", "b", 0), ("fourier", "b", 1), ("fourier", "c", 0),
        ("fourier", "c", 1),
    ]  # fmt: skip
    assert facts.failures(a_table(a_study(), wait=True)[1], str) == []


def test_names_of_cases_and_of_labelled_subjects_are_hidden_and_the_longest_first() -> None:
    cases = tuple({"case": f"img-{name}", "subject": name, "dice": 0.5} for name in ("jane", "jane-doe", "4"))
    record = Record("u", {}, 0, "end", 0, "b", "test", cases=cases, labelled_subjects=("mary",))
    line: Any = SimpleNamespace(runs=[SimpleNamespace(tests={"b": (record,)})])
    hide = facts.name_hider([line], ["anne"])
    assert facts.ordinals([line], ["anne"]) == {"4": "S001", "jane": "S002", "jane-doe": "S003", "anne": "S004"}
    assert hide("jane-doe, jane, anne and mary in img-jane: 4") == "S003, S002, S004 and [subject] in [case]: 4"
    assert facts.hider([line])("x " * 300).endswith("…")
    assert len(facts.hider([line])("x" * 401)) == 400
    assert facts.hider([line])("x" * 400) == "x" * 400


def test_the_environment_counts_the_records_of_each_value() -> None:
    records = [Record(f"u{n}", {}, 0, "end", 0, "b", "test", environment={"torch": value, "device": "cpu"})
               for n, value in enumerate(("2.9", "2.10", "2.9"))]  # fmt: skip
    line: Any = SimpleNamespace(runs=[SimpleNamespace(tests={"b": tuple(records)})])
    assert facts.environment([line]) == {"device": "cpu", "torch": "2.10 (1 records), 2.9 (2 records)"}


def test_of_absolute_paths_the_protocol_keeps_the_end() -> None:
    study = a_study(cohort="/data/hospital/eyes/manifest.csv", start="/data/models/eyes/best", source=[])
    told = facts.protocol(study)
    assert "cohort: '.../eyes/manifest.csv'\n" in told
    assert "start: '.../eyes/best'\n" in told
    assert "/data" not in told
    assert "cohort: m.csv\n" in facts.protocol(a_study())


def test_upper_bounds_are_rows_with_more_labels_than_the_budget(made: tuple[Study, Plan, list[Line]]) -> None:
    bound = parse_recipe({"target_supervised": {"labels": "all"}})
    rows = (*made[1].rows, a_row(bound, "b", 0, 0, "x"), a_row(bound, "c", 0, 0, "y"))
    assert facts.upper_bounds(replace(made[1], rows=rows)) == ["target_supervised labels=all"]
    assert facts.upper_bounds(made[1]) == []


# ---- whom to annotate


def test_the_file_has_every_case_of_each_subject_at_its_site(tmp_path: Path) -> None:
    lines = []
    table = a_table(a_study())[1]
    for site, line in zip("bc", table, strict=False):
        cases = tuple(
            {"case": f"{site}{n}{eye}", "subject": f"{site}{n}", "entropy": 0.1} for n in range(5) for eye in "RL"
        )
        record = Record("u", {}, 0, "end", 0, site, "test", cases=cases)
        lines.append(replace(line, target=site, runs=(replace(line.runs[0], tests={site: (record,)}),)))
    path = write_annotate(tmp_path, lines)
    assert path is not None
    rows = list(csv.DictReader(path.open()))
    known = facts.ordinals(lines)
    for site in "bc":
        here = [row for row in rows if row["site"] == site]
        wanted = to_annotate(lines, site)
        assert [(row["order"], row["ordinal"], row["subject"], row["image"]) for row in here] == [
            (str(order), known[one.subject], one.subject, f"{one.subject}{eye}")
            for order, one in enumerate(wanted, 1)
            for eye in "LR"
        ]
    # each site has an order of its own
    first, second = ([one.subject[1] for one in to_annotate(lines, site)] for site in "bc")
    assert first != second
    judged = a_table(a_study())[1][:1]
    assert to_annotate([*judged, replace(lines[0], title="other")], "b") == []


# ---- pictures side by side


def volume(name: str, place: int, *more: int, depth: int = 9) -> Picture:
    slices = tuple(Slice(at, f"{name}{at}".encode()) for at in more)
    return Picture("worst, p1", f"{name} of p1", f"{name}{place}".encode(), place, depth, slices)


def test_only_slices_that_all_have_are_side_by_side() -> None:
    case = beside("worst", {"one": volume("one", 4, 2, 7), "two": volume("two", 7, 1, 4)}, ["two"])
    assert (case.title, case.central, case.places) == ("worst", 0, ["slice 5 of 9", "slice 8 of 9"])
    assert [(side.name, side.chosen, side.caption) for side in case.sides] == [
        ("one", False, "one of p1"), ("two", True, "two of p1")
    ]  # fmt: skip
    for side in case.sides:
        assert [(shown.at, shown.hidden) for shown in side.slices] == [(0, False), (1, True)]
        assert [base64.b64decode(shown.source.partition(",")[2]).decode() for shown in side.slices] == [
            f"{side.name}4", f"{side.name}7"
        ]  # fmt: skip
    # the first one's slice is not shared, so the middle one shows
    apart = beside("worst", {"one": volume("one", 3, 2, 5, 7), "two": volume("two", 2, 5, 7)})
    assert (apart.central, [side.chosen for side in apart.sides]) == (1, [False, False])
    last = beside("worst", {"one": volume("one", 7, 2, 4), "two": volume("two", 2, 4, 7)})
    assert (last.central, [shown.hidden for shown in last.sides[0].slices]) == (2, [True, True, False])


def test_where_no_slice_is_shared_each_shows_its_own_first() -> None:
    case = beside("worst", {"one": volume("one", 4, 2), "two": volume("two", 7, 1)})
    assert [[base64.b64decode(shown.source.partition(",")[2]) for shown in side.slices] for side in case.sides] == [
        [b"one4"], [b"two7"]
    ]  # fmt: skip
    assert [shown.hidden for side in case.sides for shown in side.slices] == [False, False]


def test_a_case_has_the_pictures_of_its_title_alone_and_names_nobody() -> None:
    best, worst = Picture("best, p2", "one of p2", b"best"), volume("one", 4)
    every = {"one": [best, worst], "two": [volume("two", 4)]}
    cases = cases_of(every, lambda words: words.replace("p1", "S001").replace("p2", "S002"), ["two"])
    assert [case.title for case in cases] == ["best, S002", "worst, S001"]
    assert [[(side.name, side.chosen, side.caption) for side in case.sides] for case in cases] == [
        [("one", False, "one of S002")],
        [("one", False, "one of S001"), ("two", True, "two of S001")],
    ]


# ---- which pictures


def test_a_volume_is_drawn_slice_by_slice_in_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []

    def noted(image: Any, truth: Any, predicted: Any, window: Any = None, *, classes: int) -> bytes:
        drawn.append((image[0, 0], None if truth is None else truth[0, 0], predicted[0, 0], window, classes))
        return f"slice {image[0, 0]:g}".encode()

    monkeypatch.setattr(gallery, "draw_overlay", noted)
    image = np.broadcast_to(np.arange(8.0), (1, 3, 4, 8))
    truth, predicted = (np.broadcast_to(np.arange(8) + more, (3, 4, 8)) for more in (100, 200))
    marked = np.zeros((3, 4, 8), int)
    marked[0, 0, 2:7] = marked[1, :, 5] = 1  # most of it in slice 5
    given: dict[str, Any] = {"words": ("worst", "dice 0.1"), "classes": 3}
    picture = overlay_picture(image, truth, predicted, marked, most=3, **given)
    assert [(place, true, found) for place, true, found, *_ in drawn] == [(n, 100 + n, 200 + n) for n in (5, 2, 6)]
    assert len({window for *_, window, _ in drawn}) == 1
    assert drawn[0][3] is not None
    assert {classes for *_, classes in drawn} == {3}
    assert (picture.title, picture.caption, picture.place, picture.depth) == ("worst", "dice 0.1", 5, 8)
    assert (picture.png, picture.more) == (b"slice 5", (Slice(2, b"slice 2"), Slice(6, b"slice 6")))
    drawn.clear()
    flat = overlay_picture(image[..., 3], None, predicted[..., 3], marked[..., 3], most=3, **given)
    assert (flat.title, flat.caption, flat.depth, flat.more) == ("worst", "dice 0.1", 0, ())
    assert drawn == [(3, None, 203, None, 3)]


def test_pictures_that_fit_stay_in_their_order() -> None:
    one, two, large = Picture("one", "", b"1"), Picture("two", "", b"2"), Picture("large", "", b"x" * 30_000)
    every: Mapping[tuple[str, str], list[Picture]] = {("a", "t"): [one, large, two], ("b", "t"): [two, one]}
    kept, dropped = fitting(every, 5_000)
    assert ({key: [picture.title for picture in each] for key, each in kept.items()}, dropped) == (
        {("a", "t"): ["one", "two"], ("b", "t"): ["two", "one"]},
        1,
    )
