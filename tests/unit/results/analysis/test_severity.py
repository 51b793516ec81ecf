"""Severity of shifts, on records that are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from allograft.errors import SpecError
from allograft.report.sections import _severity
from allograft.results.analysis.severity import by_severity, pair_scores, ranked_shifts, severity_sheet, severity_table
from allograft.results.record import Record

HOME = {"a": 0.9, "b": 0.8}
AWAY = {
    ("a", "b"): 0.5,
    ("a", "c"): 0.85,
    ("a", "d"): 0.3,
    ("b", "a"): 0.7,
    ("b", "c"): 0.79,
    ("b", "d"): 0.6,
}  # drops .4 .05 .6 .1 .01 .2


def _record(source: str, site: str, dice: float | None, recipe: str = "supervised", **more: Any) -> Record:
    told: dict[str, Any] = {
        "seed": 0,
        "stage": "end",
        "ordinal": 0,
        "part": "test",
        "unit": f"{recipe}-{source}-{more.get('seed', 0)}",
        **more,
    }
    return Record(
        recipe={"name": recipe.split()[0], "title": recipe},
        site=site,
        source=tuple(source),
        metrics={"dice": dice},
        **told,
    )


def _nothing() -> list[Record]:
    away = [_record(source, site, score) for (source, site), score in AWAY.items()]
    return [*away, *(_record(site, site, score) for site, score in HOME.items())]


def test_pairs_are_ranked_by_what_do_nothing_loses() -> None:
    shifts = ranked_shifts(_nothing(), "dice")
    assert [shift.pair for shift in shifts] == [
        (("a",), "d"),
        (("a",), "b"),
        (("b",), "d"),
        (("b",), "a"),
        (("a",), "c"),
        (("b",), "c"),
    ]
    assert [round(shift.drop, 6) for shift in shifts] == [0.6, 0.4, 0.2, 0.1, 0.05, 0.01]
    assert (shifts[0].own, shifts[0].transferred) == (0.9, 0.3)


def test_a_target_whose_name_holds_a_plus_is_a_pair() -> None:
    records = [
        _record("a", "a", 0.9),
        _record("a", "b (er ER+)", 0.5, target="b (er ER+)"),
        _record("a", "c", 0.4, target="b+c"),
    ]
    assert set(pair_scores(records, "dice")["supervised"]) == {(("a",), "a"), (("a",), "b (er ER+)"), (("a",), "c")}


def test_a_gain_is_a_negative_drop_and_equal_drops_go_by_name() -> None:
    records = [
        _record("a", "a", 0.5),
        *(_record("a", site, score) for site, score in (("z", 0.4), ("c", 0.4), ("d", 0.6))),
    ]
    assert [(shift.target, round(shift.drop, 6)) for shift in ranked_shifts(records, "dice")] == [
        ("c", 0.1),
        ("z", 0.1),
        ("d", -0.1),
    ]


def test_seeds_and_folds_are_averaged_and_the_last_stage_counts() -> None:
    records = [
        _record("a", "a", 0.9),
        _record("a", "a", 0.7, seed=1),
        _record("a", "b", 0.1, ordinal=0, stage="start"),
        _record("a", "b", 0.5, ordinal=1),
        _record("a", "b", 0.7, ordinal=1, fold=1),
        _record("a", "b", 0.3, seed=1),
        _record("a", "b", 0.0, part="val"),
        _record("a", "b", 0.0, unit="gone", status="failed"),
        _record("a", "b", None, unit="undefined"),
    ]
    (shift,) = ranked_shifts(records, "dice")
    assert (round(shift.own, 6), round(shift.transferred, 6)) == (0.8, 0.5)


def test_several_sources_are_one_side() -> None:
    records = [_record("ab", "a", 0.9), _record("ab", "b", 0.7), _record("ab", "c", 0.6), _record("e", "c", 0.1)]
    (shift,) = ranked_shifts(records, "dice")  # of "e" nothing is known at home
    assert (shift.source, shift.target, round(shift.drop, 6)) == (("a", "b"), "c", 0.2)


def test_a_cluster_has_as_many_pairs_as_are_asked_for() -> None:
    severe = [severity_table(_nothing(), "dice", count)["severe"]["supervised"] for count in (1, 2)]
    assert severe == pytest.approx([0.3, 0.4])


def test_clusters_are_top_middle_and_bottom() -> None:
    shifts = ranked_shifts(_nothing(), "dice")
    clusters = by_severity(shifts)
    assert {name: [shift.pair for shift in part] for name, part in clusters.items()} == {
        "severe": [(("a",), "d"), (("a",), "b")],
        "medium": [(("b",), "d"), (("b",), "a")],
        "subtle": [(("a",), "c"), (("b",), "c")],
    }
    assert [len(part) for part in by_severity(shifts, 1).values()] == [1, 1, 1]
    assert by_severity(shifts[:5], 1)["medium"][0] == shifts[2]
    for count in (0, 3):
        with pytest.raises(SpecError, match=f"6 pairs for three clusters of {count}"):
            by_severity(shifts, count)


def test_the_table_shows_each_recipe_apart_by_severity() -> None:
    gained = [_record(source, site, score + 0.1, "fourier", target=None) for (source, site), score in AWAY.items()]
    tuned = [
        _record(source, site, 0.8, "finetune", target=site, unit=f"t{source}{site}") for source, site in list(AWAY)[:3]
    ]
    # tuned for b, judged at d
    elsewhere = [_record("a", "d", 0.0, "finetune", target="b", unit="tab")]
    table = severity_table([*_nothing(), *gained, *tuned, *elsewhere], "dice")
    assert table["severe"] == pytest.approx({"supervised": 0.4, "fourier": 0.5, "finetune": 0.8})
    assert table["medium"] == pytest.approx({"supervised": 0.65, "fourier": 0.75})
    assert table["subtle"] == pytest.approx({"supervised": 0.82, "fourier": 0.92})


def test_the_sheet_names_the_pairs_of_each_cluster() -> None:
    sheet = severity_sheet([*_nothing(), _record("a", "d", 0.75, "finetune", target="d", unit="tad")], "dice")
    assert sheet is not None
    assert sheet.columns == ("recipe", "severe", "medium", "subtle")
    # finetune lacks a pair of every cluster
    assert sheet.rows == (("supervised", "0.400", "0.650", "0.820"),)
    assert sheet.notes[0].startswith("severe: a to d (no adaptation loses ")
    assert severity_sheet(_nothing()[:3], "dice") is None


def test_what_lacks_a_side_is_told() -> None:
    with pytest.raises(SpecError, match="no record of 'supervised' has a 'iou'"):
        ranked_shifts(_nothing(), "iou")
    with pytest.raises(SpecError, match="no record"):
        ranked_shifts([record for record in _nothing() if record.site not in record.source], "dice")
    assert pair_scores([], "dice") == {}


def test_runs_of_other_label_budgets_in_the_folder_do_not_count() -> None:
    """They stand under the same title."""
    records = [*_nothing(), *(_record(source, site, 0.0, unit="with one label") for source, site in AWAY)]
    plan: Any = SimpleNamespace(units=("supervised-a-0", "supervised-b-0"), headline="dice")
    (extra,) = _severity(plan, {str(number): record for number, record in enumerate(records)})
    assert extra.sheets[0].rows == (("supervised", "0.400", "0.650", "0.820"),)
