"""The numbers of a science test, kept where the evidence page's tables are built from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "evidence" / "data" / "science"
FIELDS = ("setting", "row", "measure", "seed", "value")

Line = tuple[str, str, str, int, float]


def lines(setting: str, seeds: Sequence[Mapping[str, float]], measure: str = "score") -> list[Line]:
    """One line for each row and seed of ``seeds``: row -> score, once a seed."""
    return [(setting, row, measure, seed, value) for seed, scores in enumerate(seeds) for row, value in scores.items()]


def keep(name: str, every: Iterable[Line]) -> None:
    """Write ``docs/evidence/data/science/NAME.csv``, a line for each setting, row, measure and
    seed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows((*line[:-1], f"{line[-1]:.6g}") for line in every)
