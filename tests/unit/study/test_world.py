"""Several cohorts, pools, streams and one site on both sides: who sees what, and what is refused by
name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.tiny import write_photographs

from allograft.context import Context
from allograft.errors import AllograftError, ImageError, ManifestError, NeedsError, SpecError, SplitError
from allograft.recipe import Needs, Scenario
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.parts import parts_of
from allograft.study.plan import Plan
from allograft.study.reading import make_study
from allograft.study.spec import Study
from allograft.study.world import World

TREE: dict[str, Any] = {
    "task": {"segmentation": {"classes": ["vessel"]}},
    "network": {"unet": {"spatial_dims": 2, "channels": [4, 8], "num_res_units": 1}},
    "augmentation": "strong",
    "recipes": ["supervised"],
    "test": {"fraction": 0.4, "val": 0.4},
    "near_duplicates": "warn",
    "seeds": 1,
    "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts")
    write_photographs(folder / "one", {"a": 6, "b": 5, "c": 4})
    write_photographs(folder / "two", {"a": 5, "d": 3}, seed=8)
    return folder


def study_of(folder: Path, **changes: Any) -> Study:
    return make_study({"cohort": str(folder / "one" / "manifest.csv"), **TREE, **changes})


def two(folder: Path, **changes: Any) -> dict[str, Any]:
    cohorts = {name: {"manifest": str(folder / name / "manifest.csv")} for name in ("one", "two")}
    return {"cohort": "", "cohorts": {name: {**one, **changes.get(name, {})} for name, one in cohorts.items()}}


def first_scenario(world: World, needs: Needs | None = None) -> Scenario:
    return world.scenario(world.study.questions[0], 0, 0, needs)


def judged_subjects(world: World) -> set[str]:
    return {subject for test in world.tests(0) for subject in test.cohort.subjects}


# ---------------------------------------------------------- several cohorts
def test_names_of_several_cohorts_are_behind_the_cohorts_own(folder: Path, tmp_path: Path) -> None:
    world = World.read(study_of(folder, **two(folder), source=["one/a"], target=["two"]), tmp_path)
    assert (world.study.source, world.study.target) == (("one/a",), ("two/a", "two/d"))
    assert world.sites == ("one/a", "two/a", "two/d")
    assert all(
        case.name.startswith(f"{case.site}"[:4]) and case.subject.startswith(case.site[:4]) for case in world.cases()
    )
    assert {cohort.sites for cohort in world.cohorts} == {world.sites}
    seen = first_scenario(world, Needs(every_target=True))
    assert {case.site for cohort in (*seen.source, *seen.target) for case in cohort.cases} == set(world.sites)


def test_each_cohort_says_what_its_mask_values_mean(folder: Path, tmp_path: Path) -> None:
    values = {
        "one": {"classes": {"vessel": [1]}},
        "two": {"classes": {"vessel": [255]}, "preprocessing": {"intensity": "unit"}},
    }
    world = World.read(study_of(folder, **two(folder, **values), source=["one/a"], target=["two/a"]), tmp_path)
    coded = {cohort.cases[0].site: cohort.prepared for cohort in world.cohorts}
    assert coded["one/a"].coding.mask == {"vessel": (1,)}
    assert coded["two/a"].coding.mask == {"vessel": (255,)}
    assert (coded["one/a"].preprocessing.intensity, coded["two/a"].preprocessing.intensity) == ("zscore", "unit")
    with pytest.raises(SpecError, match=r"cohorts.two.classes: unknown class 'vesel'; did you mean 'vessel'"):
        World.read(
            study_of(folder, **two(folder, two={"classes": {"vesel": [1]}}), source=["one/a"], target=["two/a"]),
            tmp_path,
        )


def test_each_cohort_says_its_words_for_a_class_and_keeps_the_tasks_own(folder: Path, tmp_path: Path) -> None:
    words = {"one": ("benign", "malignant"), "two": ("0", "1")}
    for name, labels in words.items():
        path = folder / name / "manifest.csv"
        lines = path.read_text().splitlines()
        rows = [f"{line},{labels[number % 2]}" for number, line in enumerate(lines[1:])]
        (folder / name / "classes.csv").write_text("\n".join([f"{lines[0]},label", *rows]))
    cohorts: dict[str, Any] = {name: {"manifest": str(folder / name / "classes.csv")} for name in words}
    cohorts["two"]["classes"] = {"benign": [0], "malignant": [1]}
    task = {"classification": {"classes": ["benign", "malignant"]}}
    study = study_of(folder, cohort="", cohorts=cohorts, task=task, source=["one/a"], target=["two/a"])
    world = World.read(study, tmp_path)
    for name in words:
        labels = [str(case.labels["label"]) for case in world.cases() if case.site == f"{name}/a"]
        assert len(labels) > 4
        assert labels == [("benign", "malignant")[number % 2] for number in range(len(labels))]


def test_one_of_cohort_and_cohorts(folder: Path) -> None:
    with pytest.raises(SpecError, match="found both of cohort and cohorts"):
        make_study({**TREE, **two(folder), "cohort": "m.csv", "source": ["one"], "target": ["two"]})


@pytest.mark.parametrize("side", ["source", "target", "pool"])
def test_a_site_that_is_nowhere_is_an_error_with_the_nearest_name(side: str, folder: Path, tmp_path: Path) -> None:
    sides = {"source": ["one/a"], "target": ["two/a"], "pool": ["two/d"], side: ["one/z"]}
    with pytest.raises(ManifestError, match=rf"{side}: unknown site 'one/z'"):
        World.read(study_of(folder, **two(folder), **sides), tmp_path)


def test_channels_are_brought_to_one_number_or_refused(folder: Path, tmp_path: Path) -> None:
    colour = write_photographs(tmp_path / "colour", {"g": 4}, seed=9)
    for path in (tmp_path / "colour").glob("g?.png"):
        Image.open(path).convert("RGB").save(path)
    cohorts: dict[str, Any] = {
        "one": {"manifest": str(folder / "one" / "manifest.csv")},
        "colour": {"manifest": str(colour)},
    }
    sides = {"cohort": "", "source": ["one/a"], "target": ["colour"]}
    with pytest.raises(ImageError, match=r"image 'colour/.*' of site 'colour/g' has 3 channels"):
        session_of(study_of(folder, **sides, cohorts=cohorts), tmp_path / "out").prepare()
    cohorts["colour"]["preprocessing"] = {"channels": 1}
    world = session_of(study_of(folder, **sides, cohorts=cohorts), tmp_path / "out").prepare()
    assert {cohort.case(0).image.shape[1] for cohort in world.cohorts} == {1}


# ---------------------------------------------------------- pools
@pytest.mark.parametrize("labelled", [False, True])
def test_a_pool_holds_training_subjects_and_no_label_that_nobody_asked_for(
    labelled: bool, folder: Path, tmp_path: Path
) -> None:
    world = World.read(study_of(folder, source=["a"], target=["b"], pool=["a", "b", "c"]), tmp_path)
    pool = first_scenario(world).narrowed(Needs(pool=True, pool_labels=labelled)).pool
    assert {case.site for cohort in pool for case in cohort.cases} == {"a", "b", "c"}
    assert not {subject for cohort in pool for subject in cohort.subjects} & judged_subjects(world)
    assert all(bool(case.labels) == labelled for cohort in pool for case in cohort.cases)
    alone = next(cohort for cohort in pool if cohort.cases[0].site == "c")
    assert len(alone.cases) == 4  # nothing of a site in the pool alone is tested
    assert first_scenario(world).narrowed(Needs(source_images=True)).pool == ()


def test_a_pool_of_which_every_subject_is_tested_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "one" / "manifest.csv"
    head, *lines = path.read_text().splitlines()
    site = head.split(",").index("site")
    split = [f"{line},{'test' if line.split(',')[site] == 'c' else ''}" for line in lines]
    (path.parent / "tested.csv").write_text("\n".join([f"{head},split", *split]))
    study = study_of(folder, cohort=str(path.parent / "tested.csv"), source=["a"], target=["b"], pool=["c"])
    with pytest.raises(SplitError, match="pool 'c': no image is left for pre-training; its subjects are all tested"):
        World.read(study, tmp_path)


def test_what_needs_a_pool_says_so(folder: Path) -> None:
    assert Needs(pool=True).only_pool
    assert not Needs(pool=True, source_images=True).only_pool
    assert not Needs(source_images=True).only_pool


# ---------------------------------------------------------- within one site
def test_within_a_site_training_subjects_train_and_test_subjects_are_tested(folder: Path, tmp_path: Path) -> None:
    study = study_of(folder, source=["a"], target=["a"], recipes=["supervised"])
    world = World.read(study, tmp_path)
    seen = first_scenario(world)
    assert seen.target == ()
    assert not {subject for cohort in seen.source for subject in cohort.subjects} & judged_subjects(world)
    assert [(test.site, test.part) for test in world.tests(0)] == [("a", "val"), ("a", "test")]
    assert world.unlabelled_training(0) == []
    with pytest.raises(NeedsError, match="recipe 'adabn' needs target images"):
        session_of(study_of(folder, source=["a"], target=["a"], recipes=["adabn"]), tmp_path / "adabn").prepare()


def test_within_a_site_subjects_rotate_through_the_test_set(folder: Path, tmp_path: Path) -> None:
    """As many folds as subjects leave one out at a time; a source that is no target does not rotate."""
    sides = {"source": ["a", "b"], "target": ["a"], "test": {"folds": 6, "val": 0.4}}
    world = World.read(study_of(folder, **sides), tmp_path)
    (question,) = world.study.questions
    rotated = [world.part("a", "test", fold).subjects for fold in range(6)]
    assert sorted(subject for fold in rotated for subject in fold) == sorted(f"a{number}" for number in range(6))
    for fold, tested in enumerate(rotated):
        seen = {subject for cohort in world.scenario(question, 0, fold).source for subject in cohort.subjects}
        assert {subject for subject in seen if subject[0] == "a"} == {f"a{n}" for n in range(6)} - {*tested}
        assert not seen & {subject for test in world.tests(fold) for subject in test.cohort.subjects}
        assert {(test.site, test.part, test.fold) for test in world.tests(fold)} == {
            ("b", "val", 0),
            ("a", "test", fold),
            ("b", "test", 0),
        }


def test_no_source_subject_is_tested_where_none_is_asked_for(folder: Path, tmp_path: Path) -> None:
    study = study_of(folder, source=["a", "b"], target=["b", "c"], test={"fraction": 0.5, "source_fraction": 0})
    world = World.read(study, tmp_path)
    assert [(test.site, test.part) for test in world.tests(0)] == [
        ("a", "val"),
        ("b", "val"),
        ("b", "test"),
        ("c", "test"),
    ]
    tested = {test.site: len(test.cohort.subjects) for test in world.tests(0) if test.part == "test"}
    assert tested == {"b": 2, "c": 2}  # a source that is a target too is tested as one
    with pytest.raises(
        SpecError, match=r"test: found fraction 0\.3, source_fraction 1\.0, val 0\.2, folds 1; expected"
    ):
        study_of(folder, source=["a"], target=["b"], test={"source_fraction": 1})


def test_label_efficiency_within_a_site_has_target_only_as_its_reference(folder: Path, tmp_path: Path) -> None:
    study = study_of(
        folder, source=[], target=["a"], pool=["a"], target_labels={"fraction": 0.4}, recipes=["target_supervised"]
    )
    world = World.read(study, tmp_path)
    assert [type(recipe).__name__ for recipe in world.study.rows] == ["TargetSupervised"]
    seen = first_scenario(world)
    pool, labelled = seen.pool[0].subjects, next(cohort for cohort in seen.target if cohort.has_labels).subjects
    assert set(labelled) < set(pool)
    assert not set(pool) & judged_subjects(world)
    with pytest.raises(
        SpecError, match="source: is empty and start is scratch, so 'finetune first=start' has nothing to adapt"
    ):
        study_of(folder, source=[], target=["a"], target_labels="all", recipes=["finetune"])


def test_a_target_without_a_test_subject_is_named_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "few", {"a": 5, "b": 1, "c": 2})
    text = manifest.read_text().splitlines()
    manifest.write_text(
        "\n".join([f"{text[0]},split", *(f"{row},{'train' if row.endswith('c') else ''}" for row in text[1:]), ""])
    )
    said: list[str] = []
    study = make_study({"cohort": str(manifest), **TREE, "source": ["a"], "target": ["b", "c"]})
    world = Session(study, tmp_path / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, said.append).prepare()
    assert list(world.untested()) == ["b", "c"]
    told = [line for line in said if line.startswith("warning: ")]
    assert told[0] == (
        "warning: target 'b' has one subject, which is used for training: no row can be evaluated there; add subjects"
    )
    assert told[1].startswith(
        "warning: target 'c' has 2 subjects and none is tested: no row can be evaluated there; raise"
    )
    assert World.read(study_of(folder, source=["a"], target=["b"]), tmp_path / "other").untested() == {}


def test_one_mask_for_two_subjects_is_refused(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "cohort", {"a": 4, "b": 4})
    manifest.write_text(manifest.read_text().replace("b1-mask.png", "b0-mask.png"))
    study = make_study({"cohort": str(manifest), **TREE, "source": ["a"], "target": ["b"]})
    said = r"mask 'b0-mask.png' is named for 2 subjects, by images 'b0.png', 'b1.png'; give each subject a mask"
    with pytest.raises(ManifestError, match=said):
        World.read(study, tmp_path / "out")
    mask, blank = manifest.with_name("b0-mask.png"), np.zeros((16, 16), np.uint8)
    kept = mask.read_bytes()
    Image.fromarray(blank).save(mask)  # of two in which nothing is found
    World.read(study, tmp_path / "out")
    mask.write_bytes(kept)
    manifest.write_text(manifest.read_text().replace(",b1,", ",b0,"))  # two images of one subject
    World.read(study, tmp_path / "other")


# ---------------------------------------------------------- streams
def test_a_stream_is_one_question_about_all_its_sites(folder: Path, tmp_path: Path) -> None:
    world = World.read(study_of(folder, stream=[["a"], ["b", "c"]]), tmp_path)
    (question,) = world.study.questions
    assert (question.name, question.sites) == ("stream", ("a", "b", "c"))
    stream = first_scenario(world).stream
    assert [sorted({case.site for case in phase.cases}) for phase in stream] == [["a"], ["b", "c"]]
    assert not {subject for phase in stream for subject in phase.subjects} & judged_subjects(world)
    assert {(test.site, test.part) for test in world.tests(0)} == {("a", "test"), ("b", "test"), ("c", "test")}
    assert world.study.rows[0] == study_of(folder, source=["a"], target=["b"]).recipes[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stream": [["a"]]}, "stream: has 1 stage; expected at least two"),
        ({"stream": [["a"], ["a"]]}, "stream: site 'a' is in two stages"),
        ({"stream": [["a"], []]}, "stream: a stage names no site"),
        ({"stream": [["a"], ["b"]], "source": ["c"]}, "stream: replaces source and target"),
        ({"stream": [["a"], ["b"]], "target_labels": "all"}, "stream: goes with neither"),
        ({"stream": {"gradual": {"sites": ["a"], "stages": 5}}}, "found 1 sites and 5 stages"),
    ],
)
def test_what_is_no_stream_is_refused(changes: Mapping[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(SpecError, match=said):
        study_of(folder, **changes)


def test_a_gradual_stream_moves_from_site_to_site_and_meets_nobody_twice(folder: Path, tmp_path: Path) -> None:
    world = World.read(study_of(folder, stream={"gradual": {"sites": ["a", "b"], "stages": 3}}), tmp_path)
    assert world.study.target == ("a to b, 1 of 3", "a to b, 2 of 3", "a to b, 3 of 3")
    stages = [world.part(name, part, 0).subjects for name in world.study.target for part in ("train", "test")]
    everyone = [subject for stage in stages for subject in stage]
    assert len(everyone) == len(set(everyone)) == 11
    origin = [{subject[0] for subject in (*stages[2 * number], *stages[2 * number + 1])} for number in range(3)]
    assert origin == [{"a"}, {"a", "b"}, {"b"}]


def test_a_stage_lies_in_one_cohort(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the stage \[one/a, two/a\] lies in two cohorts"):
        World.read(study_of(folder, **two(folder), stream=[["one/a", "two/a"], ["one/b"]]), tmp_path)


# ---------------------------------------------------------- parts
def test_each_and_rising_budgets_are_parts(folder: Path) -> None:
    each = {"wide": {"network": {"unet": {"channels": [8, 16]}}}, "long": {"budget": {"steps": 9}}}
    study = study_of(folder, source=["a"], target=["b"], target_labels={"subjects": [1, 2]}, each=each)
    parts = parts_of(study)
    assert list(parts) == ["wide, subjects-1", "wide, subjects-2", "long, subjects-1", "long, subjects-2"]
    assert parts["wide, subjects-2"].network == {"unet": {"channels": [8, 16]}}
    assert parts["long, subjects-1"].budget.steps == 9
    assert parts["long, subjects-1"].budget.batch_size == 2
    assert parts["long, subjects-1"].target_labels.subjects == 1  # type: ignore[union-attr]
    assert not any(part.is_parted for part in parts.values())
    with pytest.raises(SpecError, match=r"each.x: study.netwrk: unknown key 'netwrk'"):
        parts_of(study_of(folder, source=["a"], target=["b"], each={"x": {"netwrk": {}}}))
    with pytest.raises(SpecError, match=r"each.x: overrides 'cohort'"):
        parts_of(study_of(folder, source=["a"], target=["b"], each={"x": {"cohort": "m.csv"}}))


def test_budgets_that_do_not_rise_are_refused(folder: Path) -> None:
    with pytest.raises(
        SpecError, match=r"target_labels.subjects: found \[2, 1\]; expected a number, or several that rise"
    ):
        study_of(folder, source=["a"], target=["b"], target_labels={"subjects": [2, 1]})


# ---------------------------------------------------------- nodes
def session_of(study: Study, out: Path) -> Session:
    return Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)


def plan_of(folder: Path, out: Path, **changes: Any) -> Plan:
    session = session_of(study_of(folder, source=["a"], target=["b"], **changes), out)
    return session.plan(session.prepare())


def test_a_plan_lists_every_unit_what_others_are_built_on_first(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, target_labels={"subjects": 1}, recipes=[{"l2sp": {"first": {"finetune": {}}}}])
    row = next(row for row in plan.rows if type(row.recipe).__name__ == "L2sp")
    assert [type(node.recipe).__name__ for node in row.nodes] == ["Supervised", "Finetune", "L2sp"]
    assert row.nodes[0].key == plan.rows[0].unit  # do-nothing is the same unit
    assert row.nodes[1].key in plan.units  # though no row of the table asks for it
    assert plan.units.index(row.nodes[1].key) < plan.units.index(row.unit)


def test_a_nodes_key_is_that_of_the_unit_that_runs(folder: Path, tmp_path: Path) -> None:
    session = session_of(
        study_of(folder, source=["a"], target=["b"], target_labels={"subjects": 1}, recipes=["finetune"]), tmp_path
    )
    world = session.prepare()
    plan = session.plan(world)
    row = next(row for row in plan.rows if type(row.recipe).__name__ == "Finetune")
    session.run(world, row, "1 of 1")
    assert {path.name for path in (tmp_path / "units").iterdir()} == {node.key for node in row.nodes}
    assert isinstance(session.context(0), Context)


def test_bad_studies_are_no_tracebacks(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AllograftError, match="made of parts"):
        World.read(study_of(folder, source=["a", "b"], pairs="all"), tmp_path)
