"""The words around the table of a study as text: its signs, notes and caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allograft.results.comparison import Comparison, reference, verdict_reference
from allograft.results.scores import case_names, seed_cases, undefined_cases
from allograft.results.select import RULES, Line
from allograft.study.plan import Plan
from allograft.study.spec import Study

COVERAGE = "95 % of a score: t on the logit of the mean; with many exact zeros none covers below 20 subjects."
"""What a reader of intervals must know, in the terminal and on the page."""


def versus(plan: Plan, here: Sequence[Line], target: str) -> str:
    """The row that the others are compared with."""
    base = reference(here, plan, target)
    return "none" if base is None else base.title


def reference_note(plan: Plan, lines: Sequence[Line], target: str) -> str:
    """What must be known of the row that the others are compared with: that the study names it
    while the verdict compares with another, or that it has no score; "" for neither."""
    base, other = reference(lines, plan, target), verdict_reference(lines, plan, target)
    if base is None:
        return ""
    told = []
    if base is not other and other is not None:
        told.append(
            f"The study names {base.title} as the reference: differences and p are relative to it. The verdict and its "
            f"marks compare with {other.title}."
        )
    if base.score(target) is None and any(line.score(target) is not None for line in lines if line.target == target):
        why = "has no score" if base.done else "failed"
        told.append(f"{base.title} {why} at {target}, so no row is compared with it or with any other.")
    return " ".join(told)


def signs_of(line: Line) -> str:
    """``*`` for the row of the verdict, ``!`` for one that is worse somewhere."""
    worse = any(word in line.verdict for word in ("loses", "forgets"))
    return f"{'*' if line.chosen else ''}{'!' if worse else ''}".ljust(2) + " "


def notes_of(compared: Mapping[str, Comparison]) -> dict[str, str]:
    """Note -> its sign."""
    return {
        note: f"({number})"
        for number, note in enumerate(
            dict.fromkeys(comparison.note for comparison in compared.values() if comparison.note), 1
        )
    }


def undefined_note(plan: Plan, here: Sequence[Line], compared: Mapping[str, Comparison], site: str) -> str:
    """How many cases each row leaves out because its headline has no value there, or that it has
    none in any row; "" for none."""
    if any(line.is_measured(site) for line in here) and all(line.score(site) is None for line in here):
        why = _one_class(plan, here, site)
        return f"{plan.headline} is undefined on the test cases of {site}{why}: nothing is ranked."
    counts = {line.title: undefined_cases(line, site, plan.headline) for line in here}
    if not any(counts.values()):
        return ""
    lines = [
        f"{title} {count}" + (f" ({compared[title].cases} cases compared)" if title in compared else "")
        for title, count in counts.items()
    ]
    total = max(len(case_names(line, site)) for line in here)
    return (
        f"Cases of {total} where {plan.headline} is undefined, left out of a row's mean, and of both rows of a "
        f"difference: {', '.join(lines)}."
    )


def _one_class(plan: Plan, here: Sequence[Line], site: str) -> str:
    """Which class all test cases have, where they are of one."""
    every = [case.get("label") for line in here for cases in seed_cases(line, site).values() for case in cases]
    labels = {label for label in every if isinstance(label, int)}
    return f", which are all '{plan.task.coding.label[labels.pop()]}'" if len(labels) == 1 else ""


def caption_of(
    study: Study,
    plan: Plan,
    here: Sequence[Line],
    compared: Mapping[str, Comparison],
    hidden: Sequence[tuple[str, str]],
    *,
    about_rows: Sequence[str],
    is_measured: bool,
) -> str:
    """What the signs in the table and its columns mean.

    Args:
        hidden: columns that were left out, with the site that each is of, or "".
        about_rows: see ``undefined_note`` and ``reference_note``; "" is left out.
    """
    signs = "".join(signs_of(line) for line in here)
    lines_ = ["* the row of the verdict, below."] if "*" in signs else []
    lines_ += ["! loses here or forgets at home."] if "!" in signs else []
    lines = [" ".join([*lines_, "Recipes at their papers' settings, untuned."])]
    lines.append(f"Stages, settings and seeds are chosen by selection '{study.selection}': {RULES[study.selection]}.")
    if compared or is_measured:
        lines.append(
            f"The unit is the subject: means over its images and over seeds, folds together; ± over seeds. {COVERAGE}"
        )
    if compared:
        statistics = study.statistics
        exact = any(comparison.rank_biserial is not None for comparison in compared.values())
        lines.append(
            f"vs. {versus(plan, here, here[0].target)}: paired difference, 95 % by Student's t. "
            f"p: {'exact Wilcoxon' if exact else 'DeLong'}, {statistics.alternative}, "
            f"{statistics.adjustment.capitalize()} over rows."
        )
    lines += [f"{sign} {note}" for note, sign in notes_of(compared).items()]
    lines += filter(None, about_rows)
    sites, names = [site for _, site in hidden if site], [name for name, site in hidden if not site]
    if sites:
        lines.append(f"also evaluated at {', '.join(sites)}: see results.csv and the report")
    if names:
        lines.append(f"no room for {', '.join(names)}: see results.csv and the report, or widen the terminal")
    return "\n".join(lines)
