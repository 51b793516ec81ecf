"""Data sets of several organs: how often each is drawn, and how far apart their images are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allograft.cohort import Cohort
from allograft.cohort.splits import budget_order
from allograft.figure import Heatmap
from allograft.seeds import Seeds

PAIRED = 16
"""Images of each data set whose distances are averaged."""


def site_of(cohort: Cohort) -> str:
    """The site of a cohort that has one, or the first of several."""
    return cohort.cases[0].site


def names_of(cohort: Cohort) -> tuple[str, ...]:
    """What a data set may be called: its site, ``heart/one``, and its cohort, ``heart``."""
    site = site_of(cohort)
    return tuple(dict.fromkeys((site, site.partition("/")[0])))


def chances(cohorts: Sequence[Cohort], organs: Mapping[str, str]) -> list[float]:
    """The share of tasks of each data set: organs have equal shares, and the z data sets of an
    organ 1 / z of its share each.

    Args:
        organs: site or cohort -> organ; by default the sites of one cohort are an organ.
    """
    named = [
        next((organs[name] for name in names_of(cohort) if name in organs), names_of(cohort)[-1]) for cohort in cohorts
    ]
    count = Counter(named)
    return [1 / count[organ] / len(count) for organ in named]


def distance_map(cohorts: Sequence[Cohort], seeds: Seeds) -> Heatmap:
    """Mean Euclidean distance between pairs of images of data sets, ``PAIRED`` drawn of each; on
    the diagonal of different images of one. Images of another shape have none.

    Args:
        cohorts: of one site have one line.
    """
    by_site: dict[str, list[Tensor]] = {}
    for cohort in cohorts:
        hidden, chosen = cohort.unlabelled(), by_site.setdefault(site_of(cohort), [])
        order = budget_order(map(str, range(len(hidden))), seeds.child(site_of(cohort)))
        chosen += [hidden.case(int(item)).image.flatten().double() for item in order[: PAIRED - len(chosen)]]
    names = tuple(by_site)
    values = tuple(
        tuple(_mean_distance(by_site[organ], by_site[other], organ == other) for other in names) for organ in names
    )
    return Heatmap("mean Euclidean distance between images", names, names, values)


def _mean_distance(features: list[Tensor], other: list[Tensor], same: bool) -> float | None:
    shapes = {image.shape for image in (*features, *other)}
    if len(shapes) != 1 or (same and len(features) < 2):
        return None
    apart = torch.cdist(torch.stack(features), torch.stack(other))
    count = apart.numel() - (len(features) if same else 0)  # an image and itself are no pair
    return float(apart.sum() / count)
