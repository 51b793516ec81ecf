"""What every method of the table promises, whatever its paper."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.undisturbed import Undisturbed, weights
from tests.contract.world import BUDGET, METHODS, contract, leaves_weights_only, request, row_of, run, session_of, told

from allograft.batch import Boxes
from allograft.context import Store
from allograft.recipe import parse_recipe, total_needs
from allograft.study.plan import scenario_of
from allograft.table import find
from allograft.tree import digest, plain


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_is_frozen_and_survives_yaml(name: str) -> None:
    recipe = parse_recipe(request(name))
    assert parse_recipe(plain(recipe)) == recipe
    assert plain(parse_recipe(name)) == plain(find("method", name)())
    if fields(recipe):
        with pytest.raises(FrozenInstanceError):
            setattr(recipe, fields(recipe)[0].name, None)


@pytest.mark.parametrize("name", METHODS)
def test_records_are_done_and_name_their_sites(name: str, undisturbed: Any) -> None:
    plain_run = undisturbed(name)
    own = [record for record in plain_run.records.values() if record.unit == plain_run.row.unit]
    assert own
    assert {(record.status, record.error) for record in plain_run.records.values()} == {("done", "")}
    places = {(record.site, record.part) for record in own}
    if leaves_weights_only(name):
        assert places == {("", "weights")}
        return
    expected = {("a", "test"), ("d", "test"), ("b", "test")}
    if not contract(name).study.get("stream"):  # which has neither a source nor a target
        expected |= {("a", "val"), ("d", "val")}
        # no rule without labels knows boxes or made images
        if not {"detection", "synthesis"} & set(contract(name).study.get("task", {})):
            expected |= {("b", "train-unlabelled")}
    assert places == expected


def _assert_close(found: Any, expected: Any, *, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Of tensors, of words, and of the boxes of several images."""
    if isinstance(found, torch.Tensor):
        return torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
    for one, other in zip(found, expected, strict=True):
        if not isinstance(one, Boxes):
            assert one == other
            continue
        for key in ("xyxy", "label", "score"):
            torch.testing.assert_close(getattr(one, key), getattr(other, key), rtol=rtol, atol=atol)
    return None


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bytes_and_globals_untouched(
    name: str, manifest: Path, undisturbed: Any, tmp_path: Path
) -> None:
    expected = undisturbed(name)
    torch.manual_seed(123)  # whatever the caller drew before
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    session = session_of(manifest, tmp_path, request(name))
    _, row, again = run(session)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert told(again) == told(expected.records)
    assert weights(tmp_path, row.unit) == expected.weights


@pytest.mark.parametrize("name", METHODS)
def test_the_callers_network_is_untouched(name: str, manifest: Path, tmp_path: Path) -> None:
    session = session_of(manifest, tmp_path, request(name))
    world = session.prepare()
    row = row_of(session, world)
    network = session.start(world, 0)
    before = digest(network)
    for stage in session.context(0).run(row.recipe, scenario_of(world, row), network):
        assert stage.unit
    assert digest(network) == before


@pytest.mark.parametrize("name", METHODS)
def test_the_studys_schedule_is_followed(name: str, manifest: Path, tmp_path: Path) -> None:
    """At a learning rate of 0 nothing of the network moves, but what an optimizer of the recipe's
    own moves."""
    session = session_of(manifest, tmp_path, request(name), schedule={"step": {"at": [0.0], "factor": 0.0}})
    world = session.prepare()
    row = row_of(session, world)
    network = session.start(world, 0)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    running = session.context(0).run(row.recipe, scenario_of(world, row), network)
    while True:
        try:
            next(running)
        except StopIteration as end:
            after = dict(end.value.network.named_parameters())
            break
    shared = [key for key in before if key in after and before[key].shape == after[key].shape]
    moved = [key for key in shared if not torch.equal(before[key], after[key].cpu())]
    assert not moved or contract(name).own_optimizers
    assert shared or name == "spottunet"


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_are_judged_and_change_nothing(name: str, undisturbed: Any) -> None:
    """Models along the way of a training are stages of their own; the end of it, and what it
    scores, stay as they were."""
    without, along = undisturbed(name), undisturbed(name, checkpoints=True)
    assert along.row.unit != without.row.unit  # it leaves more
    assert along.weights == without.weights

    def cases(found: Undisturbed) -> dict[Any, Any]:
        return {(r.stage, r.site, r.part): r.cases for r in found.records.values() if r.unit == found.row.unit}

    ends, more = cases(without), cases(along)
    assert {key: more[key] for key in ends} == ends
    stages = {stage for stage, _, _ in ends}
    marked = {stage for stage, _, _ in more} - stages
    marks = contract(name).marks if contract(name).trains else ()
    assert marked == {f"{stage}-{mark}" for stage in stages for mark in marks}
    ordinals = [r.ordinal for r in along.records.values() if r.unit == along.row.unit and r.stage in stages]
    before = len(marks) if contract(name).study.get("stream") else len(marked)  # a stream's stages take turns with them
    assert all(ordinal >= before for ordinal in ordinals)
    assert all(Store(along.out / "units" / along.row.unit).stage_folder(stage).is_dir() for stage in marked)


