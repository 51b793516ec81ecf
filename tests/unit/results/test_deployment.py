"""What a model keeps of its validation: fitted on cases that its recipe may see, said by
``predict``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.conftest import Command
from tests.cli.conftest import allograft as allograft
from tests.contract.world import session_of, write_cohort

from allograft import tree
from allograft.apply import load
from allograft.errors import ModelError
from allograft.metrics.calibration import temperature_of
from allograft.phantoms.brain import write_brain
from allograft.predictor.abstention import Abstention
from allograft.predictor.deployment import DISTANCE, FILE, Deployment, read_deployment
from allograft.results import deployment
from allograft.results.analysis.fairness import validation_audits
from allograft.results.deployment import Images, calibrated
from allograft.study.plan import Row
from allograft.study.world import World
from allograft.tasks.classification import Classification

Finished = tuple[Any, World, dict[tuple[str, str], Path]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished study of sites "a" (12 subjects) and "b", and the models that it left."""
    folder = tmp_path_factory.mktemp("deployment")
    manifest = write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=14, size=32)
    test = {"fraction": 0.2, "val": 0.5}
    session = session_of(manifest, folder / "out", "supervised", source=["a"], test=test, recipes=["finetune"])
    session = session.completed()
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    return session, world, dict(session.finish(world, plan, report=False).models)


def of(models: dict[tuple[str, str], Path], title: str) -> Path:
    return next(folder for (name, _), folder in models.items() if name == title)


def test_no_test_case_is_looked_at(study: Finished) -> None:
    session, world, _ = study
    tested = {case.name for test in world.tests(0) if test.part == "test" for case in test.cohort.cases}
    assert tested
    for row in session.plan(world).rows:
        images = Images.of(world, row, world.sites)
        used = [
            case.name for part in (images.fitted, images.held_out, images.labelled) for c in part for case in c.cases
        ]
        assert used
        assert not tested & set(used)
        fitted = {case.subject for cohort in images.fitted for case in cohort.cases}
        assert not fitted & {case.subject for cohort in images.held_out for case in cohort.cases}


def test_where_nothing_validates_subjects_are_left_out_of_the_fit(tmp_path: Path) -> None:
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "supervised")
    world = session.prepare()
    row: Row = session.plan(world).rows[0]
    images = Images.of(world, row, world.sites)
    assert images.how.startswith("training subjects left out of the fit")
    fitted = {case.subject for cohort in images.fitted for case in cohort.cases}
    left = {case.subject for cohort in images.held_out for case in cohort.cases}
    assert fitted
    assert left
    assert not fitted & left


def test_a_model_keeps_calibration_distances_and_reference(
    study: Finished,
) -> None:
    _, world, models = study
    validating = world.part("a", "val", 0)
    for folder in (of(models, "supervised"), of(models, "finetune")):
        model = load(folder, device="cpu")
        known = model.deployment
        assert known is not None
        assert len(known.held_out) == len(validating.cases) == known.facts["calibration"]["a"]["cases"]
        assert known.facts["held_out"] == "validation cases of a"
        assert known.facts["notes"] == []
        assert known.facts["reference"].keys() == {"white", "grey", DISTANCE}
        # the same distances by the way that predict goes
        again = [one.facts[DISTANCE] for one in model.predict(list(validating.cases))]
        np.testing.assert_allclose(sorted(again), known.facts["reference"][DISTANCE], rtol=1e-5)
        text = json.dumps(dict(known.facts))
        assert not any(case.name in text or case.subject in text for case in world.cases())


def test_the_file_is_made_once(study: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    session, world, models = study
    before = {folder: (folder / FILE).read_bytes() for folder in models.values()}
    monkeypatch.setattr(deployment, "_fitted", lambda *_: pytest.fail("fitted again"))
    session.finish(world, session.plan(world), report=False)
    assert {folder: (folder / FILE).read_bytes() for folder in models.values()} == before


def test_predict_says_and_writes_what_is_known(study: Finished, tmp_path: Path, allograft: Command) -> None:
    _, world, models = study
    folder, near = of(models, "supervised"), world.part("a", "val", 0).cases[0]
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    Image.fromarray((255 * rng.integers(0, 2, (32, 32))).astype(np.uint8)).save(tmp_path / "images" / "far.png")
    (tmp_path / "images" / "near.png").write_bytes(Path(near.image[0]).read_bytes())
    said = allograft("predict", folder, tmp_path / "images", "-o", tmp_path / "out", "--device", "cpu")
    assert said.code == 0, said.err
    assert "validated at a on" in said.out
    assert "abstaining above an ood_distance of" in said.out
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "out" / "results.csv").open())}
    assert (rows["far.png"]["abstain"], rows["near.png"]["abstain"]) == ("yes", "no")
    assert float(rows["far.png"][DISTANCE]) > float(rows["near.png"][DISTANCE])
    assert rows["far.png"]["white"]  # a flag: the answer is there
    assert (tmp_path / "out" / "far_mask.png").exists()
    asked = allograft(
        "predict", folder, tmp_path / "images", "-o", tmp_path / "asked", "--abstain", "0.8", "--device", "cpu"
    )
    assert asked.code == 0, asked.err
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "asked" / "results.csv").open())}
    assert rows["far.png"]["warnings"].startswith("abstained: ood_distance")
    assert (rows["far.png"]["white"], rows["near.png"]["white"] == "") == ("", False)
    assert not (tmp_path / "asked" / "far_mask.png").exists()
    model = load(folder, device="cpu")
    rule = Abstention.from_predictor(model.predictor, 0.8, model.deployment)
    assert model.deployment is not None
    assert rule.threshold in model.deployment.held_out.tolist()


