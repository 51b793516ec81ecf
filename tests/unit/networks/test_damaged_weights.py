"""Checkpoints that torch opens without a word, and that hold other numbers than were trained."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allograft.errors import ModelError
from allograft.networks.load import load_weights

WEIGHTS = {"0.weight": torch.arange(64.0).reshape(8, 8), "0.bias": torch.ones(8)}


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 8))


def test_one_flipped_bit_is_found_wherever_it_is_among_the_numbers(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "good.pt")
    content = (tmp_path / "good.pt").read_bytes()
    first = content.index(WEIGHTS["0.weight"].numpy().tobytes())
    for place in range(first, first + 256, 37):
        bad = bytearray(content)
        bad[place] ^= 16
        (tmp_path / "bad.pt").write_bytes(bytes(bad))
        assert zipfile.ZipFile(tmp_path / "bad.pt").testzip()
        with pytest.raises(ModelError, match=r"bad.pt: a damaged file, the checksum of its part .* is wrong"):
            load_weights(network(), tmp_path / "bad.pt")
    assert load_weights(network(), tmp_path / "good.pt").matched == tuple(WEIGHTS)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    """``torch.serialization.set_crc32_options(False)`` leaves none of them right."""
    torch.save(WEIGHTS, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.pt") as packed:
        sums = {one.CRC for one in packed.infolist() if one.file_size}
    for each in sums:
        content = content.replace(each.to_bytes(4, "little"), ((each + 1) % 2**32).to_bytes(4, "little"))
    (tmp_path / "a.pt").write_bytes(bytes(content))
    assert load_weights(network(), tmp_path / "a.pt").matched == tuple(WEIGHTS)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((suffix, kind) for suffix in (".pt", ".safetensors") for kind in (torch.int8, torch.uint8, torch.int64)),
        (".pt", torch.complex64),  # safetensors holds no complex numbers
    ],
)
def test_whole_numbers_are_no_weights(tmp_path: Path, suffix: str, kind: torch.dtype) -> None:
    held = {name: value.to(kind) for name, value in WEIGHTS.items()}
    (save_file if suffix == ".safetensors" else torch.save)(held, tmp_path / f"a{suffix}")
    with pytest.raises(ModelError, match=rf"'0\.(weight|bias)' holds {str(kind)[6:]}, expected floating numbers"):
        load_weights(network(), tmp_path / f"a{suffix}")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_numbers_are_weights(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save({name: value.to(kind) for name, value in WEIGHTS.items()}, tmp_path / "a.pt")
    made = network()
    load_weights(made, tmp_path / "a.pt")
    assert torch.equal(made.state_dict()["0.weight"], WEIGHTS["0.weight"])


def test_safetensors_under_another_name_say_what_they_are(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"found a safetensors file; call it .safetensors"):
        load_weights(network(), tmp_path / "a.pt")
