"""The schema of the study file lets every example pass, refuses what a study refuses, and says what
every key means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from allograft.errors import SpecError
from allograft.recipe import is_recipe
from allograft.strict import overridden, parse_yaml
from allograft.study.parts import parts_of
from allograft.study.reading import make_study
from allograft.study.schema import arguments, callable_schema, study_schema
from allograft.study.spec import Study
from allograft.table import find, rows
from allograft.tree import default

EXAMPLES = Path(__file__).parents[3] / "examples"
SCHEMA = study_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
STUDY = """
cohort: manifest.csv
task: {segmentation: {classes: [vessel]}}
source: [a]
target: [b]
target_labels: {subjects: 2}
selection: source-val
recipes: [fourier, {finetune: {scope: full}}]
"""


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_passes(file: Path) -> None:
    tree = parse_yaml(file.read_text(encoding="utf-8"), file.name)
    if file.parent.name == "my_method":  # its recipe is known where the package is installed
        tree["recipes"] = ["finetune"]
    assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


GOOD = (
    "seeds=3",
    "network={monai.BasicUNet: {spatial_dims: 2}}",
    "schedule={cosine: {warmup: 0.1}}",
    "recipes=[{finetune: {scope: top, grid: {augmentation: [none, strong]}}}]",
    "recipes=[{finetune: {first: {supervised: {first: reconstruction}}}}]",
    "target_labels=all",
    "target_labels={subjects: [1, 2, 4]}",
    "each={small: {budget: {steps: 10}, preprocessing: {size: [32, 32]}}}",
    "clip=1",
    "preprocessing.mirror={attribute: side, value: right}",
    "loss={monai.DiceFocalLoss: {gamma: 2.0}}",
    "loss={}",
    "each={focal: {loss: {monai.FocalLoss: null}}}",
)


@pytest.mark.parametrize("change", GOOD)
def test_what_a_study_takes_passes(change: str) -> None:
    tree = overridden(parse_yaml(STUDY, "study"), [change])
    make_study(tree)
    assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


BROKEN = (
    "seed=3",
    "seeds=three",
    "seeds=true",
    "augmentation=medium",
    "target=b",
    "budget={step: 100}",
    "network={unet: {}, dynunet: {}}",
    "task={segmentatoin: {classes: [a]}}",
    "task={segmentation: {class: [a]}}",
    "recipes=[finetuned]",
    "recipes=[{finetune: {scopes: full}}]",
    "recipes=[{finetune: {first: {supervised: {first: {grid: {}}}}}}]",
    "recipes=[{finetune: {grid: {scopes: [full]}}}]",
    "cohorts={a: {manifest: a.csv}}",
    "each={a: {seed: 3}}",
    "each={a: {each: {}}}",
    "each={a: {cohort: other.csv}}",
    "each={a: {cohorts: {a: {manifest: a.csv}}}}",
    "preprocessing.window=[1]",
    "stream={gradual: {sites: [a, b], stage: 5}}",
    "optimizer={adams: {lr: 1e-3}}",
    "loss={DiceFocalLoss: {}}",
    "loss={monai.DiceFocalLoss: {}, torch.CrossEntropyLoss: {}}",
)


@pytest.mark.parametrize("change", BROKEN)
def test_what_a_study_refuses_does_not_pass(change: str) -> None:
    tree = overridden(parse_yaml(STUDY, "study"), [change])
    with pytest.raises(SpecError):
        parts_of(make_study(tree))
    assert not VALIDATOR.is_valid(tree)


def test_a_key_that_is_told_elsewhere_has_no_type_of_its_own() -> None:
    told = [node for node in SCHEMA["properties"].values() if "$ref" in node]
    told.append(SCHEMA["$defs"]["CohortSpec"]["properties"]["preprocessing"])
    assert len(told) > 5
    assert not [node for node in told if node.keys() & {"type", "anyOf", "additionalProperties"}]


@pytest.mark.parametrize("key", ["task", "recipes"])
def test_a_study_without_a_key_that_is_required_does_not_pass(key: str) -> None:
    tree = parse_yaml(STUDY, "study")
    tree.pop(key)
    with pytest.raises(SpecError):
        make_study(tree)
    assert not VALIDATOR.is_valid(tree)


def test_arguments_that_a_builder_refuses_do_not_pass() -> None:
    for change in ("network={unet: {channel: [8, 16]}}", "schedule={poly: {powers: 2}}", "optimizer={sgd: {rate: 1}}"):
        assert not VALIDATOR.is_valid(overridden(parse_yaml(STUDY, "study"), [change])), change


def described(node: dict[str, Any], where: str) -> Iterator[str]:
    """The keys of a schema that have no meaning."""
    for key, inner in node.get("properties", {}).items():
        if not inner.get("description"):
            yield f"{where}.{key}"


def test_every_key_has_a_meaning_and_those_of_a_study_an_example() -> None:
    named = {name: node for name, node in SCHEMA["$defs"].items() if not name.startswith(("row", "optimizer."))}
    holders = ("recipe", "task", "loss", "network", "optimizer", "schedule")  # whose keys are names
    bare = [key for name, node in named.items() if name not in holders for key in described(node, name)]
    assert bare + list(described(SCHEMA, "study")) == []
    assert [key for key, node in SCHEMA["properties"].items() if "examples" not in node] == []


@pytest.mark.parametrize("key", sorted(SCHEMA["properties"]))
def test_the_example_of_a_key_is_what_a_study_takes(key: str) -> None:
    (example,) = SCHEMA["properties"][key]["examples"]
    tree = parse_yaml(STUDY, "study") | {"target_labels": "none", key: example}
    if key == "cohorts":
        tree.pop("cohort")
    if key == "primary":
        tree["target_labels"] = {"subjects": 2}
    if key == "stream":
        tree.pop("source")
        tree |= {"target": [], "recipes": ["sequential"], "selection": "last"}
    if key == "where":
        tree["target"] = ["a"]
    if key == "pairs":
        tree["source"] = ["a", "b"]
    make_study(tree)
    assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


def test_defaults_are_those_of_the_code() -> None:
    for name in rows("method"):
        node = SCHEMA["$defs"][f"recipe.{name}"]
        for field in fields(find("method", name)):
            value = default(field)
            stated = node["properties"][field.name].get("default")
            if value is MISSING:
                assert field.name in node["required"]
            elif isinstance(value, (int, float, str)) and not is_recipe(value):
                assert stated == value, f"{name}.{field.name}"
    assert {key for key, node in SCHEMA["properties"].items() if key in SCHEMA["required"]} == {"task", "recipes"}
    assert SCHEMA["properties"]["seeds"]["default"] == next(f.default for f in fields(Study) if f.name == "seeds")


def test_arguments_of_a_builder_have_their_types_and_defaults() -> None:
    def build(in_channels: int, outputs: dict[str, int], *, depth: int = 18, names: tuple[str, ...]) -> None:
        """Build.

        Args:
            depth: how deep.
        """

    node = callable_schema(build)
    assert node["properties"] == {
        "depth": {"type": "integer", "default": 18, "description": "how deep."},
        "names": {"type": "array", "items": {"type": "string"}},
    }
    assert (node["required"], node["additionalProperties"]) == (["names"], False)


def test_names_that_share_a_line_share_its_meaning() -> None:
    assert arguments("Do.\n\nArgs:\n    a, b: two.") == {"a": "two.", "b": "two."}


def test_a_name_may_have_no_arguments() -> None:
    for change in ("network={unet: null}", "recipes=[{finetune: null}]", "optimizer={adam: null}"):
        assert VALIDATOR.is_valid(overridden(parse_yaml(STUDY, "study"), [change])), change
