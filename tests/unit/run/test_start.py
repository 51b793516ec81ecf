"""A model folder of another task as the start: which heads are kept, which begin anew, and what is
said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.contract.world import run, session_of, write_cohort
from torch import Tensor, nn

from allograft.errors import ModelError, SpecError
from allograft.networks import build
from allograft.predictor import Direct, save_predictor

TRAINED = {"segmentation": {"classes": ["white", "grey"]}}
UNET: dict[str, Any] = {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [4, 8], "num_res_units": 1}}
MONAI: dict[str, Any] = {
    "monai.UNet": {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [4, 8],
        "strides": [2],
        "key": "mask",
    }
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def model(folder: Path, network: dict[str, Any], **card: Any) -> dict[str, Tensor]:
    """A folder as a study leaves it, and its weights."""
    torch.manual_seed(3)
    trained = build({"build": network})
    save_predictor(Direct(trained), folder, {"task": TRAINED, **card})
    return trained.state_dict()


def started(manifest: Path, tmp_path: Path, task: dict[str, Any], **changes: Any) -> tuple[Any, dict[str, Tensor], str]:
    """The session, the weights it starts from with seed 0, and what it says of them."""
    said: list[str] = []
    session = session_of(manifest, tmp_path / "out", "finetune", task=task, start=str(tmp_path / "model"), **changes)
    object.__setattr__(session, "say", said.append)
    world = session.prepare()
    (told,) = [line for line in said if line.startswith("start: ")]
    return session, session.start(world, 0).state_dict(), told


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"segmentation": {"classes": {"tissue": [1, 2]}}}, "the study asks for one of tissue"),
        ({"segmentation": {"classes": ["ventricle", "tumour"]}}, "the study asks for one of ventricle, tumour"),
        ({"segmentation": {"classes": {"grey": [2], "white": [1]}}}, "the study asks for one of grey, white"),
    ],
)
def test_a_head_for_other_classes_starts_at_random(
    task: dict[str, Any], words: str, manifest: Path, tmp_path: Path
) -> None:
    trained = model(tmp_path / "model", UNET)
    session, found, told = started(manifest, tmp_path, task)
    assert "the head 'mask' of the model starts at random: it was trained for one of white, grey" in told
    assert words in told
    assert all(torch.equal(value, trained[name]) for name, value in found.items() if not name.startswith("heads."))
    heads = {name: value for name, value in found.items() if name.startswith("heads.")}
    assert heads
    drawn = [
        name for name, value in heads.items() if value.numel() > 1 and value.std() > 0
    ]  # the others are constants at their start
    assert drawn
    assert not any(
        value.shape == trained[name].shape and torch.equal(value, trained[name])
        for name in drawn
        for value in [heads[name]]
    )
    other = session.start(session.prepare(), 1).state_dict()
    assert not any(torch.equal(other[name], heads[name]) for name in drawn)
    assert len(json.loads((tmp_path / "out" / "start.json").read_text())["missing"]) == len(heads)


@pytest.mark.parametrize("network", [UNET, MONAI])
def test_a_head_for_the_same_classes_is_kept_whatever_their_mask_values(
    network: dict[str, Any], manifest: Path, tmp_path: Path
) -> None:
    trained = model(tmp_path / "model", network)
    _, found, told = started(manifest, tmp_path, {"segmentation": {"classes": {"white": [1], "grey": [2]}}})
    assert told == f"start: {len(trained)} tensors matched, 0 skipped, 0 missing"
    assert all(torch.equal(value, trained[name]) for name, value in found.items())


@pytest.mark.parametrize("classes", [["tissue", "other", "third"], ["ventricle", "tumour"]])
def test_of_a_network_without_parts_what_goes_with_the_classes_is_drawn(
    classes: list[str], manifest: Path, tmp_path: Path
) -> None:
    trained = model(tmp_path / "model", MONAI)
    _, found, told = started(manifest, tmp_path, {"segmentation": {"classes": classes}})
    anew = {
        name
        for name, value in found.items()
        if value.shape != trained[name].shape or not torch.equal(value, trained[name])
    }
    assert anew
    assert all((len(classes) + 1) in found[name].shape for name in anew)
    assert "starts at random" in told


def test_rows_run_with_the_new_head(manifest: Path, tmp_path: Path) -> None:
    model(tmp_path / "model", UNET)
    task = {"segmentation": {"classes": {"tissue": [1, 2]}}}
    _, _, records = run(session_of(manifest, tmp_path / "out", "finetune", task=task, start=str(tmp_path / "model")))
    assert {record.status for record in records.values()} == {"done"}, [record.error for record in records.values()]


def test_a_head_that_nothing_trains_is_refused(manifest: Path, tmp_path: Path) -> None:
    model(tmp_path / "model", UNET)
    changes: dict[str, Any] = {"source": [], "target_labels": "none", "start": str(tmp_path / "model")}
    session_of(manifest, tmp_path / "out", "start", **changes).prepare()
    with pytest.raises(SpecError, match="no label in this study trains it; name source sites"):
        session_of(
            manifest, tmp_path / "out", "start", task={"segmentation": {"classes": {"tissue": [1, 2]}}}, **changes
        ).prepare()


def test_a_card_without_a_task_names_no_classes_and_one_of_an_unknown_task_is_refused(
    manifest: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    save_predictor(Direct(build({"build": UNET})), tmp_path / "model", {})
    assert "it has no such head, or its card names no classes" in started(manifest, tmp_path, TRAINED)[2]
    model(tmp_path / "model", UNET, task={"segmentatoin": {}})
    with pytest.raises(ModelError, match=r"card\.json: .*segmentatoin"):
        started(manifest, tmp_path, TRAINED)


def test_a_users_own_module_starts_from_the_weights_too_and_stays_as_it_was(manifest: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = nn.Conv2d(1, 3, 3, padding=1)
    before, told = (
        module.weight.detach().clone(),
        {key: torch.full_like(value, 0.5) for key, value in module.state_dict().items()},
    )
    save_file(told, tmp_path / "weights.safetensors")
    session = session_of(manifest, tmp_path / "out", "finetune", start=str(tmp_path / "weights.safetensors"))
    session = replace(session, network=module)
    found = session.start(session.prepare(), 0).state_dict()
    assert all(bool((value == 0.5).all()) for value in found.values())
    assert torch.equal(module.weight, before)


def test_of_a_users_own_module_no_head_starts_anew(manifest: Path, tmp_path: Path) -> None:
    """A model folder of other classes says nothing of its heads."""
    model(tmp_path / "model", UNET)
    session = session_of(manifest, tmp_path / "out", "finetune", task={"segmentation": {"classes": {"tissue": [1, 2]}}})
    session = replace(session, study=replace(session.study, start=str(tmp_path / "model")))
    assert set(session.anew()) == {"mask"}
    assert replace(session, network=nn.Identity()).anew() == {}
