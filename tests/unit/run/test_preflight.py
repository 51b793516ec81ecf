"""Everything is read and checked before anything is trained, at every site, row, fold and size; and
only the first process keeps what it read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.world import session_of, write_cohort

from allograft.errors import ModelError, NeedsError, OutputError, SpecError
from allograft.predictor import Direct, save_predictor
from allograft.run import preflight
from allograft.run.session import Session
from allograft.study.world import World


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "prepared").mkdir()
    return write_cohort(folder)


@pytest.fixture
def session(manifest: Path, tmp_path: Path) -> Session:
    return session_of(manifest, tmp_path / "out", "supervised", recipes=["finetune"], baselines=False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each check is asked, in their order."""
    asked: dict[str, list[Any]] = {}

    def noting(name: str) -> None:
        real = getattr(preflight, name)

        def note(*words: Any, **more: Any) -> Any:
            asked.setdefault(name, []).append((*words, *more.items()))
            return real(*words, **more)

        monkeypatch.setattr(preflight, name, note)

    for name in (
        "check_protocol", "prepare_images", "check_millimetres", "check_needs", "check_recipe", "check_loss",
        "make_schedule", "refused_sizes", "write_splits", "refuse_training_images", "refuse_untrained",
    ):  # fmt: skip
        noting(name)
    return asked


def test_every_check_is_asked_of_all(session: Session, told: dict[str, list[Any]]) -> None:
    asked = replace(session, study=replace(session.study, seeds=2, schedule={"cosine": {}}, clip=1.0))
    world = asked.prepare()
    assert told["check_protocol"] == [(session.out, asked.study, world)]
    assert told["prepare_images"] == [(world.cohorts, asked.say)]
    assert told["check_millimetres"] == [(world.cohorts, asked.study.made_task)]
    assert {type(recipe).__name__ for recipe, *_ in told["check_needs"]} == {"Supervised", "Finetune"}
    assert {target for *_, target in told["check_needs"]} == {"b"}
    assert len(told["check_needs"]) == 4  # each seed may have other labels
    assert {type(recipe).__name__ for recipe, *_ in told["check_recipe"]} == {"Supervised", "Finetune"}
    assert len(told["check_recipe"]) == 2
    ((schedule, _, _),) = told["make_schedule"]
    assert schedule == {"cosine": {}}
    ((_, loss, *more),) = told["check_loss"]
    assert (loss, dict(more)) == (asked.study.loss, {"dims": 2, "has_region": True})
    ((_, shapes),) = told["refused_sizes"]
    assert shapes == {(1, 32, 32)}
    assert told["write_splits"] == [(session.out / "splits.csv", world.assignments, world.listed)]
    assert json.loads((session.out / "study.json").read_text()) == json.loads(json.dumps(asked.study.spelt_out()))


def test_only_the_first_process_keeps_the_splits_and_the_study(session: Session, told: dict[str, list[Any]]) -> None:
    fabric: Any = SimpleNamespace(**{"is_global_zero": False, "world_size": 2, "device": session.fabric.device})
    replace(session, fabric=fabric).prepare()
    assert "write_splits" not in told
    assert not (session.out / "study.json").exists()


def test_sites_and_classes_that_cannot_be_tested_are_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(World, "untested", lambda self: {"x": "no subject of x is tested"})
    monkeypatch.setattr(World, "one_class", lambda self: {"y": "all of y have one class"})
    replace(session, say=said.append).prepare()
    assert [line for line in said if line.startswith("warning")] == [
        "warning: no subject of x is tested",
        "warning: all of y have one class",
    ]


