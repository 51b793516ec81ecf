"""What the card of an ensemble says of its members, and two ways of writing one preprocessing."""

from __future__ import annotations

from pathlib import Path

from tests.unit.apply.test_ensemble import CARD, saved

from allograft.apply import load
from allograft.apply.ensemble import make_ensemble
from allograft.cohort import Preprocessing
from allograft.predictor.card import read_card
from allograft.tree import plain


def test_each_member_is_named_with_its_scores_and_all_training_images_are_listed(tmp_path: Path) -> None:
    told = {"recipe": {"finetune": {}}, "stage": "tuned", "target": "b", "unit": "u", "metrics": {"b": [{"dice": 0.5}]}}
    one = saved(tmp_path / "one", 0, training_images=["9", "1", "5"], **told)
    other = saved(tmp_path / "other", 1, training_images=["5", "7", "0"], intended_use="else")
    card = read_card(make_ensemble([one, other], tmp_path / "both"))
    assert card["training_images"] == ["0", "1", "5", "7", "9"]
    first, second = card["members"]
    assert first == {**told, "seed": 0, "checksum": read_card(one)["checksum"]}
    assert second == {"seed": 1, "checksum": read_card(other)["checksum"]}
    assert card["intended_use"] == "research use only, not a medical device"
    assert {key: card[key] for key in ("task", "preprocessing", "channels", "slices", "sites")} == {
        key: CARD[key] for key in ("task", "preprocessing", "channels", "slices", "sites")
    }


def test_a_preprocessing_with_its_defaults_written_out_is_the_same(tmp_path: Path) -> None:
    whole = plain(Preprocessing(intensity="zscore", orientation=None))
    one, other = saved(tmp_path / "one", 0), saved(tmp_path / "other", 1, preprocessing=whole)
    assert len(load(make_ensemble([one, other], tmp_path / "both"), device="cpu").card["members"]) == 2
