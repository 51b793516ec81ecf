"""What a recipe cannot be used with is refused when the study is prepared, before anything is
trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import write_brains

from allograft.errors import SpecError

FOUR = {"network": {"unet": {"channels": [4, 4, 4, 8]}}}
OPAQUE = {"network": {"monai.UNet": {"spatial_dims": 2, "channels": [4, 8], "strides": [2]}}}
GROUP = {"network": {"unet": {"channels": [4, 8], "norm": "group"}}}
ZSCORE = {"preprocessing": {"intensity": "zscore"}}
CLASSES: dict[str, Any] = {"task": {"classification": {"classes": ["x", "y"]}}, "network": {"resnet": {"depth": 18}}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = write_cohort(tmp_path_factory.mktemp("cohort"))
    header, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{header},label", *(f"{row},{'xy'[n % 2]}" for n, row in enumerate(rows)), ""]))
    return manifest


@pytest.mark.parametrize(
    ("recipe", "changes", "told"),
    [
        ({"catenorm": {"position": 9}}, FOUR, r"catenorm: position is 9; expected 1 to 7, this network's blocks"),
        ({"finetune": {"first": {"catenorm": {"position": 9}}}}, FOUR, "catenorm: position is 9"),
        ({"catenorm": {"grid": {"position": [1, 9]}}}, {**FOUR, "selection": "source-val"}, "catenorm: position is 9"),
        ("catenorm", GROUP, "catenorm: .*no 2-D batch or instance normalisation"),
        ("catenorm", OPAQUE, "catenorm: the network has no encoder with levels"),
        ("unlearning", OPAQUE, "unlearning: the network is one opaque module"),
        ("aiva", OPAQUE, "aiva: the network is one opaque module"),
        ("catenorm", CLASSES, "catenorm: the task predicts 'label'"),
        ("adaptsegnet", CLASSES, "adaptsegnet: looks at segmentations alone"),
        ("segjdot", CLASSES, "segjdot: compares segmentations"),
        ("msnet", CLASSES, "msnet: the task predicts label"),
        (
            {"finetune": {"first": "stain_aglr"}},
            {},
            "stain_aglr: task is segmentation, .*expected task: {classification",
        ),
        ("stain_aglr", ZSCORE, "stain_aglr: preprocessing.intensity is 'zscore'.*intensity: unit"),
        ("stain_normalisation", ZSCORE, "stain_normalisation: preprocessing.intensity is 'zscore'"),
        ({"unlearning": {"attributes": ["scaner"]}}, {}, "unlearning.*did you mean 'scanner'"),
        ("adabn", GROUP, "adabn: the network has no batch normalisation"),
        ({"fourier": {"first": "dsbn"}}, GROUP, "dsbn: the network has no plain batch normalisation"),
        ("msnet", GROUP, "dsbn: the network has no plain batch normalisation"),
        ("spottunet", OPAQUE, "spottunet: the encoder of network 'monai.UNet' is not made of levels"),
        (
            {"lora": {"rank": 4, "first": {"finetune": {"scope": "decoder"}}}},
            OPAQUE,
            "scope 'decoder': the network is one opaque module",
        ),
    ],
)
def test_refused(recipe: Any, changes: dict[str, Any], told: str, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=told):
        session_of(manifest, tmp_path, recipe, **changes).prepare()
    assert not (tmp_path / "records").exists()


BODY = {"unet": {"spatial_dims": 3, "channels": [4, 8], "num_res_units": 1}}
SWIN = {"swin_unetr": {"spatial_dims": 3, "feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 2}}


@pytest.mark.parametrize(
    ("recipe", "changes", "told"),
    [
        ("cyclegan", {"network": BODY}, "cyclegan: translates 2-D images, these are volumes; cut them into slices"),
        ({"finetune": {"first": "cyclegan"}}, {"network": BODY}, "cyclegan: translates 2-D images"),
        (
            {"spottunet": {"policy_network": "resnet34"}},
            {"network": BODY},
            "spottunet: policy_network resnet34 is for 2-D images",
        ),
        ("spottunet", {"network": SWIN}, "spottunet: some blocks of network 'swin_unetr' are not called as modules"),
        ({"spottunet": {"slices": 9}}, {"network": BODY}, "spottunet: slices: asks for 9, the label budget has 2"),
    ],
)
def test_refused_of_volumes(recipe: Any, changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    manifest = write_brains(tmp_path / "cohort", (64, 32, 32))
    with pytest.raises(SpecError, match=told):
        session_of(
            manifest, tmp_path / "out", recipe, task={"segmentation": {"classes": ["tissue"]}}, source=["a"], **changes
        ).prepare()


def test_images_too_small_to_translate_are_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cyclegan: an image has a side of 16 pixels, expected at least 24"):
        session_of(manifest, tmp_path, "cyclegan", preprocessing={"size": [16, 16]}).prepare()
