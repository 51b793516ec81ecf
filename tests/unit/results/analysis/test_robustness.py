"""The robustness index: a loop in float64, scikit-learn's neighbours, and what must be equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from allograft.results.analysis.robustness import (
    Features,
    best_k,
    chance,
    neighbours,
    robustness_index,
    robustness_sheet,
)
from allograft.results.intervals import Floats


def a_cloud(site: float, label: float, seed: int = 0, subjects: int = 40, images: int = 2) -> Features:
    """Two sites and two classes, balanced; one direction of the features tells the site and one the
    class, each as strongly as asked, and six are noise. Images of a subject are alike."""
    rng = np.random.default_rng(seed)
    number = np.arange(subjects).repeat(images)
    sites, labels = number % 2, number // 2 % 2
    rows = rng.normal(size=(subjects, 8))[number] + 0.1 * rng.normal(size=(len(number), 8))
    rows[:, 0] += site * (2 * sites - 1)
    rows[:, 1] += label * (2 * labels - 1)
    names = tuple("ab"[one] for one in sites)
    return Features(rows, names, tuple(f"p{one}" for one in number), tuple(int(one) for one in labels))


def index(found: Features, k: int) -> float | None:
    return robustness_index(found.rows, found.labels, found.sites, found.subjects, k=k)


def by_loop(found: Features, k: int) -> float:
    """From the definition, one pair at a time."""
    rows, other_site, other_class = found.rows.tolist(), 0, 0
    for i, here in enumerate(rows):
        distances = []
        for j, there in enumerate(rows):
            if found.subjects[i] == found.subjects[j]:
                continue
            inner = math.fsum(x * y for x, y in zip(here, there, strict=True))
            lengths = math.sqrt(math.fsum(x * x for x in here)) * math.sqrt(math.fsum(y * y for y in there))
            distances.append((1 - inner / lengths, j))
        for _, j in sorted(distances)[:k]:
            same_class, same_site = found.labels[i] == found.labels[j], found.sites[i] == found.sites[j]
            other_site += same_class and not same_site
            other_class += same_site and not same_class
    return other_site / (other_site + other_class)


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("strengths", [(1.0, 1.0), (3.0, 0.5)])
def test_the_index_against_a_loop_in_float64(k: int, strengths: tuple[float, float]) -> None:
    found = a_cloud(*strengths)
    assert index(found, k) == by_loop(found, k)


@pytest.mark.parametrize("k", [3, 10])
def test_the_index_against_scikit_learns_neighbours(k: int) -> None:
    """One image per subject, so that nothing is left out but a case itself."""
    found = a_cloud(1.0, 1.5, subjects=60, images=1)
    order = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(found.rows).kneighbors(found.rows)[1][:, 1:]
    assert neighbours(found.rows, found.subjects)[:, :k].tolist() == order.tolist()
    labels, sites = np.array(found.labels), np.array(found.sites)
    alike, near = labels[:, None] == labels[order], sites[:, None] == sites[order]
    expected = (alike & ~near).sum() / ((alike & ~near).sum() + (~alike & near).sum())
    assert index(found, k) == pytest.approx(expected)


def test_features_of_the_class_have_1_of_the_site_0_and_of_nothing_chance() -> None:
    assert index(a_cloud(0.0, 50.0), 5) == 1.0
    assert index(a_cloud(50.0, 0.0), 5) == 0.0
    nothing = a_cloud(0.0, 0.0, subjects=200, images=1)
    level = chance(nothing.labels, nothing.sites, nothing.subjects)
    assert level == pytest.approx(0.5)
    assert index(nothing, 11) == pytest.approx(level, abs=0.04)


def test_the_more_of_the_site_the_lower_and_swapped_with_the_class_the_rest_of_one() -> None:
    values = [index(a_cloud(site, 1.5), 9) for site in (0.0, 0.8, 1.6, 3.0)]
    assert values == sorted(values, key=lambda value: -(value or 0))
    found = a_cloud(1.0, 2.0)
    swapped = robustness_index(found.rows, found.sites, [str(one) for one in found.labels], found.subjects, k=9)
    assert swapped == pytest.approx(1 - (index(found, 9) or 0))


def test_turning_and_scaling_the_features_changes_nothing() -> None:
    found = a_cloud(1.0, 1.0)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
    rows: Floats = 7.5 * found.rows @ turn
    assert robustness_index(rows, found.labels, found.sites, found.subjects, k=7) == index(found, 7)


def test_a_subjects_own_images_are_no_neighbours_and_nothing_to_compare_has_no_index() -> None:
    found = a_cloud(1.0, 1.0)
    order = neighbours(found.rows, found.subjects)
    people = np.array(found.subjects)
    assert not (people[order] == people[:, None])[order >= 0].any()
    assert (order >= 0).sum(1).tolist() == [78] * 80
    assert robustness_index(np.eye(3), [0, 0, 0], ["a"] * 3, ["p", "q", "r"], k=2) is None


def test_chance_follows_the_counts_of_classes_and_sites() -> None:
    """Site a has 3 of class 0 and 1 of class 1, site b one of each: pairs counted by hand."""
    labels, sites = [0, 0, 0, 1, 0, 1], ["a", "a", "a", "a", "b", "b"]
    # same class, other site: 3 + 1 pairs; other class, same site: 3 + 1 pairs
    assert chance(labels, sites, list("pqrstu")) == 0.5
    assert chance(labels[:-1], sites[:-1], list("pqrst")) == 0.5
    assert chance([0, 0, 1, 0], ["a", "a", "a", "b"], list("pqrs")) == 0.5
    assert chance([0, 0, 1, 0, 0], ["a", "a", "a", "b", "b"], list("pqrst")) == pytest.approx(4 / 6)


def test_the_best_k_names_the_class_best_as_scikit_learns_classifier_has_it() -> None:
    """Leave one out by hand; with two classes an odd k has no ties."""
    found = a_cloud(0.5, 0.9, seed=3, subjects=50, images=1)
    labels = np.array(found.labels)
    scores = {}
    for k in range(1, 25, 2):
        named = []
        for i in range(len(labels)):
            rest = np.arange(len(labels)) != i
            model = KNeighborsClassifier(k, metric="cosine").fit(found.rows[rest], labels[rest])
            named.append(int(model.predict(found.rows[i : i + 1])[0]))
        scores[k] = balanced_accuracy_score(labels, named)
    ours = best_k(found.rows, found.labels, found.subjects)
    assert 1 <= ours <= 24
    if ours % 2:
        assert scores[ours] == max(scores.values())
    else:  # an even k is as good as the odd one before it where ties go to the nearest, or better
        assert scores[ours - 1] <= max(scores.values())


def test_the_sheet_says_site_class_and_index_with_what_chance_would_have() -> None:
    sheet = robustness_sheet({"supervised": a_cloud(3.0, 1.0), "adabn": a_cloud(0.0, 1.5)})
    assert sheet is not None
    assert sheet.columns[:3] == ("recipe", "site probe", "class probe")
    assert sheet.columns[3].startswith("robustness index, k = ")
    sites = [float(row[1].split()[0]) for row in sheet.rows]
    values = [float(row[3].split()[0]) for row in sheet.rows]
    assert sites[0] > 0.9 > sites[1]
    assert values[0] < 0.5 < values[1]
    assert all(row[3].endswith("(0.50)") for row in sheet.rows)


def test_masks_have_a_site_probe_alone_and_one_site_has_no_sheet() -> None:
    found = a_cloud(3.0, 1.0)
    bare = Features(found.rows, found.sites, found.subjects)
    sheet = robustness_sheet({"supervised": bare})
    assert sheet is not None
    assert sheet.columns == ("recipe", "site probe")
    assert any("one class per image" in note for note in sheet.notes)
    assert robustness_sheet({"supervised": Features(found.rows, ("a",) * 80, found.subjects)}) is None
    assert robustness_sheet({}) is None
