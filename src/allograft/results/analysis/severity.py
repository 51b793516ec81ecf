"""How severe a shift is: pairs of sites ranked by what do-nothing loses, and every recipe's score
at the top, middle and bottom apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from allograft.errors import SpecError
from allograft.results.analysis.sheet import Sheet, number
from allograft.results.record import Record

NOTHING = "supervised"
"""Do-nothing: it alone has a score at home, on its source."""
SEVERITIES = ("severe", "medium", "subtle")
Pair = tuple[tuple[str, ...], str]
"""Source sites and the target."""


@dataclass(frozen=True)
class Shift:
    """What do-nothing loses from a source to a target, mean over seeds and folds.

    Args:
        source, target: the pair of sites.
        own: score on the source's own test cases; the mean over several source sites.
        transferred: score on the target's.
    """

    source: tuple[str, ...]
    target: str
    own: float
    transferred: float

    @property
    def drop(self) -> float:
        """The decline."""
        return self.own - self.transferred

    @property
    def pair(self) -> Pair:
        """Its sites."""
        return self.source, self.target


def ranked_shifts(records: Iterable[Record], metric: str) -> tuple[Shift, ...]:
    """Pairs of source and target by the drop of do-nothing, the largest first (Zakazov et al. 2022,
    section 4.2).

    The paper does not say which in-domain score it subtracts from; we take that of the same model
    on its own source's test cases. Records of several studies may be given together. Equal drops go
    by name.

    Args:
        records: those of do-nothing are read; failed ones and undefined scores are left out.
        metric: the headline, for example ``dice``.

    Raises:
        SpecError: no pair has both scores.
    """
    scores = pair_scores(records, metric).get(NOTHING, {})
    shifts = []
    for source, target in scores:
        own = [scores[source, site] for site in source if (source, site) in scores]
        if target not in source and len(own) == len(source) > 0:
            shifts.append(Shift(source, target, fmean(own), scores[source, target]))
    if not shifts:
        raise SpecError(
            f"severity: no record of '{NOTHING}' has a '{metric}' at home and at a target; evaluate it on both, with "
            f"test: {{...}}"
        )
    return tuple(sorted(shifts, key=lambda shift: (-shift.drop, shift.pair)))


def by_severity(shifts: Sequence[Shift], count: int = 2) -> dict[str, tuple[Shift, ...]]:
    """The paper's three clusters: ``count`` pairs from the top, the middle and the bottom of the
    ranking.

    Raises:
        SpecError: fewer than 3 x ``count`` pairs: one would stand in two clusters.
    """
    if count < 1 or len(shifts) < 3 * count:
        raise SpecError(
            f"severity: {len(shifts)} pairs for three clusters of {count}; expected at least {3 * count}, or a "
            "smaller count"
        )
    middle = (len(shifts) - count) // 2
    parts = (shifts[:count], shifts[middle : middle + count], shifts[-count:])
    return {name: tuple(part) for name, part in zip(SEVERITIES, parts, strict=True)}


def severity_table(records: Iterable[Record], metric: str, count: int = 2) -> dict[str, dict[str, float]]:
    """Severity -> recipe's title -> mean score over the cluster's pairs; a recipe that lacks one of
    them is left out of the cluster."""
    kept = list(records)
    scores = pair_scores(kept, metric)
    clusters = by_severity(ranked_shifts(kept, metric), count)
    return {
        name: {
            title: fmean(of_pair[shift.pair] for shift in shifts)
            for title, of_pair in scores.items()
            if all(shift.pair in of_pair for shift in shifts)
        }
        for name, shifts in clusters.items()
    }


def severity_sheet(records: Iterable[Record], metric: str) -> Sheet | None:
    """Every recipe's mean over the most severe, the middle and the most subtle pairs, two of each
    where there are six to rank.

    None where there are fewer than three.
    """
    kept = list(records)
    try:
        shifts = ranked_shifts(kept, metric)
        count = min(2, len(shifts) // 3)
        clusters, table = by_severity(shifts, count), severity_table(kept, metric, count)
    except SpecError:
        return None
    titles = dict.fromkeys(title for scores in table.values() for title in scores)
    rows = tuple(
        (title, *(number(table[name][title]) if title in table[name] else "" for name in SEVERITIES))
        for title in titles
    )
    notes = tuple(
        f"{name}: "
        + ", ".join(f"{'+'.join(s.source)} to {s.target} (no adaptation loses {s.drop:.3f})" for s in part)
        + "."
        for name, part in clusters.items()
    )
    return Sheet(f"{metric} by the severity of the shift", ("recipe", *SEVERITIES), rows, notes)


def pair_scores(records: Iterable[Record], metric: str) -> dict[str, Mapping[Pair, float]]:
    """Recipe's title -> (source sites, judged site) -> score of each run's last stage on test
    cases, mean over seeds and folds.

    A run adapted to one target and judged at another is no pair of the two.
    """
    last: dict[tuple[str, str, int], Record] = {}
    for record in records:
        # a site's own name may hold a plus
        adapted = (record.target or record.site, *(record.target or "").split("+"))
        if (
            record.part != "test"
            or record.status != "done"
            or not (record.site in adapted or record.site in record.source)
        ):
            continue
        key = (record.unit, record.site, record.fold)
        if key not in last or last[key].ordinal < record.ordinal:
            last[key] = record
    values: dict[str, dict[Pair, list[float]]] = {}
    for record in last.values():
        value = record.metrics.get(metric)
        if value is not None:
            title = str(record.recipe.get("title", record.recipe["name"]))
            values.setdefault(title, {}).setdefault((record.source, record.site), []).append(value)
    return {title: {pair: fmean(each) for pair, each in of_pair.items()} for title, of_pair in values.items()}
