"""What a row's training costs: alone, and for whoever has the source model already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from allograft.results.record import Record
from allograft.results.select import Chosen, Line


@dataclass(frozen=True)
class TrainingCost:
    """Seconds of training, mean over the finished seeds.

    Args:
        alone: with every training that the row is built on.
        given: without that of the source model, which rows share and most users have.
    """

    alone: float
    given: float

    @property
    def is_shared(self) -> bool:
        """Whether the two differ."""
        return self.alone > self.given


def unit_seconds(records: Iterable[Record]) -> dict[str, float]:
    """Unit -> seconds of its own training, as the record of its last stage says."""
    last: dict[str, tuple[int, float]] = {}
    for record in records:
        seconds = record.cost.get("train_seconds")
        if seconds is not None and record.ordinal >= last.get(record.unit, (0, 0.0))[0]:
            last[record.unit] = (record.ordinal, float(seconds))
    return {unit: seconds for unit, (_, seconds) in last.items()}


def training_cost(line: Line, source: Line | None, seconds: Mapping[str, float]) -> TrainingCost | None:
    """A row's cost; None where it, or a training that it is built on, has none.

    Of a grid the trainings of all its settings count, each shared one once.

    Args:
        source: the row that does nothing, whose training is that of the source model.
        seconds: see ``unit_seconds``.
    """
    own = line.cost("train_seconds")
    if own is None:
        return None
    runs = [run for run in line.runs if not run.error]
    models = {node.key for run in source.runs for node in run.row.nodes} if source is not None else set[str]()
    built = [_built_on(run) for run in runs]
    if any(unit not in seconds for units in built for unit in units):
        return None
    below = fmean(sum(seconds[unit] for unit in units) for units in built)
    given = fmean(sum(seconds[unit] for unit in units - models) for units in built)
    return TrainingCost(own + below, (0.0 if line is source else own) + given)


def _built_on(run: Chosen) -> set[str]:
    """The units below those of a run, and of the settings that were passed over."""
    rows = [settings.row for settings in (run, *run.passed_over)]
    return {node.key for row in rows for node in row.nodes} - {row.unit for row in rows}
