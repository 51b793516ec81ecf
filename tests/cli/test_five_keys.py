"""A study of five keys runs on real images of every kind, without a word on sizes, channels, dimensions or
normalisation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.cli.conftest import Command

DATA = os.environ.get("ALLOGRAFT_DATA")
STUDIES = {
    "vessels": ("{segmentation: {classes: [vessel]}}", "drive", "chase"),
    "hippocampus": ("{segmentation: {classes: [anterior, posterior]}}", "intensity-low", "intensity-high"),
    "chest_xray": ("{classification: {classes: [no-finding, pneumonia, covid-19]}}", "nih", "covid-collection"),
    "dsb2018": ("{segmentation: {classes: [nucleus]}}", "fluo", "bright"),
    "he_nuclei": ("{segmentation: {classes: [nucleus]}}", "emory", "tcga-DB"),
}
PATCHES = {"vessels": [128, 128], "hippocampus": [32, 48, 32], "chest_xray": None, "he_nuclei": None}
"""Of images of one size that the network halves: none."""


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="ALLOGRAFT_DATA is not set")
@pytest.mark.parametrize("name", STUDIES)
def test_five_keys_are_enough(name: str, allograft: Command, tmp_path: Path) -> None:
    task, source, target = STUDIES[name]
    keys = f"cohort: {name}/manifest.csv\ntask: {task}\nsource: [{source}]\ntarget: [{target}]\nrecipes: [adabn]\n"
    (tmp_path / "study.yaml").write_text(keys)
    quick = ("--set", "seeds=1", "--set", "budget.steps=20", "--set", "budget.adapt_steps=20")
    answer = allograft("study", tmp_path / "study.yaml", "--out", tmp_path / "out", *quick)
    assert answer.code == 0, answer.err
    kept = json.loads((tmp_path / "out" / "study.json").read_text())
    assert kept["network"]["unet"]["norm"] == "batch"
    if name in PATCHES:
        assert kept["patch"] == PATCHES[name]
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    assert {record["status"] for record in records} == {"done"}
