"""What a study tells its training, where it looks for its files, and what is kept of it: every key that is given
arrives, and none is replaced by its default."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit import tiny

from allograft.cohort import Case, Coding, Cohort, Preprocessing, Slices
from allograft.cohort.prepared_images import PreparedImages
from allograft.context import Budget, Settings
from allograft.errors import OutputError, SpecError
from allograft.recipe import Needs, parse_recipe
from allograft.study import Study, make_study, read_study
from allograft.study.cite import OURS, bibtex, papers
from allograft.study.cohorts import facts_of
from allograft.study.keys import Question
from allograft.study.parts import PAIRS, part_folder, parts_of, shared_folder
from allograft.study.reading import kept_study
from allograft.study.where import Where, take_sides
from allograft.tree import plain

PLAIN = {**tiny.PLAIN, "target": ["b", "c"]}
TEXT = (
    "cohort: manifest.csv\ntask: {segmentation: {classes: [vessel]}}\nsource: [a]\ntarget: [b, c]\n"
    "recipes: [supervised]\n"
)
GIVEN: dict[str, tuple[Any, str, Any]] = {
    "budget": ({"steps": 7, "batch_size": 3}, "budget", Budget(steps=7, batch_size=3)),
    "optimizer": ({"sgd": {"lr": 0.5}}, "optimizer", {"sgd": {"lr": 0.5}}),
    "augmentation": ("strong", "augmentation", "strong"),
    "patch": ([4, 5], "patch", (4, 5)),
    "clip": (2.0, "clip", 2.0),
    "schedule": ({"cosine": None}, "schedule", {"cosine": {}}),
    "loss": ({"monai.DiceLoss": None}, "loss", {"monai.DiceLoss": {}}),
}


@pytest.mark.parametrize("key", GIVEN)
def test_each_key_of_training_changes_its_own_setting_alone(key: str) -> None:
    value, name, wanted = GIVEN[key]
    before, after = make_study(PLAIN).settings, make_study({**PLAIN, key: value}).settings
    assert isinstance(after, Settings)
    changed = {f.name for f in fields(Settings) if getattr(before, f.name) != getattr(after, f.name)}
    assert changed == {name}
    assert getattr(after, name) == wanted


def test_a_schedule_is_a_name_or_a_name_with_arguments() -> None:
    assert make_study(PLAIN).settings.schedule == {"constant": {}}
    assert make_study({**PLAIN, "schedule": "cosine"}).settings.schedule == {"cosine": {}}
    assert make_study({**PLAIN, "optimizer": {"sgd": None}}).settings.optimizer == {"sgd": {}}


def test_every_target_is_a_question_and_a_stream_is_one() -> None:
    assert make_study(PLAIN).questions == (Question("b", ("b",)), Question("c", ("c",)))
    stream = make_study({**PLAIN, "source": [], "target": [], "stream": [["a", "c"], ["b"]]})
    assert stream.questions == (Question("stream", ("a", "c", "b")),)
    assert (stream.phases, stream.target) == ((("a", "c"), ("b",)), ("a", "c", "b"))
    both = make_study({**PLAIN, "source": ["a", "b"]})
    assert (both.within, replace(both, pairs="all").within) == (("b",), ())


def test_all_rows_and_all_settings_of_a_grid_count_in_what_a_study_needs() -> None:
    tree = {**PLAIN, "baselines": False, "pool": ["b"], "target_labels": "all", "selection": "source-val"}
    grid = {"finetune": {"grid": {"first": ["supervised", "reconstruction"]}}}
    needs = make_study({**tree, "recipes": ["adabn", grid]}).needs()
    assert needs == Needs(source_images=True, target_images=True, target_labels=True, pool=True)


@pytest.mark.parametrize(
    "change", [{"pairs": "all"}, {"each": {"x": {"seeds": 1}}}, {"target_labels": {"subjects": [1, 2]}}]
)
def test_a_study_of_several_parts_says_so(change: dict[str, Any]) -> None:
    assert make_study({**PLAIN, **change}).is_parted
    assert not make_study({**PLAIN, "target_labels": {"subjects": [1]}}).is_parted


# ---------------------------------------------------------- files
def test_a_manifest_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to the study, then in the current folder, then below that of the data."""
    for name in ("beside", "here", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "beside" / "study.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ALLOGRAFT_DATA", str(tmp_path / "data"))
    study = read_study(tmp_path / "beside" / "study.yaml")
    for name in ("data", "here", "beside"):
        (tmp_path / name / "manifest.csv").touch()
        assert study.manifest.resolve() == tmp_path / name / "manifest.csv"
    assert make_study(PLAIN).manifest.resolve() == tmp_path / "here" / "manifest.csv"


def test_a_start_is_found_next_to_the_study_and_a_name_is_left_as_it_is(tmp_path: Path) -> None:
    def start(text: str) -> Path:
        return replace(make_study({**PLAIN, "start": text}), file=tmp_path / "study.yaml").start_path

    assert start("old/model") == tmp_path / "old" / "model"
    assert start("/else/model") == Path("/else/model")
    assert [start(name) for name in ("timm:resnet18", "hf:a/b")] == [Path("timm:resnet18"), Path("hf:a/b")]
    assert make_study({**PLAIN, "start": "old/model"}).start_path == Path("old/model")