@pytest.mark.parametrize("name", METHODS)
def test_cached_is_run(
    name: str, manifest: Path, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``first`` left in another study's folder gives the same result, and a finished unit
    trains nothing."""
    expected = undisturbed(name)
    run(session_of(manifest, tmp_path, "sequential" if contract(name).study.get("stream") else "supervised"))
    _, row, again = run(session_of(manifest, tmp_path, request(name)))
    assert {key: value for key, value in told(again).items() if key in expected.records} == told(expected.records)
    assert weights(tmp_path, row.unit) == expected.weights

    monkeypatch.setattr(
        "allograft.step.GradientStep.__call__", lambda self, batch: pytest.fail("a finished unit was trained again")
    )
    for file in (tmp_path / "records").iterdir():
        file.unlink()  # a new judge with nothing but the stored stages
    _, _, rejudged = run(session_of(manifest, tmp_path, request(name)))
    assert told(rejudged) == told({key: value for key, value in again.items() if key in rejudged})
    assert rejudged


@pytest.mark.parametrize("name", METHODS)
def test_hidden_labels_and_test_subjects_are_absent(name: str, manifest: Path, tmp_path: Path) -> None:
    session = session_of(manifest, tmp_path, request(name))
    world = session.prepare()
    row = row_of(session, world)
    needs = total_needs(row.recipe)
    seen = scenario_of(world, row).narrowed(needs)
    assert len(world.part("b", "train", 0).labelled(world.study.made_task.key).subjects) > BUDGET
    tests = {subject for test in world.tests(0) for subject in test.cohort.subjects}
    for cohort in (*seen.source, *seen.target, *seen.pool, *seen.stream):
        assert not tests & set(cohort.subjects)
        assert not any(case.further_readers for case in cohort.cases)
    if not needs.source_images:
        assert seen.source == ()
    if not needs.pool_labels:
        assert all(not case.labels for cohort in seen.pool for case in cohort.cases)
    if not (needs.target_labels or needs.all_target_labels):
        assert all(not case.labels for cohort in seen.target for case in cohort.cases)
        for cohort in seen.target:
            with pytest.raises(KeyError):
                cohort.case(0).labels["mask"]
    elif not needs.all_target_labels:
        assert len({case.subject for cohort in seen.target for case in cohort.cases if case.labels}) == BUDGET


@pytest.mark.parametrize("name", [name for name in METHODS if total_needs(parse_recipe(request(name))).target_labels])
def test_another_seed_has_the_labels_of_other_subjects(name: str, manifest: Path, tmp_path: Path) -> None:
    session = session_of(manifest, tmp_path, request(name), seeds=8)
    world, drawn = session.prepare(), set()
    row = row_of(session, world)
    for seed in range(8):
        seen = scenario_of(world, replace(row, seed=seed))
        labelled = [case for cohort in seen.target for case in cohort.cases if case.labels]
        subjects = {case.subject for case in labelled}
        assert len(subjects) == BUDGET
        assert {case.name for case in labelled} == {case.name for case in world.cases() if case.subject in subjects}
        drawn.add(frozenset(subjects))
    assert len(drawn) > 1


@pytest.mark.parametrize("name", METHODS)
def test_saved_is_live_and_cases_do_not_see_each_other(name: str, manifest: Path, tmp_path: Path) -> None:
    session = session_of(manifest, tmp_path, request(name))
    world = session.prepare()
    row = row_of(session, world)
    cohort = world.part("b", "test", 0).unlabelled()
    images = torch.cat([cohort.case(i).image for i in range(len(cohort))])
    batch = replace(
        cohort.case(0),
        image=images,
        site=torch.full((len(images),), -1),
        cases=tuple(map(str, range(len(images)))),
        spacing=None,
    )
    live = {}
    for stage in session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)):
        assert (stage.predictor is None) == leaves_weights_only(name)
        if stage.predictor is None:
            continue
        live[stage.unit, stage.name] = stage.predictor(batch)
        alone = stage.predictor(batch[1:2])
        for key, value in alone.items():
            _assert_close(value, live[stage.unit, stage.name][key][1:2])
    for (unit, name_), expected in live.items():
        _, stages, _ = Store(tmp_path / "units" / unit).load()  # type: ignore[misc]
        kept = next(stage.predictor for stage in stages if stage.name == name_)
        assert kept is not None
        again = kept(batch)
        for key, value in expected.items():
            _assert_close(again[key], value, rtol=0, atol=0)
