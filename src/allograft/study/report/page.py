"""One page from the records: gather what it shows, fill the template, keep it under ten megabytes, write it whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from allograft.study.models import model_name, predict_command
from allograft.study.plan import Plan, World
from allograft.study.report import facts, plots
from allograft.study.report.cells import NOTHING, Table, class_table, decision_table, gain, seed_scores, subject_scores
from allograft.study.report.overlay import AGREE, EXTRA, MISSED
from allograft.study.select import RULES, Line
from allograft.study.spec import Study
from allograft.study.table import smallest_p, subjects_at
from allograft.tree import write_bytes

LIMIT = 10_000_000
"""Bytes of a report at most."""
PictureKey = tuple[str, str]
Hide = Callable[[str], str]


@dataclass(frozen=True)
class Picture:
    """One overlay. Name nobody in title or caption; ``ordinals`` gives subjects their numbers.

    Args:
        title: for example "worst".
        caption: for example "S004, dice 0.412".
        png: the file's bytes.
    """

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Shown:
    """A picture as the template takes it."""

    title: str
    caption: str
    source: str


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
    """All that the page shows of one target."""

    site: str
    advice: Advice | None
    table: Table
    classes: Table | None
    subjects: int
    smallest: str
    hopeless: bool
    strips: Markup
    thinned: bool
    scatter: Markup
    pictures: tuple[tuple[str, tuple[Shown, ...]], ...]


def write_report(
    path: Path,
    *,
    study: Study,
    plan: Plan,
    lines: Sequence[Line],
    pictures: Mapping[PictureKey, Sequence[Picture]],
    done: int,
    total: int,
    world: World | None = None,
) -> None:
    """Write the report of a study as one HTML file that needs no network; an older one is replaced whole or not at all.

    The same arguments give the same bytes. Subjects are ordinals, cases have no names, everything is escaped.

    Args:
        pictures: (recipe's title, target) -> overlays. What does not fit into ten megabytes is left out, last pictures first, and the
            page says so.
        done, total: units, for the progress line.
        world: for the counts of the splits; without it the page counts the test sets alone.

    Raises:
        OutputError: the file cannot be written.
    """
    bare = _render(study, plan, lines, {}, done, total, world, dropped=0)
    kept, dropped = fitting(pictures, LIMIT - len(bare) - 20_000)
    page = _render(study, plan, lines, kept, done, total, world, dropped=dropped) if kept or dropped else bare
    write_bytes(path, page)


def fitting(pictures: Mapping[PictureKey, Sequence[Picture]], budget: int) -> tuple[dict[PictureKey, list[Picture]], int]:
    """The pictures that fit into ``budget`` bytes of page, every line's first before any line's second; and how many do not."""
    kept: dict[PictureKey, list[Picture]] = {}
    dropped = 0
    for turn in range(max(map(len, pictures.values()), default=0)):
        for key, every in pictures.items():
            if turn >= len(every):
                continue
            size = 4 * len(every[turn].png) // 3 + 1000  # base64, and the words around it
            if size <= budget:
                kept.setdefault(key, []).append(every[turn])
                budget -= size
            else:
                dropped += 1
    return kept, dropped


def _render(
    study: Study,
    plan: Plan,
    lines: Sequence[Line],
    pictures: Mapping[PictureKey, Sequence[Picture]],
    done: int,
    total: int,
    world: World | None,
    *,
    dropped: int,
) -> bytes:
    hide = facts.hider(lines)
    script = _text("sort.js")
    counts = facts.splits(study, lines, world)
    page: str = _template().render(
        study=study,
        question=_question(study),
        task=facts.task_in_words(study, plan),
        headline=plan.headline,
        labels=facts.label_budget(study),
        targets=[_target(study, plan, lines, site, pictures, hide) for site in study.target],
        recipes=len({line.title for line in lines}),
        done=done,
        total=total,
        failures=facts.failures(lines, hide),
        dropped=dropped,
        rule=RULES[study.selection],
        may_see=facts.MAY_SEE[study.selection],
        protocol=facts.protocol(study),
        splits=counts,
        parts=[part for part in ("train", "val", "test", "fold") if any(part in each for _, _, each in counts)],
        bounds=facts.upper_bounds(plan),
        papers=facts.papers(plan),
        environment=facts.environment(lines),
        colours={"agree": AGREE, "missed": MISSED, "extra": EXTRA},
        script=Markup(script),  # the only script that the page's own policy lets run
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode()


@cache
def _template() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    jinja = Environment(loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.globals["counted"] = facts.counted
    return jinja.get_template("page.html.j2")


def _text(name: str) -> str:
    return (files("allograft.study.report") / name).read_text(encoding="utf-8")


def _question(study: Study) -> str:
    start = facts.listed(study.source) if study.source else "its source"
    return f"Which recipe carries a model from {start} to {facts.listed(study.target)}?"


def _target(
    study: Study, plan: Plan, lines: Sequence[Line], site: str, pictures: Mapping[PictureKey, Sequence[Picture]], hide: Hide
) -> Target:
    here = [line for line in lines if line.target == site]
    subjects = max((subjects_at(line, site) for line in here), default=0)
    strips, thinned = _strips(plan, lines, here, site)
    shown = [(line.title, tuple(_shown(picture, hide) for picture in pictures.get((line.title, site), ()))) for line in here]
    return Target(
        site=site,
        advice=_advice(plan, here, site),
        table=decision_table(study, plan, lines, site),
        classes=class_table(plan, lines, site),
        subjects=subjects,
        smallest=f"{smallest_p(subjects):.2g}",
        hopeless=smallest_p(subjects) > 0.05,
        strips=strips,
        thinned=thinned,
        scatter=_scatter(plan, here, site),
        pictures=tuple((title, each) for title, each in shown if each),
    )


def _advice(plan: Plan, here: Sequence[Line], site: str) -> Advice | None:
    line = next((line for line in here if line.recommended), None)
    run = line.best_run if line is not None else None
    if line is None or run is None:
        return None
    score, spread = line.score(site), line.spread(site)
    text = "not measured" if score is None else f"{score:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    more = gain(plan, line, next((one for one in here if one.title == NOTHING), None), site)
    words = "" if more is None else f"{more:+.3f}".replace("-", "−")
    return Advice(line.title, text, words, run.row.seed, predict_command(Path("models") / model_name(line)))


def _strips(plan: Plan, lines: Sequence[Line], here: Sequence[Line], site: str) -> tuple[Markup, bool]:
    known = facts.ordinals(lines)
    strips, thinned, reference = [], False, None
    for line in here:
        dots = {known[subject]: value for subject, value in subject_scores(plan, line, site).items()}
        thinned |= len(dots) > plots.MOST_DOTS
        strips.append(plots.Strip(line.title, dots, line.score(site), line.recommended))
        reference = line.score(site) if line.title == NOTHING else reference
    if not any(strip.dots for strip in strips):
        return Markup(""), False
    return plots.strip_plot(strips, plan.headline, reference), thinned


def _scatter(plan: Plan, here: Sequence[Line], site: str) -> Markup:
    points = []
    for line in here:
        seconds, scores = line.cost("train_seconds"), seed_scores(plan, line, site)
        if seconds is not None and scores:
            points.append(plots.Point(line.title, seconds, sum(scores.values()) / len(scores), line.recommended))
    return plots.scatter(points, "train seconds", f"{plan.headline} at {site}")


def _shown(picture: Picture, hide: Hide) -> Shown:
    title, caption = hide(picture.title), hide(picture.caption)
    return Shown(title, caption, "data:image/png;base64," + base64.b64encode(picture.png).decode())
