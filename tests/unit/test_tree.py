"""What is kept comes back as it was, or not at all."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from allograft import tree
from allograft.errors import OutputError
from allograft.recipe import parse_recipe
from allograft.tree import DamagedFile, content_hash, digest, plain

KEPT = {
    "none": None,
    "word": "né",
    "flag": True,
    "number": 3,
    "inf": math.inf,
    "empty": [{}, [], ()],
    "mixed": [1, (2.5, {"a": False})],
    7: {0: "integer keys, as in optimizers"},
    "tensors": [torch.arange(3), (torch.tensor(2.0, dtype=torch.bfloat16),)],
    "none of it": torch.zeros(0, 4),
    "strided": torch.arange(6.0).reshape(2, 3).T,
    "flags": torch.tensor([True, False]),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever order a library has for the entries of a file: several writes agree."""
    content = {"name": "x", "parts": {"w": torch.arange(6.0), "b": torch.ones(2)}}
    for number in range(8):
        tree.save(tmp_path / f"{number}.safetensors", content)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_round_trip(tmp_path: Path) -> None:
    tree.save(tmp_path / "deep" / "kept.safetensors", KEPT)
    assert same(tree.load(tmp_path / "deep" / "kept.safetensors"), KEPT)


def test_what_comes_back_lies_in_memory_as_torch_lays_its_own(tmp_path: Path) -> None:
    """At another start, sums of the same numbers take another order and differ in the last bit."""
    tree.save(tmp_path / "kept", [torch.rand(size) for size in (1, 3, 5, 7)])
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tree.load(tmp_path / "kept"))


@pytest.mark.parametrize("alone", [None, 3, [], {}, "x", torch.ones(2)])
def test_round_trip_of_a_leaf(alone: Any, tmp_path: Path) -> None:
    tree.save(tmp_path / "kept", alone)
    assert same(tree.load(tmp_path / "kept"), alone)


def test_two_names_of_one_tensor_and_a_view(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    tree.save(tmp_path / "kept", [whole, whole, whole[:2]])
    assert same(tree.load(tmp_path / "kept"), [whole, whole, whole[:2]])


def test_any_flipped_byte_and_any_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    tree.save(path, {"a": torch.arange(4.0), "b": torch.tensor([2, 3]), "c": [1, 2]})
    sound = path.read_bytes()
    for place in range(len(sound)):
        for bits in (0x01, 0x20, 0xFF, sound[place] ^ ord("1"), sound[place] ^ ord("U")):
            if bits:
                path.write_bytes(sound[:place] + bytes([sound[place] ^ bits]) + sound[place + 1 :])
                try:
                    found = tree.load(path)
                except DamagedFile:
                    continue
                assert same(found, tree_of(sound, tmp_path)), f"byte {place} of {len(sound)}"
    for length in range(0, len(sound), 7):
        path.write_bytes(sound[:length])
        with pytest.raises(DamagedFile, match="kept"):
            tree.load(path)


def tree_of(data: bytes, folder: Path) -> Any:
    (folder / "sound").write_bytes(data)
    return tree.load(folder / "sound")


def test_absent_and_foreign_files_are_damaged(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "pickle")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "bare")
    for name in ("absent", "pickle", "bare"):
        with pytest.raises(DamagedFile, match=name):
            tree.load(tmp_path / name)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.save(tmp_path / "kept", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OutputError, match=r"kept.*No space left"):
        tree.save(tmp_path / "kept", "new")
    monkeypatch.undo()
    assert tree.load(tmp_path / "kept") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"tree\.a\[1\].*set"):
        tree.save(tmp_path / "kept", {"a": [1, {2}]})
    assert not list(tmp_path.iterdir())


def test_content_hash() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    hashes = [content_hash(one) for one in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, [], {}, None)]
    assert len({*hashes, content_hash([], []), content_hash()}) == len(hashes) + 2


def test_digest_sees_weights_buffers_and_names() -> None:
    one = nn.BatchNorm1d(2)
    before = digest(one)
    one.running_mean[0] = 5.0
    moved = digest(one)
    assert before != moved
    assert digest(nn.Sequential(one)) != moved
    one.running_mean[0] = 0.0
    assert digest(one) == before


def test_plain_of_recipes_names_every_field() -> None:
    @dataclass(frozen=True)
    class Box:
        place: Path
        sizes: tuple[int, ...]

    assert plain(Box(Path("a") / "b", (1, 2))) == {"place": "a/b", "sizes": [1, 2]}
    recipe = parse_recipe({"finetune": {"scope": "top"}})
    assert set(plain(recipe)["finetune"]) == {f.name for f in fields(recipe)}
    assert plain(recipe)["finetune"]["first"]["supervised"]["augmentation"] is None
    assert plain(recipe, sparse=True) == {"finetune": {"scope": "top"}}


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=r"out/kept.*cannot be written"):
        tree.save(tmp_path / "out" / "kept", 1)
    assert (tmp_path / "out").read_text() == "mine"
