"""The page of two models side by side, in the hand of a study's report: one file without a network,
nobody named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from allograft.report import plots
from allograft.report.beside import beside
from allograft.report.cells import CLAIM_OF_TWO, Cell, Column, Table, digits_of
from allograft.report.facts import counted
from allograft.report.gallery import Picture, fitting
from allograft.report.overlay import AGREE, EXTRA, MISSED, class_colour
from allograft.report.page import LIMIT, scripts, template
from allograft.results.head_to_head import Difference, HeadToHead, ordinals_of, scores_of
from allograft.results.statistics import paired
from allograft.results.table import p_value
from allograft.tree import write_bytes

Pair = tuple[Picture, Picture]
"""One case as the first and as the second of the two sees it, in the same slices."""


def write_page(
    path: Path,
    compared: HeadToHead,
    *,
    task: str,
    kinds: tuple[str, str],
    pictures: Sequence[tuple[int, Pair]],
    classes: Sequence[str] = (),
) -> None:
    """Write ``compare.html``; an older one is replaced whole or not at all.

    Args:
        task: in words.
        kinds: what the two are: model, masks, results.csv.
        pictures: (place of a case, its pictures), the worst first.
        classes: of a task of masks.

    Raises:
        OutputError: the file cannot be written.
    """
    head, rest = sentence(compared)
    content = {
        "found": compared,
        "task": task,
        "kinds": kinds,
        "head": head,
        "rest": rest.replace(", p ", ", p\u00a0"),  # the letter stays with its number
        "subjects": len({case["subject"] for case in compared.a}),
        "sites": _sites(compared),
        "metrics": _metrics(compared),
        "by_subject": _by_subject(compared),
        "strips": _strips(compared),
        "left_out": _left_out(compared),
        "classes": [(name, class_colour(index)) for index, name in enumerate(classes, 1)],
        "colours": {"agree": AGREE, "missed": MISSED, "extra": EXTRA},
        **scripts(),
    }
    page = template("compare.html.j2")
    bare = page.render(**content, cases=[], dropped=0).encode()
    keyed = {
        (str(case_index), name): [picture]
        for case_index, pair in pictures
        for name, picture in zip("ab", pair, strict=True)
    }
    kept, dropped = fitting(keyed, LIMIT - len(bare) - 20_000)
    known = ordinals_of(compared)
    cases = []
    for case_index, _ in pictures:
        both = [kept.get((str(case_index), name), []) for name in "ab"]
        if all(both):
            case = compared.a[case_index]
            pair = {name: every[0] for name, every in zip(compared.names, both, strict=True)}
            cases.append(beside(f"{known[str(case['subject'])]} at {case['site']}", pair))
    write_bytes(path, page.render(**content, cases=cases, dropped=dropped).encode())


def sentence(compared: HeadToHead) -> tuple[str, str]:
    """Which of the two is ahead, over all sites, as a head and a rest: by the 95 % interval, never
    by the means alone."""
    (a, b), overall, metric = compared.names, compared.overall, compared.headline
    it = overall.found
    if it is None:
        return f"{a} and {b} cannot be compared", f"no case has a defined {metric} in both."
    ahead, behind = (b, a) if overall.lead > 0 else (a, b)
    gap = f"{abs(it.difference):.{digits_of(metric)}f} {metric}"
    over = f"over {counted(it.subjects, 'subject')} and {counted(it.cases, 'case')}"
    if it.low is None or it.high is None:
        return f"{a} and {b} cannot be told apart", f"{ahead} is ahead by {gap} {over}; {it.note}."
    words = f"{b} minus {a} is {signed(it.difference, metric)} {metric}, 95 % from {signed(it.low, metric)} to "
    words += f"{signed(it.high, metric)} {over}"
    if it.p is not None:
        words += f", p {p_value(it.p)}"
    if it.false_claim is not None and it.difference:
        words += f"; the probability that {ahead} is no better is {p_value(it.false_claim)}"
    if it.note:
        words += f"; {it.note}"
    is_clear = it.low > 0 or it.high < 0
    return (f"{ahead} is ahead of {behind}" if is_clear else f"{a} and {b} cannot be told apart"), words + "."


def site_lines(compared: HeadToHead) -> list[str]:
    """The headline at every site in a line each, for the terminal."""
    (a, b), lines = compared.names, []
    for headline in compared.headlines:
        if (it := headline.found) is None:
            lines.append(f"{headline.site}: no case has a defined {headline.metric} in both")
            continue
        digits = digits_of(headline.metric)
        words = f"{headline.site}: {headline.metric} {a} {headline.a:.{digits}f}, {b} {headline.b:.{digits}f}, "
        words += f"difference {it.difference:+.{digits}f}"
        words += "" if it.low is None else f" ({it.low:+.{digits}f} to {it.high:+.{digits}f})"
        words += "" if it.p is None else f", p {p_value(it.p)}"
        words += "" if it.false_claim is None or not it.difference else f", false claim {p_value(it.false_claim)}"
        words += f"; {counted(it.subjects, 'subject')}, {counted(it.cases, 'case')}"
        lines.append(words + (f"; {it.note}" if it.note else ""))
    without = [site for site in compared.sites if site not in {headline.site for headline in compared.headlines}]
    return lines + [f"{site}: no case that both have a prediction for" for site in without]


def signed(value: float, metric: str) -> str:
    """``+0.031``, with a real minus sign."""
    return f"{value:+.{digits_of(metric)}f}".replace("-", "−")


def _sites(compared: HeadToHead) -> Table:
    rows = [
        _row(compared, headline, number, Cell(headline.site, value=number, kind="name"))
        for number, headline in enumerate(compared.headlines)
    ]
    without = [site for site in compared.sites if site not in {headline.site for headline in compared.headlines}]
    for site in without:
        empty = Cell("–", kind="quiet")
        rows.append((Cell(site, "no case that both have", kind="name"), *[empty] * 6))
    return Table(_columns(compared, "site"), tuple((False, row) for row in rows))


def _metrics(compared: HeadToHead) -> Table | None:
    """Every other metric at every site."""
    others = [difference for difference in compared.differences if difference.metric != compared.headline]
    rows = []
    for number, difference in enumerate(others):
        better = "lower is better" if difference.is_lower_better else ""
        site = f"{difference.metric} at {difference.site}" if len(compared.headlines) > 1 else difference.metric
        rows.append((False, _row(compared, difference, number, Cell(site, better, number, "name"))))
    return Table(_columns(compared, "metric"), tuple(rows)) if rows else None


def _columns(compared: HeadToHead, first: str) -> tuple[Column, ...]:
    a, b = compared.names
    unit = compared.headline if first == "site" else "mean"
    return (
        Column(first),
        Column("subjects", "cases", "that both have a value for"),
        Column(a, unit, "mean over subjects, from the cases that both have"),
        Column(b, unit, "mean over subjects, from the cases that both have"),
        Column("difference", f"{b} minus {a}", "paired by subject; 95 % by Student's t over subjects"),
        Column("p", "Holm over sites", "exact two-sided signed-rank test over subjects; DeLong's test for an AUROC"),
        Column("false", "claim", CLAIM_OF_TWO),
    )


def _row(compared: HeadToHead, difference: Difference, number: int, first: Cell) -> tuple[Cell, ...]:
    it, digits = difference.found, digits_of(difference.metric)
    if it is None:
        said = [
            Cell("undefined" if value is None else f"{value:.{digits}f}", value=value, kind="quiet")
            for value in (difference.a, difference.b)
        ]
        none = Cell("–", kind="quiet")
        return (first, none, *said, none, none, none)
    undefined = [
        f"{count} undefined in {name}" for count, name in zip(it.undefined, compared.names, strict=True) if count
    ]
    limits = (
        []
        if it.low is None or it.high is None
        else [f"{signed(it.low, difference.metric)} to {signed(it.high, difference.metric)}"]
    )
    small = "\n".join([*limits, *([it.note] if it.note and it.p is None else [])])
    p = Cell("–", kind="quiet") if it.p is None else Cell(p_value(it.p), value=it.p)
    if it.p is not None and it.adjusted is not None and len(compared.sites) > 1:
        p = Cell(p_value(it.adjusted), f"raw {p_value(it.p)}", it.adjusted)
    ahead = compared.names[difference.lead > 0]
    claim = Cell("–", kind="quiet")
    if it.false_claim is not None and it.difference:
        claim = Cell(p_value(it.false_claim), f"for {ahead}", it.false_claim)
    return (
        first,
        Cell(str(it.subjects), "\n".join([counted(it.cases, "case"), *undefined]), it.subjects),
        Cell(f"{difference.a:.{digits}f}", value=difference.a),
        Cell(f"{difference.b:.{digits}f}", value=difference.b),
        Cell(signed(it.difference, difference.metric), small, it.difference),
        p,
        claim,
    )


def _subjects(compared: HeadToHead) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Site -> ordinal -> the two scores of what single cases are shown by, and how many cases."""
    known, metric = ordinals_of(compared), compared.of_cases
    by_site: dict[str, dict[str, tuple[float, float, int]]] = {}
    for site in compared.sites:
        a, b = (
            [{**case, **scores_of(case)} for case in cases if case["site"] == site]
            for cases in (compared.a, compared.b)
        )
        both = paired({0: b}, {0: a}, metric)
        counts = [sum(str(case["subject"]) == subject for case in a) for subject in both.subjects]
        values = zip(both.subjects, both.theirs, both.ours, counts, strict=True)
        by_site[site] = {
            known[subject]: (float(first), float(second), count) for subject, first, second, count in values
        }
    return by_site


