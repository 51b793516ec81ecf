"""Volumes and distances of an image whose header states two places say so, wherever they are printed."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tests.unit.apply.test_evaluate_masks import TASK, volume
from tests.unit.apply.test_millimetres import CARD, Bright

from allograft.apply.evaluate import evaluate
from allograft.apply.model import Model

MASK = np.zeros((4, 5, 6), np.uint8)
MASK[1:3, 1:4, 2:4] = 1  # 12 voxels
TOLD = "sform and qform disagree"


def two_places(path: Path, *, agree: bool = False) -> Path:
    """1 x 1 x 1 mm by the sform, 0.5 x 0.5 x 5 mm by the qform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(MASK, None)
    image.set_sform(np.eye(4), 2)
    image.set_qform(np.eye(4) if agree else np.diag([0.5, 0.5, 5, 1]), 1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("agree", [True, False])
def test_a_volume_of_two_places_is_said_to_be_one_of_them(tmp_path: Path, agree: bool) -> None:
    path = two_places(tmp_path / "a.nii.gz", agree=agree)
    (one,) = Model(Bright(), CARD, torch.device("cpu")).predict([path])
    assert one.answer.values == {"blob": 12.0}  # 15 mm3 by the qform
    assert [TOLD in text for text in one.answer.warnings] == ([] if agree else [True])


@pytest.mark.parametrize("agree", [True, False])
def test_distances_of_two_places_are_said_to_be_of_one(tmp_path: Path, agree: bool) -> None:
    two_places(tmp_path / "data" / "c1.nii.gz", agree=agree)
    volume(tmp_path / "data" / "m.nii.gz", MASK, np.eye(4))
    volume(tmp_path / "p" / "c1.nii.gz", np.roll(MASK, 1, 2), np.eye(4))
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\nc1.nii.gz,m.nii.gz,1,a\n")
    found = evaluate(tmp_path / "p", tmp_path / "data" / "manifest.csv", task=TASK)
    assert found.metrics["a"]["hd95"] == 1.0  # one voxel along the last axis
    assert [text.startswith("c1.nii.gz: ") and TOLD in text for text in found.warnings] == ([] if agree else [True])
