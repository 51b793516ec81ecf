"""What an analysis is asked reaches what it looks at: models on their device, sites by their numbers,
the fold and the cases of a line, and every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.results.analysis.test_embedding import UNET, made
from tests.unit.results.analysis.test_fairness import COHORT, SOURCE, TASK, a_line, a_plan, records_of, scored
from tests.unit.tiny import VESSEL, read, write_photographs
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.figure import Points
from allograft.results.analysis import embedding, robustness
from allograft.results.analysis.embedding import Embedding, embeddings_of
from allograft.results.analysis.fairness import validation_audits
from allograft.results.analysis.features import cloud_of
from allograft.results.analysis.operating_points import operating_points
from allograft.results.analysis.robustness import FURTHER, SCANS, features_of
from allograft.results.analysis.site_probe import seen
from allograft.results.select import lines
from allograft.tasks.multitask import Multitask

POINTS = Points("x", (), (), ())


@dataclass
class Line:
    """A line of a table with a model, of one fold."""

    title: str = "mine"
    target: str = "b"
    fold: int = 2
    leaves_weights_only: bool = False

    @property
    def best_run(self) -> Any:
        return SimpleNamespace(row=SimpleNamespace(fold=self.fold))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """What models are loaded with and looked at by, instead of a look."""
    asked: dict[str, list[Any]] = {"loaded": [], "looked": []}
    for module in (embedding, robustness):

        def load(folder: Path, **words: Any) -> tuple[str, dict[str, Any]]:
            asked["loaded"].append((folder.name, words))
            return f"the model of {folder.name}", {"sites": ["q", "p"]}

        monkeypatch.setattr(module, "load_predictor", load)
        monkeypatch.setattr(module, "model_folder", lambda out, line: out / line.title)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.json").write_text("{}")
    return asked


class World:
    """Gives back what it is asked for."""

    sites = ("a", "b")

    def __init__(self, slices: Any = None) -> None:
        self.study: Any = SimpleNamespace(made_task="the task", source=("a",), cohorts={}, slices=slices)

    def part(self, site: str, part: str, fold: int) -> Any:
        return SimpleNamespace(cases=((site, part, fold),))


@pytest.mark.parametrize(("volumes", "most"), [(False, 7), (True, 2)])
def test_an_embedding_is_of_the_model_on_its_device_and_of_its_fold(
    volumes: bool, most: int, told: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(predictor: Any, task: Any, groups: Any, **words: Any) -> Any:
        told["looked"].append((predictor, task, [*groups], words))
        return Embedding((POINTS,), ("note",)) if len(told["looked"]) % 2 else (POINTS, POINTS)

    monkeypatch.setattr(embedding, "embedding", look)
    monkeypatch.setattr(embedding, "by_class", look)
    monkeypatch.setattr(embedding, "of_volumes", lambda groups: volumes if list(groups) == ["groups_of b 2"] else None)
    for name in ("groups_of", "unseen_of"):
        monkeypatch.setattr(embedding, name, lambda world, target, fold, name=name: {f"{name} {target} {fold}": ()})
    template = object()
    table: Any = [Line(), Line(leaves_weights_only=True), Line(target="elsewhere"), Line(title="no model")]
    found = embeddings_of(tmp_path, World(), table, template, device="meta", most=7)  # type: ignore[arg-type]
    assert told["loaded"] == [("mine", {"template": template, "device": "meta"})]
    words = {"title": "mine at b", "sites": ("q", "p"), "most": most, "known": {}}
    assert told["looked"] == [
        ("the model of mine", "the task", ["groups_of b 2"], words),
        ("the model of mine", "the task", ["unseen_of b 2"], words),
    ]
    assert found == {("mine", "b"): Embedding((POINTS,) * 3, ("note",))}


@pytest.mark.parametrize(("slices", "most"), [(None, FURTHER), (object(), SCANS)])
def test_features_are_of_the_model_on_its_device_and_of_its_fold(
    slices: Any, most: int, told: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(predictor: Any, task: Any, groups: Mapping[str, Any], sites: Any, limit: int, known: Any) -> None:
        assert (task, known) == ("the task", {})
        told["looked"].append((predictor, {name: cohort.cases for name, cohort in groups.items()}, sites, limit))

    monkeypatch.setattr(robustness, "cloud_of", look)
    table: Any = [Line(), Line(target="c"), Line(leaves_weights_only=True), Line(title="no model")]
    template = object()
    assert features_of(tmp_path, World(slices), table, "b", template, device="meta") == {}  # type: ignore[arg-type]
    assert told["loaded"] == [("mine", {"template": template, "device": "meta"})]
    groups = {
        f"{site}, {word}": ((site, part, 2),)
        for site in "ab"
        for word, part in (("validation", "val"), ("test", "test"))
    }
    assert told["looked"] == [("the model of mine", groups, ("q", "p"), most)]


@dataclass(frozen=True)
class Noting:
    """Calls its network, and notes which sites it was shown."""

    network: Any
    sites: Any

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        assert not batch.labels
        self.sites.extend(batch.site.tolist())
        with torch.no_grad():
            return dict(self.network(batch.image))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read(write_photographs(tmp_path_factory.mktemp("sites"), {"a": 3, "b": 3}))


@pytest.mark.parametrize(("sites", "numbers"), [(("b", "x", "a"), {2, 0}), (("b",), {-1, 0}), (None, {0, 1})])
def test_sites_have_the_numbers_of_the_predictor(sites: Any, numbers: set[int], cohort: Cohort) -> None:
    predictor = Noting(made(UNET), [])
    groups = {name: cohort.site(name) for name in "ab"}
    if sites is None:
        groups = {name: replace(one, sites=("a", "b")) for name, one in groups.items()}
    found = cloud_of(predictor, VESSEL, groups, sites, 4, {})
    assert found is not None
    assert {*predictor.sites} == numbers
    assert (found.groups, [case.site for case in found.cases]) == (["a", "a", "b", "b"],) * 2
    assert found.notes == ("4 of 6 cases, drawn by group.",)


def test_a_probe_sees_every_case_and_no_number_of_a_site(cohort: Cohort) -> None:
    predictor = Noting(made(UNET), [])
    rows, predictions = seen(predictor, replace(cohort, sites=("a", "b")))
    assert (len(rows), len(predictions), {*predictor.sites}) == (6, 6, {-1})


# ---------------------------------------------------------- every seed, every case with a class
def test_cases_without_a_class_are_in_no_group_of_the_validation() -> None:
    task = Multitask(segmentation=VESSEL, classification=TASK)
    cases = [*COHORT]
    every = [{**case, "dice": 0.5} for case in scored(cases, 0, 1.0)]
    half = [{**case, "label": None, "probabilities": None} if n % 4 > 1 else case for n, case in enumerate(every)]
    (audit,) = validation_audits(task, half, cases)
    (plain,) = validation_audits(TASK, [case for case in half if case["label"] is not None], cases)
    assert audit == plain
    assert [group["cases"] for group in audit["groups"]] != [2 * n for n in (24, 14, 6)]


def test_one_seed_without_a_finding_leaves_all_at_one_half() -> None:
    """Else seeds would be compared at points that were chosen differently."""
    plan = a_plan()
    records = records_of(plan)
    points = operating_points(TASK, a_line(plan))
    assert points.of.keys() == {0, 1}
    assert len({*points.of.values()}) == 2
    bare = {
        name: replace(record, cases=tuple(case for case in record.cases if case["label"] == 0))
        if (record.part, record.seed) == ("val", 1)
        else record
        for name, record in records.items()
    }
    found = operating_points(TASK, lines(plan, bare, "last")[0])
    assert found.of == {0: 0.5, 1: 0.5}
    assert found.how == "no validation case of the source has melanoma: threshold 0.5"
    assert len(SOURCE) == 48
    assert torch.tensor([*points.of.values()]).lt(1).all()
