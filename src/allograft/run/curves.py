"""The trainings of a study that runs: loss by step, and scores on validation subjects by stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from allograft import tree
from allograft.context import Store
from allograft.figure import Lines, thinned
from allograft.recipe import title
from allograft.results.record import Record
from allograft.study.plan import Plan

MOST = 12
"""Figures on a page; of what is in training and of what comes first in the study."""


def curves_of(plan: Plan, units: Path, records: Iterable[Record]) -> list[Lines]:
    """One figure for each recipe and training of it, with a curve for each run: finished ones from
    what they show, others from their newest checkpoint.

    A loss is the sum of its terms. Validation scores are those of the source's validation subjects,
    of runs that were evaluated at several stages.

    Args:
        units: the folder of the units.
    """
    labels = _labels(plan)
    losses_of: dict[str, dict[str, Lines]] = {}
    running: set[str] = set()
    for unit, (recipe, label) in labels.items():
        store = Store(units / unit)
        is_done = store.carry_file.exists()
        for name, curve in _finished(store) if is_done else _begun(units / unit):
            key = f"{recipe}: loss" + ("" if name == "train" else f" of '{name}'")
            losses_of.setdefault(key, {})[label] = curve
            running |= set() if is_done else {key}
    ordered = sorted(losses_of, key=lambda key: key not in running)
    losses = [_joined(key, losses_of[key]) for key in ordered]
    return [*losses[:MOST], *_validation(plan, labels, records)[:MOST]]


def _labels(plan: Plan) -> dict[str, tuple[str, str]]:
    """Unit -> recipe, and which of its runs it is; of a training that rows share the seed alone."""
    labels: dict[str, tuple[str, str]] = {}
    for row in plan.rows:
        for node in row.nodes:
            own = node.key == row.unit and len(row.nodes) > 1
            labels.setdefault(
                node.key, (title(node.recipe), f"{row.target}, seed {row.seed}" if own else f"seed {row.seed}")
            )
    return labels


def _finished(store: Store) -> Iterator[tuple[str, Lines]]:
    for name, figure in store.figures(images=False).items():
        if name.startswith("loss-") and isinstance(figure, Lines):
            yield name.removeprefix("loss-"), figure


def _begun(folder: Path) -> Iterator[tuple[str, Lines]]:
    for path in sorted((folder / "journal").glob("*.safetensors")):
        history = (tree.outline(path) or {}).get("history")
        if history:
            yield path.stem, thinned(history, path.stem)


def _joined(name: str, runs: Mapping[str, Lines]) -> Lines:
    """The losses of several runs in one figure."""
    curves = {label: dict(zip(lines.x, _sums(lines), strict=True)) for label, lines in sorted(runs.items())}
    x = sorted({step for curve in curves.values() for step in curve})
    y = {label: tuple(curve.get(step) for step in x) for label, curve in curves.items()}
    return Lines(name, tuple(x), y, "step", "loss")


def _sums(lines: Lines) -> list[float | None]:
    """The sum of the terms at each step; None where one is missing."""
    return [
        None if any(value is None for value in values) else sum(value for value in values if value is not None)
        for values in zip(*lines.y.values(), strict=True)
    ]


def _validation(plan: Plan, labels: Mapping[str, tuple[str, str]], records: Iterable[Record]) -> list[Lines]:
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        value = record.metrics.get(plan.headline)
        if record.part == "val" and record.unit in labels and value is not None:
            recipe, label = labels[record.unit]
            scores.setdefault(recipe, {}).setdefault(label, {})[record.ordinal + 1] = value
    made = []
    for recipe, runs in scores.items():
        stages = sorted({stage for run in runs.values() for stage in run})
        if len(stages) > 1:
            y = {label: tuple(run.get(stage) for stage in stages) for label, run in sorted(runs.items())}
            x = tuple(map(float, stages))
            made.append(Lines(f"{recipe}: {plan.headline} on validation subjects", x, y, "stage", plan.headline))
    return made
