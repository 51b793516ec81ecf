"""How often each grey value occurs at each site, before and after the preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from allograft.cohort.survey import LEVELS, Look

BINS = 48


@dataclass(frozen=True)
class Histogram:
    """The mean over a site's images, on bins that all sites share.

    Args:
        when: ``before`` or ``after`` the preprocessing.
        edges: (B + 1,) grey values.
        shares: site -> (B,) shares of pixels; what lies beyond the 2nd and 98th percentile of an
            image is left out.
    """

    when: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]


def histograms(looks: Sequence[Look]) -> tuple[Histogram, ...]:
    """Those of the images whose style was measured; () where none was."""
    made = []
    for when in ("before", "after"):
        styled: dict[str, list[NDArray[np.float64]]] = {}
        for look in looks:
            style = getattr(look, when)
            if style is not None and np.isfinite(style.intensity).all():
                styled.setdefault(look.case.site, []).append(style.intensity)
        if not styled:
            continue
        every = np.concatenate([np.concatenate(each) for each in styled.values()])
        low, high = float(every.min()), float(every.max())
        edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
        shares = {
            site: tuple(np.mean([shares_of(quantiles, edges) for quantiles in each], 0).round(6).tolist())
            for site, each in sorted(styled.items())
        }
        made.append(Histogram(when, tuple(edges.round(6).tolist()), shares))
    return tuple(made)


def shares_of(quantiles: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of an image's pixels in bins, from its quantiles at ``LEVELS``: between two of
    them pixels lie evenly, at two equal ones all at one value. (25,), (B + 1,) -> (B,)

    Example:
        >>> shares_of(np.linspace(0.0, 24.0, 25), np.array([0.0, 12.0, 24.0])).round(2).tolist()
        [0.48, 0.48]
    """
    shares = np.zeros(len(edges) - 1)
    steps = np.diff(LEVELS)
    for (start, end), mass in zip(pairwise(quantiles), steps, strict=True):
        if end > start:
            inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0.0, None)
            shares += mass * inside / (end - start)
        else:
            shares[min(int(np.searchsorted(edges, start, side="right")) - 1, len(shares) - 1)] += mass
    return shares
