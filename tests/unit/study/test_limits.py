"""Every refusal of a study's keys has a neighbour that is taken: the one is refused by name, the other is a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.tiny import PLAIN

from allograft.errors import SpecError
from allograft.study import make_study
from allograft.study.parts import parts_of

GRID = {"recipes": [{"finetune": {"grid": {"scope": ["top", "full"]}}}], "target_labels": "all"}
TWO = {"cohort": "", "cohorts": {"x": {"manifest": "x.csv"}}}
STREAM = {"source": [], "target": [], "stream": [["a"], ["b"]]}
UPPER = {"target_supervised": {"labels": "all"}}
ROTATED = {"source": ["a", "c"], "target": ["a"], "test": {"folds": 2}}


def transformed(**changes: Any) -> dict[str, Any]:
    return {**STREAM, "stream": {"transformed": {"sites": ["a"], "stages": 2, **changes}}}


LIMITS: list[tuple[Mapping[str, Any], str, Mapping[str, Any]]] = [
    *(
        ({key: wrong}, f"{key}: expected one", {key: right})
        for key, right in (
            ("task", PLAIN["task"]),
            ("network", {"unet": None}),
            ("optimizer", {"sgd": {"lr": 0.1}}),
            ("schedule", {"cosine": {}}),
        )
        for wrong in ({}, {"one": {}, "two": {}})
    ),
    ({"schedule": {}}, "found nothing", {"schedule": "cosine"}),
    ({"cohorts": TWO["cohorts"]}, "found both of cohort and cohorts", TWO),
    ({"cohort": ""}, "found neither of cohort and cohorts", {}),
    ({**TWO, "slices": {"axis": 2}}, "slices: with cohorts", {"slices": {"axis": 2}}),
    ({**TWO, "cohorts": {"x/y": {"manifest": "x.csv"}}}, "'x/y' cannot be a name", TWO),
    ({**TWO, "cohorts": {"": {"manifest": "x.csv"}}}, "'' cannot be a name", TWO),
    ({"seeds": 0}, "seeds: found 0", {"seeds": 1}),
    ({"seeds": 1001}, "seeds: found 1001", {"seeds": 1000}),
    ({"clip": 0.0}, "clip: found 0.0", {"clip": 1e-3}),
    ({"patch": []}, r"patch: found \[\]", {"patch": [1]}),
    ({"patch": [4, 0]}, r"patch: found \[4, 0\]", {"patch": [4, 1]}),
    ({"patch": [2**16, 2**15]}, "patch: found", {"patch": [2**15, 2**15]}),
    ({"optimizer": {"adm": {}}}, "unknown optimizer 'adm'", {"optimizer": {"adam": {}}}),
    ({"loss": {"monai.DiceFocalLos": {}}}, "DiceFocalLos", {"loss": {"monai.DiceFocalLoss": {}}}),
    ({**STREAM, "stream": [["a"]]}, "stream: has 1 stage", STREAM),
    ({**STREAM, "stream": [["a"], ["b", "a"]]}, "site 'a' is in two stages", {**STREAM, "stream": [["a"], ["b", "c"]]}),
    ({**STREAM, "stream": [["a"], []]}, "a stage names no site", STREAM),
    ({**STREAM, "source": ["c"]}, "stream: replaces source and target", STREAM),
    ({**STREAM, "target": ["a"]}, "stream: replaces source and target", {**STREAM, "target": ["a", "b"]}),
    ({**STREAM, "pairs": "all"}, "stream: goes with neither", STREAM),
    ({**STREAM, "target_labels": "all"}, "stream: goes with neither", STREAM),
    ({**STREAM, "test": {"folds": 2}}, "stream: goes with neither", {**STREAM, "test": {"folds": 1}}),
    ({"target": ["a"], "target_labels": "all"}, "target_labels: 'a' is source and target", {"target": ["a"]}),
    ({**ROTATED, "source": ["a"], "selection": "source-val"}, "source-val needs validation subjects",
     {**ROTATED, "selection": "source-val"}),
    ({"source": [], "recipes": ["adabn"], "selection": "last"}, "'adabn first=start' has nothing to adapt",
     {"source": [], "recipes": ["adabn"], "start": "m", "selection": "last"}),
    ({"source": [], "start": "m", "selection": "source-val"}, "source-val needs a source site",
     {"source": [], "start": "m", "selection": "entropy"}),
    ({"pairs": "all", "target": []}, "pairs: all finds no pair in a",
     {"pairs": "all", "source": ["a", "b"], "target": []}),
    ({"pairs": "all", "source": ["a", "c"], "where": {"source": {"sex": "f"}}}, "where: filters the two sides",
     {"pairs": "all", "source": ["a", "c"]}),
    ({**GRID, "selection": "last"}, "selection: last picks none", {**GRID, "selection": "source-val"}),
    ({**GRID, "source": [], "start": "m", "selection": "entropy"}, "without a source nothing picks",
     {**GRID, "selection": "entropy"}),
    ({"primary": "supervised"}, "primary: 'supervised' is what every row is compared with",
     {"primary": {"supervised": {"augmentation": "strong"}}}),
    ({"primary": "histogram"}, "primary: found 'histogram', expected a row",
     {"primary": "histogram", "recipes": ["histogram"]}),
    ({"primary": UPPER, "recipes": [UPPER], "target_labels": {"subjects": 1}}, "primary: .* uses all target labels",
     {"primary": "joint", "target_labels": {"subjects": 1}}),
    ({"reference": "histogram"}, "reference: expected a row of the table",
     {"reference": "histogram", "recipes": ["histogram"]}),
    ({"reference": UPPER, "recipes": [UPPER], "target_labels": {"subjects": 1}}, "reference: .* uses all target labels",
     {"reference": "joint", "target_labels": {"subjects": 1}}),
    ({"reference": "histogram", "primary": "histogram", "recipes": ["histogram"]}, "is the primary row too",
     {"reference": "supervised", "primary": "histogram", "recipes": ["histogram"]}),
    *(
        ({"target_labels": {unit: wrong}}, said, {"target_labels": {unit: right}})
        for unit, least in (("subjects", 1), ("cases", 1), ("slices", 1), ("fraction", 0.1))
        for wrong, said, right in (
            (0, "one of subjects, cases, slices, fraction", least),
            ([], "one of subjects, cases, slices, fraction", [least]),
            ([least, least], "that rise", [least, 2 * least]),
            ([2 * least, least], "that rise", [least, 2 * least, 3 * least]),
        )
    ),
    ({"target_labels": {"subjects": 1, "cases": 1}}, "one of subjects", {"target_labels": {"cases": 1}}),
    ({**STREAM, "stream": {"gradual": {"sites": ["a", "b"], "stages": 1}}}, "found 2 sites and 1 stages",
     {**STREAM, "stream": {"gradual": {"sites": ["a", "b"], "stages": 2}}}),
    ({**STREAM, "stream": {"gradual": {"sites": ["a"], "stages": 2}}}, "found 1 sites and 2 stages",
     {**STREAM, "stream": {"gradual": {"sites": ["a", "b"], "stages": 3}}}),
    (transformed(sites=[]), "found 0 sites and 2 stages", transformed()),
    (transformed(stages=1), "found 1 sites and 1 stages", transformed(stages=3)),
    (transformed(intensity=[0.5, 0.5]), "stream.transformed: found intensity", transformed(intensity=[0.0, 1.0])),
    (transformed(intensity=[-0.1, 0.5]), "found intensity", transformed(intensity=[0.0, 0.5])),
    (transformed(intensity=[0.5, 1.1]), "found intensity", transformed(intensity=[0.5, 1.0])),
    (transformed(scale=[0.0, 1.2]), "scale", transformed(scale=[0.1, 1.2])),
    (transformed(scale=[1.1, 1.2]), "scale", transformed(scale=[1.0, 1.0])),
    (transformed(scale=[0.8, 0.9]), "scale", transformed(scale=[0.8, 1.0])),
    (transformed(degrees=-1.0), "degrees", transformed(degrees=0.0)),
    (transformed(mm=-1.0), "mm", transformed(mm=0.0)),
    ({"test": {"fraction": 1.0}}, "test: found fraction 1.0", {"test": {"fraction": 0.99}}),
    ({"test": {"fraction": -0.1}}, "test: found fraction -0.1", {"test": {"fraction": 0.0}}),
    ({"test": {"source_fraction": 1.0}}, "source_fraction 1.0", {"test": {"source_fraction": 0.0}}),
    ({"test": {"source_fraction": -0.1}}, "source_fraction -0.1", {"test": {"source_fraction": 0.9}}),
    ({"test": {"val": 1.0}}, "val 1.0", {"test": {"val": 0.0}}),
    ({"test": {"val": -0.1}}, "val -0.1", {"test": {"val": 0.9}}),
    ({"test": {"folds": 0}}, "folds 0", {"test": {"folds": 1}}),
    ({"statistics": {"margin": 0.0}}, "statistics.margin: found 0.0", {"statistics": {"margin": 0.001}}),
    ({"statistics": {"margin": float("inf")}}, "statistics.margin: found inf", {"statistics": {"margin": 1.0}}),
    ({"statistics": {"tolerance": -0.01}}, "statistics.tolerance: found -0.01", {"statistics": {"tolerance": 0.0}}),
    ({"statistics": {"tolerance": float("nan")}}, "statistics.tolerance: found nan",
     {"statistics": {"tolerance": 1.0}}),
]  # fmt: skip
"""What is refused, the words, and what is taken."""


@pytest.mark.parametrize(("wrong", "said", "right"), LIMITS)
def test_one_step_over_a_limit_is_refused_and_the_limit_is_taken(
    wrong: Mapping[str, Any], said: str, right: Mapping[str, Any]
) -> None:
    with pytest.raises(SpecError, match=said):
        make_study({**PLAIN, **wrong})
    make_study({**PLAIN, **right})


@pytest.mark.parametrize("key", ["each", "cohort", "cohorts"])
def test_no_part_overrides_what_all_share(key: str) -> None:
    override = {"each": {"y": {}}, "cohort": "m.csv", "cohorts": TWO["cohorts"]}[key]
    with pytest.raises(SpecError, match=f"each.x: overrides '{key}'"):
        parts_of(make_study({**PLAIN, "each": {"x": {key: override}}}))
