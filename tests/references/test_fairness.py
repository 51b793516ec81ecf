"""The fairness audit's rates by group against torchmetrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.results.analysis.test_fairness import SOURCE, TASK, a_line, a_plan, audit_of, records_of
from torchmetrics.classification import BinaryFairness, BinaryGroupStatRates
from torchmetrics.functional.classification import binary_recall

from allograft.results.analysis.operating_points import operating_points

SEEDS = 2
TONES = ("dark", "light")  # olive has too few subjects to be scored


def tensors(cases: Iterable[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probability of the finding, truth and tone of each case, all (N,)."""
    kept = [
        (case["probabilities"][1], case["label"], TONES.index(tone))
        for case in cases
        if (tone := tone_of(case)) in TONES
    ]
    scores, labels, groups = zip(*kept, strict=True)
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(labels), torch.tensor(groups)


def tone_of(case: Mapping[str, Any]) -> str:
    """``b-light3L.png`` -> light."""
    return re.sub(r".-([a-z]+)\d+[LR]\.png", r"\1", str(case["case"]))


def do_nothing(part: str, site: str) -> dict[int, tuple[Mapping[str, Any], ...]]:
    """Seed -> the cases of supervised."""
    found = records_of(a_plan(seeds=SEEDS)).values()
    return {
        one.seed: one.cases
        for one in found
        if one.unit.startswith("supervised") and (one.part, one.site) == (part, site)
    }


def just_below(threshold: float) -> float:
    """Theirs calls what is above the threshold, ours what is at it too."""
    return float(np.nextafter(threshold, 0))


def test_sensitivity_specificity_and_gap_at_the_fixed_operating_point() -> None:
    points = operating_points(TASK, a_line(a_plan(seeds=SEEDS))).of
    theirs: dict[str, list[list[float]]] = {"sensitivity": [], "specificity": []}
    for seed, cases in do_nothing("test", "b").items():
        rates = BinaryGroupStatRates(num_groups=len(TONES), threshold=just_below(points[seed]))(*tensors(cases))
        # tp, fp, tn, fn
        shares = [rates[f"group_{number}"].tolist() for number in range(len(TONES))]
        theirs["sensitivity"].append([tp / (tp + fn) for tp, _, _, fn in shares])
        theirs["specificity"].append([tn / (tn + fp) for _, fp, tn, _ in shares])
    audit = audit_of(a_plan(seeds=SEEDS), "tone")
    ours = {group.name: group.scores for group in audit.groups}
    for metric, by_seed in theirs.items():
        expected = [fmean(of_group) for of_group in zip(*by_seed, strict=True)]
        assert len(set(expected)) == len(TONES)  # or no gap could be wrong
        assert [ours[tone][metric] for tone in TONES] == pytest.approx(expected, abs=1e-6)
        assert audit.gap(metric) == pytest.approx(max(expected) - min(expected), abs=1e-6)


def test_the_ratio_of_sensitivities_is_their_equal_opportunity() -> None:
    point = operating_points(TASK, a_line(a_plan(seeds=1))).of[0]
    fairness = BinaryFairness(num_groups=len(TONES), task="equal_opportunity", threshold=just_below(point))
    ((name, expected),) = fairness(*tensors(do_nothing("test", "b")[0])).items()
    groups = {group.name: group.scores for group in audit_of(a_plan(seeds=1), "tone").groups}
    ours = [groups[tone]["sensitivity"] or 0.0 for tone in TONES]
    assert name == f"EO_{ours.index(min(ours))}_{ours.index(max(ours))}"
    assert min(ours) / max(ours) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_operating_point_is_the_highest_that_finds_nine_in_ten_at_the_source(seed: int) -> None:
    point = operating_points(TASK, a_line(a_plan(seeds=SEEDS))).of[seed]
    scores, labels, _ = tensors(do_nothing("val", "a")[seed])
    assert len(scores) == len(SOURCE)
    assert binary_recall(scores, labels, just_below(point)) >= 0.9
    assert binary_recall(scores, labels, point) < 0.9
