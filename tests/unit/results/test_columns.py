"""Every column of ``results.csv`` and ``metrics.csv`` holds what its name says: a table in which no
two numbers of a row are alike, so that none can stand in the place of another."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from tests.unit.results.test_verdict import a_study
from tests.unit.tiny import a_row

from allograft.methods.finetune import Finetune
from allograft.methods.fourier import Fourier
from allograft.methods.supervised import Supervised
from allograft.results.comparison import compare
from allograft.results.csv_files import (
    COLUMNS,
    METRIC_COLUMNS,
    WORDS,
    join_files,
    result_frame,
    write_metrics,
    write_results,
)
from allograft.results.record import Record
from allograft.results.scores import intervals
from allograft.results.select import Line, lines
from allograft.results.verdict import reach_of
from allograft.study.keys import Statistics
from allograft.study.plan import Plan

TARGET, HOME = "=b", "home"
"""A site that a spreadsheet would take for a formula."""
SEEDS, SUBJECTS = 3, {TARGET: 9, HOME: 7}
COSTS = {"train_seconds": 12.5, "peak_memory_mb": 300.25, "trainable_parameters": 4096}
UNDEFINED = {"supervised": 1, "finetune": 2, "fourier": 0}
"""Cases at the target without a value, each of a subject that has two cases."""


def cases_of(title: str, site: str, seed: int) -> tuple[dict[str, Any], ...]:
    """Every third subject has two cases; the second of the first ones may be undefined."""
    rng = np.random.default_rng([*map(ord, title), seed])
    shift = {"supervised": 0.0, "finetune": 0.07, "fourier": 0.05}[title]
    made = []
    for number in range(SUBJECTS[site]):
        for copy in range(2 if number % 3 == 0 else 1):
            value = 0.5 + 0.01 * number + shift * (site == TARGET) - shift / 3 * (site == HOME) + rng.normal(0, 0.02)
            lacks = site == TARGET and copy == 1 and number < 3 * UNDEFINED[title]
            case = {"case": f"{site}{number}-{copy}", "subject": f"{site}{number}", "dice": None if lacks else value}
            made.append({**case, "hd95": 3.0 + rng.random()})
    return tuple(made)


@pytest.fixture(scope="module")
def table() -> tuple[Plan, list[Line]]:
    """Three rows of three seeds; the last seed of one failed."""
    study = a_study(target=[TARGET], source=[HOME], seeds=SEEDS)
    recipes = (Supervised(), Fourier(), Finetune())
    names = {Supervised: "supervised", Fourier: "fourier", Finetune: "finetune"}
    rows = [a_row(r, TARGET, seed, 0, f"{names[type(r)]}.{seed}") for seed in range(SEEDS) for r in recipes]
    plan = Plan(tuple(rows), SEEDS, study.made_task, Statistics(margin=0.03))
    records = []
    for row in rows:
        title = names[type(row.recipe)]
        if (title, row.seed) == ("fourier", SEEDS - 1):
            records.append(Record(row.unit, {}, row.seed, "failed", 0, TARGET, "test", status="failed", error="broke"))
            continue
        for site in SUBJECTS:
            factor = (1 + row.seed + 10 * (title == "finetune")) * (2 if site == HOME else 1)
            cost = {key: value * factor for key, value in COSTS.items()} | {"predict_seconds": 0.125 * factor}
            cases = cases_of(title, site, row.seed)
            metrics = plan.task.aggregate(cases)
            made = Record(row.unit, {}, row.seed, "end", 0, site, "test", target=TARGET, cases=cases, cost=cost)
            records.append(replace(made, metrics=metrics))
    made_lines = lines(plan, {record.name: record for record in records}, "last")
    return plan, [replace(line, verdict=f"says {line.title}") for line in made_lines]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def typed(row: Mapping[str, str]) -> dict[str, Any]:
    return {key: value if key in WORDS or not value else float(value) for key, value in row.items()}


def judged(line: Line, site: str) -> dict[int, list[Mapping[str, Any]]]:
    """Seed -> its cases, by the generator above."""
    return {run.row.seed: [*cases_of(line.title, site, run.row.seed)] for run in line.runs if not run.error}


def expected_of(plan: Plan, table: list[Line], line: Line, site: str) -> dict[str, Any]:
    """A row of ``results.csv``; the comparison itself is computed by hand elsewhere."""
    seeds, base = judged(line, site), next(one for one in table if one.title == "supervised")
    scores = []
    for cases in seeds.values():
        by_subject: dict[str, list[float]] = {}
        for case in cases:
            by_subject.setdefault(case["subject"], []).extend([] if case["dice"] is None else [case["dice"]])
        scores.append(fmean(fmean(values) for values in by_subject.values() if values))
    low, high = intervals(plan, line, site)["dice"]
    factors = [(1 + seed + 10 * (line.title == "finetune")) for seed in seeds]
    count = len(cases_of(line.title, site, 0))
    row: dict[str, Any] = {
        "recipe": line.title,
        "target": f"'{TARGET}",
        "site": f"'{TARGET}" if site == TARGET else site,
        "metric": "dice",
        "verdict": line.verdict if site == TARGET else "",
        "seeds_done": len(seeds),
        "seeds": SEEDS,
        "subjects": SUBJECTS[site],
        "cases": count,
        "undefined_cases": UNDEFINED[line.title] if site == TARGET else 0,
        "mean": fmean(scores),
        "sd_over_seeds": stdev(scores),
        "low": low,
        "high": high,
        **{key: value * fmean(factors) for key, value in COSTS.items()},
        "predict_seconds_per_100": 100 * 0.125 * fmean(factors) * (2 if site == HOME else 1) / count,
    }
    if line is base:
        return row
    found = compare(table, plan, TARGET, site=site)[line.title]
    assert found.sd is not None
    reach = reach_of(found.sd, found.subjects, 2, plan.statistics, exact=True)
    undefined = {
        case["case"]
        for each in (line, base)
        for cases in judged(each, site).values()
        for case in cases
        if case["dice"] is None
    }
    return row | {
        "compared_with": "supervised",
        "paired_subjects": SUBJECTS[site],
        "paired_cases": count - len(undefined),
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "p": found.p,
        "p_adjusted": found.adjusted,
        "cohen_dz": found.effect,
        "rank_biserial": found.rank_biserial,
        "sd_of_differences": found.sd,
        "false_claim": found.false_claim,
        "subjects_needed": reach.needed,
        "smallest_difference": reach.smallest,
        "note": found.note,
    }


def test_every_column_of_results_holds_what_its_name_says(table: tuple[Plan, list[Line]], tmp_path: Path) -> None:
    plan, rows = table
    found = [typed(row) for row in read(write_results(tmp_path, plan, rows))]
    assert len(found) == 6
    assert tuple(found[0]) == COLUMNS
    places = [(line, site) for line in rows for site in (TARGET, HOME)]
    for row, (line, site) in zip(found, places, strict=True):
        expected = dict.fromkeys(COLUMNS, "") | expected_of(plan, rows, line, site)
        assert row == {key: v if isinstance(v, str) else pytest.approx(v) for key, v in expected.items()}
    (tuned,) = (row for row in found if (row["recipe"], row["site"]) == ("finetune", f"'{TARGET}"))
    assert tuned["p"] != tuned["p_adjusted"]
    numbers = [round(value, 9) for key, value in tuned.items() if isinstance(value, float)]
    alike = ["seeds_done", "seeds", "subjects", "paired_subjects"]
    assert len({*numbers}) >= len(numbers) - len(alike) + 2, "numbers that are alike could stand for each other"


def test_every_column_of_metrics_holds_what_its_name_says(table: tuple[Plan, list[Line]], tmp_path: Path) -> None:
    plan, rows = table
    found = [typed(row) for row in read(write_metrics(tmp_path, plan, rows))]
    assert tuple(found[0]) == METRIC_COLUMNS
    assert [(row["recipe"], row["site"], row["metric"]) for row in found] == [
        (line.title, f"'{site}" if site == TARGET else site, metric)
        for line in rows
        for site in (TARGET, HOME)
        for metric in ("dice", "hd95")
    ]
    wanted = ("recipe", "target", "site", "seeds_done", "subjects", "cases")
    for row in found:
        line = next(one for one in rows if one.title == row["recipe"])
        site = HOME if row["site"] == HOME else TARGET
        expected = expected_of(plan, rows, line, site)
        assert {key: row[key] for key in wanted} == {key: expected[key] for key in wanted}
        values = line.metrics[site][row["metric"]]
        low, high = intervals(plan, line, site)[row["metric"]]
        of_row = (row["mean"], row["sd_over_seeds"], row["low"], row["high"])
        assert of_row == pytest.approx((fmean(values), stdev(values), low, high))
        if row["metric"] == "dice":
            same = ("undefined_cases", "paired_cases", "difference")
            assert [row[key] for key in same] == [
                "" if line.title == "supervised" and key != "undefined_cases" else pytest.approx(expected[key])
                for key in same
            ]
        elif line.title != "supervised":
            assert (row["undefined_cases"], row["paired_cases"]) == (0, expected["cases"])


def test_a_frame_has_the_same_rows_and_nothing_where_there_is_none(
    table: tuple[Plan, list[Line]], tmp_path: Path
) -> None:
    plan, rows = table
    frame, written = result_frame(plan, rows), read(write_results(tmp_path, plan, rows))
    assert tuple(frame.columns) == COLUMNS
    for (_, row), kept in zip(frame.iterrows(), written, strict=True):
        for key, text in kept.items():
            value = row[key]
            if not text:
                assert value is None or (isinstance(value, float) and math.isnan(value)), key
            else:
                assert str(value) == text or float(value) == pytest.approx(float(text)), key


def test_parts_are_joined_behind_their_names_and_sources(table: tuple[Plan, list[Line]], tmp_path: Path) -> None:
    plan, rows = table
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    parts = {
        "=from a": ("a+c", write_results(tmp_path / "one", plan, rows[:1])),
        "from b": ("b", write_results(tmp_path / "two", plan, rows[1:])),
    }
    joined = read(join_files(tmp_path / "all.csv", parts))
    assert list(joined[0]) == ["part", "source", *COLUMNS]
    assert [(row["part"], row["source"]) for row in joined] == [("'=from a", "a+c")] * 2 + [("from b", "b")] * 4
    assert [{key: row[key] for key in COLUMNS} for row in joined] == [
        row for _, path in parts.values() for row in read(path)
    ]
