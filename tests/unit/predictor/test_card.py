"""Every fact of a model's card is checked when the card is read, one by one, before anything else of
the folder is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allograft.errors import ModelError
from allograft.predictor.card import CARD, DEEPEST, FORMAT, first_network, read_card, sites_of
from allograft.predictor.card_schema import card_schema

RIGHT: dict[str, Any] = {
    "format": FORMAT,
    "allograft": "1.0",
    "checksum": "abc",
    "contains_images": True,
    "channels": 3,
    "seed": 0,
    "task": {"segmentation": {}},
    "preprocessing": {},
    "slices": {"axis": 2},
    "recipe": {"finetune": {}},
    "cost": {},
    "metrics": {},
    "protocol": {},
    "unit": "u",
    "stage": "tuned",
    "intended_use": "research",
    "target": "b",
    "training_images": ["hash"],
    "sites": ["a", 7],
}
WRONG: dict[Any, Any] = {int: True, str: 3, bool: 1, dict: ["x"], list: {"x": 1}}
"""Of each kind a value that is of another, and could be taken for it."""


def written(folder: Path, **changes: Any) -> Path:
    (folder / "card.json").write_text(json.dumps({**RIGHT, **changes}))
    return folder


def test_every_fact_is_here() -> None:
    assert RIGHT.keys() == CARD.keys() == card_schema()["properties"].keys()


def test_a_card_whose_facts_are_right_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_card(written(tmp_path)) == RIGHT
    assert read_card(written(tmp_path, slices=None, target=None))["slices"] is None
    assert sites_of(RIGHT) == ("a", "7")
    assert sites_of({}) == ()


@pytest.mark.parametrize("key", [key for key in RIGHT if key != "format"])
def test_a_fact_of_another_kind_is_refused_by_its_name(key: str, tmp_path: Path) -> None:
    wrong = WRONG[CARD[key][0]]
    with pytest.raises(ModelError, match=rf"card\.json: {key}: expected .*; export the model again"):
        read_card(written(tmp_path, **{key: wrong}))
    if type(None) not in CARD[key]:
        with pytest.raises(ModelError, match=rf"card\.json: {key}: expected"):
            read_card(written(tmp_path, **{key: None}))


@pytest.mark.parametrize(("task", "found"), [({}, "nothing"), ({"a": {}, "b": {}}, "a, b")])
def test_a_model_has_one_task(task: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"task: expected one .*, found {found}"):
        read_card(written(tmp_path, task=task))


@pytest.mark.parametrize("images", [[1], ["hash", None]])
def test_hashes_are_texts(images: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="training_images: expected a list of hashes"):
        read_card(written(tmp_path, training_images=images))


UNET = {"build": {"unet": {}}, "surgery": [{"lora": {"rank": 4}}]}
NETWORK = {"network": UNET, "at": "x"}
ROWS = {"mapped": "x.bin", "dtype": "float16", "shape": [2, 3], "hashes": "h"}


def nested(depth: int) -> Any:
    shape: Any = 1
    for _ in range(depth):
        shape = [shape]
    return shape


@pytest.mark.parametrize(
    "shape",
    [
        None,
        "text",
        {"tensor": "x"},
        NETWORK,
        {"network": {"build": {"unet": {}}}, "at": "x"},
        ROWS,
        [1, {"kind": "direct", "fields": {"network": NETWORK, "more": [ROWS, {"tensor": "x"}]}}],
        nested(DEEPEST),
    ],
)
def test_what_a_predictor_may_hold(shape: Any, tmp_path: Path) -> None:
    assert read_card(written(tmp_path, predictor=shape))["predictor"] == shape


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"tensor": 1}, "expected a tensor, network or predictor"),
        ({"kind": "direct", "fields": {"a": [{"what": 1}]}}, r"predictor\.a\.0: expected a tensor"),
        ({"kind": 1, "fields": {}}, "expected a tensor, network or predictor"),
        ({**NETWORK, "more": 1}, "expected a tensor, network or predictor"),
        ({"network": {}, "at": "x"}, "expected a network as"),
        ({"network": {"build": {"a": {}, "b": {}}}, "at": "x"}, "expected a network as"),
        ({"network": {"build": {"a": 1}}, "at": "x"}, "expected a network as"),
        ({"network": {**UNET, "surgery": {}}, "at": "x"}, "expected a network as"),
        ({"network": {**UNET, "surgery": [{"a": 1}]}, "at": "x"}, "expected a network as"),
        ({**ROWS, "shape": []}, "expected rows in a .bin file"),
        ({**ROWS, "shape": [2, -1]}, "expected rows in a .bin file"),
        ({**ROWS, "shape": [2, True]}, "expected rows in a .bin file"),
        ({**ROWS, "dtype": "float64"}, "expected rows in a .bin file"),
        ({**ROWS, "mapped": "../x.bin"}, "expected rows in a .bin file"),
        ({**ROWS, "mapped": "x.txt"}, "expected rows in a .bin file"),
        (nested(DEEPEST + 1), "more than 16 deep"),
    ],
)
def test_what_a_predictor_may_not_hold(shape: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        read_card(written(tmp_path, predictor=shape))


def test_the_network_to_start_from_is_the_first_one_and_no_member_of_an_ensemble() -> None:
    second = {"network": {"build": {"resnet": {}}}, "at": "y"}
    held = {"kind": "x", "fields": {"number": 3, "inner": [{"kind": "y", "fields": {"a": NETWORK}}, second]}}
    assert first_network(held) == UNET
    with pytest.raises(ModelError, match="start from the folder of one of its members"):
        first_network({"kind": "ensemble", "fields": {"members": [NETWORK]}})
    for without in (None, {"kind": "x", "fields": {"tensor": {"tensor": "x"}}}):
        with pytest.raises(ModelError, match="no network to start from"):
            first_network(without)
