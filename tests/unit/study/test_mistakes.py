"""Studies with a value of the wrong type: the file and the key, what was found, what was expected,
and how to write it. Nothing of a library's own words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from allograft.errors import SpecError
from allograft.mistakes import argument_mistakes, mistakes
from allograft.networks.network import build
from allograft.study import Study, read_study
from allograft.table import find

SOUND = {
    "cohort": "m.csv",
    "task": "{segmentation: {classes: [vessel]}}",
    "source": "[a]",
    "target": "[b]",
    "recipes": "[supervised]",
}
BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "a list that is a word": (
        {"source": "drive"},
        'study.source: found "drive"; expected a list of words; write source: [drive]',
    ),
    "a list that is a mapping": (
        {"recipes": "{finetune: {scope: top}}"},
        'study.recipes: found {"finetune": {"scope": "top"}}; expected a list of NAME or {NAME: {..}}; '
        "write recipes: [{finetune: {scope: top}}]",
    ),
    "a number for a name": ({"source": "[1]"}, 'study.source.0: found 1; expected a word; write "1"'),
    "nothing": ({"seeds": ""}, "study.seeds: found null; expected a whole number; write a value, or remove the key"),
    "a word for a number": (
        {"seeds": "three"},
        'study.seeds: found "three"; expected a whole number; for example seeds: 5',
    ),
    "a number with a point": (
        {"budget": "{steps: 1e3}"},
        "study.budget.steps: found 1000.0; expected a whole number; write steps: 1000",
    ),
    "a number in quotes with a comma": (
        {"statistics": "{margin: '0,02'}"},
        'study.statistics.margin: found "0,02"; expected a number; write margin: 0.02',
    ),
    "no for false": (
        {"baselines": "no"},
        'study.baselines: found "no"; expected true or false; write baselines: false',
    ),
    "a number for keys": (
        {"budget": "600"},
        "study.budget: found 600; expected {steps: .., adapt_steps: .., epochs: .., adapt_epochs: .., ..}; for example "
        "budget: {steps: 600, batch_size: 16}",
    ),
    "one length for every axis": (
        {"preprocessing": "{size: 96}"},
        "study.preprocessing.size: found 96; expected a list of whole numbers or null; for example size: [384, 384]",
    ),
    "a choice": (
        {"augmentation": "strng"},
        'study.augmentation: found "strng"; expected none, light or strong; did you mean strong?',
    ),
    "a number where words and keys are possible": (
        {"target_labels": "4"},
        "study.target_labels: found 4; expected none, all or {subjects: .., cases: .., slices: .., fraction: ..}; for "
        "example target_labels: {subjects: 4}",
    ),
    "a key of one of two": (
        {"stream": "{gradul: {sites: [a, b], stages: 3}}"},
        "study.stream.gradul: unknown key 'gradul'; did you mean 'gradual'?",
    ),
    "mask values without brackets": (
        {"task": "{segmentation: {classes: {vessel: 1}}}"},
        "task.segmentation.classes.vessel: found 1; expected a list of whole numbers; write vessel: [1]",
    ),
    "values beside the classes": (
        {"task": "{segmentation: {classes: [vessel], vessel: [1]}}"},
        "task.segmentation.vessel: unknown key 'vessel'",
    ),
    "a manifest without its key": (
        {"cohort": "''", "cohorts": "{a: m.csv}"},
        'study.cohorts.a: found "m.csv"; expected {manifest: .., classes: .., slices: .., preprocessing: ..}; '
        "write a: {manifest: m.csv}",
    ),
    "a setting of a recipe": (
        {"recipes": "[{fourier: {donors: many}}]"},
        'study.recipes.0.fourier.donors: found "many"; expected a whole number of at least 1',
    ),
    "a setting of a recipe in a recipe": (
        {"recipes": "[{finetune: {first: {supervised: {epocs: 1}}}}]"},
        "study.recipes.0.finetune.first.supervised.epocs: unknown key 'epocs'",
    ),
    "a mistyped key": ({"taget": "[b]"}, "study.taget: unknown key 'taget'; did you mean 'target'?"),
    "pairs that are no pairs": (
        {"allow_duplicates": "[a.png, b.png]"},
        'study.allow_duplicates.0: found "a.png"; expected a list of 2 words',
    ),
}
LIBRARY = re.compile(
    r"Input should|Field required|pydantic|validation error|type=|literal\[|TargetLabels|GradualStream"
)


def refusal(folder: Path, keys: dict[str, str]) -> str:
    lines = [f"{key}: {value}" for key, value in (SOUND | keys).items()]
    (folder / "study.yaml").write_text("\n".join(lines))
    with pytest.raises(SpecError) as caught:
        read_study(folder / "study.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_study_is_told_how_to_write_it(tmp_path: Path, name: str) -> None:
    keys, words = BROKEN[name]
    said = refusal(tmp_path, keys)
    assert said.startswith(f"{tmp_path / 'study.yaml'}: {words}")
    assert not LIBRARY.search(said)


MENDED = {
    "a list that is a word": {"source": "[drive]"},
    "a list that is a mapping": {"recipes": "[{finetune: {scope: top}}]"},
    "a number for a name": {"source": '["1"]'},
    "a number with a point": {"budget": "{steps: 1000}"},
    "a number in quotes with a comma": {"statistics": "{margin: 0.02}"},
    "no for false": {"baselines": "false"},
    "one length for every axis": {"preprocessing": "{size: [384, 384]}"},
    "mask values without brackets": {"task": "{segmentation: {classes: {vessel: [1]}}}"},
    "a manifest without its key": {"cohort": "''", "cohorts": "{a: {manifest: m.csv}}"},
}


@pytest.mark.parametrize("name", MENDED)
def test_what_it_says_to_write_is_read(tmp_path: Path, name: str) -> None:
    lines = [f"{key}: {value}" for key, value in (SOUND | MENDED[name]).items()]
    advice = re.split("; write |; for example ", BROKEN[name][1])[1]
    assert advice in "\n".join(lines)
    (tmp_path / "study.yaml").write_text("\n".join(lines))
    read_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("text", ["", "hello", "- a\n- b\n"])
def test_a_file_that_is_no_study_is_told_what_one_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(SpecError, match="expected keys and values"):
        read_study(tmp_path / "study.yaml")


def test_what_fits_is_no_mistake() -> None:
    keys = {"cohort": "m.csv", "task": {"segmentation": None}, "recipes": ["supervised"], "target_labels": "all"}
    assert mistakes(Study, keys | {"stream": [["a"], ["b"]], "clip": 1, "patch": [8, 8]}, "study") == []
    assert mistakes(tuple[int, int], [1, 2, 3], "a") == ["a: found [1, 2, 3], 3 values; expected 2"]


def test_arguments_of_a_network_are_those_of_its_signature() -> None:
    spec = {"build": {"unet": {"channel": [4, 8], "in_channels": 1, "outputs": {"mask": 2}}}, "surgery": []}
    with pytest.raises(SpecError, match=r"^network\.unet\.channel: unknown key 'channel'; did you mean 'channels'\?$"):
        build(spec)
    assert argument_mistakes(find("network", "unet"), {"channels": ["a", 8]}, "unet") == [
        'unet.channels.0: found "a"; expected a whole number'
    ]


def test_the_learning_rate_is_a_number() -> None:
    assert argument_mistakes(torch.optim.Adam, {"lr": "small", "eps": 1e-3}, "adam") == [
        'adam.lr: found "small"; expected a number'
    ]
