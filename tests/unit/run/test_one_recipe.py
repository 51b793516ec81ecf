"""``train_model``: the one recipe is run once, for the first target, and its last stage that predicts is the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allograft import studies
from allograft.errors import SpecError
from allograft.recipe import Stage, title
from allograft.studies import _continued, train_model
from allograft.study import make_study

TREE: dict[str, Any] = {
    "cohort": "m.csv",
    "task": {"segmentation": {"classes": ["vessel"]}},
    "source": ["a"],
    "target": ["b", "c"],
    "recipes": ["finetune"],
    "target_labels": "all",
    "selection": "source-val",
}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is done, in order; the stages that the recipe yields are put in front."""
    listed: list[Any] = []
    world = SimpleNamespace(study=make_study(TREE))

    class Session:
        def __init__(self, *given: Any, progress: bool) -> None:
            listed.append(("session", *given, progress))
            self.fabric = given[3]

        def completed(self) -> Any:
            return self

        def prepare(self) -> Any:
            return world

        def start(self, world: Any, seed: int) -> str:
            return f"network of seed {seed}"

        def context(self, seed: int) -> Any:
            def run(recipe: Any, scenario: Any, network: Any) -> Any:
                listed.append(("run", seed, title(recipe), scenario, network))
                yield from listed[0]

            return SimpleNamespace(run=run)

    monkeypatch.setattr(studies, "Session", Session)
    monkeypatch.setattr(studies, "scenario_of", lambda world, row: (row.target, row.seed, row.fold))
    monkeypatch.setattr(studies, "load_predictor", lambda folder: (f"predictor {folder}", {"card": 1, "unit": "?"}))
    monkeypatch.setattr(studies, "facts", lambda world, row, out: {"target": row.target})
    monkeypatch.setattr(studies, "save_predictor", lambda *given: listed.append(("save", *given)))
    monkeypatch.setattr(studies, "add_deployment", lambda *given: listed.append(("deployment", *given)))
    return listed


FABRIC: Any = SimpleNamespace(device="cuda:3")


def test_the_last_stage_that_predicts_is_the_model(done: list[Any], tmp_path: Path) -> None:
    some: Any = object()
    done.append([Stage("one", some, unit="u1"), Stage("two", some, unit="u2"), Stage("bare", unit="u2")])
    study = make_study(TREE)
    assert train_model(study, tmp_path, fabric=FABRIC, say=str, progress=False) == tmp_path / "model"
    assert done[1] == ("session", study, tmp_path, None, FABRIC, 0, 60.0, str, False)
    assert done[2] == ("run", 0, "finetune", ("b", 0, 0), "network of seed 0")
    _, predictor, folder, card = done[3]
    assert folder == tmp_path / "model"
    assert "u2" in predictor
    assert "two" in predictor
    assert card == {"card": 1, "target": "b", "unit": "u2", "stage": "two"}
    _, place, source = done[4]
    assert (place, source.device, source.row.target) == (tmp_path / "model", "cuda:3", "b")


def test_weights_alone_are_a_model_folder_too(done: list[Any], tmp_path: Path) -> None:
    done.append([Stage("first", unit="u1"), Stage("last", unit="u1")])
    train_model(make_study(TREE), tmp_path, fabric=FABRIC)
    assert done[3][3]["stage"] == "last"


@pytest.mark.parametrize(
    ("recipes", "listed"),
    [
        ([], "none"),
        (["finetune", "adabn"], "finetune, adabn"),
        ([{"finetune": {"grid": {"scope": ["top", "full"]}}}], "finetune scope=top|full"),
    ],
)
def test_it_takes_one_recipe(recipes: list[Any], listed: str, done: list[Any], tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        train_model(make_study({**TREE, "recipes": recipes}), tmp_path)
    assert f"the study lists {listed}; keep one" in str(error.value)
    assert done == []


def test_optimizers_that_any_part_continues_are_kept_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(studies, "replace", lambda session, say: said.append(say("x")) or session)

    def session(*units: str) -> Any:
        return SimpleNamespace(plan=lambda world: SimpleNamespace(continued=frozenset(units)))

    def world(*recipes: Any) -> Any:
        return SimpleNamespace(study=make_study({**TREE, "recipes": recipes}))

    sessions = {"x": session("u1"), "y": session("u2", "u3"), "z": session("u4")}
    worlds = {"x": world("octl"), "y": world("adabn", {"octl": {"grid": {"start_step": [1, 2]}}}), "z": world("adabn")}
    assert _continued(sessions, worlds) == {"u1", "u2", "u3"}
    assert said == [None, None]  # the plan of a part is said once, when it runs
    assert _continued({"x": sessions["x"]}, {"x": worlds["x"]}) == frozenset()