def test_all_rows_that_cannot_be_run_are_said_at_once_and_one_as_it_is(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"Supervised": NeedsError("no source"), "Finetune": SpecError("no label")}

    def refused(recipe: Any, *_: Any) -> None:
        if error := errors.get(type(recipe).__name__):
            raise error

    monkeypatch.setattr(preflight, "check_needs", refused)
    with pytest.raises(SpecError, match=r"2 rows cannot be run, so nothing was trained:\n  - no source\n  - no label"):
        session.prepare()
    assert not (session.out / "study.json").exists()
    del errors["Finetune"]
    with pytest.raises(NeedsError, match=r"^no source$"):
        session.prepare()
    errors["Finetune"] = errors["Supervised"]  # for one reason
    with pytest.raises(NeedsError, match=r"^no source$"):
        session.prepare()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"adam": {"lrr": 1}}}, "lrr"),
        ({"schedule": {"cosine": {"nothing": 1}}}, "nothing"),
        ({"patch": (8, 8, 8)}, r"patch: \(8, 8, 8\) cannot be cut from an image"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_kept(
    changes: dict[str, Any], said: str, session: Session
) -> None:
    with pytest.raises(SpecError, match=said):
        replace(session, study=replace(session.study, **changes)).prepare()
    assert not (session.out / "study.json").exists()
    assert not (session.out / "splits.csv").exists()


def test_an_image_of_any_site_that_the_network_cannot_predict_is_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "refused_sizes", lambda network, shapes: dict.fromkeys(shapes, "too small"))
    with pytest.raises(SpecError, match=r"cannot predict an image of shape \(1, 32, 32\) \(too small\)"):
        session.prepare()


def a_model(folder: Path, session: Session, **card: Any) -> Path:
    save_predictor(Direct(session.start_of(1, 0)), folder, {"task": session.study.task, **card})
    return folder


def test_a_start_is_told_of_every_tested_case_and_what_was_loaded_is_kept(
    session: Session, told: dict[str, list[Any]], tmp_path: Path
) -> None:
    said: list[str] = []
    folder = a_model(tmp_path / "model", session, training_images=[])
    started = replace(session, study=replace(session.study, start=str(folder)), say=said.append)
    world = started.prepare()
    ((card, tested, place),) = told["refuse_training_images"]
    assert (card["training_images"], place) == ([], folder)
    every = {case.name for test in world.tests(0) for case in test.cohort.cases}
    assert {case.name for case in tested} == every
    assert len({case.site for case in tested}) > 1
    assert told["refuse_untrained"] == [({}, ("trained", True))]
    assert any(line.startswith("start: ") for line in said)
    assert json.loads((session.out / "start.json").read_text())


def test_a_start_that_was_trained_on_a_tested_image_is_refused(session: Session, tmp_path: Path) -> None:
    from allograft.cohort.prepared_images import file_hash

    world = session.prepare()
    case = world.tests(0)[-1].cohort.cases[-1]
    folder = a_model(tmp_path / "model", session, training_images=[file_hash(case.image[0])])
    with pytest.raises(ModelError, match="was trained on 1 of these images"):
        replace(session, study=replace(session.study, start=str(folder))).prepare()


@pytest.mark.parametrize(
    ("source", "stream", "labels", "trained"),
    [(("a",), (), "none", True), ((), (), "none", False), ((), (), "all", True), ((), ("x",), "none", True)],
)
def test_a_head_that_starts_at_random_needs_a_label_of_some_side(
    source: Any,
    stream: Any,
    labels: Any,
    trained: bool,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: list[bool] = []

    class Told(Exception):
        """Enough."""

    def untrained(anew: Any, *, trained: bool) -> None:
        asked.append(trained)
        raise Told

    folder = a_model(tmp_path / "model", session)
    monkeypatch.setattr(preflight, "refuse_untrained", untrained)
    monkeypatch.setattr(preflight, "bare_rows", lambda world: [])
    world = World.read(session.study, session.out)
    study = SimpleNamespace(source=source, stream=stream)
    monkeypatch.setattr(World, "read", staticmethod(lambda *_: SimpleNamespace(
        study=study, cohorts=world.cohorts, untested=dict, one_class=dict)))  # fmt: skip
    monkeypatch.setattr(preflight, "check_protocol", lambda *_: None)
    asked_study = replace(session.study, start=str(folder))
    object.__setattr__(asked_study, "target_labels", labels)
    with pytest.raises(Told):
        replace(session, study=asked_study).prepare()
    assert asked == [trained]


def test_a_folder_that_cannot_be_written_is_refused_and_no_probe_stays(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight._check_writable(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []

    def full(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left\); choose another --out"):
        preflight._check_writable(tmp_path / "other")
