"""A predictor as a folder: whole, checked, and never unpickled."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import case
from torch import nn

from allograft import load
from allograft.errors import AllograftError, ModelError
from allograft.methods.fourier import FourierPredictor
from allograft.networks import build
from allograft.predictor import Direct, load_predictor, save_predictor

UNET = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4]}}}
BATCH = replace(case("a"), image=torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_predictor(Direct(build(UNET)), tmp_path / "model", {"seed": 3})
    return tmp_path / "model"


def edited(folder: Path, change: Any) -> Path:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_saved_is_live(tmp_path: Path) -> None:
    live = FourierPredictor(Direct(build(UNET)), torch.rand(2, 1, 8, 8), 0.3, contains_images=True)
    save_predictor(live, tmp_path, {"seed": 3})
    kept, card = load_predictor(tmp_path)
    assert torch.equal(kept(BATCH)["mask"], live(BATCH)["mask"])
    assert (card["seed"], card["contains_images"], card["format"]) == (3, True, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model.safetensors"]


def test_what_comes_back_lies_in_memory_as_torch_lays_its_own(tmp_path: Path) -> None:
    """At another start, sums of the same numbers take another order and differ in the last bit."""
    for width in range(1, 9):
        live = FourierPredictor(Direct(build(UNET)), torch.rand(1, 1, 1, width), 0.3, contains_images=True)
        save_predictor(live, tmp_path / str(width), {})
        kept, _ = load_predictor(tmp_path / str(width))
        assert isinstance(kept, FourierPredictor)
        assert kept.style.data_ptr() % 64 == 0


def test_loading_draws_nothing(folder: Path) -> None:
    before = torch.get_rng_state()
    load_predictor(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert load_predictor(folder)[1]["contains_images"] is False


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("something was unpickled",)


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_a_pickle_is_never_opened(name: str, folder: Path) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=name):
        load_predictor(folder)
    torch.save({"x": torch.ones(1)}, folder.parent / "model.pt")
    with pytest.raises(ModelError, match=r"model\.pt: no model folder"):
        load_predictor(folder.parent / "model.pt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda card: card.update(format=2, allograft="9.0"),
            "format 2, this version of Allograft reads 1; use the version that wrote it: 9.0",
        ),
        (lambda card: card.pop("format"), "not a model card"),
        (lambda card: card.pop("predictor"), "card and weights do not fit"),
        (lambda card: card["predictor"].update(kind="drect"), "unknown predictor 'drect'; did you mean 'direct'"),
        (lambda card: card["predictor"]["fields"].update(extra=1), "card and weights do not fit"),
        (lambda card: card["predictor"]["fields"].pop("network"), "card and weights do not fit"),
        (lambda card: card["predictor"]["fields"]["network"].update(at="elsewhere"), "card and weights do not fit"),
        (
            lambda card: card["predictor"]["fields"]["network"]["network"]["build"]["unet"].update(channels=[2, 5]),
            "do not fit",
        ),
        (
            lambda card: card["predictor"]["fields"]["network"].update(network=[]),
            "expected a tensor, network or predictor",
        ),
    ],
)
def test_a_card_that_is_wrong(change: Any, told: str, folder: Path) -> None:
    with pytest.raises(AllograftError, match=told):
        load_predictor(edited(folder, change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"card"', "\x00"])
def test_a_card_that_is_no_card(text: str, folder: Path) -> None:
    (folder / "card.json").write_text(text)
    with pytest.raises(ModelError, match=r"card\.json: not a model card"):
        load_predictor(folder)


def test_missing_pieces(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent: no model folder; expected a folder with card.json"):
        load_predictor(tmp_path / "absent")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"model.safetensors: no safetensors file"):
        load_predictor(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"model.safetensors"):
        load_predictor(folder)


def test_a_stage_that_lacks_what_preparing_images_needs(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"the card lacks 'task'.*models/"):
        load(folder)


@dataclass(frozen=True)
class Odd:
    """Holds what cannot be kept."""

    inner: Any


@pytest.mark.parametrize("thing", [{1, 2}, {"a": 1}, len])
def test_a_field_of_another_type_is_named(thing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.predictor.folder.name_of", lambda kind, cls: "odd")
    with pytest.raises(TypeError, match=r"predictor\.inner\.1: a predictor holds .* not a"):
        save_predictor(Odd([1, thing]), tmp_path / "m", {})
    assert not (tmp_path / "m").exists()


def test_a_predictor_without_a_row_in_the_table(tmp_path: Path) -> None:
    with pytest.raises(AllograftError, match="Odd is in no row of the table of predictors"):
        save_predictor(Odd(1), tmp_path / "m", {})


def test_a_users_own_network_must_be_handed_over(tmp_path: Path) -> None:
    module = nn.Conv2d(1, 2, 1)
    save_predictor(Direct(build({"build": {"custom": {"class": "torch:Conv2d", "key": "mask"}}}, module)), tmp_path, {})
    with pytest.raises(ModelError, match="hand it over"):
        load_predictor(tmp_path)
    fresh = nn.Conv2d(1, 2, 1)
    kept, _ = load_predictor(tmp_path, template=fresh)
    assert torch.equal(kept(BATCH)["mask"], module(BATCH.image))