def test_a_file_of_another_model_or_a_damaged_one_is_refused(study: Finished, tmp_path: Path) -> None:
    _, _, models = study
    one, other = of(models, "supervised"), of(models, "finetune")
    copied = tmp_path / "model"
    tree.copy_folder(one, copied)
    (copied / FILE).write_bytes((other / FILE).read_bytes())
    with pytest.raises(ModelError, match="belongs to another model"):
        load(copied)
    (copied / FILE).write_bytes((one / FILE).read_bytes()[:-9])
    with pytest.raises(ModelError, match=f"{FILE}: damaged"):
        load(copied)
    (copied / FILE).unlink()
    assert load(copied).deployment is None
    assert read_deployment(copied, None) is None


def test_too_few_held_out_cases_give_no_threshold() -> None:
    few, more = (Deployment(held_out=torch.arange(float(count))) for count in (4, 9))
    assert Abstention.by_default(object(), few) is None  # type: ignore[arg-type]
    rule = Abstention.by_default(object(), more)  # type: ignore[arg-type]
    assert rule is not None
    assert (rule.level, rule.threshold, rule.column) == (0.9, 8.0, DISTANCE)


def test_calibration_is_of_all_answers_of_a_site() -> None:
    rng = torch.Generator().manual_seed(0)
    answers = [
        (torch.randn(20, 3, generator=rng).double(), torch.randint(0, 3, (20,), generator=rng)) for _ in range(6)
    ]
    found = calibrated(answers)
    logits, label = torch.cat([a for a, _ in answers]), torch.cat([b for _, b in answers])
    assert found["temperature"] == round(temperature_of(logits, label), 4)
    assert (found["cases"], found["answers"], sum(one["count"] for one in found["reliability"])) == (6, 120, 120)
    assert found["error_after"] < found["error_before"]
    sure = sum(one["confidence"] * one["count"] for one in found["reliability"]) / 120
    assert sure == pytest.approx(float(logits.softmax(1).amax(1).mean()))


def test_groups_of_the_validation_are_scored_one_by_one() -> None:
    from allograft.cohort import Case

    task = Classification(("no", "yes"))
    cases = [
        Case(f"c{n}", subject=f"s{n}", site="a", image=(Path(f"c{n}.png"),), attributes={"sex": "fm"[n % 2]})
        for n in range(40)
    ]
    scored = [
        # of women all are right, of men all are wrong
        {"case": f"c{n}", "subject": f"s{n}", "label": n // 2 % 2,
         "probabilities": [0.1, 0.9] if (n // 2 % 2) == (n % 2 == 0) else [0.9, 0.1]}
        for n in range(40)
    ]  # fmt: skip
    (audit,) = validation_audits(task, scored, cases)
    assert (audit["attribute"], audit["headline"]) == ("sex", "auroc")
    assert {one["name"]: (one["subjects"], one["scores"]["auroc"]) for one in audit["groups"]} == {
        "f": (20, 1.0),
        "m": (20, 0.0),
    }


def test_a_group_of_the_validation_without_every_class_has_no_mean_over_classes() -> None:
    from allograft.cohort import Case

    task = Classification(("no", "some", "all"))
    cases = [
        Case(f"c{n}", subject=f"s{n}", site="a", image=(Path(f"c{n}.png"),), attributes={"sex": "fm"[n % 2]})
        for n in range(40)
    ]
    labels = [n // 2 % (3 - n % 2) for n in range(40)]  # of men none has all
    scored = [
        {"case": f"c{n}", "subject": f"s{n}", "label": label, "probabilities": torch.eye(3)[label].tolist()}
        for n, label in enumerate(labels)
    ]
    (audit,) = validation_audits(task, scored, cases)
    assert {one["name"]: one["scores"]["auroc"] for one in audit["groups"]} == {"f": 1.0, "m": None}


def test_outside_the_region_nothing_is_said_of_calibration() -> None:
    mask = torch.tensor([[0, 1], [1, -100]])
    region = torch.tensor([[True, True], [False, True]])
    task = SimpleNamespace(key="mask", probabilities=lambda prediction, whole: prediction["mask"])
    prediction = {"mask": torch.stack([torch.full((2, 2), 0.25), torch.full((2, 2), 0.75)])}
    for where, labels in ((None, [0, 1, 1]), (region, [0, 1])):
        found = deployment.answers_of(prediction, SimpleNamespace(mask=mask, region=where), task)  # type: ignore[arg-type]
        assert found is not None
        assert found[1].tolist() == labels
        assert found[0].exp()[0].tolist() == pytest.approx([0.25, 0.75])
