"""The filter ``where``: which cases stand on each side of a study, also where both sides are parts
of one site."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from allograft.cohort import Case, Cohort
from allograft.cohort.manifest import is_missing
from allograft.errors import LeakageError, ManifestError, SpecError, nearest

Values = str | int | tuple[str | int, ...]
LONGEST = 80
"""Characters of the values in a part's name; where there are more, it says how many values."""


@dataclass(frozen=True)
class Where:
    """Column -> the value that a side's cases must have, or several of which one:
    ``{tone: [1, 2]}``.

    A site may be named on both sides where some column has values on both, none of them the same:
    no case is then in both parts. The target's part is a site of its own, named after its values.

    Args:
        source: column -> value or values of the source cases.
        target: column -> value or values of the target cases.
    """

    source: dict[str, Values] = field(default_factory=dict)
    target: dict[str, Values] = field(default_factory=dict)

    @property
    def parting(self) -> tuple[str, ...]:
        """The columns that tell the sides apart.

        >>> Where({"tone": (1, 2), "sex": "f"}, {"tone": (3, 4), "sex": ("f", "m")}).parting
        ('tone',)
        """
        both = {
            key: (set(_texts(self.source[key])), set(_texts(self.target[key])))
            for key in self.source
            if key in self.target
        }
        return tuple(key for key, (here, there) in both.items() if here and there and not here & there)

    def part_of(self, site: str) -> str:
        """The name of the target's part of a source site.

        >>> Where({"tone": (1, 2)}, {"tone": (3, 4), "sex": "f"}).part_of("isic")
        'isic (tone 3, 4; sex f)'
        """
        wanted = {key: _texts(values) for key, values in self.target.items()}
        listed = "; ".join(f"{key} {', '.join(texts)}" for key, texts in wanted.items())
        counted = "; ".join(f"{key}, {len(texts)} values" for key, texts in wanted.items())
        return f"{site} ({listed if len(listed) <= LONGEST else counted})"

    def parted(self, source: Sequence[str], target: Sequence[str]) -> tuple[str, ...]:
        """The targets, those that are a part of a source site under the part's name.

        Raises:
            SpecError: a site on both sides that no column parts, or one that is named twice.
        """
        parts = {self.part_of(site): site for site in source}
        shared = [parts.get(site, site) for site in target if site in source or site in parts]
        if shared and self == Where():  # asked within the site
            check_once(source, target)
            return tuple(target)
        if shared and not self.parting:
            mend = "name it on one side only, or filter a column on both sides, without a value in common"
            example = "where: {source: {tone: [1, 2]}, target: {tone: [3, 4]}}"
            raise SpecError(
                f"target: site '{shared[0]}' is a source too, and no column of where: separates the two; {mend}: "
                f"{example}"
            )
        named = tuple(self.part_of(site) if site in source else site for site in target)
        check_once(source, named)
        return named


def check_once(source: Sequence[str], target: Sequence[str]) -> None:
    """Raise ``SpecError`` for a site that one side names twice."""
    for key, sites in (("source", source), ("target", target)):
        double = next((site for number, site in enumerate(sites) if site in sites[:number]), None)
        if double is not None:
            raise SpecError(f"{key}: site '{double}' is named twice; name it once")


def take_sides(
    cohorts: tuple[Cohort, ...], source: Sequence[str], target: Sequence[str], where: Where, pool: Sequence[str] = ()
) -> tuple[Cohort, ...]:
    """The cases of each side's sites that its filter keeps; a target's part of a source site is its
    own site.

    A site in the pool alone has no filter. Cohorts of which no case is kept are left out; the
    others number the sites alike.

    Raises:
        SpecError: a column that no case has, or a side without a case.
        ManifestError: a site that no case has.
        LeakageError: a subject with cases in both parts of a site.
    """
    columns = {key for cohort in cohorts for case in cohort.cases for key in case.attributes}
    for column in (*where.source, *where.target):
        if column not in columns:
            raise SpecError(f"where: {nearest(column, columns, 'column')}")
        if all(is_missing(case.attributes.get(column)) for cohort in cohorts for case in cohort.cases):
            raise SpecError(
                f"where: column '{column}' is unknown or empty in every case; fill it in, or filter by another"
            )
    parts = {site: where.part_of(site) for site in source if where.part_of(site) in target}
    known = [site for cohort in cohorts for site in cohort.sites]
    taken = next((part for part in parts.values() if part in known), None)
    if taken is not None:
        raise SpecError(f"target: the part '{taken}' has the name of a site of the manifest; rename that site")
    sites = tuple(dict.fromkeys((*source, *target, *pool)))
    kept = []
    for cohort in cohorts:
        sided = (_sided(case, source, target, where, parts, pool) for case in cohort.cases)
        kept.append(replace(cohort, cases=tuple(case for case in sided if case is not None), sites=sites))
    present = {case.site for cohort in kept for case in cohort.cases}
    for what, side in (("source", source), ("target", target), ("pool", pool)):
        check_sites(side, [*known, *parts.values()], present, what)
    for site, part in parts.items():
        cases = [case for cohort in kept for case in cohort.cases]
        _check_apart(
            [case for case in cases if case.site == site], [case for case in cases if case.site == part], where
        )
    return tuple(cohort for cohort in kept if cohort.cases)


def _sided(
    case: Case,
    source: Sequence[str],
    target: Sequence[str],
    where: Where,
    parts: Mapping[str, str],
    pool: Sequence[str],
) -> Case | None:
    """The case as the study has it, or None where no side keeps it."""
    if case.site in source and _fits(case, where.source):
        return case
    if case.site in parts and _fits(case, where.target):
        return replace(case, site=parts[case.site])
    if case.site in target and case.site not in source and _fits(case, where.target):
        return case
    return case if case.site in pool and case.site not in (*source, *target) else None


def check_sites(wanted: Sequence[str], known: Sequence[str], present: Collection[str], what: str) -> None:
    """Raise ``ManifestError`` with the nearest name for a site that no case has, ``SpecError`` when
    no case is left at it."""
    for name in wanted:
        if name not in known:
            raise ManifestError(f"{what}: {nearest(name, known, 'site')}")
        if name not in present:
            raise SpecError(f"{what}: no case of site '{name}' is left after the filter 'where'; loosen it")


def _check_apart(source: Sequence[Case], target: Sequence[Case], where: Where) -> None:
    """Refuse subjects in both parts.

    To leave such subjects out would change who is trained on and tested, by a rule that nobody
    chose; with labels made image by image it could be most of a cohort.
    """
    here, there = ({case.subject: case for case in reversed(cases)} for cases in (source, target))
    both = sorted(here.keys() & there.keys())
    if both:
        here_value, other = here[both[0]], there[both[0]]
        more = (
            f" ({len(both) - 1} more {'subject has' if len(both) == 2 else 'subjects have'} too)"
            if len(both) > 1
            else ""
        )
        column = where.parting[0]
        raise LeakageError(
            f"where: subject '{both[0]}' of site '{here_value.site}' has cases on both sides, "
            f"'{here_value.name}' in the source and '{other.name}' in the target{more}; a patient may be on one "
            f"side only: give all cases of a subject one value of '{column}', or leave its rows out of the manifest"
        )


def _fits(case: Case, filters: Mapping[str, Values]) -> bool:
    return all(case.attributes.get(key) in _texts(values) for key, values in filters.items())


def _texts(values: Values) -> tuple[str, ...]:
    """As the manifest writes them."""
    return tuple(map(str, values)) if isinstance(values, tuple) else (str(values),)
