"""One page from the records: gather what it shows, fill the template, keep it under ten megabytes,
write it whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from allograft.figure import Figure, Images
from allograft.report import facts
from allograft.report.annotate import FILE
from allograft.report.beside import Case, cases_of
from allograft.report.disagreement import HEAT
from allograft.report.drawn import Hide
from allograft.report.figures import draw_figure
from allograft.report.gallery import DISAGREEMENT, Picture, PictureKey, Pictures, fitting
from allograft.report.overlay import AGREE, EXTRA, MISSED, class_colour
from allograft.report.target import Extra, Target, fitting_figures, target_of
from allograft.results.caption import COVERAGE
from allograft.results.select import RULES, Line
from allograft.results.standing import Standing
from allograft.study.cite import papers
from allograft.study.plan import Plan
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.tree import write_bytes

LIMIT, FIGURES = 10_000_000, 3_000_000
"""Bytes of a report at most, and of the figures of recipes in it."""
SCRIPTS = ("sort.js", "slices.js")


@dataclass(frozen=True)
class Shown:
    """A slice or photograph as the template takes it."""

    source: str
    place: str
    first: bool


@dataclass(frozen=True)
class Overlay:
    """A picture as the template takes it."""

    title: str
    caption: str
    slices: tuple[Shown, ...]

    @property
    def central(self) -> int:
        """Which of the slices shows first."""
        return next(number for number, each in enumerate(self.slices) if each.first)


@dataclass(frozen=True)
class Shows:
    """What a report shows besides the records.

    Args:
        pictures: (recipe's title or ``DISAGREEMENT``, target) -> overlays. What does not fit into
            ten megabytes is left out, slices before pictures and last pictures first, and the page
            reports how many.
        figures: (recipe's title, target) -> name -> figure, of the run that stands for the line.
        extras: target -> further sections.
        world: for the counts of the splits; without it the page counts the test sets alone.
        seconds: unit -> seconds of its own training, for what rows are built on.
        curves: of a study that runs, the trainings so far.
        frozen: when the study's protocol was frozen, in words; "" where it was not.
    """

    pictures: Pictures = field(default_factory=dict)
    figures: Mapping[PictureKey, Mapping[str, Figure]] = field(default_factory=dict)
    extras: Mapping[str, Sequence[Extra]] = field(default_factory=dict)
    world: World | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    curves: Sequence[Figure] = ()
    frozen: str = ""


def write_report(
    path: Path,
    *,
    study: Study,
    plan: Plan,
    standing: Standing,
    shows: Shows | None = None,
) -> None:
    """Write the report of a study as one HTML file that needs no network; an older one is replaced
    whole or not at all.

    The same arguments give the same bytes. Subjects are ordinals, cases have no names, everything
    is escaped.

    Args:
        standing: the table, its verdicts, and the units that are done.
        shows: pictures, figures and further sections.

    Raises:
        OutputError: the file cannot be written.
    """
    shows, lines = shows or Shows(), standing.lines
    hide = facts.hider(lines)
    shown = _subjects(shows.figures)
    unnamed = facts.name_hider(lines, shown)
    drawn, lost = fitting_figures(shows.figures, unnamed, FIGURES, facts.ordinals(lines, shown))
    content = _content(study, plan, lines, shows.world, hide)
    content |= {
        "frozen": shows.frozen,
        "done": standing.done,
        "total": standing.total,
        "lost": lost,
        "coverage": COVERAGE,
    }
    content["targets"] = [
        target_of(
            study,
            plan,
            standing,
            site,
            figures=drawn,
            extras=shows.extras.get(site, ()),
            hide=unnamed,
            seconds=shows.seconds,
        )
        for site in (question.name for question in study.questions)
    ]
    content["curves"] = [draw_figure(figure, unnamed) for figure in shows.curves]
    bare = _render(content, {}, 0, hide)
    kept, dropped = fitting(shows.pictures, LIMIT - len(bare) - 20_000)
    write_bytes(path, _render(content, kept, dropped, hide) if kept or dropped else bare)


def _content(study: Study, plan: Plan, lines: Sequence[Line], world: World | None, hide: Hide) -> dict[str, Any]:
    """All that the page says besides its targets and pictures."""
    counts = facts.splits(study, lines, world)
    return {
        "study": study,
        "question": _question(study),
        "task": facts.task_in_words(study, plan),
        "headline": plan.headline,
        "labels": facts.label_budget(study),
        "recipes": len({line.title for line in lines}),
        "failures": facts.failures(lines, hide),
        "rule": RULES[study.selection],
        "may_see": facts.MAY_SEE[study.selection],
        "protocol": facts.protocol(study),
        "splits": counts,
        "parts": [part for part in ("train", "val", "test", "fold") if any(part in each for _, _, each in counts)],
        "bounds": facts.upper_bounds(plan),
        "papers": papers(row.recipe for row in plan.rows),
        "environment": facts.environment(lines),
        "colours": {"agree": AGREE, "missed": MISSED, "extra": EXTRA, "heat": ",".join(HEAT)},
        "classes": [(name, class_colour(index)) for index, name in enumerate(getattr(plan.task, "names", ()), 1)],
        "disagreement": DISAGREEMENT,
        "is_made": "paired" in plan.task.outputs,
        "annotate_file": FILE,
        **scripts(),
    }


def _subjects(figures: Mapping[PictureKey, Mapping[str, Figure]]) -> set[str]:
    """All whose images the figures show."""
    shown = [figure for every in figures.values() for figure in every.values() if isinstance(figure, Images)]
    return {subject for figure in shown for row in figure.subjects for subject in row if subject}


def _render(content: Mapping[str, Any], pictures: Pictures, dropped: int, hide: Hide) -> bytes:
    disputed = {key: every for key, every in pictures.items() if key[0] == DISAGREEMENT}
    shown = defaultdict(list, {key: [_overlay(picture, hide) for picture in every] for key, every in disputed.items()})
    galleries = {target.site: _gallery(target, pictures, hide) for target in content["targets"]}
    page: str = template("page.html.j2").render(**content, pictures=shown, galleries=galleries, dropped=dropped)
    return page.encode()


def _gallery(target: Target, pictures: Pictures, hide: Hide) -> list[Case]:
    """The test images of a target, each with all rows that have a picture of it, in the order of
    the table."""
    rows = {title: pictures[title, target.site] for title in target.titles if (title, target.site) in pictures}
    return cases_of(rows, hide, target.chosen)


def scripts() -> dict[str, Any]:
    """The only script that a page's own policy lets run, and its hash."""
    script = "".join(map(_text, SCRIPTS))
    return {
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


@cache
def template(name: str) -> Any:
    """A page's template; everything that goes into it is escaped, and what it misses is an
    error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    jinja = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.globals["counted"] = facts.counted
    return jinja.get_template(name)


def _text(name: str) -> str:
    return (files("allograft.report") / name).read_text(encoding="utf-8")


def _question(study: Study) -> str:
    if study.phases:
        return f"Which recipe learns best along a stream of {len(study.phases)} stages?"
    target = facts.listed(study.target)
    if study.source:
        return f"Which recipe adapts a model best from {facts.listed(study.source)} to {target}?"
    if study.start == "scratch":
        return f"Which recipe trains the best model for {target}?"
    return f"Which recipe adapts a model best from its source to {target}?"


def _overlay(picture: Picture, hide: Hide) -> Overlay:
    slices = tuple(
        Shown(
            "data:image/png;base64," + base64.b64encode(shown.png).decode(),
            f"slice {shown.place + 1} of {picture.depth}" if picture.depth else "",
            shown.place == picture.place,
        )
        for shown in picture.slices
    )
    return Overlay(hide(picture.title), hide(picture.caption), slices)
