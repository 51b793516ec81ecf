"""Records: the file holds all of it, and a damaged one is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from allograft.errors import OutputError
from allograft.results.record import SCHEMA, Record, read_all, read_record, read_records
from allograft.tree import content_hash

RECORD = Record(
    unit="u1",
    recipe={"name": "fourier", "title": "fourier", "parameters": {"beta": 0.01, "donors": 7}},
    seed=1,
    stage="adapted",
    ordinal=2,
    site="b",
    part="test",
    seen=("a",),
    source=("a",),
    target="b",
    fold=1,
    labelled_subjects=("s1", "s2"),
    metrics={"dice": 0.5, "hd95": None, "undefined/hd95": 1},
    cases=({"case": "x", "subject": "s3", "dice": 0.5, "hd95": None},),
    cost={"train_seconds": 1.5},
    data="d",
    environment={"torch": "2"},
)


def test_round_trip(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "u1-adapted-b-test-fold1.json"
    assert read_record(path) == RECORD


def test_the_schema_is_designs(tmp_path: Path) -> None:
    """These names are read by others: a change is a new schema number and a migration."""
    RECORD.write(tmp_path)
    assert SCHEMA == 2
    assert set(json.loads(next(tmp_path.iterdir()).read_text())) == {
        *("schema", "unit", "recipe", "seed", "stage", "ordinal", "seen", "source", "target", "site", "part", "fold"),
        *(
            "labelled_subjects",
            "status",
            "error",
            "metrics",
            "cases",
            "cost",
            "data",
            "environment",
            "checksum",
            "stream",
            "facts",
        ),
    }


def test_a_record_of_schema_1_is_read(tmp_path: Path) -> None:
    """It called unlabelled training images of a target "val"."""
    for name, part, cases in (
        ("old", "val", ({"case": "x", "subject": "1", "entropy": 0.5},)),
        ("source", "val", RECORD.cases),
    ):
        tree = {**asdict(RECORD), "unit": name, "schema": 1, "part": part, "cases": cases}
        (tmp_path / f"{name}.json").write_text(json.dumps({**tree, "checksum": content_hash(tree)}))
    assert read_record(tmp_path / "old.json").part == "train-unlabelled"
    assert read_record(tmp_path / "source.json") == replace(RECORD, unit="source", part="val")


def test_earlier_mean_distances_that_skipped_a_missed_class_are_undefined(tmp_path: Path) -> None:
    """Earlier versions took the mean of the classes that were found."""
    kept = {"dice": 0.4, "dice/a": 0.8, "dice/b": 0.0, "hd95": 2.0, "hd95/a": 2.0, "hd95/b": None}
    kept |= {"asd": 0.5, "asd/a": 0.5, "asd/b": None}
    fine = {"dice": 0.6, "dice/a": 0.6, "dice/b": None, "hd95": 4.0, "hd95/a": 4.0, "hd95/b": None}
    fine |= {"asd": 1.5, "asd/a": 1.5, "asd/b": None}
    cases = ({"case": "x", "subject": "1", **kept}, {"case": "y", "subject": "2", **fine})
    metrics = {"dice": 0.5, "hd95": 3.0, "asd": 1.0, "label-free/entropy": 0.1}
    replace(RECORD, metrics=metrics, cases=cases).write(tmp_path)
    (path,) = tmp_path.iterdir()
    found = read_record(path)
    assert [case["hd95"] for case in found.cases] == [None, 4.0]
    assert [case["hd95/a"] for case in found.cases] == [2.0, 4.0]
    told = {"dice": 0.5, "hd95": 4.0, "undefined/hd95": 1, "asd": 1.5, "undefined/asd": 1, "label-free/entropy": 0.1}
    assert found.metrics == told
    found.write(tmp_path)
    assert read_record(path) == found


def test_file_names_never_collide() -> None:
    sites = ["a", "a-b", "a_b", "a b", "a/b", "a.b", "é", "ü", "北京", "上海", "../x"]
    names = {replace(RECORD, site=site).name for site in sites}
    assert len(names) == len(sites)
    assert all(name.isascii() and "/" not in name and " " not in name for name in names)
    assert replace(RECORD, fold=0).name == "u1-adapted-b-test"


def broken(change: Any) -> str:
    tree = asdict(RECORD)
    change(tree)
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a complete record"),
        ('{"schema": 1', "not a complete record"),
        ("[]", "not a complete record"),
        ("{}", "not a complete record"),
        (broken(lambda tree: tree.pop("unit")), "not a complete record .*unit"),
        (broken(lambda tree: tree.pop("cases")), "not a complete record .*cases"),
        (broken(lambda tree: tree.update(extra=1)), "not a complete record .*extra"),
        (broken(lambda tree: tree.update(schema=3)), "schema 3, expected 1 to 2"),
        ("\xff", "not a complete record"),
    ],
)
def test_a_damaged_record_is_named(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "r.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match=rf"r\.json: {told}"):
        read_all(tmp_path)


def test_a_table_of_records(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no records"):
        read_records(tmp_path)
    RECORD.write(tmp_path / "records")
    replace(RECORD, unit="u2", stage="failed", status="failed", error="why", metrics={}, cases=(), cost={}).write(
        tmp_path / "records"
    )
    frame = read_records(tmp_path).set_index("unit")
    assert frame.loc["u1", "metrics/dice"] == 0.5
    assert frame.loc["u1", "cost/train_seconds"] == 1.5
    assert frame.loc["u1", "recipe"]["name"] == "fourier"
    assert frame.loc["u2", ["status", "error"]].tolist() == ["failed", "why"]
    assert frame["metrics/dice"].isna().tolist() == [False, True]


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    """After a change: a migration, a note, and this file anew from
    ``TypeAdapter(Record).json_schema()``."""
    kept = json.loads(
        (Path(__file__).parents[3] / "docs" / "reference" / "record.schema.json").read_text(encoding="utf-8")
    )
    assert kept == TypeAdapter(Record).json_schema()
