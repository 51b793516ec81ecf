"""Examples of matched clusters: training images of either side from the middle of their cluster (Goodman et al. 2022, figure 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from allograft.figure import Figure, Points
from allograft.recipe import total_needs
from allograft.report.gallery import MATCHED, Picture, PictureKey
from allograft.report.thumbnails import COLUMNS, CohortItem, sheet, small
from allograft.results.select import Line
from allograft.study.plan import Row, scenario_of
from allograft.study.world import World

PAIRS = 4
"""Pairs of clusters that a line shows."""
Figures = Mapping[PictureKey, Mapping[str, Figure]]
"""(Recipe's title, target) -> name -> figure."""


def matched_of(world: World, table: Sequence[Line], figures: Figures) -> dict[PictureKey, list[Picture]]:
    """A picture of each of the largest pairs of clusters, of every line whose dots tell which images they are.

    What is kept beside a unit are numbers; the images are the study's own, on its grid, and are looked up when the page is made.
    """
    found: dict[PictureKey, list[Picture]] = {}
    for line in table:
        for figure in figures.get((line.title, line.target), {}).values():
            if isinstance(figure, Points) and figure.numbers and (run := line.best_run):
                found.setdefault((MATCHED, line.target), []).extend(_pairs(line.title, figure, _images(world, run.row)))
    return found


def _images(world: World, row: Row) -> dict[str, list[CohortItem]]:
    """Side -> its training images as the row's recipe was given them."""
    seen = scenario_of(world, row).narrowed(total_needs(row.recipe))
    hidden = {side: [cohort.unlabelled() for cohort in part] for side, part in (("source", seen.source), ("target", seen.target))}
    return {side: [(cohort, index) for cohort in part for index in range(len(cohort))] for side, part in hidden.items()}


def _pairs(title: str, figure: Points, images: Mapping[str, Sequence[CohortItem]]) -> list[Picture]:
    sizes = Counter(zip(figure.group, figure.colour, strict=True))
    both = [colour for colour in sorted(set(figure.colour)) if all(sizes[side, colour] for side in images)]
    largest = sorted(both, key=lambda colour: -sum(sizes[side, colour] for side in images))[:PAIRS]
    made = []
    for colour in largest:
        rows = [[small(place) for place in nearest(figure, side, colour, every)] for side, every in images.items()]
        told = " and ".join(f"{sizes[side, colour]} {side}" for side in images)
        made.append(Picture(f"{title}, cluster {colour}", f"of {told} images", sheet(rows)))
    return made


def nearest(figure: Points, side: str, colour: float, images: Sequence[CohortItem]) -> list[CohortItem]:
    """At most ``COLUMNS`` of a cluster, the nearest to its middle first; each subject's nearest goes before any subject's second."""
    dots = [n for n, one in enumerate(zip(figure.group, figure.colour, strict=True)) if one == (side, colour)]
    points = np.array([(figure.x[n], figure.y[n]) for n in dots])
    distance = np.linalg.norm(points - points.mean(0), axis=1)
    turns: Counter[str] = Counter()
    ranked = []
    for at in np.argsort(distance, kind="stable"):
        cohort, index = images[figure.numbers[dots[at]]]
        subject = cohort.cases[cohort.items[index][0]].subject
        ranked.append((turns[subject], (cohort, index)))
        turns[subject] += 1
    return [place for _, place in sorted(ranked, key=lambda one: one[0])[:COLUMNS]]