def test_what_is_kept_has_every_key_and_whole_paths_of_every_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.csv", "y.csv"):
        Path(name).touch()
    cohorts = {"x": {"manifest": "x.csv", "slices": {"axis": 1}}, "y": {"manifest": "y.csv"}}
    study = make_study({**PLAIN, "cohort": "", "cohorts": cohorts, "clip": 2.0, "seeds": 5, "channels_last": True})
    kept = study.spelt_out()
    assert {name: each["manifest"] for name, each in kept["cohorts"].items()} == {
        name: str(tmp_path / f"{name}.csv") for name in "xy"
    }
    assert make_study(kept) == replace(
        study, cohorts={name: replace(each, manifest=str(tmp_path / f"{name}.csv")) for name, each in
                        study.cohorts.items()}
    )  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(kept))
    assert kept_study(tmp_path) == make_study(kept)


def test_a_folder_without_a_study_or_with_a_torn_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds no study\.json; expected the output folder of 'allograft study'"):
        kept_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(OutputError, match=r"study\.json: cannot be read .*run the study again into this folder"):
        kept_study(tmp_path)


def test_every_line_of_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"{TEXT}seedz: 3\nclipp: 1\n")
    with pytest.raises(SpecError) as error:
        read_study(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}: study.") for line in lines)


# ---------------------------------------------------------- parts
def test_a_part_keeps_the_file_and_every_key_that_is_not_overridden() -> None:
    each = {"x": {"budget": {"steps": 9}, "where": {"source": {"sex": "f"}}}, "y": {"optimizer": {"sgd": {"lr": 1.0}}}}
    study = replace(make_study({**PLAIN, "each": each, "clip": 2.0, "budget": {"batch_size": 3}}), file=Path("s.yaml"))
    parts = parts_of(study)
    assert [part.file for part in parts.values()] == [Path("s.yaml")] * 2
    assert [part.clip for part in parts.values()] == [2.0, 2.0]
    assert (parts["x"].budget.steps, parts["x"].budget.batch_size) == (9, 3)
    assert parts["x"].where == Where({"sex": "f"})
    assert (parts["y"].where, parts["y"].optimizer) == (Where(), {"sgd": {"lr": 1.0}})


def test_a_part_is_named_by_its_pair_its_setting_and_its_labels() -> None:
    change = {"source": ["a", "b"], "target": [], "pairs": "all", "each": {"x": {}}, "recipes": ["finetune"]}
    names = list(parts_of(make_study({**PLAIN, **change, "target_labels": {"fraction": [0.25, 1.0]}})))
    assert names == [f"from {source}, x, fraction-{share}" for source in "ab" for share in ("0.25", "1")]


def test_a_folder_of_an_earlier_version_keeps_its_place(tmp_path: Path) -> None:
    assert part_folder(tmp_path, "from a") == tmp_path / "parts" / "from-a"
    (tmp_path / PAIRS).mkdir()
    assert part_folder(tmp_path, "from a") == tmp_path / "pairs" / "from-a"
    for folder in ("parts", "pairs"):
        assert shared_folder(tmp_path / folder / "from-a") == tmp_path
    assert shared_folder(tmp_path / "out") == tmp_path / "out"


# ---------------------------------------------------------- sides
def cohort_of(*cases: tuple[str, str, dict[str, str]]) -> Cohort:
    """Of name, site and attributes."""
    made = tuple(Case(name, name, site, (Path(name),), attributes=has) for name, site, has in cases)
    return Cohort(made, tuple(dict.fromkeys(case.site for case in made)), PreparedImages(Preprocessing(), Coding()))


def test_each_side_has_its_own_filter_a_pool_has_none_and_a_site_in_several_roles_is_there_once() -> None:
    f, m = {"sex": "f"}, {"sex": "m"}
    cohort = cohort_of(("1", "a", f), ("2", "a", m), ("3", "b", f), ("4", "b", m), ("5", "p", m), ("6", "z", f))
    where = Where({"sex": "f"}, {"sex": "m"})
    (kept,) = take_sides((cohort,), ["a"], ["b"], where, ["p", "b"])
    assert [(case.name, case.site) for case in kept.cases] == [("1", "a"), ("4", "b"), ("5", "p")]
    assert kept.sites == ("a", "b", "p")
    both = take_sides((cohort, cohort_of(("7", "y", f))), ["a"], ["y"], Where())
    assert [each.sites for each in both] == [("a", "y"), ("a", "y")]
    assert len(take_sides((cohort, cohort_of(("7", "y", f))), ["a"], ["b"], Where())) == 1


def test_a_card_says_how_images_are_prepared() -> None:
    cohort = replace(cohort_of(("1", "a", {})), slices=Slices(axis=1))
    assert facts_of(cohort) == {"preprocessing": plain(Preprocessing()), "slices": plain(Slices(axis=1))}


# ---------------------------------------------------------- papers
def test_papers_are_in_the_order_of_their_authors_however_deep_a_recipe_is() -> None:
    deep = parse_recipe({"octl": {"first": {"finetune": {"first": {"fourier": {}}}}}})
    found = papers([deep, parse_recipe("unlearning"), parse_recipe("adabn")])
    assert parse_recipe("fourier").paper in found
    assert found == sorted(found, key=lambda paper: (paper.authors, paper.year, paper.key))
    assert r"title = {\#1 \& 2\% A\_B}" in bibtex(replace(OURS, title="#1 & 2% A_B"))
    assert isinstance(make_study(PLAIN), Study)
