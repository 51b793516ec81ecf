"""Whether numbers of new images are distributed as those of the images that a model was validated
on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy.stats import fisher_exact, ks_2samp

from allograft.results.statistics import holm

LEAST = 5
"""Cases on each side that are compared at all."""
ALPHA = 0.05


@dataclass(frozen=True)
class Drift:
    """One number of validation and new images.

    Args:
        name: the column, or ``abstain``.
        before, now: how many cases.
        middle_before, middle_now: medians; of ``abstain`` shares.
        gap: the largest distance between the two cumulative distributions (Kolmogorov-Smirnov); of
            ``abstain`` the difference of the shares.
        visible: the smallest gap that so many cases show at 5 %, before adjustment.
        p: two-sided, of the test; None where there are too few cases.
        adjusted: by Holm over all numbers.
    """

    name: str
    before: int
    now: int
    middle_before: float | None = None
    middle_now: float | None = None
    gap: float | None = None
    visible: float | None = None
    p: float | None = None
    adjusted: float | None = None

    @property
    def differs(self) -> bool:
        """Whether a difference is shown, after adjustment."""
        return self.adjusted is not None and self.adjusted < ALPHA

    @property
    def words(self) -> str:
        """What this means, in a sentence without a number."""
        if self.p is None:
            return f"too few cases to compare: expected at least {LEAST} on each side"
        if not self.differs:
            return "no difference is shown, but there may be one"
        assert self.middle_before is not None
        assert self.middle_now is not None
        if self.name == "abstain":
            count = "more" if self.middle_now > self.middle_before else "fewer"
            return f"{count} images are beyond the threshold than at validation"
        if self.middle_now == self.middle_before:
            return "distributed differently than at validation"
        return f"{'larger' if self.middle_now > self.middle_before else 'smaller'} than at validation"


def compared(
    before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]], abstained: tuple[int, int, int, int]
) -> list[Drift]:
    """Every number that both have: the two-sample Kolmogorov-Smirnov test; of abstentions Fisher's
    exact test; p values adjusted by Holm over all of them.

    Args:
        before, now: column -> a number for each case.
        abstained: far and all cases at validation, and now; zeros where nobody counted.

    Example:
        >>> same, higher = list(range(20)), list(range(30, 50))
        >>> [one.differs for one in compared({"x": same, "y": same}, {"x": same, "y": higher}, (0, 0, 0, 0))]
        [False, True]
    """
    drifts = [distribution(name, before[name], now[name]) for name in before if name in now]
    if abstained[1] and abstained[3]:
        drifts.append(share(*abstained))
    tested = [drift for drift in drifts if drift.p is not None]
    adjusted = {
        drift.name: float(p) for drift, p in zip(tested, holm([drift.p or 0.0 for drift in tested]), strict=True)
    }
    return [replace(drift, adjusted=adjusted.get(drift.name)) for drift in drifts]


def distribution(name: str, before: Sequence[float], now: Sequence[float]) -> Drift:
    """The Kolmogorov-Smirnov test of two samples."""
    middles = [median(values) if values else None for values in (before, now)]
    bare = Drift(name, len(before), len(now), *middles)
    if min(len(before), len(now)) < LEAST:
        return bare
    test = ks_2samp(before, now)
    visible = 1.358 * math.sqrt((len(before) + len(now)) / (len(before) * len(now)))
    return replace(bare, gap=float(test.statistic), visible=min(1.0, visible), p=float(test.pvalue))


def share(far_before: int, before: int, far_now: int, now: int) -> Drift:
    """Fisher's exact test of the share of images that are far."""
    shares = (far_before / before, far_now / now)
    bare = Drift("abstain", before, now, *shares, gap=abs(shares[1] - shares[0]))
    if min(before, now) < LEAST:
        return replace(bare, gap=None)
    test = fisher_exact(np.array([[far_before, before - far_before], [far_now, now - far_now]]))
    return replace(bare, p=float(test.pvalue))
