"""``allograft schema``: each kind, written and printed, fits the files that Allograft writes; ``init`` names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.cli.conftest import Command
from tests.unit.results.test_record import RECORD

from allograft.networks.network import build, spec_of
from allograft.phantoms.brain import write_brain
from allograft.predictor import save_predictor
from allograft.predictor.direct import Direct
from allograft.study.reading import read_study


@pytest.mark.parametrize("kind", ["study", "record", "card"])
def test_what_is_printed_is_what_is_written(kind: str, tmp_path: Path, allograft: Command) -> None:
    printed = allograft("schema", kind)
    file = tmp_path / f"{kind}.schema.json"
    written = allograft("schema", kind, "-o", file)
    assert (printed.code, written.code) == (0, 0)
    assert printed.out == file.read_text(encoding="utf-8")
    assert written.out.startswith(f"{kind} schema: {file}")
    Draft202012Validator.check_schema(json.loads(printed.out))


def test_a_record_as_it_is_written_passes_and_a_broken_one_does_not(tmp_path: Path, allograft: Command) -> None:
    validator = Draft202012Validator(json.loads(allograft("schema", "record").out))
    RECORD.write(tmp_path)
    (file,) = tmp_path.iterdir()
    tree = json.loads(file.read_text())
    assert validator.is_valid(tree)
    assert not validator.is_valid({**tree, "seed": "one"})
    assert not validator.is_valid({**tree, "status": "half"})


def test_a_card_as_it_is_written_passes_and_a_broken_one_does_not(tmp_path: Path, allograft: Command) -> None:
    validator = Draft202012Validator(json.loads(allograft("schema", "card").out))
    network = build(spec_of({"unet": {"channels": [4, 8]}}, 1, {"mask": 2}))
    save_predictor(Direct(network), tmp_path, {"task": {"segmentation": {"classes": ["a"]}}, "channels": 1})
    card = json.loads((tmp_path / "card.json").read_text())
    assert validator.is_valid(card)
    assert not validator.is_valid({**card, "task": {}})
    assert not validator.is_valid({**card, "channels": "one"})


def test_init_names_the_schema_that_lies_next_to_the_study_and_no_other(tmp_path: Path, allograft: Command) -> None:
    manifest = write_brain(tmp_path / "data", dims=2, subjects=5, size=32, sites={"a": "none", "b": "severe"})
    assert allograft("init", manifest, "-o", tmp_path / "bare.yaml").code == 0
    assert "yaml-language-server" not in (tmp_path / "bare.yaml").read_text()
    advised = allograft("schema", "-o", tmp_path / "study.schema.json").out.splitlines()[-1]
    assert allograft("init", manifest, "-o", tmp_path / "study.yaml").code == 0
    text = (tmp_path / "study.yaml").read_text()
    assert text.splitlines()[0] == advised == "# yaml-language-server: $schema=study.schema.json"
    assert read_study(tmp_path / "study.yaml") == read_study(tmp_path / "bare.yaml")
    validator = Draft202012Validator(json.loads((tmp_path / "study.schema.json").read_text()))
    assert validator.is_valid(yaml.safe_load(text))


def test_an_unknown_kind_is_refused_with_those_there_are(allograft: Command) -> None:
    done = allograft("schema", "model")
    assert done.code == 2
    assert "study" in done.err
    assert "record" in done.err
