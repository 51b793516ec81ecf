"""Records: one JSON file a unit, stage and test set, written whole or not at all; the only thing
tables are made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from allograft.errors import OutputError
from allograft.tree import content_hash, write_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
"""Written; schema 1, which called a target's unlabelled training images "val", is read too."""


Part = Literal["val", "test", "train-unlabelled", "weights"]


@dataclass(frozen=True)
class Record:
    """What one predictor scored on one test set.

    Args:
        unit: the content key of the run.
        recipe: ``{"name": ..., "parameters": {...}}``, every field of it.
        stage, ordinal: which moment of the run.
        seen: sites learned from so far.
        source, target, stream: the sites the unit saw up to this stage; target None when it saw
            none.
        site, part, fold: the site judged, its validation, test or unlabelled training cases, and
            the fold of its subjects; part "weights" of a stage that nothing can judge, since it
            leaves weights only.
        labelled_subjects: subjects of target and stream whose labels the unit saw.
        facts: numbers that belong to the stage: models in a pool, the loss of a pretext.
        status, error: "done", or "failed" and why; then nothing else is known.
        metrics: pooled over subjects; None = undefined.
        cases: every metric of every case; one without labels has label-free scores alone. Since
            0.2.0.dev3 ``calibration`` of a mask, and ``prediction`` of an unlabelled classified
            image.
        cost: train_seconds, predict_seconds, peak_memory_mb, trainable_parameters.
        data: fingerprint of the test set.
        environment: versions, device, threads.
    """

    unit: str
    recipe: dict[str, Any]
    seed: int
    stage: str
    ordinal: int
    site: str
    part: Part
    seen: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    target: str | None = None
    fold: int = 0
    labelled_subjects: tuple[str, ...] = ()
    status: Literal["done", "failed"] = "done"
    error: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    cases: tuple[dict[str, Any], ...] = ()
    cost: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    stream: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def measured(self) -> tuple[dict[str, Any], ...]:
        """The cases that have labels, without their label-free scores."""
        return measured(self.cases)

    @property
    def name(self) -> str:
        """``UNIT-STAGE-TESTSET``, the name of its file."""
        return record_name(self.unit, self.stage, self.site, self.part, self.fold)

    def write(self, folder: Path) -> None:
        """Write ``folder/NAME.json``, with a checksum of all that is in it."""
        tree = asdict(self)
        write_json(folder / f"{self.name}.json", {**tree, "checksum": content_hash(tree)})


def record_schema() -> dict[str, Any]:
    """The JSON schema of a record, as ``docs/reference/record.schema.json`` keeps it."""
    from pydantic import TypeAdapter

    return TypeAdapter(Record).json_schema()


LABEL_FREE = ("entropy", "prediction", "snd", "score", "spread")
"""Numbers that a case has without a label."""
CALIBRATION = "calibration"
"""What estimates of Dice are made of, see ``label_free.calibration``; that of a source validation
case holds losses against its label too."""
UNMEASURED = (*LABEL_FREE, CALIBRATION, "chosen", "neighbours", "warnings")
"""All that a case has beside its measures."""


def measured(cases: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The cases that have labels, without their label-free scores.

    >>> measured([{"case": "a", "subject": "1", "entropy": 0.1},
    ...     {"case": "b", "subject": "1", "entropy": 0.1, "dice": 0.5}])
    ({'case': 'b', 'subject': '1', 'dice': 0.5},)
    """
    bare = ({key: value for key, value in case.items() if key not in UNMEASURED} for case in cases)
    return tuple(case for case in bare if set(case) - {"case", "subject"})


def record_name(unit: str, stage: str, site: str, part: str, fold: int) -> str:
    """The file name of a record, without its suffix."""
    words = [unit, stage, site, part, *([f"fold{fold}"] if fold else [])]
    return "-".join(map(_filed, words))


def _filed(word: str) -> str:
    """A word for file names; two words never become the same one."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "_", word)
    return safe if safe == word else f"{safe}.{content_hash(word)[:6]}"


def read_record(path: Path) -> Record:
    """One record. ``OutputError`` when the file is not one."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["schema"] not in (1, SCHEMA):
            raise OutputError(
                f"{path}: schema {tree['schema']}, expected 1 to {SCHEMA}; use the version of Allograft that wrote it"
            )
        checksum = tree.pop("checksum", None)  # records of earlier versions have none
        if checksum is not None and checksum != content_hash(tree):
            raise ValueError("its content does not match its checksum")
        if tree["schema"] == 1 and tree["part"] == "val" and not measured(tree["cases"]):
            tree["part"] = "train-unlabelled"
        tree = _with_missed_classes(tree)
        tuples = {key: tuple(tree[key]) for key in ("seen", "source", "labelled_subjects", "cases")}
        tuples["stream"] = tuple(tree.get("stream", ()))
        return Record(**{**tree, **tuples, "schema": SCHEMA})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path}: not a complete record ({error}); delete it and run the study again: its unit is then evaluated "
            "again"
        ) from error


def _with_missed_classes(tree: dict[str, Any]) -> dict[str, Any]:
    """A record of an earlier version, whose mean distances skipped the classes that were missed."""
    cases = [{**case, **_missed(case)} for case in tree["cases"]]
    if cases == list(tree["cases"]):
        return tree
    from allograft.tasks.segmentation import mean_over_subjects

    scores = [{key: case[key] for key in ("case", "subject", "hd95", "asd")} for case in measured(cases)]
    return {**tree, "cases": cases, "metrics": {**tree["metrics"], **mean_over_subjects(scores)}}


def _missed(case: Mapping[str, Any]) -> dict[str, None]:
    """The mean distances of a case of which a class overlaps with nothing and has no distance."""
    names = [key.split("/", 1)[1] for key, value in case.items() if key.startswith("dice/") and value is not None]
    return {
        metric: None
        for metric in ("hd95", "asd")
        if metric in case and any(case.get(f"{metric}/{name}", 0.0) is None for name in names)
    }


def read_all(out: Path, *, skip_damaged: bool = False) -> dict[str, Record]:
    """Every record of an output folder by name; in the middle of a study a damaged one is skipped,
    since it is judged anew."""
    records = {}
    for path in sorted((out / "records").glob("*.json")):
        try:
            records[path.stem] = read_record(path)
        except OutputError:
            if not skip_damaged:
                raise
    return records


def read_records(out: Path | str) -> pd.DataFrame:
    """Every record as a row of a table; metrics become columns ``metrics/dice``, costs
    ``cost/train_seconds``.

    Raises:
        OutputError: no records, or a damaged one.
    """
    import pandas as pd

    records = read_all(Path(out))
    if not records:
        raise OutputError(f"{out}: holds no records; expected the output folder of 'allograft study'")
    return pd.DataFrame([_flat(asdict(record)) for record in records.values()])


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key in ("metrics", "cost", "environment"):
            flat.update({f"{key}/{inner}": number for inner, number in value.items()})
        else:
            flat[key] = value
    return flat
