"""Areas under the ROC curve and their errors against published numbers, other packages, and a slow
loop from the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from allograft.results.areas import (
    Area,
    area,
    area_difference,
    area_difference_limits,
    area_difference_p,
    area_limits,
    mean_area,
)
from allograft.results.ranking import area_of
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation

# 43 women with ovarian cancer and a blocked bowel: albumin, total protein, K-G score, and whether
# surgery failed.
# DeLong, DeLong & Clarke-Pearson (1988); as printed in the SAS/STAT User's Guide, "Comparing
# Receiver Operating Characteristic Curves"
WOMEN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
TABLE = np.array(WOMEN.split(), float).reshape(-1, 4)
SCORES = {"albumin": TABLE[:, 0], "protein": TABLE[:, 1], "k-g": -TABLE[:, 2]}
ALONE = [f"{n:02d}" for n in range(43)]
BY_THREE = [f"{n // 3:02d}" for n in range(43)]


def woman(score: str, subjects: list[str] = ALONE) -> Area:
    found = area(SCORES[score], TABLE[:, 3] == 1, subjects)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("score", "value", "error", "variance"),
    [
        # area and error as SAS prints them, variance as pROC 1.18.0 (R) computes it
        ("k-g", 0.7258, 0.1028, 0.0105722832732458),
        ("albumin", 0.7366, 0.0927, 0.00859224179008258),
        ("protein", 0.6478, 0.1000, 0.0100094773611943),
    ],
)
def test_delong_against_the_published_example(score: str, value: float, error: float, variance: float) -> None:
    found = woman(score)
    assert found.value == pytest.approx(value, abs=5e-5)
    assert math.sqrt(found.variance) == pytest.approx(error, abs=6e-5)
    assert found.variance == pytest.approx(variance, rel=1e-12)
    assert found.value == pytest.approx(roc_auc_score(TABLE[:, 3], SCORES[score]))


@pytest.mark.parametrize(
    ("score", "covariance", "p"),
    [
        ("albumin", 0.00503705981073307, 0.910206347201035),
        ("protein", 0.00481929729133163, 0.456139707507474),
    ],  # pROC 1.18.0
)
def test_paired_delong_against_another_package(score: str, covariance: float, p: float) -> None:
    ours, theirs = woman("k-g"), woman(score)
    found = area_difference(ours, theirs)
    assert found.variance == pytest.approx(ours.variance + theirs.variance - 2 * covariance, rel=1e-12)
    assert 2 * stats.norm.sf(abs(found.value) / math.sqrt(found.variance)) == pytest.approx(p, rel=1e-9)
    student = area_difference_p(ours, theirs)
    assert student == pytest.approx(2 * stats.t.sf(abs(found.value) / math.sqrt(found.variance), found.dof))
    assert student > p  # few women count as few
    limits = area_difference_limits(ours, theirs)
    assert limits is not None
    assert limits[0] < 0 < limits[1]
    for level in (0.5, 0.8):
        reach = float(stats.t.ppf((1 + level) / 2, found.dof)) * math.sqrt(found.variance)
        assert area_difference_limits(ours, theirs, level) == pytest.approx((found.value - reach, found.value + reach))


def test_several_images_a_subject_against_obuchowskis_own_program() -> None:
    """The same numbers taken as three images of each of 15 subjects; variances of
    funcs_clusteredROC.R, Cleveland Clinic."""
    ours, theirs = woman("k-g", BY_THREE), woman("albumin", BY_THREE)
    assert ours.counts == (15, 8)
    assert ours.variance == pytest.approx(0.01866071588630009, rel=1e-12)
    assert theirs.variance == pytest.approx(0.01228957427252571, rel=1e-12)
    assert area_difference(ours, theirs).variance == pytest.approx(0.00854430043717338, rel=1e-12)
    assert ours.value == woman("k-g").value


def slow_variance(score: list[float], flags: list[bool], subject: list[str]) -> float:
    """Obuchowski (1997), equations 3 to 6, image by image."""
    positive = [(s, x) for s, x, f in zip(subject, score, flags, strict=True) if f]
    negative = [(s, x) for s, x, f in zip(subject, score, flags, strict=True) if not f]

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    value = sum(psi(x, y) for _, x in positive for _, y in negative) / len(positive) / len(negative)
    every = sorted(set(subject))
    up = {
        one: sum(sum(psi(x, y) for _, y in negative) / len(negative) - value for s, x in positive if s == one)
        for one in every
    }
    down = {
        one: sum(sum(psi(x, y) for _, x in positive) / len(positive) - value for s, y in negative if s == one)
        for one in every
    }
    m, n, i, i10, i01 = (
        len(positive),
        len(negative),
        len(every),
        len({s for s, _ in positive}),
        len({s for s, _ in negative}),
    )
    s10 = i10 / ((i10 - 1) * m) * sum(v**2 for v in up.values())
    s01 = i01 / ((i01 - 1) * n) * sum(v**2 for v in down.values())
    s11 = i / (i - 1) * sum(up[one] * down[one] for one in every)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_slow_loop_with_ties_and_uneven_subjects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    subject = [f"p{n}" for n in rng.integers(12, size=40)]
    flags = rng.random(40) < 0.4
    score = (rng.normal(flags, 1) * 3).round() / 3
    found = area(score, flags, subject)
    assert found is not None
    assert found.variance == pytest.approx(slow_variance(list(score), list(flags), subject), rel=1e-10)
    values = found.per_subject
    assert values.mean() == pytest.approx(found.value)
    assert values.var(ddof=1) / len(values) == pytest.approx(found.variance)


def test_seeds_are_averaged_by_influence() -> None:
    rng = np.random.default_rng(7)
    flags = np.arange(30) % 3 == 0
    names = [f"p{n:02d}" for n in range(30)]
    first, second = (area(rng.normal(flags, 1), flags, names) for _ in range(2))
    assert first is not None
    assert second is not None
    mean = mean_area([first, second])
    covariance = (first.variance + second.variance - area_difference(first, second).variance) / 2
    assert mean.variance == pytest.approx((first.variance + second.variance + 2 * covariance) / 4)
    assert mean.value == pytest.approx((first.value + second.value) / 2)
    same = mean_area([first, first])
    assert same.variance == pytest.approx(first.variance)  # the same seed twice adds nothing


def cases(probabilities: Any, labels: list[Any]) -> list[dict[str, Any]]:
    rows = zip(np.asarray(probabilities), labels, strict=True)
    return [
        {"case": f"{n}", "subject": f"p{n // 2}", "probabilities": list(p), "label": label}
        for n, (p, label) in enumerate(rows)
    ]


def test_the_area_is_the_one_that_the_task_pools() -> None:
    rng = np.random.default_rng(8)
    labels = [int(n) for n in rng.integers(3, size=40)]
    probabilities = rng.dirichlet(np.ones(3), 40)
    three = Classification(("a", "b", "c"))
    judged = cases(probabilities, labels)
    assert area_of(three, judged).value == pytest.approx(three.aggregate(judged)["auroc"])  # type: ignore[union-attr]
    assert area_of(three, judged, "auroc/b").value == pytest.approx(three.aggregate(judged)["auroc/b"])  # type: ignore[union-attr]
    assert area_of(three, judged).value == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))  # type: ignore[union-attr]
    two = Classification(("no", "yes"))
    judged = cases(probabilities[:, :2], [label % 2 for label in labels])
    assert area_of(two, judged).value == pytest.approx(two.aggregate(judged)["auroc"])  # type: ignore[union-attr]
    several = Multilabel(("a", "b", "never"))
    judged = cases(probabilities, [[float(label == 0), float(label > 0), 0.0] for label in labels])
    assert area_of(several, judged).value == pytest.approx(several.aggregate(judged)["auroc"])  # type: ignore[union-attr]
    assert area_of(several, judged, "auroc/never") is None
    both = Multitask(Segmentation(("vessel",)), two)
    some = [
        {**case, "dice": 0.5, "label": None if n < 4 else case["label"]}
        for n, case in enumerate(cases(probabilities[:, :2], labels))
    ]
    some = [{**case, "label": None if case["label"] is None else case["label"] % 2} for case in some]
    assert area_of(both, some).value == pytest.approx(both.aggregate(some)["auroc"])  # type: ignore[union-attr]
    assert area_of(both, some, "dice") is area_of(Segmentation(("vessel",)), some) is None


def test_a_macro_area_counts_what_its_classes_share_once() -> None:
    """Each class against the rest uses the same images: resample the subjects and compare."""
    rng = np.random.default_rng(9)
    labels = [n % 3 for n in range(60)]
    probabilities = rng.dirichlet(np.ones(3), 60) + 0.5 * np.eye(3)[labels]
    task, judged = Classification(("a", "b", "c")), cases(probabilities, labels)
    found = area_of(task, judged)
    assert found is not None
    by_subject = [judged[n : n + 2] for n in range(0, 60, 2)]
    drawn = [area_of(task, [case for k in rng.integers(30, size=30) for case in by_subject[k]]) for _ in range(400)]
    spread = np.std([one.value for one in drawn if one is not None])
    assert math.sqrt(found.variance) == pytest.approx(spread, rel=0.15)


def test_limits_where_every_pair_is_in_order() -> None:
    flags = [False] * 6 + [True] * 4
    names = [f"p{n}" for n in range(10)]
    best, worst = area(range(10), flags, names), area(range(10)[::-1], flags, names)
    assert best is not None
    assert worst is not None
    assert area_limits(best) == (pytest.approx(0.025 ** (1 / 4)), 1.0)
    assert area_limits(worst) == (0.0, pytest.approx(1 - 0.025 ** (1 / 4)))
    assert area_limits(best, 0.5) == (pytest.approx(0.25**0.25), 1.0)
    assert area_difference_limits(best, best) == pytest.approx((0.025**0.25 - 1, 1 - 0.025**0.25))
    assert area_difference_limits(worst, worst, 0.5) == pytest.approx((0.25**0.25 - 1, 1 - 0.25**0.25))
    # three people with one eye of each kind
    eyes = area([1, 2, 3, 4, 5, 6], [False, True] * 3, "aabbcc")
    assert eyes is not None
    both = area([1, 11, 2, 12, 3, 13], [False, True] * 3, "aabbcc")
    assert both is not None
    assert area_limits(both) == (pytest.approx(0.025), 1.0)  # of three people one pair of their own
    lone = area([0.1, 0.9, 0.4, 0.2], [False, True, False, False], "abcd")
    assert lone is not None
    almost = area([0.1, 0.3, 0.4, 0.2], [False, True, False, False], "abcd")
    assert almost is not None
    assert area_limits(almost) is None
    assert area([1, 2], [True, True], "ab") is None
    assert area_difference_p(best, best) == 1.0


@pytest.mark.parametrize("score", [[0.1, 0.4, 0.35, 0.8], [0.1, 0.2, 0.35, 0.8]], ids=["0.75", "1"])
def test_a_single_subject_has_an_area_and_no_interval(score: list[float]) -> None:
    flags = [False, False, True, True]
    one, other = area(score, flags, "aaaa"), area(score[::-1], flags, "aaaa")
    assert one is not None
    assert other is not None
    assert math.isnan(one.variance)
    assert np.isnan(one.per_subject).all()
    assert area_limits(one) is None
    assert area_difference_limits(one, other) is None
    assert area_difference_limits(one, one) is None
    assert area_difference_p(one, other) is None