def _by_subject(compared: HeadToHead) -> Table:
    metric, (a, b) = compared.of_cases, compared.names
    columns = (
        Column("subject"),
        Column("site"),
        Column("cases"),
        Column(a, metric),
        Column(b, metric),
        Column("difference", f"{b} less {a}"),
    )
    rows: list[tuple[bool, tuple[Cell, ...]]] = []
    every = [(site, subject, means) for site, known in _subjects(compared).items() for subject, means in known.items()]
    for number, (site, subject, (first, second, count)) in enumerate(every):
        cells = [Cell(subject, value=number, kind="name"), Cell(site, value=number), Cell(str(count), value=count)]
        cells += [Cell(f"{value:.{digits_of(metric)}f}", value=value) for value in (first, second)]
        rows.append((False, (*cells, Cell(signed(second - first, metric), value=second - first))))
    return Table(columns, tuple(rows))


def _strips(compared: HeadToHead) -> Markup:
    """The difference of every subject, a row a site."""
    means = {
        difference.site: difference.found.difference
        for difference in compared.differences
        if difference.found and difference.metric == compared.of_cases
    }
    strips = [
        plots.Strip(
            site, {ordinal: second - first for ordinal, (first, second, _) in subjects.items()}, means.get(site)
        )
        for site, subjects in _subjects(compared).items()
        if subjects
    ]
    a, b = compared.names
    axis = f"{compared.of_cases}: {b} minus {a}"
    return plots.strip_plot(strips, axis, 0.0, rows="site", at="no difference")


def _left_out(compared: HeadToHead) -> list[str]:
    """How many cases are left out, and of whom the prediction is missing."""
    counts = {name: sum(unmatched.name == name for unmatched in compared.unmatched) for name in compared.names}
    lines = [f"{counted(count, 'case')} without a prediction of {name}" for name, count in counts.items() if count]
    return lines + ([f"{counted(compared.unlabelled, 'case')} without a label"] if compared.unlabelled else [])
