"""Kept files that were cut short or changed on the disk: what they belong to is made again, to the
same bytes, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.faults.world import bury, emptied, flipped, run, scores, told, trainings, truncated, write_cohort

from allograft import tree
from allograft.errors import OutputError
from allograft.predictor.folder import intact
from allograft.results.record import read_record
from allograft.tree import DamagedFile

DAMAGES: dict[str, Callable[[Path], None]] = {"truncated": truncated, "a bit flipped": flipped, "emptied": emptied}


class Killed(BaseException):
    """Stands for a process that is gone."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    manifest, out = write_cohort(tmp_path_factory.mktemp("cohort")), tmp_path_factory.mktemp("whole")
    return manifest, out, told(out), scores(run(manifest, out))


@pytest.fixture
def out(whole: Any, tmp_path: Path) -> Path:
    shutil.copytree(whole[1], tmp_path / "out")
    return tmp_path / "out"


def unit(out: Path, recipe: str) -> str:
    """The unit of a recipe, by its records."""
    return next(
        json.loads(path.read_text())["unit"] for path in out.glob("records/*.json") if recipe in path.read_text()
    )


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("place", "steps"),
    [
        ("units/{strong}/carry.safetensors", 2),
        ("units/{strong}/stages/trained/model.safetensors", 2),
        ("units/{strong}/stages/trained/card.json", 2),
        ("units/{fourier}/carry.safetensors", 0),
        ("units/{fourier}/stages/adapted/model.safetensors", 0),
        ("records/{strong}-trained-b-test.json", 0),
        ("records/{fourier}-adapted-a-test.json", 0),
    ],
)
def test_a_finished_file(
    place: str, steps: int, damage: str, whole: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, undisturbed, _, table = whole
    units = {"strong": unit(out, '"strong"'), "fourier": unit(out, '"donors": 1')}
    path = out / place.format(**units)
    if damage == "a bit flipped" and path.name == "card.json":
        change_predictor(path)
    else:
        DAMAGES[damage](path)
    before = {
        one: one.stat().st_mtime_ns for one in out.glob("*/**/*") if one.is_file() and units["strong"] not in str(one)
    }
    made = trainings(monkeypatch)
    assert scores(run(manifest, out)) == table
    assert told(out) == told(undisturbed)
    assert len(made) == steps
    if "strong" in place:
        again = [one for one, time in before.items() if one.stat().st_mtime_ns != time and "models" not in one.parts]
        assert not again, "what was not damaged was made again"


def change_predictor(card: Path) -> None:
    """One figure of the network's spec: the JSON stays whole."""
    text = card.read_text()
    assert '"num_res_units": 1' in text
    card.write_text(text.replace('"num_res_units": 1', '"num_res_units": 3'))


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_checkpoint(damage: str, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, undisturbed, _, table = whole
    out, real = tmp_path / "out", tree.save

    def killed(path: Path, content: Any) -> None:
        real(path, content)
        if path.parent.name == "journal":
            raise Killed

    monkeypatch.setattr(tree, "save", killed)
    with pytest.raises(Killed):
        run(manifest, out)
    monkeypatch.setattr(tree, "save", real)
    bury(out)
    (checkpoint,) = out.glob("units/*/journal/*.safetensors")
    DAMAGES[damage](checkpoint)
    made = trainings(monkeypatch)
    assert scores(run(manifest, out)) == table
    assert told(out) == told(undisturbed)
    assert len(made) == 4  # the step that the checkpoint held is made again


def test_every_flipped_bit_of_a_small_file_is_noticed(tmp_path: Path) -> None:
    content = {"at": 3, "parts": {"w": torch.arange(6.0).reshape(2, 3)}, "name": "é"}
    tree.save(tmp_path / "whole.safetensors", content)
    sound, path = (tmp_path / "whole.safetensors").read_bytes(), tmp_path / "flipped.safetensors"
    for place in range(len(sound)):
        for bit in (0, 5, 7):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ (1 << bit)]) + sound[place + 1 :])
            try:
                found = tree.load(path)
            except DamagedFile:
                continue
            assert torch.equal(found["parts"].pop("w"), content["parts"]["w"]), (
                place,
                bit,
            )  # blanks of the header's padding
            assert {**found, "parts": None} == {**content, "parts": None}, (place, bit)


def test_every_changed_character_of_a_record_is_noticed(whole: Any, tmp_path: Path) -> None:
    sound = next((whole[1] / "records").glob("*.json")).read_bytes()
    path, kept = tmp_path / "record.json", json.loads(sound)
    for place in range(0, len(sound), 3):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        if valid(path) and json.loads(path.read_bytes()) == kept:
            continue  # one blank for another
        with pytest.raises(OutputError, match=r"record\.json: .*(run the study again|expected 1 to 2)"):
            read_record(path)


def valid(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def test_a_model_folder_knows_whether_it_is_whole(out: Path) -> None:
    folders = [path.parent for path in out.rglob("model.safetensors")]
    assert len(folders) == 8
    assert all(map(intact, folders))
    flipped(folders[0] / "model.safetensors")
    truncated(folders[1] / "model.safetensors")
    change_predictor(
        next(folder for folder in folders[2:] if '"num_res_units": 1' in (folder / "card.json").read_text())
        / "card.json"
    )
    (folders[7] / "model.safetensors").unlink()
    assert sum(map(intact, folders)) == 4
