"""The page over all pairs, from records made by hand whose every number is another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe, title
from allograft.report import overview
from allograft.report.overview import Part, recipes_over, write_overview
from allograft.results.analysis.sheet import Sheet
from allograft.results.record import Record
from allograft.results.select import lines
from allograft.results.standing import Standing
from allograft.results.verdict import Verdict
from allograft.study.parts import parts_of
from allograft.study.plan import Plan
from allograft.study.reading import make_study
from allograft.study.spec import Study

RECIPES = ("supervised", "adabn", "finetune")
SCORES: dict[tuple[str, str, str], Sequence[float]] = {
    # source, row, site -> its subjects
    ("a", "supervised", "a"): [0.90, 0.92],
    ("a", "supervised", "b"): [0.40, 0.50],
    ("a", "adabn", "b"): [0.46, 0.58, 0.70],  # of one subject more
    ("a", "finetune", "b"): [0.41, 0.50],
    ("a", "supervised", "c"): [0.60, 0.62, 0.70, 0.76],
    ("a", "adabn", "c"): [0.50, 0.61, 0.70, 0.72],
    ("a", "finetune", "c"): [0.80, 0.82, 0.90, 0.94],
    ("b", "supervised", "b"): [0.84, 0.86],
    ("b", "supervised", "c"): [0.30, 0.35, 0.37, 0.38],
    ("b", "adabn", "c"): [0.30, 0.35, 0.37, 0.38],  # neither better nor worse
}
CHOSEN = {("a", "b"): "adabn", ("a", "c"): "finetune", ("b", "c"): "supervised"}


def a_study(**changes: Any) -> Study:
    tree = {
        **{"cohort": "m.csv", "task": {"segmentation": {"classes": ["vessel"]}}, "seeds": 2, "recipes": RECIPES},
        **{"source": ["a", "b"], "target": ["b", "c"], "pairs": "all", "target_labels": {"subjects": 4}},
    }
    return make_study({**tree, **changes})


def a_part(name: str, study: Study) -> Part:
    """A part with the scores above, in which the second seed scores 0.02 more; the second run of
    fine-tuning from "b" has failed."""
    rows, records = [], []
    for seed in range(2):
        for recipe in map(parse_recipe, RECIPES):
            for target in study.target:
                row = a_row(recipe, target, seed, 0, f"{title(recipe)}.{target}.{seed}")
                rows.append(row)
                for (source, scored, site), values in SCORES.items():
                    if source != study.source[0] or scored != title(recipe) or site not in (target, source):
                        continue
                    cases = tuple(
                        {"case": f"{site}{n}", "subject": f"{site}{n}", "dice": value + 0.02 * seed}
                        for n, value in enumerate(values)
                    )
                    records.append(Record(row.unit, {}, seed, "end", 0, site, "test", target=target, cases=cases))
                if study.source == ("b",) and title(recipe) == "finetune":
                    records.append(
                        Record(row.unit, {}, seed, "failed", 0, target, "test", status="failed", error="broke")
                    )
    plan = Plan(tuple(rows), 2, study.made_task, study.statistics)
    table = lines(plan, {record.name: record for record in records}, "last")
    verdict = {target: CHOSEN[study.source[0], target] for target in study.target}
    marked = [
        replace(
            line, verdict=("keep" if line.title == "supervised" else "change") * (verdict[line.target] == line.title)
        )
        for line in table
    ]
    said = {target: Verdict("change", "", row, sentence=f"Take {row}: it is best.") for target, row in verdict.items()}
    return Part(name, f"parts/{name}/report.html", study, plan, Standing(tuple(marked), said, 6, 6))


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    return [a_part(name, study) for name, study in parts_of(a_study()).items()]


def text_of(rows: Sequence[tuple[bool, Sequence[Any]]]) -> list[list[tuple[str, str]]]:
    return [[(cell.text, cell.small) for cell in cells] for _, cells in rows]


def test_a_pair_has_its_own_reference_and_the_row_that_its_verdict_names(parts: list[Part]) -> None:
    table = overview._pairs(parts[0].plan, parts)
    # over the two subjects that both have, +.06 and +.08
    assert text_of(table.rows) == [
        [("a → b", ""), ("3", ""), ("0.460", "± 0.014"), ("0.590", "± 0.014\nadabn"), ("+0.070", "−0.057 to +0.197")],
        [
            ("a → c", ""),
            ("4", ""),
            ("0.680", "± 0.014"),
            ("0.875", "± 0.014\nfinetune"),
            ("+0.195", "+0.179 to +0.211"),
        ],
        [("b → c", ""), ("4", ""), ("0.360", "± 0.014"), ("0.360", "± 0.014\nkeep your model"), ("–", "no adaptation")],
    ]
    assert [[cell.value for cell in cells[:2]] for _, cells in table.rows] == [[0, 3], [1, 4], [2, 4]]


def test_a_recipe_has_means_over_pairs_and_the_pair_where_it_is_worst(parts: list[Part]) -> None:
    table = recipes_over(parts)
    assert text_of(table.rows) == [
        [("supervised", ""), ("0.500", "± 0.014"), ("–", ""), ("–", ""), ("0.360", "b → c"), ("6 of 6", "")],
        # +.07, -.0375 and 0
        [("adabn", ""), ("0.531", "± 0.014"), ("+0.011", ""), ("1 of 3", ""), ("0.360", "b → c"), ("6 of 6", "")],
        [("finetune", ""), ("2 of 3 pairs", ""), ("–", ""), ("2 of 2", ""), ("0.465", "a → b"), ("4 of 6", "")],
    ]
    assert [cells[5].kind for _, cells in table.rows] == ["number", "number", "warn"]


def test_a_pair_without_the_reference_leaves_no_mean_gain(parts: list[Part]) -> None:
    last = parts[1]
    bare = tuple(line for line in last.lines if line.title != "supervised")
    rows = text_of(recipes_over([parts[0], replace(last, standing=replace(last.standing, lines=bare))]).rows)
    assert [text for text, _ in rows[1]][1:4] == ["0.531", "–", "1 of 2"]


def test_the_reference_that_tables_name_is_not_that_of_the_verdict(parts: list[Part]) -> None:
    named = [replace(part, plan=replace(part.plan, reference="adabn")) for part in parts]
    assert overview._pairs(named[0].plan, named) == overview._pairs(parts[0].plan, parts)


def test_maps_have_sources_as_rows_and_home_on_the_diagonal(parts: list[Part]) -> None:
    bare, chosen = overview._maps(parts)
    cells = r"<title>(\w / \w: [\d.]+)</title>"
    assert re.findall(cells, bare.picture) == ["a / b: 0.46", "a / c: 0.68", "b / b: 0.86", "b / c: 0.36"]
    assert re.findall(cells, chosen.picture) == ["a / b: 0.59", "a / c: 0.875", "b / c: 0.36"]
    assert bare.legend == chosen.legend  # one scale


def test_a_part_is_named_where_it_is_more_than_a_pair_and_a_source_counts_at_home(parts: list[Part]) -> None:
    first = parts[0]
    assert first.label("b") == "a → b"
    assert replace(first, name="wide").label("b") == "wide: a → b"
    assert replace(first, name="to b").label("b") == "a → b"
    within = replace(first, study=replace(first.study, source=("b",), target_labels="none"))
    assert within.label("b") == "from a: within b"
    nowhere = replace(first, name="", study=replace(first.study, source=(), start="theirs.pt"))
    assert nowhere.label("b") == ": source-free → b"
    assert replace(first, study=replace(first.study, source=("a", "d"))).start == "a + d"
    assert [first.level(site) for site in "abc"] == pytest.approx([0.92, 0.46, 0.68])


def written(path: Path, study: Study, parts: Sequence[Part], **more: Any) -> str:
    given: dict[str, Any] = {"total": len(parts), "severity": None, "missing": {}, **more}
    write_overview(path / "report.html", study, parts, **given)
    return (path / "report.html").read_text(encoding="utf-8")


def test_the_page_has_what_it_was_given(parts: list[Part], tmp_path: Path) -> None:
    study = a_study()
    severity = Sheet("by severity", ("shift", "gain"), (("severe", "0.123"),))
    missing = {"from d": "no weights"}
    page = written(tmp_path, study, parts, total=3, severity=severity, missing=missing, frozen="frozen on Monday")
    said = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.partition("<h3>Verdicts</h3>")[2])
    assert said == [
        ("a → b", "Take adabn: it is best."),
        ("a → c", "Take finetune: it is best."),
        ("b → c", "Take supervised: it is best."),
        ("from d", "missing: no weights"),
    ]
    assert "2 of 3 parts" in page
    assert "frozen on Monday" in page
    assert "<caption>by severity</caption>" in page
    assert "<dd>3: each source to each target</dd>" in page
    assert "4 subjects" in page
    assert "from each of a and b to each of b and c?" in page
    assert "3, 2 seeds each" in page
    assert page.count("<svg") == 2
    assert re.findall(r'href="(parts[^"]*)">([^<]*)', page) == [
        ("parts/from a/report.html", "from a"),
        ("parts/from b/report.html", "from b"),
    ]


def test_maps_are_of_parts_that_differ_in_their_sites_alone(parts: list[Part], tmp_path: Path) -> None:
    settings: Mapping[str, Any] = {"each": {"one": {"seeds": 1}, "two": {"seeds": 2}}}
    assert "<svg" not in written(tmp_path, a_study(**settings), parts)
    assert "<svg" not in written(tmp_path, a_study(target_labels={"subjects": [1, 4]}), parts)
    page = written(tmp_path, a_study(pairs="leave-one-site-out"), parts)
    assert "<svg" not in page
    assert "best to each of b and c, from all other sites?" in page
    assert "each target from all other sites" in page
    page = written(tmp_path, a_study(pairs="listed", target_labels="none", **settings), parts)
    assert "best to b and c, in each setting?" in page
    assert "3: each setting" in page


def test_an_unfinished_part_has_no_verdict_yet(parts: list[Part], tmp_path: Path) -> None:
    waiting = replace(parts[0], standing=replace(parts[0].standing, verdicts={}, done=5))
    page = written(tmp_path, a_study(), [waiting, parts[1]])
    assert page.count("5 of 6 units") == 2
    assert "b → c</dt><dd>Take supervised" in page
