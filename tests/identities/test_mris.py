"""MRIS: what must be equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import case

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.networks import build
from allograft.nn.retrieval import synthesise, triplet_loss
from allograft.predictor import load_predictor, save_predictor
from allograft.predictor.mapped import Mapped
from allograft.predictor.retrieval import Database, Retrieval, keys_of

UNET = {"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8], "norm": "batch"}}}


def a_database(count: int = 7, k: int = 3, **more: Any) -> Database:
    """Subjects s0, s1, ... of two cases each, nan in a corner of every second image."""
    torch.manual_seed(0)
    query, key = build(UNET).eval(), build(UNET).eval()
    images = torch.rand(count, 1, 8, 8)
    images[::2, :, :2, :2] = torch.nan
    names = tuple(f"{n}.png" for n in range(count))
    subjects = tuple(f"s{n // 2}" for n in range(count))
    return Database(query, key, keys_of(key, images), Mapped.of(images), names, subjects, k, "released", **more)


def seen(count: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(3)
    return replace(case("a"), image=torch.rand(count, 1, 8, 8, generator=rng), cases=tuple(map(str, range(count))))


def test_keys_and_queries_are_embedded_in_evaluation_mode() -> None:
    database, image = a_database(), seen().image
    before = database.make(image).image, keys_of(database.key, image)
    database.query.train()
    database.key.train()
    after = database.make(image).image, keys_of(database.key, image)
    assert all(map(torch.equal, before, after))
    assert database.query.training
    assert database.key.training


def test_a_query_that_equals_a_key_returns_its_image() -> None:
    keys, images = torch.randn(5, 4), torch.rand(5, 2, 3)
    torch.testing.assert_close(synthesise(keys, keys, images, 1), images)
    torch.testing.assert_close(synthesise(9 * keys, 0.1 * keys, images, 1), images)
    database = a_database(k=1)
    twin = replace(database, query=database.key)
    known = database.images.rows(torch.arange(7)).nan_to_num(0.0)
    made = Retrieval((twin,))(replace(seen(7), image=known))
    torch.testing.assert_close(made["paired"], known)
    torch.testing.assert_close(made["score"], torch.ones(7))
    assert made["neighbours"] == twin.names
    torch.testing.assert_close(made["spread"], torch.zeros(7))


def test_equal_similarities_are_the_mean_and_a_constant_stays() -> None:
    images = torch.rand(3, 2, 2)
    torch.testing.assert_close(synthesise(torch.ones(1, 3), torch.eye(3), images, 3)[0], images.mean(0))
    same = torch.full((3, 2, 2), 0.7)
    torch.testing.assert_close(synthesise(torch.randn(4, 3), torch.randn(3, 3), same, 2), torch.full((4, 2, 2), 0.7))


def test_similar_to_nothing_is_refused() -> None:
    keys, images = torch.eye(3), torch.rand(3, 2)
    for query, k, match in (
        (torch.zeros(1, 3), 1, "query 0 has length 0"),
        (torch.full((1, 3), torch.nan), 1, "query 0 has length nan"),
        (torch.ones(1, 3), 4, "k is 4, the database has 3"),
        (torch.ones(1, 3), 0, "k is 0"),
    ):
        with pytest.raises(SpecError, match=match):
            synthesise(query, keys, images, k)
    with pytest.raises(SpecError, match="key 1 has length 0"):
        synthesise(torch.ones(1, 3), keys * torch.tensor([1.0, 0.0, 1.0]), images, 1)
    with pytest.raises(SpecError, match="the database has 0"):
        synthesise(torch.ones(1, 3), keys[:0], images[:0], 1)
    with pytest.raises(SpecError, match="add up to 0"):
        synthesise(-torch.ones(1, 3), keys, images, 2, negative="clamp")
    assert synthesise(-torch.ones(1, 3), keys, images, 2).isfinite().all()


def test_matching_pairs_far_from_all_others_have_no_loss_and_one_subject_has_none() -> None:
    x = torch.eye(4, dtype=torch.float64)
    assert float(triplet_loss(x, x, 0.9)) == 0
    assert float(triplet_loss(x, x.roll(1, 0), 0.1, subject=("s",) * 4)) == 0
    assert float(triplet_loss(x, x.roll(1, 0), 0.1)) == pytest.approx(4 * (1.1 + 2 * 0.1))
    y = torch.randn(4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: triplet_loss(x, a, 0.3), y)


def test_an_image_has_one_answer_whatever_its_batch_and_bands_are_joined() -> None:
    upper, lower = a_database(), a_database(k=2)
    both = Retrieval((upper, lower))(seen())
    assert both["paired"].shape == (4, 1, 16, 8)  # type: ignore[union-attr]
    alone = Retrieval((upper,))(seen()[1:2])
    torch.testing.assert_close(both["paired"][1:2, :, :8], alone["paired"])  # type: ignore[index]
    assert both["neighbours"][1].split(" | ")[0] == alone["neighbours"][0]  # type: ignore[union-attr]
    assert both["neighbours"][1].count(";") == 2 + 1  # type: ignore[union-attr]


def test_a_database_added_to_is_one_made_of_all(tmp_path: Path) -> None:
    whole = a_database(7)
    images = whole.images.rows(torch.arange(7)).half().float()
    part = replace(
        whole,
        keys=whole.keys[:5],
        images=whole.images.only(torch.arange(5)),
        names=whole.names[:5],
        subjects=whole.subjects[:5],
    )
    grown = Retrieval((part,)).added(images[5:], whole.names[5:], whole.subjects[5:])
    torch.testing.assert_close(grown.bands[0].keys, whole.keys, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(grown(seen())["paired"], Retrieval((whole,))(seen())["paired"], rtol=1e-3, atol=1e-3)
    shrunk = grown.removed("s0")
    assert shrunk.bands[0].names == whole.names[2:]
    assert "0.png" not in " ".join(shrunk(seen())["neighbours"])  # type: ignore[arg-type]
    torch.testing.assert_close(
        shrunk.bands[0].images.rows(torch.tensor([0])), whole.images.rows(torch.tensor([2])), equal_nan=True
    )
    with pytest.raises(SpecError, match=r"'5\.png' is in the database already"):
        grown.added(images[5:6], ("5.png",), ("s2",))
    with pytest.raises(SpecError, match="1x8x4, those of the database 1x8x8"):
        grown.added(images[5:6, :, :, :4], ("9.png",), ("s9",))
    with pytest.raises(SpecError, match="'s9' has no case"):
        grown.removed("s9")
    with pytest.raises(SpecError, match="the database is empty"):
        Retrieval((part.removed("s0").removed("s1"),)).removed("s2")


@pytest.mark.parametrize("with_faiss", [True, False])
def test_faiss_finds_what_a_matrix_product_finds(with_faiss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_faiss:
        pytest.importorskip("faiss", reason="the extra faiss is not installed")
    else:
        monkeypatch.setattr("allograft.predictor.retrieval.find_spec", lambda name: None)
    database = a_database()
    assert (database.index is not None) == with_faiss
    query = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    similarity, index = database.search(query, 4)
    expected = (query @ database.keys.t()).topk(4, 1)
    torch.testing.assert_close(similarity, expected.values, rtol=1e-5, atol=1e-6)
    assert torch.equal(index, expected.indices)


def test_saved_is_live_and_holds_images(tmp_path: Path) -> None:
    live = Retrieval((a_database(), a_database(k=1)))
    save_predictor(live, tmp_path, {})
    kept, card = load_predictor(tmp_path)
    assert card["contains_images"] is True
    found, expected = kept(seen()), live(seen())
    assert found["neighbours"] == expected["neighbours"]
    for key in ("paired", "score", "spread"):
        assert torch.equal(found[key], expected[key])  # type: ignore[arg-type]


def test_where_nothing_is_similar_the_plain_mean_is_given_with_a_warning() -> None:
    database = replace(a_database(k=7), negative="clamp")
    query = keys_of(database.query, seen(1).image)
    away = replace(database, keys=-query.expand(7, -1) + 1e-3 * torch.randn(7, query.shape[1]))
    made = Retrieval((away,))(seen(1))
    plain = database.images.rows(torch.arange(7)).nanmean(0, keepdim=True)
    torch.testing.assert_close(made["paired"], plain)
    assert "unlike" in made["warnings"][0]
    alike = query.expand(7, -1).contiguous()
    near = Retrieval((replace(database, keys=alike),))(seen(1))
    assert near["warnings"] == ("",)
    but_for_one = Retrieval((replace(database, keys=torch.cat([alike[:6], -query])),))(seen(1))
    assert "unlike" in but_for_one["warnings"][0]
