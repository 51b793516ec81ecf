"""What the scripts of United make of a study: names of rows, and how many labels one needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from allograft.errors import OutputError
from allograft.recipe import parse_recipe, title
from allograft.results.record import Record

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("united_labels", EXAMPLES / "united_labels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_labels_are_read_off_between_two_budgets(script: ModuleType) -> None:
    points = [(16.0, 0.5), (40.0, 0.7), (80.0, 0.6)]
    assert script.labels_to_reach(points, 0.55) == pytest.approx(22)
    assert script.labels_to_reach(points, 0.7) == 40
    assert script.labels_to_reach(points, 0.4) == 16  # there already with the fewest
    assert script.labels_to_reach(points, 0.71) is None


def test_each_comparison_has_a_line(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    phases = ["united ingredients=D", "united ingredients=D+R first=(united)"]
    phases.append("united ingredients=D+R+A first=(united ingredients=D+R first=(united))")
    random, restored, ours = "target_supervised", f"finetune first=({phases[1]})", f"finetune first=({phases[2]})"
    scores = {random: (0.2, 0.6), restored: (0.4, 0.9), ours: (0.5, 0.7)}
    rows = [
        {"recipe": recipe, "labelled_subjects": labels, "score": score}
        for recipe, pair in scores.items()
        for labels, score in zip((10, 30), pair, strict=True)
    ]
    script.show(pd.DataFrame(rows))
    first, second = capsys.readouterr().out.splitlines()
    assert "Random has 0.600 with 30 labelled subjects; ((D)+R)+A reaches it with 20, 33 % fewer" in first
    assert "(D)+R has 0.900 with 30 labelled subjects; ((D)+R)+A reaches it never; 0.700 with 30" in second


def phase(ingredients: str, pretext: str, first: Any = None) -> dict[str, Any]:
    return {"united": {"ingredients": ingredients, "pretext": pretext, **({"first": first} if first else {})}}


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])  # the default, which a title leaves out, and another
def test_every_row_has_the_name_of_its_phases(script: ModuleType, pretext: str) -> None:
    d = phase("D", pretext)
    dr = phase("D+R", pretext, d)
    named = {
        "D": d,
        "(D)+R": dr,
        "(D)+R, encoder alone": {"encoder_alone": {"first": dr}},
        "((D)+R)+A": phase("D+R+A", pretext, dr),
        "D+R+A": phase("D+R+A", pretext),
    }
    for name, first in named.items():
        assert script.strategy(title(parse_recipe({"finetune": {"first": first}}))) == name
    assert script.strategy("target_supervised") == "Random"


def test_scores_are_those_of_the_study_or_of_its_parts(script: ModuleType, tmp_path: Path) -> None:
    import united  # type: ignore[import-not-found]  # beside the script

    assert script.strategy is united.strategy
    with pytest.raises(OutputError, match=r"study\.json: no such file; run 'allograft study .*united\.yaml"):
        united.scores(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    recipe = {"name": "target_supervised", "parameters": {}}
    for folder, auroc in (("", 0.25), ("parts/one", 0.5), ("parts/two", 0.75)):
        for seed, part, status in ((0, "test", "done"), (1, "val", "done"), (2, "test", "failed")):
            record = Record(f"u{seed}", recipe, seed, "end", 0, "b", part, status=status, metrics={"auroc": auroc})
            (tmp_path / folder / "records").mkdir(parents=True, exist_ok=True)
            record.write(tmp_path / folder / "records")
    of_parts = united.scores(tmp_path)
    assert of_parts[["seed", "score", "part"]].values.tolist() == [[0, 0.5, "one"], [0, 0.75, "two"]]
    (tmp_path / "parts").rename(tmp_path / "elsewhere")
    assert united.scores(tmp_path)[["recipe", "seed", "score"]].values.tolist() == [["target_supervised", 0, 0.25]]
