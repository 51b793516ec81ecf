"""A predictor as a folder: ``model.safetensors`` and ``card.json``. Nothing is pickled, nothing
unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from allograft import __version__
from allograft.errors import AllograftError, ModelError
from allograft.networks import own_spec, rebuilt
from allograft.networks.guard import bounded
from allograft.networks.network import Spec
from allograft.predictor.card import FORMAT, first_network, read_card
from allograft.predictor.direct import Predictor
from allograft.predictor.mapped import DTYPES, Mapped
from allograft.table import find, name_of
from allograft.tree import Json, write_bytes, write_chunks, write_json

Device = str | torch.device


def save_predictor(predictor: Predictor, folder: Path, card: Mapping[str, object]) -> None:
    """Write a predictor; the card is written last, so a folder with a card is whole.

    Numbers that stay in their file (``Mapped``) have a file each, written first.

    Args:
        card: further JSON facts: task, preprocessing, recipe, seed, metrics.

    Raises:
        TypeError: a field that is no JSON value, tensor, network or predictor, with its place.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    mapped: dict[str, Mapped] = {}
    shape = _flatten(predictor, "predictor", tensors, mapped)
    for name, rows in mapped.items():
        write_chunks(folder / name, rows.chunks())
    flat = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()} or {"_": torch.zeros(1)}
    weights = to_bytes(flat)
    write_bytes(folder / "model.safetensors", weights)
    facts = {
        "format": FORMAT,
        "allograft": __version__,
        "contains_images": holds_images(predictor),
        "checksum": _checksum(shape, weights),
    }
    write_json(folder / "card.json", {**card, **facts, "predictor": shape})


def holds_images(thing: object) -> bool:
    """Whether a predictor, or one inside it, says that it keeps patients' images."""
    if isinstance(thing, (list, tuple)):
        return any(map(holds_images, thing))
    if is_dataclass(thing) and not isinstance(thing, type):
        return bool(getattr(thing, "contains_images", False)) or any(
            holds_images(getattr(thing, f.name)) for f in fields(thing)
        )
    return False


def load_predictor(
    folder: Path | str, *, template: nn.Module | None = None, device: Device = "cpu"
) -> tuple[Predictor, dict[str, Any]]:
    """The predictor and its card.

    Raises:
        ModelError: a folder without card or weights, a file of another kind (a pickle, say),
            weights that do not fit the card, or a card that asks for more memory than its weights
            account for.
    """
    folder = Path(folder)
    card = read_card(folder)
    tensors = _weights(folder, device)
    try:
        source = _Source(tensors, folder, template, device)
        predictor = _restore(card["predictor"], source, f"{folder / 'card.json'}: predictor")
    except AllograftError as error:
        card_path = str(folder / "card.json")
        raise ModelError(str(error) if str(error).startswith(card_path) else f"{card_path}: {error}") from error
    # builders may raise anything on arguments that nobody in his senses wrote
    except Exception as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{folder}: card and weights do not fit together ({what}); train or export the model again"
        ) from error
    if not _unchanged(folder, card):
        raise ModelError(
            f"{folder}: card and weights are not those that were saved together, one was damaged or changed; copy "
            "both again"
        )
    return predictor, card


def intact(folder: Path) -> bool:
    """Whether a model folder has card and weights, and both are as they were written."""
    try:
        card = read_card(folder)
        return (
            "predictor" in card
            and _unchanged(folder, card)
            and all(_is_there(folder, mapped) for mapped in _mapped(card))
        )
    except (ModelError, OSError):
        return False


def _mapped(shape: object) -> Iterator[Mapping[str, Any]]:
    """What a card says of each file of rows."""
    if isinstance(shape, list):
        for part in shape:
            yield from _mapped(part)
    elif isinstance(shape, dict):
        if "mapped" in shape:
            yield shape
        else:
            for part in shape.values():
                yield from _mapped(part)


def _is_there(folder: Path, mapped: Mapping[str, Any]) -> bool:
    """Whether a file of rows has its size; what is in it is compared row by row, when it is
    read."""
    size = math.prod(mapped["shape"]) * np.dtype(DTYPES[mapped["dtype"]]).itemsize
    return os.path.isfile(folder / mapped["mapped"]) and os.path.getsize(folder / mapped["mapped"]) == size


def _unchanged(folder: Path, card: Mapping[str, Any]) -> bool:
    """By the checksum; a card of an earlier version has none."""
    return "checksum" not in card or card["checksum"] == _checksum(
        card.get("predictor"), (folder / "model.safetensors").read_bytes()
    )


def _weights(folder: Path, device: Device) -> dict[str, Tensor]:
    """Name -> tensor. Safetensors compares the sizes in a file's header with the file itself before
    it makes anything."""
    from safetensors import safe_open

    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    # a damaged header may raise anything: an unknown dtype, names that are no UTF-8
    except Exception as error:
        raise ModelError(f"{path}: no safetensors file ({error}); models of other kinds are not opened") from error


