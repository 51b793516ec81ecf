"""The page above the reports of a study of many pairs: every pair of sites, and every recipe over
all pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from allograft.figure import Heatmap
from allograft.report import facts
from allograft.report.cells import Cell, Column, Table, gain, gain_cell, score_cell
from allograft.report.drawn import Drawn
from allograft.report.figures import draw_figure
from allograft.report.how_many_labels import label_sections
from allograft.report.page import scripts, template
from allograft.results.analysis.sheet import Sheet
from allograft.results.comparison import NOTHING, compare, verdict_reference
from allograft.results.over_pairs import OverPairs, over_pairs
from allograft.results.select import Line
from allograft.results.sentence import unfinished
from allograft.results.standing import Standing
from allograft.results.table import subjects_at
from allograft.study.keys import TargetLabels
from allograft.study.plan import Plan
from allograft.study.spec import Study
from allograft.tree import write_bytes

NONE = Cell("–", kind="quiet")


@dataclass(frozen=True)
class Part:
    """One of the studies: its source sites to each of its targets.

    Args:
        name: ``from a``, ``to b``.
        link: its own report, beside this page.
    """

    name: str
    link: str
    study: Study
    plan: Plan
    standing: Standing

    @property
    def lines(self) -> Sequence[Line]:
        """Its table."""
        return self.standing.lines

    def label(self, target: str) -> str:
        """One of its questions; a part that is more than a pair of sites says its own name
        first."""
        pair = f"{self.start or 'source-free'} → {target}" if self.start != target else f"within {target}"
        return pair if self.name in (f"from {self.start}", f"to {target}") else f"{self.name}: {pair}"

    @property
    def start(self) -> str:
        """Its source sites."""
        return " + ".join(self.study.source)

    def at(self, target: str) -> list[Line]:
        """The lines of one pair."""
        return [line for line in self.lines if line.target == target]

    def base(self, target: str) -> Line | None:
        """The line that all others of a pair are compared with, as in verdicts."""
        return verdict_reference(self.lines, self.plan, target)

    def level(self, site: str) -> float | None:
        """What the reference has at a site, be it the source."""
        line = self.base(site if site in self.study.target else self.study.target[0])
        return line.score(site) if line else None

    def choice(self, target: str) -> Line | None:
        """The line of one pair that its verdict names: the one to change to, or doing nothing."""
        return next((line for line in self.at(target) if line.chosen), None)

    def sentence(self, target: str) -> str:
        """The verdict of one pair."""
        verdict = self.standing.verdicts.get(target)
        return unfinished(self.standing.done, self.standing.total) + "." if verdict is None else verdict.sentence


def write_overview(
    path: Path,
    study: Study,
    parts: Sequence[Part],
    total: int,
    severity: Sheet | None,
    *,
    missing: Mapping[str, str],
    frozen: str = "",
) -> None:
    """Write the page as one HTML file that needs no network; an older one is replaced whole or not
    at all.

    Args:
        parts: those that have been run so far, of ``total``.
        severity: recipes by how much do-nothing loses.
        missing: parts that were not run, each with the reason.
        frozen: when the study's protocol was frozen, in words; "" where it was not.

    Raises:
        OutputError: the file cannot be written.
    """
    plan = parts[0].plan
    content: dict[str, Any] = {
        "question": _question(study),
        "study": study,
        "task": facts.task_in_words(study, plan),
        "labels": facts.label_budget(study),
        "headline": plan.headline,
        "parts": parts,
        "total": total,
        "frozen": frozen,
        "ways": WAYS[study.pairs],
        "pairs": _pairs(plan, parts),
        "against": _against(parts),
        "maps": _maps(parts) if study.pairs == "all" and _only_pairs(study) else (),
        "recipes": recipes_over(parts),
        "severity": severity,
        "label_sections": label_sections(parts),
        "verdicts": [
            *((part.label(asked.name), part.sentence(asked.name)) for part in parts for asked in part.study.questions),
            *((name, f"missing: {why}") for name, why in missing.items()),
        ],
        **scripts(),
    }
    write_bytes(path, template("overview.html.j2").render(**content).encode())


WAYS = {
    "listed": "each setting",
    "all": "each source to each target",
    "leave-one-site-out": "each target from all other sites",
}


def _only_pairs(study: Study) -> bool:
    """Whether the parts differ in their sites alone."""
    labels = study.target_labels
    return not study.each and (not isinstance(labels, TargetLabels) or len(labels.amounts) == 1)


def _question(study: Study) -> str:
    if study.pairs == "listed":
        return (
            f"Which recipe adapts a model best to {facts.listed([question.name for question in study.questions])}, in "
            "each setting?"
        )
    if study.pairs == "all":
        return (
            f"Which recipe adapts a model best from each of {facts.listed(study.source)} to each of "
            f"{facts.listed(study.target)}?"
        )
    return f"Which recipe adapts a model best to each of {facts.listed(study.target)}, from all other sites?"


def _against(parts: Sequence[Part]) -> str:
    """What rows are compared with, in words: no adaptation, or another row where no row does
    nothing."""
    bases = [base for part in parts for asked in part.study.questions if (base := part.base(asked.name)) is not None]
    titles = dict.fromkeys("no adaptation" if base.title in NOTHING else base.title for base in bases)
    return " or ".join(titles) or "no adaptation"


def _pairs(plan: Plan, parts: Sequence[Part]) -> Table:
    """One row a pair: what the reference has there, and what the row that the verdict names."""
    against = _against(parts)
    columns = (
        Column("pair"),
        Column("test", "subjects"),
        Column(plan.headline, against, "mean ± sd over seeds"),
        Column("verdict", plan.headline, "of the row that the verdict names; mean ± sd over seeds"),
        Column(
            "gain",
            f"vs. {against}",
            f"to {_against(parts)}, over the subjects and seeds that both have; 95 % over subjects",
        ),
    )
    every = [(part, question.name) for part in parts for question in part.study.questions]
    return Table(
        columns, tuple((False, _pair(plan, part, target, number)) for number, (part, target) in enumerate(every))
    )


def _pair(plan: Plan, part: Part, target: str, order: int) -> tuple[Cell, ...]:
    base, choice = part.base(target), part.choice(target)
    subjects = max((subjects_at(line, target) for line in part.at(target)), default=0)
    compared = compare(part.lines, part.plan, target, base.title).get(choice.title) if choice and base else None
    return (
        Cell(part.label(target), value=order, kind="name"),
        Cell(str(subjects), value=subjects),
        NONE if base is None else score_cell(base, target, plan.headline),
        NONE if choice is None else _named(score_cell(choice, target, plan.headline), choice),
        gain_cell(compared, _role(choice) if choice is not None and choice is base else "", _role(base)),
    )


def _role(base: Line | None) -> str:
    """What the reference is called in a cell."""
    return "" if base is None else "no adaptation" if base.title in NOTHING else base.title


def _named(cell: Cell, choice: Line) -> Cell:
    name = "keep your model" if choice.title in NOTHING else choice.title
    return replace(cell, small="\n".join(filter(None, (cell.small, name))))


def _maps(parts: Sequence[Part]) -> tuple[Drawn, ...]:
    """Source by target: the reference, with its score at home, and the row that the verdict names;
    on one scale of colours."""
    named = {site for part in parts for site in part.study.target}
    targets = (*(part.start for part in parts if part.start in named), *sorted(named - {part.start for part in parts}))
    bare = [[part.level(site) for site in targets] for part in parts]
    chosen = [[line.score(site) if (line := part.choice(site)) else None for site in targets] for part in parts]
    known = [value for grid in (bare, chosen) for row in grid for value in row if value is not None]
    if not known:
        return ()
    names, low, high = tuple(part.start for part in parts), min(known), max(known)
    grids = {
        f"{_against(parts)}, from (rows) to (columns); at home on the diagonal": bare,
        "the row that the verdict names": chosen,
    }
    return tuple(
        draw_figure(Heatmap(title, names, targets, tuple(map(tuple, grid)), low=low, high=high), str)
        for title, grid in grids.items()
    )


def recipes_over(parts: Sequence[Part]) -> Table:
    """One row a recipe; a mean stands only where it has every measured pair."""
    plan, against = parts[0].plan, _against(parts)
    columns = (
        Column("recipe"),
        Column(plan.headline, "mean over pairs", "mean over all pairs for each seed, then mean ± sd over seeds"),
        Column("gain", "mean over pairs", f"difference from {against}, mean over pairs"),
        Column("better", f"than {against}", f"pairs in which it is ahead of {against}"),
        Column("worst", "pair", "the lowest of its scores"),
        Column("runs", "finished"),
    )
    compared = over_pairs([part.lines for part in parts], plan)
    return Table(columns, tuple((False, _recipe(parts, over, number)) for number, over in enumerate(compared)))


def _recipe(parts: Sequence[Part], over: OverPairs, order: int) -> tuple[Cell, ...]:
    here = [(part, line) for part in parts for line in part.lines if line.title == over.title]
    scores = [(score, part.label(line.target)) for part, line in here if (score := line.score(line.target)) is not None]
    differences = [gain(part.plan, line, part.base(line.target), line.target) for part, line in here]
    gains = [difference for difference in differences if difference is not None]
    mean, spread = over.mean, "" if over.sd is None else f"± {over.sd:.3f}"
    return (
        Cell(over.title, value=order, kind="name"),
        Cell(over.absent, kind="quiet") if mean is None else Cell(f"{mean:.3f}", spread, mean),
        Cell(f"{fmean(gains):+.3f}".replace("-", "−"), value=fmean(gains))
        if len(gains) == over.pairs and gains and mean is not None
        else NONE,
        Cell(
            f"{sum(difference > 0 for difference in gains)} of {len(gains)}",
            value=sum(difference > 0 for difference in gains),
        )
        if gains
        else NONE,
        Cell(f"{min(scores)[0]:.3f}", min(scores)[1], min(scores)[0]) if scores else NONE,
        Cell(f"{over.done} of {over.runs}", value=over.done, kind="number" if over.done == over.runs else "warn"),
    )
