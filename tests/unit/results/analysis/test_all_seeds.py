"""Analyses over seeds, folds, stages and rows that are all unlike: none stands for the others."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.results.analysis.test_forgetting import PLAN, a_folder, run_of
from tests.unit.results.analysis.test_pretexts import pretrained
from tests.unit.results.analysis.test_robustness import a_cloud
from tests.unit.results.analysis.test_stream import PHASES, records
from tests.unit.results.analysis.test_uncertainty import KNOWS
from tests.unit.results.analysis.test_uncertainty import a_line as an_unsure_line
from tests.unit.results.analysis.test_uncertainty import case as unsure
from tests.unit.tiny import VESSEL, a_row

from allograft.recipe import parse_recipe
from allograft.results.analysis import correction, selection
from allograft.results.analysis.correction import KEPT
from allograft.results.analysis.pretexts import pretext_sheet
from allograft.results.analysis.robustness import best_k, neighbours
from allograft.results.analysis.selection import _distance
from allograft.results.analysis.stages import stage_sheet
from allograft.results.analysis.stream import (
    End,
    against_sheet,
    matrix_figure,
    score_matrix,
    stream_results,
    stream_sheet,
)
from allograft.results.analysis.uncertainty import uncertainty
from allograft.results.statistics import adjust, wilcoxon
from allograft.results.table import p_value
from allograft.study.plan import Plan


def told(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


def test_costs_of_a_pretext_are_means_over_all_of_its_runs() -> None:
    costs = [
        {"train_seconds": 30.0, "peak_memory_mb": 100.0, "trainable_parameters": 10},
        {"train_seconds": 90.0, "peak_memory_mb": 300.0, "trainable_parameters": 30},
    ]
    runs = [replace(pretrained(number), cost=cost) for number, cost in enumerate(costs)]
    sheet = pretext_sheet(PLAN, runs)
    assert sheet is not None
    # 60 steps in epochs of 10
    cells = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert (cells["s per epoch"], cells["peak memory (MB)"], cells["parameters"]) == ("10.0", "200", "20")


def test_epochs_that_kept_their_boxes_are_the_most_of_any_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "_cases", lambda *_: [])
    folds = [(1, 5, 2), (0, 0, 3)]
    runs = [
        SimpleNamespace(tests={"t": tuple(SimpleNamespace(facts={KEPT: count}) for count in each)}) for each in folds
    ]
    line: Any = SimpleNamespace(title="x", target="t", best_run=None, runs=runs)
    assert correction._correction(line, {}, {}).kept_epochs == [5, 3]


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_neighbours_against_a_loop(seed: int) -> None:
    """A tie of two classes goes to that of the nearest."""
    found = a_cloud(0.3, 0.4, seed=seed, subjects=12, images=1)
    order, labels = neighbours(found.rows, found.subjects), found.labels
    most = min(labels.count(0), labels.count(1)) - 1
    scores = []
    for k in range(1, most + 1):
        right: dict[int, list[bool]] = {0: [], 1: []}
        for row, own in zip(order, labels, strict=True):
            votes = [labels[at] for at in row[:k]]
            first = votes.count(0), votes.count(1)
            named = votes[0] if first[0] == first[1] else int(first[1] > first[0])
            right[own].append(named == own)
        scores.append(fmean([fmean(right[0]), fmean(right[1])]))
    assert best_k(found.rows, found.labels, found.subjects) == 1 + int(np.argmax(np.round(scores, 12)))


# ---------------------------------------------------------- streams
def a_stream_plan(*titles: str, seeds: int = 1, **more: Any) -> Plan:
    rows = [
        a_row(parse_recipe(title), "stream", seed, 0, f"{title}.{seed}") for title in titles for seed in range(seeds)
    ]
    return Plan(tuple(rows), seeds, VESSEL, **more)


def test_a_stream_is_summed_up_over_all_seeds_by_the_last_stage_of_each() -> None:
    plan = a_stream_plan("sequential", seeds=2)
    made = []
    for seed in range(2):
        for record in records(f"sequential.{seed}", 0.1 * seed):
            cost = {
                "train_seconds": 10.0 * (record.ordinal + 1) + seed,
                "peak_memory_mb": 500.0 - record.ordinal - 20 * seed,
            }
            facts = {"models": record.ordinal + 1 + 4 * seed, "kept": f"stage {record.ordinal}"}
            made.append(replace(record, seed=seed, cost=cost, facts=facts))
    (found,) = stream_results(plan, made, PHASES)
    assert (found.seconds, found.memory) == ((30.0, 31.0), (498.0, 478.0))
    assert [facts["models"] for facts in found.facts] == [3, 7]
    assert found.said == ("kept: stage 2",)
    sheet = stream_sheet(plan, [found])
    cells = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert (cells["seconds"], cells["peak MB"], cells["models"]) == (
        told([30.0, 31.0]),
        told([498.0, 478.0]),
        told([3.0, 7.0]),
    )
    ends = [np.mean([0.5, 0.6, 0.9]) + 0.1 * seed for seed in range(2)]
    assert cells["dice at the end"] == told(ends)
    figure = matrix_figure(found, PHASES)
    whole = score_matrix(VESSEL, records(), PHASES)
    assert whole is not None
    for row, expected in zip(figure.values, whole, strict=True):
        assert row == pytest.approx([(value or 0.0) + 0.05 for value in expected])


def test_a_row_named_beforehand_is_tested_against_each_other_and_adjusted_over_them() -> None:
    rng = np.random.default_rng(0)

    def end(title: str, shift: float, noise: float) -> End:
        cases = [{"case": f"c{k}", "subject": f"s{k}", "dice": 0.5 + shift + noise * rng.normal()} for k in range(10)]
        return End(title, (), {0: cases})

    ends = [end("odex", 0.1, 0.0), end("sequential", 0.05, 0.06), end("joint_stream", 0.0, 0.05)]
    sheet = against_sheet(a_stream_plan("odex", "sequential", "joint_stream", primary="odex"), ends)
    assert sheet is not None
    gains = [
        [ours["dice"] - theirs["dice"] for ours, theirs in zip(ends[0].cases[0], other.cases[0], strict=True)]
        for other in ends[1:]
    ]
    p = [wilcoxon(gain, "greater") or 0.0 for gain in gains]
    assert p[0] != wilcoxon(gains[0])
    assert adjust(p) != p
    assert sheet.rows == tuple(
        (title, "10", f"{fmean(gain):+.3f}", p_value(value), p_value(adjusted))
        for title, gain, value, adjusted in zip(("sequential", "joint_stream"), gains, p, adjust(p), strict=True)
    )


# ---------------------------------------------------------- stages, choices and certainty
def test_folds_of_a_stage_are_averaged_before_seeds_are() -> None:
    second = [record for seed in range(2) for record in run_of("finetune", 2, seed, 0.5, 0.6 + 0.1 * seed)]
    first = [replace(record, stage="before", ordinal=0) for record in second]
    folded = [
        replace(record, fold=1, metrics={"dice": 0.9}) for record in second if (record.site, record.seed) == ("b", 0)
    ]
    sheet = stage_sheet(
        PLAN, [*first, *second, *folded, *(r for r in a_folder() if r.recipe["title"] != "finetune")], "b", ("b",)
    )
    assert sheet is not None
    assert sheet.rows[1] == ("finetune", "end", told([0.75, 0.7]))


def test_a_choice_names_the_stages_of_all_seeds() -> None:
    runs = [
        SimpleNamespace(stage=stage, error=error)
        for stage, error in (("one", ""), ("two", ""), ("one", ""), ("gone", "broke"))
    ]
    line: Any = SimpleNamespace(title="x", runs=runs, score=lambda target: 0.5)
    found = _distance(line, "b", 0.75)
    assert found is not None
    assert (found.stages, found.behind) == (("one", "two"), 0.25)
    assert selection._cells(found) == ("x", "one, two", "0.500", "0.250")


def test_certainty_is_of_the_cases_of_all_seeds() -> None:
    other = [unsure(False, 0.9, 0.05), unsure(False, 0.9, 0.06), *(unsure(True, 0.9, 0.9) for _ in range(4))]
    found = uncertainty([an_unsure_line("diffmic", KNOWS, other)], "b")
    assert found is not None
    sheet, figure = found
    # the surer half: of the first seed two right of two, of the second one of three
    assert sheet.rows[0][4] == told([1.0, 1 / 3])
    assert sheet.rows[0][3] == told([0.75, 4 / 6])
    # 0.9 sure: two right of the first seed, four of six of the second
    assert figure.y["diffmic"][8] == 6 / 8