def _checksum(shape: object, weights: bytes) -> str:
    total = hashlib.blake2b(json.dumps(shape, sort_keys=True).encode(), digest_size=16)
    total.update(weights)
    return total.hexdigest()


def _flatten(thing: object, at: str, tensors: dict[str, Tensor], mapped: dict[str, Mapped]) -> Json:
    if isinstance(thing, Tensor):
        tensors[at] = thing
        return {"tensor": at}
    if isinstance(thing, Mapped):
        mapped[f"{at}.bin"], tensors[f"{at}/hashes"] = thing, thing.hashes
        facts: dict[str, Json] = {"mapped": f"{at}.bin", "dtype": str(thing.array.dtype), "shape": list(thing.shape)}
        return {**facts, "hashes": f"{at}/hashes"}
    if isinstance(thing, nn.Module):
        if "build" not in own_spec(thing):
            raise TypeError(
                f"{at}: a predictor holds networks, and a {type(thing).__name__} is none; add it to a network by "
                "surgery"
            )
        for key, tensor in thing.state_dict().items():
            tensors[f"{at}/{key}"] = tensor
        return {"network": dict(own_spec(thing)), "at": at}
    if is_dataclass(thing) and not isinstance(thing, type):
        inner = {f.name: _flatten(getattr(thing, f.name), f"{at}.{f.name}", tensors, mapped) for f in fields(thing)}
        return {"kind": name_of("predictor", type(thing)), "fields": inner}
    if isinstance(thing, (list, tuple)):
        return [_flatten(value, f"{at}.{i}", tensors, mapped) for i, value in enumerate(thing)]
    if thing is None or isinstance(thing, (str, int, float, bool)):
        return thing
    raise TypeError(
        f"{at}: a predictor holds JSON values, tensors, networks and predictors, not a {type(thing).__name__}"
    )


@dataclass(frozen=True)
class _Source:
    """What a predictor is restored from."""

    tensors: Mapping[str, Tensor]
    folder: Path
    template: nn.Module | None
    device: Device


def _restore(shape: Any, source: _Source, at: str) -> Any:
    if isinstance(shape, list):
        return tuple(_restore(value, source, f"{at}.{i}") for i, value in enumerate(shape))
    if not isinstance(shape, dict):
        return shape
    if "tensor" in shape:
        # a copy, as torch aligns its own: products of unaligned numbers round otherwise
        return source.tensors[shape["tensor"]].clone()
    if "mapped" in shape:
        hashes = source.tensors[shape["hashes"]]
        return Mapped.open(source.folder / shape["mapped"], shape["dtype"], tuple(shape["shape"]), hashes)
    if "network" in shape:
        prefix = f"{shape['at']}/"
        state = {key.removeprefix(prefix): tensor for key, tensor in source.tensors.items() if key.startswith(prefix)}
        with bounded(state, at):
            network = rebuilt(shape["network"], state, source.template)
        return network.to(source.device).eval()
    kind = find("predictor", shape["kind"])
    inner = {key: _restore(value, source, f"{at}.{key}") for key, value in shape["fields"].items()}
    _check_fields(kind, inner, at)
    return kind(**inner)


def _check_fields(kind: type, given: Mapping[str, object], at: str) -> None:
    """Numbers, texts, tensors and predictors where the dataclass has them; pydantic would not know
    a ``Protocol``."""
    hints = get_type_hints(kind)
    for key, value in given.items():
        hint = hints.get(key)
        number = hint in (int, float) and isinstance(value, (int, hint)) and not isinstance(value, bool)
        plain = hint in (bool, str, Tensor, Mapped) and isinstance(value, hint)
        inner = hint not in (int, float, bool, str, Tensor, Mapped) and (
            getattr(hint, "__name__", "") != "Predictor" or callable(value)
        )
        if not (number or plain or inner) or (key == "network" and not isinstance(value, nn.Module)):
            wanted = "a network" if key == "network" else getattr(hint, "__name__", hint)
            raise ModelError(f"{at}.{key}: expected {wanted}, found {str(value)[:60]!r}; export the model again")


def starting_network(folder: Path) -> Spec:
    """The spec of the first network of a model folder, loaded once within bounds: what is returned
    may be built again.

    Raises:
        ModelError: as ``load_predictor``.
    """
    weights = folder / "model.safetensors"
    _check_once(
        folder, *((path.stat().st_mtime_ns if path.exists() else 0) for path in (folder / "card.json", weights))
    )
    return first_network(read_card(folder).get("predictor"))


@cache
def _check_once(folder: Path, *times: int) -> None:
    if "custom" not in first_network(read_card(folder).get("predictor"))["build"]:
        load_predictor(folder)
