"""How many labels: curves over the budgets of a study, from records made by hand, and what the page
says of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe, title
from allograft.report import facts
from allograft.report.how_many_labels import expected, label_section, label_sections, signed
from allograft.report.overview import Part
from allograft.results.analysis.label_curve import FILE, LabelCurve, label_curves, write_label_curve
from allograft.results.power_law import Fit, Power
from allograft.results.record import Record
from allograft.results.select import lines
from allograft.results.standing import Standing
from allograft.study.parts import parts_of
from allograft.study.plan import Plan
from allograft.study.reading import make_study
from allograft.study.spec import Study

RECIPES: tuple[Any, ...] = ("supervised", "adabn", "finetune", {"target_supervised": {"labels": "all"}})
BOUND = "target_supervised labels=all"
SUBJECTS = 8


def a_study(amounts: Sequence[float], unit: str = "subjects", seeds: int = 2, **changes: Any) -> Study:
    tree = {
        **{"cohort": "m.csv", "task": {"segmentation": {"classes": ["vessel"]}}, "source": ["a"], "target": ["b"]},
        **{"recipes": RECIPES, "baselines": False, "seeds": seeds, "target_labels": {unit: list(amounts)}},
    }
    return make_study({**tree, **changes})


def rising(amount: float) -> float:
    return 0.8 - 0.3 * amount**-0.7


def a_part(
    name: str, study: Study, score: Mapping[str, float], labelled: Mapping[int, Sequence[str]] | None = None
) -> Part:
    """A part whose test subjects differ by 0.01 each and whose seeds by 0.02; a row without a score
    has not run. Rows that use no label of the budget are units that all parts share."""
    rows, records = [], []
    for recipe in map(parse_recipe, RECIPES):
        for seed in range(study.seeds):
            uses = title(recipe) == "finetune"
            unit = f"{title(recipe)}.{seed}" + (f".{name}" if uses else "")
            rows.append(a_row(recipe, "b", seed, 0, unit))
            if title(recipe) not in score:
                continue
            cases = tuple(
                {
                    "case": f"c{n}",
                    "subject": f"p{n}",
                    "dice": score[title(recipe)] + 0.01 * (n - 3.5) + 0.02 * (seed - 0.5),
                }
                for n in range(SUBJECTS)
            )
            shown = tuple((labelled or {}).get(seed, ())) if uses else ()
            records.append(
                Record(unit, {"name": "x"}, seed, "end", 0, "b", "test", cases=cases, labelled_subjects=shown)
            )
    plan = Plan(tuple(rows), study.seeds, study.made_task)
    table = lines(plan, {record.name: record for record in records}, "last")
    return Part(name, f"parts/{name}/report.html", study, plan, Standing(tuple(table)))


def parts(amounts: Sequence[float], *, nested: bool = True, unit: str = "subjects", seeds: int = 2) -> list[Part]:
    made = []
    for name, study in parts_of(a_study(amounts, unit, seeds)).items():
        amount = study.target_labels.amounts[0]  # type: ignore[union-attr]
        score = {"supervised": 0.4, "adabn": 0.55, "finetune": rising(amount), BOUND: 0.82}
        shown = {seed: [f"t{seed}.{n}" for n in range(int(amount))] for seed in range(seeds)}
        if not nested and amount == amounts[-1]:
            shown[1] = [f"t1.{n + 1}" for n in range(int(amount))]
        made.append(a_part(name, study, score, shown))
    return made


def only(found: Sequence[LabelCurve]) -> LabelCurve:
    (curve,) = found
    return curve


def test_each_recipe_has_a_point_at_each_budget_and_only_one_that_uses_the_budget_a_fit() -> None:
    found = only(label_curves(parts([1, 2, 4, 8, 16])))
    assert (found.part, found.target, found.unit, found.metric) == ("", "b", "subjects", "dice")
    assert found.amounts == (1, 2, 4, 8, 16)
    assert found.nothing == pytest.approx(0.4)
    curves = {curve.title: curve for curve in found.curves}
    assert [point.score for point in curves["finetune"].points] == pytest.approx([rising(n) for n in found.amounts])
    assert [one for one, curve in curves.items() if curve.fit] == ["finetune"]
    assert [one for one, curve in curves.items() if curve.bound] == [BOUND]
    fit = curves["finetune"].fit
    assert fit is not None
    assert fit.gain == pytest.approx(rising(20) - rising(16), abs=1e-6)
    assert (fit.curve.ceiling, fit.curve.rate) == pytest.approx((0.8, 0.7), abs=1e-4)
    point = curves["finetune"].points[2]
    assert point.low is not None
    assert point.low < point.score < (point.high or 0)
    assert point.gain is not None
    assert point.gain.difference == pytest.approx(rising(4) - 0.4)


def test_the_best_row_at_a_budget_is_never_an_upper_bound() -> None:
    found = only(label_curves(parts([1, 2, 4])))
    best = {amount: found.best(amount) for amount in found.amounts}
    # 0.5, 0.615 and 0.686 of fine-tuning against 0.55 without labels
    assert [one[0].title for one in best.values() if one] == ["adabn", "finetune", "finetune"]


def test_fewer_than_five_budgets_have_no_fit_and_the_page_says_how_many_are_needed() -> None:
    found = only(label_curves(parts([1, 2, 4])))
    assert all(curve.fit is None for curve in found.curves)
    said = " ".join(label_section(found).answers)
    assert "needs 5 budgets; this study has 3 so far: add 2 to target_labels" in said
    assert "At 4 subjects finetune has the highest dice: 0.686." in said


def test_what_the_next_four_bring_is_said_with_its_interval() -> None:
    made = label_section(only(label_curves(parts([1, 2, 4, 8, 16]))))
    # seeds and subjects differ by a constant, which no gain depends on
    assert "finetune, 4 more subjects: +0.006 (0.006 to 0.006)." in made.answers
    assert [sheet.title for sheet in made.sheets] == [
        "The best row at each budget",
        "What more labels are expected to bring",
    ]
    (row,) = made.sheets[1].rows
    assert row[:3] == ("finetune", "+0.006", "+0.006 to +0.006")
    assert (row[3][:7], row[4]) == ("0.800 (", "0.70")
    assert any("like those labelled so far" in note for note in made.notes)


def test_a_curve_that_is_not_identifiable_has_no_number_but_a_reason() -> None:
    fit = Fit(Power(0.8, 0.1, 0.05), 4, 0.01, -0.002, 0.03, "subjects", None, "no ceiling is in sight")
    assert expected(fit, "subjects") == (
        "4 more subjects: between −0.002 and 0.030; the curve is not identifiable, because no ceiling is in sight"
    )
    assert (
        expected(Fit(Power(0.8, 0.1, 1.0), 1, 0.0123, 0.002, 0.021), "cases") == "1 more case: +0.012 (0.002 to 0.021)"
    )
    assert [signed(value) for value in (0.0004, -0.0004, -0.002)] == ["0.000", "0.000", "−0.002"]


def test_budgets_are_checked_to_be_nested_and_shared_units_are_counted() -> None:
    found = only(label_curves(parts([1, 2, 4])))
    # 4 rows of 2 seeds at 3 budgets; the two of fine-tuning are three times trained
    assert (found.units, found.distinct, found.nested) == (24, 12, "")
    notes = label_section(found).notes
    assert any("Budgets are nested" in note for note in notes)
    assert any("24 units at 3 budgets, 12 of them distinct, so 12 were not trained again" in note for note in notes)
    other = only(label_curves(parts([1, 2, 4], nested=False)))
    assert other.nested == "seed 1: 1 of the subjects labelled at 2 are not among those at 4"
    assert any("not nested" in note for note in label_section(other).notes)


def test_settings_and_pairs_have_a_curve_each_and_a_budget_alone_none() -> None:
    study = a_study(
        [1, 2], each={"wide": {"seeds": 2}, "long": {"clip": 1.0}, "one": {"target_labels": {"subjects": 4}}}
    )
    scores = {"supervised": 0.4, "finetune": 0.6}
    made = [a_part(name, one, scores) for name, one in parts_of(study).items()]
    assert [part.name for part in made][-1] == "one"
    assert [curve.part for curve in label_curves(made)] == ["wide", "long"]
    assert label_curves(made[:1]) == []
    assert label_sections(made[-1:]) == []


def test_fractions_are_drawn_by_the_subjects_that_they_come_to() -> None:
    study = a_study([0.25, 0.5], "fraction")
    scores = {"supervised": 0.4, "finetune": 0.6}
    made = [
        a_part(name, one, scores, {seed: [f"t{n}" for n in range(count)] for seed in range(2)})
        for (name, one), count in zip(parts_of(study).items(), (2, 4), strict=True)
    ]
    found = only(label_curves(made))
    assert (found.unit, found.amounts) == ("subjects", (2.0, 4.0))


def test_a_seed_that_failed_at_one_budget_is_left_out_of_the_fit_and_an_unrun_row_has_no_point() -> None:
    made = parts([1, 2, 4, 8, 16])
    study = made[-1].study
    made[-1] = a_part(made[-1].name, study, {"supervised": 0.4})
    curves = {curve.title: curve for curve in only(label_curves(made)).curves}
    assert len(curves["finetune"].points) == 4
    assert curves["finetune"].fit is None


def test_the_csv_has_a_row_for_each_point_and_one_for_what_is_expected(tmp_path: Path) -> None:
    curves = label_curves(parts([1, 2, 4, 8, 16]))
    assert write_label_curve(tmp_path, []) is None
    path = write_label_curve(tmp_path, curves)
    assert path == tmp_path / FILE
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 4 * 5 + 1
    assert {row["kind"] for row in rows} == {"measured", "expected"}
    (last,) = [row for row in rows if row["kind"] == "expected"]
    assert (last["recipe"], last["budget"], last["more"]) == ("finetune", "20", "4")
    assert float(last["score"]) == pytest.approx(rising(20), abs=1e-5)
    best = [(row["budget"], row["recipe"]) for row in rows if row["best"] == "1"]
    assert best == [("1", "adabn"), *((n, "finetune") for n in ("2", "4", "8", "16"))]
    assert {row["labelled_subjects"] for row in rows if row["recipe"] == "finetune" and row["budget"] == "8"} == {"8.0"}


def test_the_plot_has_whiskers_level_lines_and_the_curve_that_was_fitted() -> None:
    found = only(label_curves(parts([1, 2, 4, 8, 16])))
    picture, legend = label_section(found).plot, label_section(found).legend
    assert legend[-1] == "Level lines: no adaptation, 0.400; all labels, 0.820."
    assert picture.count('class="whisker') == 2 * 5
    assert picture.count('class="reference"') == 2
    assert "no adaptation, 0.400" in picture
    assert "all labels, 0.820" in picture
    assert "finetune, fitted" in picture
    dots = [tuple(map(float, one)) for one in re.findall(r'class="at c1" cx="([\d.]+)" cy="([\d.]+)"', picture)]
    # each doubling is as far as the last
    steps = np.diff([x for x, _ in dots])
    assert steps == pytest.approx(np.full(4, steps[0]), abs=0.2)
    assert [y for _, y in dots] == sorted((y for _, y in dots), reverse=True)
    assert "p0" not in picture


@pytest.mark.parametrize(
    ("amounts", "marks"), [([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16", "20"]), ([1, 2], ["1", "2"])]
)
def test_every_budget_of_the_plot_has_one_mark(amounts: list[int], marks: list[str]) -> None:
    picture = label_section(only(label_curves(parts(amounts)))).plot
    assert re.findall(r'text-anchor="middle" x="[^"]*" y="[^"]*">([^<]*)<', picture)[: len(marks) + 1] == marks


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"subjects": [1, 2, 4]}, "1, 2 or 4 subjects"),
        ({"subjects": 1}, "1 subject"),
        ({"fraction": [0.25, 0.5]}, "25% or 50% of subjects"),
        ({"cases": 3}, "3 cases"),
        ("all", "all"),
    ],
)
def test_a_budget_in_words(labels: Any, words: str) -> None:
    assert facts.label_budget(a_study([1], target_labels=labels)) == words
