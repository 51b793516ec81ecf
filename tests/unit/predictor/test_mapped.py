"""Rows that stay in their file: read when asked for, and compared with their checksums."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.identities.test_mris import a_database, seen

from allograft.errors import ModelError
from allograft.predictor import load_predictor, mapped, save_predictor
from allograft.predictor.folder import intact
from allograft.predictor.mapped import CHUNK, Mapped
from allograft.predictor.retrieval import Retrieval
from allograft.tree import write_chunks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_predictor(Retrieval((a_database(),)), tmp_path / "model", {})
    return tmp_path / "model"


def rows_file(folder: Path) -> Path:
    (file,) = folder.glob("*.bin")
    return file


@dataclass
class Reads:
    """A stand-in for an array that notes which of its rows are read."""

    array: Any
    rows: list[int]

    def __getitem__(self, at: Any) -> Any:
        self.rows += np.atleast_1d(at).tolist()
        return self.array[at]


def test_every_file_of_rows_belongs_to_a_model(tmp_path: Path) -> None:
    save_predictor(Retrieval((a_database(), a_database())), tmp_path, {})
    first, second = sorted(tmp_path.glob("*.bin"))
    assert intact(tmp_path)
    kept = second.read_bytes()
    second.unlink()
    assert not intact(tmp_path)
    second.write_bytes(kept)
    first.unlink()
    assert not intact(tmp_path)


def test_loading_and_predicting_read_the_neighbours_alone(folder: Path) -> None:
    predictor, _ = load_predictor(folder)
    (band,) = predictor.bands  # type: ignore[attr-defined]
    assert isinstance(band.images.array, np.memmap)
    assert not band.images.known.any()
    watched: list[int] = []
    band.images.array = Reads(band.images.array, watched)
    index = band.search(*_query(band))[1]
    assert watched == []
    predictor(seen(1))
    assert set(watched) == set(index[0].tolist())
    assert set(np.flatnonzero(band.images.known)) == set(watched)
    assert len(set(watched)) < len(band.names)


def _query(band: Any) -> tuple[Any, int]:
    from allograft.nn.retrieval import normalised
    from allograft.predictor import evaluation_mode
    from allograft.predictor.retrieval import embed

    with evaluation_mode(band.query):
        return normalised(embed(band.query, seen(1).image), "query"), band.k


def test_a_row_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, _ = load_predictor(folder)
    calls: list[int] = []
    real = mapped._digest
    monkeypatch.setattr(mapped, "_digest", lambda row: calls.append(1) or real(row))
    for _ in range(3):
        predictor(seen(1))
    assert len(calls) == 3  # k


def test_a_damaged_image_is_refused_when_it_is_read(folder: Path) -> None:
    file = rows_file(folder)
    data = bytearray(file.read_bytes())
    expected = load_predictor(folder)[0](seen(1))["neighbours"][0]  # type: ignore[index]
    nearest = int(expected.split(";")[0].removesuffix(".png"))
    size = len(data) // 7
    data[nearest * size] ^= 1
    file.write_bytes(data)
    predictor, _ = load_predictor(folder)  # the others may still be used
    with pytest.raises(ModelError, match=f"image {nearest} is not the one that was saved"):
        predictor(seen(1))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"0", None])
def test_a_file_of_another_size_is_refused_at_once(folder: Path, change: Any) -> None:
    file = rows_file(folder)
    assert intact(folder)
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    assert not intact(folder)
    with pytest.raises(ModelError, match=r"\.bin.*expected 1792 bytes"):
        load_predictor(folder)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", "a/b.bin", "", "x.txt"])
def test_a_card_may_name_no_file_outside_its_folder(folder: Path, name: str) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["predictor"]["fields"]["bands"][0]["fields"]["images"]["mapped"] = name
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"expected rows in a \.bin file of the folder"):
        load_predictor(folder)


def test_a_changed_card_does_not_hide_a_changed_checksum(folder: Path) -> None:
    """The checksums of the rows are tensors of the model file, which has one of its own."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(key for key in tensors if key.endswith("/hashes"))
    assert tensors[name].shape == (7, 16)
    tensors[name][0] ^= 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="not those that were saved together"):
        load_predictor(folder)


def test_rows_are_written_some_at_a_time_and_read_back(tmp_path: Path) -> None:
    values = torch.arange((2 * CHUNK + 3) * 2.0).view(-1, 2).half()
    rows = Mapped.of(values)
    lengths = [len(chunk) for chunk in rows.chunks()]
    assert lengths == [CHUNK * 4, CHUNK * 4, 12]
    write_chunks(tmp_path / "x.bin", rows.chunks())
    kept = Mapped.open(tmp_path / "x.bin", "float16", rows.shape, rows.hashes)
    index = torch.tensor([2 * CHUNK + 2, 0, 5, 5])
    assert torch.equal(kept.rows(index), values[index])
    assert torch.equal(rows.joined(rows).rows(index + len(rows)), values[index])
    assert torch.equal(kept.only(index).rows(torch.arange(4)), values[index])
    assert len(kept) == 2 * CHUNK + 3


def test_what_a_full_disk_cut_short_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"begun"
        raise OSError(28, "No space left on device")

    from allograft.errors import OutputError

    with pytest.raises(OutputError, match="No space left"):
        write_chunks(tmp_path / "x.bin", chunks())
    assert list(tmp_path.iterdir()) == []
