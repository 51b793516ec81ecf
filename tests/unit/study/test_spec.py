"""The study file: values as written, closed, and kind about slips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import PLAIN

from allograft.errors import SpecError
from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.recipe import Needs, parse_recipe, title
from allograft.strict import parse_yaml
from allograft.study import make_study, read_study
from allograft.study.keys import TargetLabels

TEXT = "cohort: manifest.csv\ntask: {segmentation: {classes: [vessel]}}\nsource: [a]\ntarget: [b]\nrecipes: [fourier]\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.5e-3", -0.0025),
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("2024-01-02", "2024-01-02"),
        ("1e", "1e"),
        ("[1e-3, no]", [0.001, "no"]),
        ("{1: a, no: b}", {"1": "a", "no": "b"}),
    ],
)
def test_values_are_what_they_look_like(text: str, value: Any) -> None:
    found = parse_yaml(text, "x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is written twice"),
        ("a: {b: 1, b: 1}", "line 1: key 'b' is written twice"),
        ("a: &x [1]\nb: *x", r"line 2: aliases \(\*name\) are not read"),
        ("a: !!python/object/apply:os.system [echo]", "not plain YAML: .*python/object/apply:os.system"),
        ("a: !mine 3", "not plain YAML: .*!mine"),
        ("<<: {a: 1}", "not plain YAML"),
        ("? [a]\n: 1", "line 1: a key must be a word"),
        ("null: 1", "line 1: a key must be a word"),
        ("a: [1, 2", "not plain YAML"),
        ("a: !!int abc", "not plain YAML"),
        ("a: !!timestamp b", "not plain YAML"),
        (f"a: {'9' * 5000}", "not plain YAML"),
        ("[" * 5000, "nested too deeply|not plain YAML"),
        ("a: \x00", "not plain YAML"),
        ("a: 1\n---\nb: 2", "not plain YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told) as error:
        parse_yaml(text, "x.yaml")
    assert str(error.value).startswith("x.yaml: ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sources": ["a"]}, "study.sources: unknown key 'sources'; did you mean 'source'"),
        ({"budget": {"step": 3}}, "study.budget.step: unknown key 'step'; did you mean 'steps'"),
        ({"preprocessing": {"sise": [3]}}, "study.preprocessing.sise: unknown key 'sise'; did you mean 'size'"),
        ({"target_labels": {"subject": 3}}, "target_labels"),
        ({"recipes": ["forier"]}, "unknown recipe 'forier'; did you mean 'fourier'"),
        (
            {"recipes": [{"fourier": {"bta": 0.1}}]},
            r"^study\.recipes\.0\.fourier\.bta: unknown key 'bta'; did you mean 'beta'\?$",
        ),
        ({"recipes": [{"fourier": {"beta": 0.9}}]}, "fourier: beta is 0.9; expected a fraction"),
        (
            {"recipes": [{"fourier": {"beta": "0.1"}}]},
            'recipes.0.fourier.beta: found "0.1"; expected a number, .*write beta: 0.1$',
        ),
        ({"recipes": [{"finetune": {"scope": "all"}}]}, 'recipes.0.finetune.scope: found "all"; expected full, '),
        ({"recipes": [{"finetune": {"first": "suprvised"}}]}, "unknown recipe 'suprvised'; did you mean 'supervised'"),
        (
            {"recipes": [{"finetune": {"first": {"supervised": {"x": 1}}}}]},
            "first.supervised.x: unknown key 'x'",
        ),
        ({"recipes": [{"fourier": {}, "finetune": {}}]}, "a recipe is a name or one"),
        ({"recipes": "fourier"}, 'study.recipes: .*found "fourier"'),
        ({"seeds": "3"}, 'study.seeds: .*found "3"'),
        ({"seeds": 2.5}, "study.seeds: .*found 2.5"),
        ({"seeds": True}, "study.seeds: .*found true"),
        ({"seeds": 0}, "seeds: found 0, expected 1 to 1000"),
        ({"budget": {"steps": 0}}, "budget.steps: found 0"),
        ({"target": []}, "target: names no site"),
        ({"target": "b"}, 'study.target: .*found "b"'),
        ({"target": ["a"], "target_labels": "all"}, "target_labels: 'a' is source and target"),
        (
            {"target": ["a"], "test": {"folds": 2}, "selection": "source-val"},
            "selection: source-val needs validation subjects, and with test.folds all others of 'a' train",
        ),
        ({"target_labels": "some"}, "target_labels"),
        ({"target_labels": {"subjects": 0}}, "target_labels: expected none, all, or one of"),
        ({"target_labels": {"subjects": 1, "cases": 1}}, "target_labels: expected none, all, or one of"),
        ({"target_labels": {}}, "target_labels: expected none, all, or one of"),
        ({"task": {"segmentaton": {}}}, "unknown task 'segmentaton'; did you mean 'segmentation'"),
        ({"task": {"segmentation": {"classes": []}}}, "classes is empty"),
        ({"task": {"segmentation": {"clases": ["a"]}}}, "task.segmentation"),
        ({"task": {}}, "task: expected one"),
        ({"optimizer": {"adam": {}, "sgd": {}}}, "optimizer: expected one .* found adam, sgd"),
        ({"optimizer": {"adm": {}}}, "unknown optimizer 'adm'; did you mean 'adam'"),
        ({"selection": "best"}, 'study.selection: found "best"; expected last, '),
        ({"augmentation": "heavy"}, "study.augmentation"),
        ({"test": {"folds": 0}}, "test: found .*folds 0"),
        ({"test": {"fraction": 1.5}}, "test: found fraction 1.5"),
        ({"slices": {"axis": 5}}, "slices: found axis 5"),
        ({"preprocessing": {"intensity": "z"}}, "study.preprocessing.intensity"),
        ({"file": "x"}, "unknown key 'file'"),
        ({"cohort": 3}, "study.cohort: .*found 3"),
        ({"recipes": [{1, 2}]}, "study: .*expected plain YAML values"),
    ],
)
def test_a_slip_names_the_key_and_what_was_found(change: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        make_study({**PLAIN, **change})


def test_a_missing_key() -> None:
    with pytest.raises(SpecError, match="cohort: found neither of cohort and cohorts; expected exactly one"):
        make_study({name: value for name, value in PLAIN.items() if name != "cohort"})
    for key in ("task", "recipes"):
        with pytest.raises(SpecError, match=f"study.{key}: missing; expected .*; for example {key}: "):
            make_study({name: value for name, value in PLAIN.items() if name != key})
    with pytest.raises(SpecError, match="target: names no site"):
        make_study({name: value for name, value in PLAIN.items() if name != "target"})


def test_every_row_once_and_those_that_are_always_there() -> None:
    def titles(**more: Any) -> list[str]:
        return [title(recipe) for recipe in make_study({**PLAIN, **more}).rows]

    always = ["supervised", "supervised augmentation=strong"]
    assert titles() == always
    # do-nothing is its own strongly augmented twin
    assert titles(augmentation="strong") == ["supervised"]
    assert titles(recipes=["fourier", "supervised", {"fourier": {}}, {"supervised": None}]) == [*always, "fourier"]
    with_labels = titles(recipes=[{"finetune": {"scope": "top"}}, "joint"], target_labels={"subjects": 1})
    assert with_labels == [*always, "target_supervised", "joint", "finetune scope=top"]


def test_needs_of_all_rows() -> None:
    assert make_study(PLAIN).needs() == Needs(source_images=True)
    assert make_study({**PLAIN, "target_labels": "all"}).needs() == Needs(source_images=True, target_labels=True)


def test_a_title_writes_several_values_as_people_do() -> None:
    assert title(parse_recipe({"unlearning": {"attributes": ["tone"]}})) == "unlearning attributes=tone"
    assert title(parse_recipe({"unlearning": {"attributes": ["tone", "site"]}})) == "unlearning attributes=(tone, site)"


def test_nested_recipes_titles_and_defaults() -> None:
    (recipe,) = make_study(
        {**PLAIN, "recipes": [{"finetune": {"scope": "top", "first": {"supervised": {"augmentation": "strong"}}}}]}
    ).recipes
    assert recipe == Finetune("top", first=Supervised("strong"))
    assert title(recipe) == "finetune scope=top first=(supervised augmentation=strong)"


def test_classes_as_names_or_values() -> None:
    study = make_study({**PLAIN, "task": {"segmentation": {"classes": {"hippocampus": [1, 2]}}}})
    assert study.made_task.coding.mask == {"hippocampus": (1, 2)}
    assert make_study({**PLAIN, "target_labels": {"fraction": 0.5}}).target_labels == TargetLabels(fraction=0.5)


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(TEXT)
    overrides = [
        "budget.steps=20",
        "optimizer={sgd: {lr: 1e-2}}",
        "recipes=[finetune]",
        "target_labels=all",
        "budget.batch_size=2",
    ]
    study = read_study(path, overrides)
    assert (study.budget.steps, study.budget.batch_size, study.budget.adapt_steps) == (20, 2, 200)
    assert study.optimizer == {"sgd": {"lr": 0.01}}
    assert study.recipes == (Finetune(),)
    assert study.file == path
    # where it was read from is not part of it
    assert read_study(path) == make_study({**PLAIN, "recipes": ["fourier"]})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("budget.steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("budget.stepps=3", "unknown key 'stepps'; did you mean 'steps'"),
        ("seeds=[", "--set seeds=.*not plain YAML"),
        ("seeds=no", 'study.seeds: .*found "no"'),
    ],
)
def test_overrides_that_are_refused(override: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(TEXT)
    with pytest.raises(SpecError, match=told):
        read_study(tmp_path / "study.yaml", [override])


@pytest.mark.parametrize(
    ("data", "told"), [(b"", "found nothing"), (b"- a", "found a list"), (b"\xff\xfe\x00", "cannot be read|not plain")]
)
def test_files_that_are_no_study(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(data)
    with pytest.raises(SpecError, match=told) as error:
        read_study(tmp_path / "study.yaml")
    assert "study.yaml" in str(error.value)
    with pytest.raises(SpecError, match=r"absent.yaml: no such study file"):
        read_study(tmp_path / "absent.yaml")


def test_the_manifest_is_beside_the_study_or_below_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("beside", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "beside" / "study.yaml").write_text(TEXT)
    study = read_study(tmp_path / "beside" / "study.yaml")
    monkeypatch.setenv("ALLOGRAFT_DATA", str(tmp_path / "data"))
    with pytest.raises(SpecError, match=r"cohort: no manifest 'manifest\.csv' in .*ALLOGRAFT_DATA"):
        _ = study.manifest
    (tmp_path / "data" / "manifest.csv").touch()
    assert study.manifest == tmp_path / "data" / "manifest.csv"
    (tmp_path / "beside" / "manifest.csv").touch()
    assert study.manifest == tmp_path / "beside" / "manifest.csv"


def test_a_start_in_the_current_folder_comes_before_one_beside_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "study.yaml").write_text(f"{TEXT}start: weights.safetensors\n")
    monkeypatch.chdir(tmp_path)
    study = read_study("asked/study.yaml")
    assert study.start_path == Path("asked/weights.safetensors")
    (tmp_path / "weights.safetensors").touch()
    assert study.start_path == Path("weights.safetensors")


def test_what_is_kept_of_a_study_leads_to_its_files_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("manifest.csv", "weights.safetensors", "study.yaml"):
        (tmp_path / "asked" / name).write_text(f"{TEXT}start: weights.safetensors\n")
    monkeypatch.chdir(tmp_path)
    kept = make_study(read_study("asked/study.yaml").spelt_out())
    monkeypatch.chdir(tmp_path / "other")
    assert kept.manifest == tmp_path / "asked" / "manifest.csv"
    assert kept.start_path == tmp_path / "asked" / "weights.safetensors"
    for start in ("scratch", "timm:resnet18"):
        tree = {**PLAIN, "cohort": str(kept.manifest), "start": start}
        assert make_study(tree).spelt_out()["start"] == start
