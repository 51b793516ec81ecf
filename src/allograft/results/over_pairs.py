"""Means over pairs of sites, as the papers print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from allograft.results.scores import seed_scores
from allograft.results.select import Line
from allograft.study.plan import Plan


@dataclass(frozen=True)
class OverPairs:
    """A recipe's mean over all pairs of source and target.

    Args:
        title: the recipe's.
        pairs: how many, of those with labelled test subjects.
        seeds: how many have every pair; the others are left out.
        mean, sd: over these seeds (n - 1); None where there are too few.
        measured: pairs in which it has a score in some seed.
        done, runs: how many of its runs finished, judged or not.
        leaves_weights_only: whether all that finished left weights for other recipes and nothing to
            judge.
    """

    title: str
    pairs: int
    seeds: int
    mean: float | None
    sd: float | None
    measured: int
    done: int
    runs: int
    leaves_weights_only: bool

    @property
    def absent(self) -> str:
        """What stands in the place of the mean where there is none."""
        if self.leaves_weights_only:
            return "weights only"
        return f"{self.measured} of {self.pairs} pairs" if self.measured else "not measured"


def over_pairs(tables: Sequence[Sequence[Line]], plan: Plan, metric: str = "") -> list[OverPairs]:
    """Each recipe's headline as the papers print it: mean over all pairs for each seed, then mean
    and sd over seeds.

    A seed counts when it has every pair; a target where no row was measured is no pair. In the
    order of the study.

    Args:
        tables: one for each set of source sites.
        plan: of any of them.
    """
    every = [(line, (number, line.target)) for number, table in enumerate(tables) for line in table]
    scores = {(line.title, pair): seed_scores(plan, line, line.target, metric) for line, pair in every}
    pairs = {pair for (_, pair), seeds in scores.items() if seeds}
    made = []
    for title in dict.fromkeys(line.title for line, _ in every):
        each = [scores.get((title, pair), {}) for pair in sorted(pairs)]
        seeds = sorted(set(each[0]).intersection(*each)) if each else []
        means = [fmean(by_seed[seed] for by_seed in each) for seed in seeds]
        own = [line for line, _ in every if line.title == title]
        finished = [line for line in own if line.done]
        made.append(
            OverPairs(
                title,
                len(each),
                len(means),
                fmean(means) if means else None,
                stdev(means) if len(means) > 1 else None,
                measured=sum(bool(by_seed) for by_seed in each),
                done=sum(line.done for line in own),
                runs=sum(len(line.runs) for line in own),
                leaves_weights_only=bool(finished) and all(line.leaves_weights_only for line in finished),
            )
        )
    return made
