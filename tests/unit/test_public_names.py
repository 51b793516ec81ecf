"""The public Python API: its names, and the page that shows them."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import allograft
from allograft.phantoms.brain import write_brain
from allograft.phantoms.histology import write_histology
from allograft.run.closing import Result

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "python.md"
NAMES = {
    "AllograftError",
    "Batch",
    "Boxes",
    "Cohort",
    "__version__",
    "compare",
    "load",
    "read_records",
    "run_study",
}
"""A name that is added or removed is a change of the public API: say so in the changelog."""


def test_the_public_names_are_these() -> None:
    assert set(dir(allograft)) == set(allograft.__all__) == NAMES
    listed = re.findall(r"^\|(.+?)\|", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert {name for cell in listed for name in re.findall(r"`(\w+)`", cell)} == NAMES - {"__version__"}


def test_the_public_methods_are_these() -> None:
    """What the page and the README call: a parameter may be added, none renamed or removed."""
    signatures = {
        allograft.Cohort.read: ["manifest", "coding", "classes", "preprocessing", "cache", "slices", "root"],
        allograft.run_study: ["study", "out", "network", "fabric", "workers", "checkpoint_seconds", "say", "progress"],
        allograft.load: ["folder", "network", "device", "precision"],
        allograft.compare: ["a", "b", "manifest", "out", "task", "names"],
        allograft.read_records: ["out"],
    }
    for function, names in signatures.items():
        assert list(inspect.signature(function).parameters)[: len(names)] == names, function.__name__
    model = get_type_hints(allograft.load)["return"]
    assert list(inspect.signature(model.predict).parameters) == ["self", "images", "failed"]
    for kind, members in {
        allograft.Cohort: {"read", "site", "where", "of", "labelled", "unlabelled", "subjects", "case", "__iter__"},
        model: {"predict", "predictions", "task", "card"},
        Result: {"table", "models", "failed", "out", "study"},
    }.items():
        assert members <= {*dir(kind), *getattr(kind, "__dataclass_fields__", {})}, kind.__name__


def test_what_a_notebook_shows_of_a_result_is_a_line(tmp_path: Path) -> None:
    manifest = write_brain(tmp_path / "brains", sites={"a": "none", "b": "severe"}, subjects=3, size=32)
    study = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [4, 8], "norm": "batch"}},
        "source": ["a"],
        "target": ["b"],
        "recipes": ["adabn"],
        "baselines": False,
        "seeds": 1,
        "budget": {"steps": 1, "batch_size": 2},
    }
    result = allograft.run_study(study, tmp_path / "out", report=False)
    assert repr(result) == f"Result({tmp_path / 'out'}: 2 recipes at b; 0 runs failed)"
    model = allograft.load(result.models["adabn", "b"], device="cpu")
    assert repr(model) == "Model(adabn; segmentation of white, grey; cpu)"
    cohort = allograft.Cohort.read(manifest, classes=["white", "grey"])
    (first, *others) = model.predict(cohort.site("b"))
    assert len(others) == 2
    assert re.fullmatch(r"Predicted\(images/b-000.png: white [\d.]+, grey [\d.]+\)", repr(first))
    image = cohort.site("b").case(0).image[0]
    assert len(model.predict(torch.stack([image, image]).unbind())) == 2
    for wrong, words in ((3, "images: found int"), ([3], "image 0: found int")):
        with pytest.raises(allograft.AllograftError, match=words):
            model.predict(wrong)  # type: ignore[arg-type]


def test_classes_name_the_values_of_masks_and_labels(tmp_path: Path) -> None:
    brains = write_brain(tmp_path / "brains", sites={"a": "none"}, subjects=2, size=32)
    for classes in (["white", "grey"], {"white": [1], "grey": [2]}):
        assert {
            int(v) for batch in allograft.Cohort.read(brains, classes=classes) for v in batch.labels["mask"].unique()
        } == {0, 1, 2}
    chests = write_histology(tmp_path / "patches", sites={"a": "none"}, subjects=2, size=32)
    names = sorted({case.labels["label"] for case in allograft.Cohort.read(chests).cases})
    assert all(int(batch.labels["label"]) < len(names) for batch in allograft.Cohort.read(chests, classes=names))


def test_the_lines_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from allograft.cli import app

    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = ""
    for language, text in blocks:
        if language == "bash":
            for command in text.splitlines():
                done = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
                assert done.exit_code == 0, done.output
        elif language == "python":
            short = text.replace('"steps": 100, "adapt_steps": 40', '"steps": 2, "adapt_steps": 2')
            exec(compile(short, PAGE.name, "exec"), names)
            said = capsys.readouterr().out
            assert said.strip()
        else:
            assert said == text
    assert names["study"]["budget"]["steps"] == 2
    assert set(names["records"].name) == {"supervised", "finetune"}
    assert {case["site"] for case in names["found"].a} == {"c"}
