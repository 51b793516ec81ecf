"""All that a report shows of one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from allograft.figure import Figure
from allograft.report import facts, plots
from allograft.report.annotate import to_annotate
from allograft.report.cells import Table, class_table, decision_table, gain
from allograft.report.drawn import Drawn, Hide
from allograft.report.figures import draw_figure
from allograft.report.gallery import PictureKey
from allograft.results.analysis.sheet import Sheet
from allograft.results.comparison import do_nothing
from allograft.results.models import model_name, predict_command
from allograft.results.scores import seed_scores, subject_scores
from allograft.results.select import Line
from allograft.results.statistics import smallest_p
from allograft.results.table import subjects_at
from allograft.study.plan import Plan
from allograft.study.spec import Study

ANNOTATED = 20
"""Subjects to annotate that the page names; the file names all."""


@dataclass(frozen=True)
class Extra:
    """A further section of a target.

    Args:
        title: a heading.
        sheets: tables of words.
        figures: what ``allograft.figure`` knows.
        notes: sentences below.
        folded: what stands below in a fold that is closed at first, under its own title.
    """

    title: str
    sheets: tuple[Sheet, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    folded: Extra | None = None


@dataclass(frozen=True)
class Section:
    """An ``Extra`` as the template takes it: figures drawn, names taken out."""

    title: str
    sheets: tuple[Sheet, ...]
    figures: tuple[Drawn, ...]
    notes: tuple[str, ...]
    folded: Section | None


@dataclass(frozen=True)
class Advice:
    """The recommended line of a target."""

    title: str
    score: str
    gain: str
    seed: int
    command: str


@dataclass(frozen=True)
class Target:
    """All that the page shows of one target, but its pictures."""

    site: str
    titles: tuple[str, ...]
    finished: bool
    advice: Advice | None
    table: Table
    classes: Table | None
    subjects: int
    smallest: str
    hopeless: bool
    strips: Markup
    thinned: bool
    scatter: Markup
    violins: bool
    figures: tuple[tuple[str, tuple[Drawn, ...]], ...]
    annotate: tuple[str, ...]
    waiting: int
    extras: tuple[Section, ...]


def target_of(
    study: Study,
    plan: Plan,
    lines: Sequence[Line],
    site: str,
    *,
    figures: Mapping[PictureKey, tuple[Drawn, ...]],
    extras: Sequence[Extra],
    hide: Hide,
) -> Target:
    """Gather what the page says of a target."""
    here = [line for line in lines if line.target == site]
    subjects = max((subjects_at(line, site) for line in here), default=0)
    smallest = smallest_p(subjects, study.statistics.alternative)
    strips = _strips(plan, lines, here, site)
    wanted = to_annotate(lines, site)
    return Target(
        site=site,
        titles=tuple(line.title for line in here),
        finished=any(line.done for line in here),
        advice=_advice(plan, lines, here, site),
        table=decision_table(study, plan, lines, site),
        classes=class_table(plan, lines, site),
        subjects=subjects,
        smallest=f"{smallest:.2g}",
        hopeless=smallest > 0.05,
        strips=_strip_plot(plan, here, site, strips),
        thinned=any(len(strip.dots) > plots.MOST_DOTS for strip in strips),
        violins=any(plots.density(list(strip.dots.values())) for strip in strips),
        scatter=_scatter(plan, here, site),
        figures=tuple((line.title, found) for line in here if (found := figures.get((line.title, site), ()))),
        annotate=tuple(one.ordinal for one in wanted[:ANNOTATED]),
        waiting=len(wanted),
        extras=tuple(_section(extra, hide) for extra in extras),
    )


def fitting_figures(
    figures: Mapping[PictureKey, Mapping[str, Figure]], hide: Hide, budget: int, ordinals: Mapping[str, str]
) -> tuple[dict[PictureKey, tuple[Drawn, ...]], int]:
    """The figures that fit into ``budget`` bytes, every line's first before any line's second; and how many do not."""
    kept: dict[PictureKey, tuple[Drawn, ...]] = {}
    lost = 0
    for turn in range(max(map(len, figures.values()), default=0)):
        for key, every in figures.items():
            if turn >= len(every):
                continue
            drawn = draw_figure(list(every.values())[turn], hide, ordinals)
            if drawn.size <= budget:
                kept[key] = (*kept.get(key, ()), drawn)
                budget -= drawn.size
            else:
                lost += 1
    return kept, lost


def _section(extra: Extra, hide: Hide) -> Section:
    sheets = tuple(
        Sheet(
            hide(sheet.title),
            tuple(map(hide, sheet.columns)),
            tuple(tuple(map(hide, row)) for row in sheet.rows),
            tuple(map(hide, sheet.notes)),
        )
        for sheet in extra.sheets
    )
    figures, folded = tuple(draw_figure(one, hide) for one in extra.figures), extra.folded
    return Section(extra.title, sheets, figures, tuple(map(hide, extra.notes)), None if folded is None else _section(folded, hide))


def _advice(plan: Plan, lines: Sequence[Line], here: Sequence[Line], site: str) -> Advice | None:
    line = next((line for line in here if line.recommended), None)
    run = line.best_run if line is not None else None
    if line is None or run is None:
        return None
    score, spread = line.score(site), line.spread(site)
    text = "not measured" if score is None else f"{score:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    more = gain(plan, line, do_nothing(lines, site), site)
    words = "" if more is None else f"{more:+.3f}".replace("-", "−")
    return Advice(line.title, text, words, run.row.seed, predict_command(Path("models") / model_name(line)))


def _strips(plan: Plan, lines: Sequence[Line], here: Sequence[Line], site: str) -> list[plots.Strip]:
    known = facts.ordinals(lines)
    return [
        plots.Strip(
            line.title,
            {known[subject]: value for subject, value in subject_scores(plan, line, site).items()},
            line.score(site),
            line.recommended,
        )
        for line in here
    ]


def _strip_plot(plan: Plan, here: Sequence[Line], site: str, strips: Sequence[plots.Strip]) -> Markup:
    if not any(strip.dots for strip in strips):
        return Markup("")
    base = do_nothing(here, site)
    return plots.strip_plot(strips, plan.headline, None if base is None else base.score(site))


def _scatter(plan: Plan, here: Sequence[Line], site: str) -> Markup:
    points = []
    for line in here:
        seconds, scores = line.cost("train_seconds"), seed_scores(plan, line, site)
        if seconds is not None and scores:
            points.append(plots.Point(line.title, seconds, sum(scores.values()) / len(scores), line.recommended))
    return plots.scatter(points, "train seconds", f"{plan.headline} at {site}")
