"""A world that is read from files: sites in the pool alone, copies of images, masks of two subjects, and subjects who
were placed before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.study.test_who_is_seen import TREE
from tests.unit.tiny import write_photographs, write_rows

from allograft.cohort.splits import Assignment, write_splits
from allograft.errors import LeakageError, ManifestError
from allograft.phantoms.skin import write_skin
from allograft.study import make_study
from allograft.study.world import World


def test_a_site_of_the_pool_alone_trains_with_all_but_those_whom_the_manifest_tests(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path, {"a": 6, "b": 6, "c": 4})
    head, *lines = [line.split(",") for line in manifest.read_text().splitlines()]
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    write_rows(manifest, [{**row, "split": "test" if row["subject"] == "c1" else ""} for row in rows])
    tree = {**TREE, "cohort": str(manifest), "source": ["a"], "target": ["b"], "pool": ["c"]}
    world = World.read(make_study({**tree, "test": {"fraction": 0.5, "source_fraction": 0.2, "val": 0.4}}), tmp_path)
    assert world.part("c", "train", 0).subjects == ("c0", "c2", "c3")
    counts = [len(world.part(*each, 0).subjects) for each in (("a", "test"), ("a", "val"), ("b", "test"), ("b", "val"))]
    assert counts == [1, 2, 3, 0]
    assert (tmp_path / "splits.csv").exists() is False


def test_a_mask_of_two_subjects_is_refused_in_whichever_cohort(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_photographs(tmp_path / name, {"a": 4, "b": 4}, seed=len(name) if name == "one" else 9)
    shared = tmp_path / "two" / "manifest.csv"
    shared.write_text(shared.read_text().replace("b1-mask.png", "b0-mask.png"))
    cohorts = {name: {"manifest": str(tmp_path / name / "manifest.csv")} for name in ("one", "two")}
    study = make_study({**TREE, "cohorts": cohorts, "source": ["one/a"], "target": ["two/b"]})
    with pytest.raises(ManifestError, match=r"b0-mask\.png' is named for 2 subjects"):
        World.read(study, tmp_path / "out")


def test_pairs_that_are_allowed_may_be_on_two_sides_and_others_may_not(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "data", {"a": 4, "b": 4})
    (tmp_path / "data" / "b0.png").write_bytes((tmp_path / "data" / "a0.png").read_bytes())
    head, *lines = [line.split(",") for line in manifest.read_text().splitlines()]
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    place = {"a0": "train", "b0": "test"}
    write_rows(manifest, [{**row, "split": place.get(row["subject"], "")} for row in rows])
    tree = {**TREE, "cohort": str(manifest), "source": ["a"], "target": ["b"]}
    for near in ("stop", "group", "warn"):
        with pytest.raises(LeakageError, match=r"'a0\.png' and 'b0\.png'"):
            World.read(make_study({**tree, "near_duplicates": near}), tmp_path / "out")
        study = make_study({**tree, "near_duplicates": near, "allow_duplicates": [["b0.png", "a0.png"]]})
        if near != "stop":  # noise that looks alike is nobody's copy
            World.read(study, tmp_path / "out")


def test_near_duplicates_on_two_sides_are_shown_where_they_are_let_through(tmp_path: Path) -> None:
    for name, alike in (("alike", True), ("apart", False)):
        manifest = write_skin(tmp_path / name, sites={"a": "none", "b": "none"}, subjects=4, size=64)
        head, *lines = [line.split(",") for line in manifest.read_text().splitlines()]
        rows = [dict(zip(head, line, strict=True)) for line in lines]
        first, other = rows[0], next(row for row in rows if row["site"] == "b")
        if alike:
            pixels = np.array(Image.open(manifest.parent / first["image"]))
            pixels[0, 0] ^= 1
            Image.fromarray(pixels).save(manifest.parent / other["image"])
        write_rows(manifest, [{**row, "split": "test" if row is other else "train"} for row in rows])
        tree = {**TREE, "cohort": str(manifest), "source": ["a"], "target": ["b"]}
        World.read(make_study({**tree, "near_duplicates": "warn"}), tmp_path / name / "out")
        assert (tmp_path / name / "out" / "similar.png").exists() == alike


def test_a_subject_stays_where_it_was_written_down(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path, {"a": 4, "b": 6})
    study = make_study({**TREE, "cohort": str(manifest), "source": ["a"], "target": ["b"]})
    world = World.read(study, tmp_path / "out")
    drawn, cases = world.assignments, [case for case in world.cases() if case.subject != "b5"]
    turned = {"train": "test", "test": "train", "val": "val"}
    kept = {subject: Assignment(turned[place.split]) for subject, place in drawn.items() if subject != "b5"}
    write_splits(tmp_path / "out" / "splits.csv", kept, cases)
    assert {subject: place for subject, place in World.read(study, tmp_path / "out").assignments.items()
            if subject != "b5"} == kept  # fmt: skip
