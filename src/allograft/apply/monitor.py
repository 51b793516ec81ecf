"""This month's predictions against the images that a model was validated on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from allograft.apply.model import Model, load
from allograft.apply.prediction_tables import PredictionTable, read_predictions
from allograft.cohort.prepared_images import file_hash
from allograft.errors import ModelError
from allograft.predictor.abstention import Abstention
from allograft.predictor.deployment import Deployment
from allograft.report.monitor import Monitored, write_page
from allograft.results.drift import Drift, compared
from allograft.tree import write_bytes

CONFIDENCE = "confidence"
"""The probability of the class that was named."""
Row = Mapping[str, str]


def monitor(model: Path | str, results: Sequence[Path | str], out: Path | str | None = None) -> Monitored:
    """Compare the images of some ``results.csv`` with those of a model's validation: volumes,
    distances, confidence, and the share that is far.

    Args:
        model: the folder of the model that predicted them.
        results: files that ``predict`` left.
        out: a folder for ``monitor.html`` and ``monitor.csv``; None = no files.

    Raises:
        ModelError: a model that knows nothing of its validation, a file of another model, one file
            given twice.
    """
    folder, files = Path(model), [Path(path) for path in results]
    loaded = load(folder, device="cpu")
    if loaded.deployment is None:
        raise ModelError(
            f"{folder}: holds no numbers of its validation, so there is nothing to compare with; use a model "
            "that 'allograft study' wrote with this version"
        )
    rows, failed = _rows(files, loaded)
    before: dict[str, list[float]] = dict(loaded.deployment.facts["reference"])
    now = {name: _numbers(rows, name) for name in before if name != CONFIDENCE}
    if CONFIDENCE in before:
        now[CONFIDENCE] = [max(values) for row in rows if (values := _probabilities(row, loaded.task))]
    rule = Abstention.by_default(loaded.predictor, loaded.deployment)
    drifts = compared(before, now, _abstained(rows, rule))
    task = f"{type(loaded.task).__name__.lower()} of {', '.join(getattr(loaded.task, 'names', ())) or 'images'}"
    words = "" if rule is None else str(rule)
    monitored_ = Monitored(folder.resolve().name, task, drifts, before, now, failed, loaded.deployment.facts, words)
    if out is not None:
        write_page(Path(out) / "monitor.html", monitored_)
        _write_csv(Path(out) / "monitor.csv", drifts)
    return monitored_


def _rows(files: Sequence[Path], model: Model) -> tuple[list[Row], int]:
    """The rows of all files, and how many could not be predicted, which are left out."""
    known: dict[str, Path] = {}
    rows, failed = [], 0
    for file in files:
        table = read_predictions(file)
        _check_columns(table, model, file)
        mark = file_hash(file)
        if mark in known:
            raise ModelError(f"{file}: the same rows as {known[mark]}; give each file once")
        known[mark] = file
        for row in table.rows.values():
            failed += row["warnings"].startswith("failed:")
            rows += [] if row["warnings"].startswith("failed:") else [row]
    return rows, failed


def _check_columns(table: PredictionTable, model: Model, file: Path) -> None:
    assert isinstance(model.deployment, Deployment)
    lacks = [name for name in model.deployment.facts["reference"] if name not in (*table.columns, CONFIDENCE)]
    if lacks:
        raise ModelError(
            f"{file}: lacks the column '{lacks[0]}'; expected the results.csv of this model: predict the images again "
            "with it"
        )
    units = {row["unit"] for row in table.rows.values() if row.get("unit")}
    expected = set(model.deployment.facts.get("units", ()))
    if units - expected and expected:
        raise ModelError(
            f"{file}: volumes in {', '.join(sorted(units - expected))}, those of the validation are in "
            f"{', '.join(expected)}, and cannot be compared; predict images of the kind that the model was validated on"
        )


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    try:
        return [float(row[name]) for row in rows if row[name]]
    except ValueError as error:
        raise ModelError(f"column '{name}': {error}; expected numbers, as predict writes them") from error


def _probabilities(row: Row, task: Any) -> list[float]:
    names = getattr(task, "classification", task).names
    return [float(row[name]) for name in names if row.get(name)]


def _abstained(rows: Sequence[Row], rule: Abstention | None) -> tuple[int, int, int, int]:
    """Far and all held-out cases of the validation, and of these rows."""
    flags = [row["abstain"] for row in rows if row.get("abstain")]
    if rule is None or not flags:
        return 0, 0, 0, 0
    return round((1 - rule.coverage) * rule.cases), rule.cases, flags.count("yes"), len(flags)


def _write_csv(path: Path, drifts: Sequence[Drift]) -> None:
    columns = [*(f.name for f in fields(Drift)), "differs", "words"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for drift in drifts:
        row = {name: getattr(drift, name) for name in columns}
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    write_bytes(path, text.getvalue().encode())
