"""The cards of the models that a study leaves: what they say of it, and every image that the model
has seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.run.test_finish import Ran, line_of
from tests.unit.run.test_finish import ran as ran

from allograft import __version__
from allograft.cohort.prepared_images import file_hash
from allograft.errors import ModelError
from allograft.predictor.card import read_card
from allograft.results.deployment import Source
from allograft.results.evidence import verdicts_of
from allograft.results.models import facts, model_folder, refuse_training_images, training_images
from allograft.results.select import RULES
from allograft.run import closing
from allograft.run.session import Session
from allograft.study.world import World


def test_a_card_says_how_images_are_prepared_and_what_was_asked(ran: Ran) -> None:
    session, world, _, result = ran
    for (name, target), folder in result.models.items():
        card, line = read_card(folder), line_of(result, name)
        run = line.best_run
        assert (card["unit"], card["stage"], card["target"]) == (run.row.unit, run.stage, target)
        assert (card["task"], card["start"], card["channels"]) == (session.study.task, "scratch", 1)
        assert card["intended_use"] == "research use only, not a medical device"
        assert (card["allograft"], card["slices"], card["seed"]) == (__version__, None, run.row.seed)
        assert card["preprocessing"]["intensity"] == session.study.preprocessing.intensity
        assert card["protocol"] == {
            "selection": f"last: {RULES['last']}",
            "seeds": 2,
            "test": {**card["protocol"]["test"], "fraction": 0.3, "val": 0.3},
            "target_labels": card["protocol"]["target_labels"],
        }
        assert card["protocol"]["target_labels"]["subjects"] == 2
        assert card["metrics"] == {
            site: [dict(record.metrics) for record in records] for site, records in run.tests.items()
        }
        assert set(card["metrics"]) == {"a", "b", "d"} & {*run.tests}
        verdict = verdicts_of(world.study, ran[2], [replace(one, verdict="") for one in result.lines])[target]
        assert card["verdict"] == {
            "sentence": verdict.sentence,
            "action": verdict.action,
            "this_row": line.verdict,
            "marks": list(verdict.marks.get(name, ())),
            "rules_version": verdict.rules_version,
        }


def test_a_card_knows_every_image_that_its_recipe_could_see(ran: Ran) -> None:
    """Source images and those of the target that train, labelled or not: none of a test case."""
    _, world, _, result = ran
    for (name, _), folder in result.models.items():
        row = line_of(result, name).best_run.row
        seen = {"supervised": ("a", "d"), "finetune": ("a", "d", "b")}[name]
        tested = {case.name for test in world.tests(0) for case in test.cohort.cases if test.part == "test"}
        validated = {case.name for site in "adb" for case in world.part(site, "val", 0).cases}
        every = {case.name: {file_hash(path) for path in case.image} for case in world.cases() if case.site in seen}
        hashes = set(read_card(folder)["training_images"])
        assert hashes == set(training_images(world, row))
        used = {case for case, own in every.items() if own & hashes}
        assert not used & tested
        labelled = {case for record in line_of(result, name).best_run.tests["b"] for case in record.labelled_subjects}
        assert {case for case in every if case not in tested | validated and _site(world, case) != "b"} <= used
        assert bool(labelled) == (name == "finetune")


def _site(world: World, name: str) -> str:
    return next(case.site for case in world.cases() if case.name == name)


def test_images_of_every_side_and_every_channel_are_known(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    _, world, plan, _ = ran
    row = plan.rows[0]
    site, every = world.part("a", "train", 0), [*world.cases()][:5]
    two = replace(every[0], image=(*every[0].image, *every[1].image))

    def cohort(*cases: Any) -> Any:
        return (replace(site, cases=cases),)

    parts = {
        "source": cohort(two),
        "target": cohort(every[2]),
        "pool": cohort(every[3]),
        "stream": cohort(every[4]),
    }
    scenario = SimpleNamespace(narrowed=lambda needs: SimpleNamespace(**parts))
    monkeypatch.setattr("allograft.results.models.scenario_of", lambda world, row: scenario)
    assert training_images(world, row) == sorted(file_hash(path) for case in every for path in case.image)


def test_a_model_is_not_judged_on_an_image_that_it_was_trained_on(ran: Ran) -> None:
    _, world, _, _ = ran
    cases = world.part("a", "train", 0).cases
    several = replace(cases[0], image=(*cases[0].image, *cases[1].image))
    known = {"training_images": [file_hash(cases[1].image[0])]}
    with pytest.raises(ModelError, match=rf"m: was trained on 2 of these images, for example '{several.name}'"):
        refuse_training_images(known, [several, cases[1], cases[2]], Path("m"))
    refuse_training_images(known, cases[2:], Path("m"))
    refuse_training_images({}, cases, Path("m"))


def test_a_study_that_starts_from_something_says_so_on_its_cards(ran: Ran, tmp_path: Path) -> None:
    _, world, plan, _ = ran
    (tmp_path / "start.json").write_text(json.dumps({"loaded": ["all"]}))
    started = replace(world, study=replace(world.study, start="model"))
    assert facts(started, plan.rows[0], tmp_path)["start"] == {"loaded": ["all"]}


def test_what_a_model_knows_of_its_validation_is_computed_as_the_study_is(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, plan, result = ran
    told: list[tuple[Path, Source, Path | None]] = []
    monkeypatch.setattr(
        "allograft.results.models.add_deployment",
        lambda folder, source, earlier=None: told.append((folder, source, earlier)),
    )
    device, template = torch.device("meta"), torch.nn.Identity()
    fabric: Any = SimpleNamespace(device=device, is_global_zero=True, world_size=1)
    monkeypatch.setattr(Session, "context", lambda self, seed: SimpleNamespace(template=template))
    closing.finish(replace(session, fabric=fabric), world, plan, report=False)
    assert len(told) == 2
    for folder, source, earlier in told:
        line = next(line for line in result.lines if model_folder(session.out, line) == earlier)
        assert folder.name == f".{earlier.name}.part"  # type: ignore[union-attr]
        assert (source.device, source.template, source.world) == (device, template, world)
        assert source.row == line.best_run.row
        assert source.validation == line.best_run.validation
        assert {record.part for record in source.validation} == {"val"}
