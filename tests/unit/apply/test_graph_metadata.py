"""What is beside an exported network: what makes probabilities of each output, what its channels are, and the tensors
that go in and come out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allograft.apply.graph_metadata import activation, bundle_metadata, channels_of, facts_of
from allograft.cohort import Preprocessing
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.segmentation import Segmentation
from allograft.tasks.synthesis import Synthesis

TASKS: list[tuple[Any, str, str, list[str]]] = [
    (Segmentation(("liver", "cyst")), "mask", "softmax", ["background", "liver", "cyst"]),
    (Classification(("no", "yes")), "label", "softmax", ["no", "yes"]),
    (Multilabel(("x", "y")), "label", "sigmoid", ["x", "y"]),
    (Synthesis(), "paired", "none", ["channel 0"]),
]


def model(task: Any, kind: str = "segmentation") -> Any:
    network = SimpleNamespace(multiple=4)
    return SimpleNamespace(
        task=task,
        card={"task": {kind: {}}, "channels": 2, "slices": None, "checksum": "sum"},
        predictor=SimpleNamespace(network=network),
        prepared=lambda: SimpleNamespace(preprocessing=Preprocessing(spacing=(1.0, 2.0))),
    )


@pytest.mark.parametrize(("task", "key", "makes", "channels"), TASKS)
def test_each_output_has_its_activation_and_the_meaning_of_its_channels(
    task: Any, key: str, makes: str, channels: list[str]
) -> None:
    assert activation(model(task), key) == makes
    assert channels_of(model(task), key) == channels


@pytest.mark.parametrize("is_flexible", [True, False])
def test_an_image_of_any_size_is_a_multiple_on_each_axis_and_a_fixed_one_is_itself(is_flexible: bool) -> None:
    made = model(TASKS[0][0])
    facts = facts_of(made, Path("x/m.onnx"), "onnx", [(8, 12), (12, 20)], is_flexible=is_flexible)
    assert (facts["file"], facts["format"], facts["checksum"], facts["classes"]) == (
        "m.onnx", "onnx", "sum", ["liver", "cyst"]
    )  # fmt: skip
    assert (facts["input"]["size"], facts["input"]["multiple"], facts["input"]["channels"]) == (
        None if is_flexible else [8, 12],
        4,
        2,
    )
    assert (facts["spacing"], facts["compared_at"]) == ((1.0, 2.0), [[8, 12], [12, 20]])
    tensors = bundle_metadata(made, facts)["network_data_format"]
    shape = ["4*n", "4*m"] if is_flexible else [8, 12]
    image, mask = tensors["inputs"]["image"], tensors["outputs"]["mask"]
    assert image["spatial_shape"] == mask["spatial_shape"] == shape
    assert image["is_patch_data"] == mask["is_patch_data"] == (not is_flexible)
    assert (image["num_channels"], mask["num_channels"]) == (2, 3)
    assert mask["channel_def"] == {"0": "background", "1": "liver", "2": "cyst"}
    assert (mask["type"], mask["format"]) == ("image", "labels")


def test_a_class_has_no_place() -> None:
    made = model(TASKS[1][0], "classification")
    facts = facts_of(made, Path("m.pt2"), "torch-export", [(8, 12)], is_flexible=True)
    written = bundle_metadata(made, facts)
    label = written["network_data_format"]["outputs"]["label"]
    assert (label["type"], label["format"], label["spatial_shape"]) == ("probabilities", "classes", [])
    assert written["task"] == "classification of no, yes"
    assert written["allograft"] == facts
