"""A model as one zip: the same bytes each time, and no patient's image without a word."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from allograft.apply.export import export_model
from allograft.errors import ModelError
from allograft.networks import build
from allograft.predictor import Direct, load_predictor, save_predictor

SPEC = {"build": {"unet": {"channels": [4, 8], "in_channels": 1, "outputs": {"mask": 2}}}, "surgery": []}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_predictor(Direct(build(SPEC)), tmp_path / "model", {})
    return tmp_path / "model"


def test_what_is_unpacked_is_the_model(model: Path, tmp_path: Path):
    with zipfile.ZipFile(export_model(model, tmp_path / "a.zip")) as archive:
        archive.extractall(tmp_path / "there")
    assert load_predictor(tmp_path / "there" / "model")[1] == load_predictor(model)[1]
    assert export_model(model, tmp_path / "b.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()


def test_folders_stay_folders_in_one_order_and_without_a_clock(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "member" / "0").mkdir(parents=True)
    (model / "member" / "0" / "card.json").write_text("{}")
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: sorted(listed(path, pattern), reverse=True))
    with zipfile.ZipFile(export_model(model, tmp_path / "a.zip")) as archive:
        assert archive.namelist() == ["model/card.json", "model/member/0/card.json", "model/model.safetensors"]
        assert {each.date_time for each in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_patients_images_leave_only_when_told_to(model: Path, tmp_path: Path):
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps({**card, "contains_images": True}))
    with pytest.raises(ModelError, match="--with-images"):
        export_model(model, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    assert export_model(model, tmp_path / "a.zip", with_images=True).exists()
