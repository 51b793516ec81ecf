"""All that a report shows of one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from allograft.figure import Figure
from allograft.report import facts, plots
from allograft.report.annotate import to_annotate
from allograft.report.cells import Table
from allograft.report.decision import class_table, decision_table
from allograft.report.drawn import Drawn, Hide
from allograft.report.figures import draw_figure
from allograft.report.gallery import PictureKey
from allograft.results.analysis.sheet import Sheet
from allograft.results.caption import reference_note
from allograft.results.comparison import NOTHING, do_nothing, reference
from allograft.results.costs import TrainingCost, training_cost
from allograft.results.models import model_name, predict_command
from allograft.results.scores import subject_scores
from allograft.results.select import Line
from allograft.results.sentence import unfinished
from allograft.results.standing import Standing
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

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see, words about it aside."""
        return not self.sheets and not self.figures and (self.folded is None or self.folded.is_empty)


@dataclass(frozen=True)
class Advice:
    """The verdict of a target, as the box shows it.

    Args:
        kind: keep, change, not-measured, or unfinished.
        head, rest: the sentence, parted after its first colon.
        command: to copy, "" for none.
        seed: of the model that the command names.
        tied: other rows that cannot be told from the one chosen.
        better: the best row by mean, where another was named beforehand and is behind it.
        label_free: the best row that needs no target label, where it is another.
        marks: why the row may be worse than the model as it is.
        how: how it was decided.
    """

    kind: str
    head: str
    rest: str
    command: str = ""
    seed: int = 0
    tied: tuple[str, ...] = ()
    better: str = ""
    label_free: str = ""
    marks: tuple[str, ...] = ()
    how: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """All that the page shows of one target, but its pictures."""

    site: str
    titles: tuple[str, ...]
    chosen: tuple[str, ...]
    finished: bool
    advice: Advice
    table: Table
    classes: Table | None
    subjects: int
    smallest: str
    hopeless: bool
    strips: Markup
    dashed: str
    reference: str
    thinned: bool
    has_costs: bool
    has_shared_costs: bool
    violins: bool
    figures: tuple[tuple[str, tuple[Drawn, ...]], ...]
    annotate: tuple[str, ...]
    waiting: int
    extras: tuple[Section, ...]


def target_of(
    study: Study,
    plan: Plan,
    standing: Standing,
    site: str,
    *,
    figures: Mapping[PictureKey, tuple[Drawn, ...]],
    extras: Sequence[Extra],
    hide: Hide,
    seconds: Mapping[str, float],
) -> Target:
    """Gather what the page says of a target.

    Args:
        seconds: unit -> seconds of its own training.
    """
    lines = standing.lines
    here = [line for line in lines if line.target == site]
    subjects = max((subjects_at(line, site) for line in here), default=0)
    smallest = smallest_p(subjects, study.statistics.alternative)
    strips = _strips(plan, lines, here, site)
    base = reference(here, plan, site)
    costs = [training_cost(line, do_nothing(here, site), seconds) for line in here]
    wanted = to_annotate(lines, site)
    return Target(
        site=site,
        titles=tuple(line.title for line in here),
        chosen=tuple(line.title for line in here if line.chosen),
        finished=any(line.done for line in here),
        advice=_advice(standing, here, site),
        table=decision_table(study, plan, lines, site, seconds),
        classes=class_table(plan, lines, site),
        subjects=subjects,
        smallest=f"{smallest:.2g}",
        hopeless=smallest > 0.05,
        strips=_strip_plot(plan, here, site, strips, costs),
        reference=reference_note(plan, lines, site),
        dashed="no adaptation" if base is None or base.title in NOTHING else base.title,
        thinned=any(len(strip.dots) > plots.MOST_DOTS for strip in strips),
        violins=any(plots.density(list(strip.dots.values())) for strip in strips),
        has_costs=any(costs),
        has_shared_costs=any(cost.is_shared for cost in costs if cost is not None),
        figures=tuple((line.title, shown) for line in here if (shown := figures.get((line.title, site), ()))),
        annotate=tuple(case.ordinal for case in wanted[:ANNOTATED]),
        waiting=len(wanted),
        extras=tuple(made for extra in extras if not (made := _section(extra, hide)).is_empty),
    )


def fitting_figures(
    figures: Mapping[PictureKey, Mapping[str, Figure]], hide: Hide, budget: int, ordinals: Mapping[str, str]
) -> tuple[dict[PictureKey, tuple[Drawn, ...]], int]:
    """The figures that fit into ``budget`` bytes, every line's first before any line's second; and
    how many do not."""
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
        if any(any(cell.strip() for cell in row[1:]) for row in sheet.rows)
    )
    figures, folded = tuple(draw_figure(figure, hide) for figure in extra.figures), extra.folded
    return Section(
        extra.title, sheets, figures, tuple(map(hide, extra.notes)), None if folded is None else _section(folded, hide)
    )


def _advice(standing: Standing, here: Sequence[Line], site: str) -> Advice:
    verdict = standing.verdicts.get(site)
    if verdict is None:
        head, _, rest = unfinished(standing.done, standing.total).partition(": ")
        return Advice("unfinished", head + ":", rest + ".")
    head, _, rest = verdict.sentence.partition(": ")
    line = next((line for line in here if line.chosen), None)
    run = line.best_run if line is not None else None
    made = Advice(verdict.action, head + ":", rest, how=verdict.how)
    if line is None or run is None:
        return made
    command = predict_command(Path("models") / model_name(line))
    free = verdict.label_free if verdict.label_free != line.title else ""
    tied = tuple(title for title in verdict.tied if title != line.title) if line.title in verdict.tied else ()
    better = "" if line.title in verdict.tied else "".join(verdict.tied[:1])
    made = replace(made, command=command, seed=run.row.seed, marks=tuple(verdict.marks.get(line.title, ())))
    return replace(made, tied=tied, better=better, label_free=free)


def _strips(plan: Plan, lines: Sequence[Line], here: Sequence[Line], site: str) -> list[plots.Strip]:
    known = facts.ordinals(lines)
    return [
        plots.Strip(
            line.title,
            {known[subject]: value for subject, value in subject_scores(plan, line, site).items()},
            line.score(site),
            line.chosen,
        )
        for line in here
    ]


def _strip_plot(
    plan: Plan,
    here: Sequence[Line],
    site: str,
    strips: Sequence[plots.Strip],
    costs: Sequence[TrainingCost | None],
) -> Markup:
    if not any(strip.dots for strip in strips):
        return Markup("")
    base = reference(here, plan, site)
    alone, given = ([getattr(cost, name) if cost else None for cost in costs] for name in ("alone", "given"))
    level = None if base is None else base.score(site)
    dashed = "no adaptation" if base is None or base.title in NOTHING else base.title
    return plots.strip_plot(strips, plan.headline, level, at=dashed, costs=plots.Costs(alone, given))
