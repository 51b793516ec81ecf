"""The features of judged cases, in a file beside their record: a report that shows them does not
predict these cases again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from allograft.cohort import Cohort, Whole
from allograft.results.analysis.features import MOST, Known, Seen, encoder_of, features, in_turn, loss_of, one_feature
from allograft.results.record import Record, measured
from allograft.tasks import Task
from allograft.tree import load_whole, save


@dataclass(frozen=True)
class Keeper:
    """Keeps the features of the cases that a figure may show, while they are judged.

    Args:
        encoder: of the predictor that is judged; None for one without.
        shown: names of cases.
        kept: case -> (C,).
    """

    encoder: nn.Module | None
    shown: frozenset[str]
    kept: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @staticmethod
    def of(predictor: Any, cohort: Cohort) -> Keeper:
        """Of the first ``MOST`` of a cohort ``in_turn``."""
        return Keeper(encoder_of(predictor), frozenset(case.name for case in in_turn(cohort.cases)[:MOST]))

    @contextmanager
    def look(self, whole: Whole) -> Iterator[None]:
        """Keep what the encoder makes of a case inside. A case that preprocessing cuts is predicted
        in windows, where a figure shows it in one piece: it is left out."""
        if self.encoder is None or whole.case.name not in self.shown or whole.is_cut:
            yield
            return
        with features(self.encoder) as captured:
            yield
        if captured:
            self.kept[whole.case.name] = one_feature(captured)


def write_features(folder: Path, record: Record, features: Mapping[str, NDArray[np.float64]]) -> None:
    """Write ``folder/NAME.safetensors`` beside a record, of the cases (name -> (C,)) that have one;
    nothing where none has."""
    if features:
        rows = torch.from_numpy(np.stack(list(features.values())))
        save(folder / f"{record.name}.safetensors", {"data": record.data, "cases": list(features), "rows": rows})


def known_of(folder: Path, records: Iterable[Record], task: Task) -> Known:
    """What a model made of the cases that it was judged on, from the ``folder`` of its records.

    Of a record without the file, or with one that is damaged or of other cases, nothing is known.
    """
    known: Known = {}
    for record in records:
        kept = load_whole(folder / f"{record.name}.safetensors")
        if kept is None or kept["data"] != record.data:
            continue
        rows = dict(zip(kept["cases"], kept["rows"].numpy(), strict=True))
        losses = {str(case["case"]): loss_of(task, case) for case in measured(record.cases)}
        known |= {
            case["case"]: Seen(rows[case["case"]], losses.get(case["case"]), case.get("entropy"))
            for case in record.cases
            if case["case"] in rows
        }
    return known
