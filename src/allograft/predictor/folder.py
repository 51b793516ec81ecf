"""A predictor as a folder: ``model.safetensors`` and ``card.json``. Nothing is pickled, nothing unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allograft import __version__
from allograft.errors import AllograftError, ModelError
from allograft.networks import rebuilt
from allograft.table import find, name_of
from allograft.tree import write_bytes, write_json

FORMAT = 1


def save_predictor(predictor: Any, folder: Path, card: Mapping[str, Any]) -> None:
    """Write a predictor; the card is written last, so a folder with a card is whole.

    Args:
        card: further JSON facts: task, preprocessing, recipe, seed, metrics.

    Raises:
        TypeError: a field that is no JSON value, tensor, network or predictor, with its place.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    shape = _take(predictor, "predictor", tensors)
    flat = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()} or {"_": torch.zeros(1)}
    write_bytes(folder / "model.safetensors", to_bytes(flat))
    told = {"format": FORMAT, "allograft": __version__, "contains_images": holds_images(predictor)}
    write_json(folder / "card.json", {**card, **told, "predictor": shape})


def holds_images(thing: Any) -> bool:
    """Whether a predictor, or one inside it, says that it keeps patients' images."""
    if isinstance(thing, (list, tuple)):
        return any(map(holds_images, thing))
    if is_dataclass(thing) and not isinstance(thing, type):
        return bool(getattr(thing, "contains_images", False)) or any(holds_images(getattr(thing, f.name)) for f in fields(thing))
    return False


def load_predictor(folder: Path | str, *, template: nn.Module | None = None, device: Any = "cpu") -> tuple[Any, dict[str, Any]]:
    """The predictor and its card.

    Raises:
        ModelError: a folder without card or weights, a file of another kind (a pickle, say), or weights that do not fit the card.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    card = read_card(folder)
    try:
        with safe_open(folder / "model.safetensors", "pt", device=str(device)) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / 'model.safetensors'}: no safetensors file ({error}); models of other kinds are not opened") from error
    try:
        return _give(card["predictor"], tensors, template, device), card
    except AllograftError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{folder}: card and weights do not fit together ({error}); train or export the model again") from error


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model folder."""
    path = folder / "card.json"
    if not folder.is_dir() or not path.exists():
        raise ModelError(
            f"{folder}: no model folder; expected a folder with card.json and model.safetensors, as 'allograft study' writes it"
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        form = card["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a model card ({error})") from error
    if form != FORMAT:
        raise ModelError(
            f"{path}: format {form!r}, this version of Allograft reads {FORMAT}; use the version that wrote it: {card.get('allograft')}"
        )
    return dict(card)


def first_network(shape: Any) -> dict[str, Any]:
    """The spec of the first network in a card's predictor."""
    found = _networks(shape)
    spec = next(found, None)
    if spec is None:
        raise ModelError("the card's predictor holds no network to start from")
    return spec


def _networks(shape: Any) -> Iterator[dict[str, Any]]:
    if isinstance(shape, list):
        for one in shape:
            yield from _networks(one)
    elif isinstance(shape, dict) and "network" in shape:
        yield shape["network"]
    elif isinstance(shape, dict) and "fields" in shape:
        for one in shape["fields"].values():
            yield from _networks(one)


def _take(thing: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(thing, Tensor):
        tensors[at] = thing
        return {"tensor": at}
    if isinstance(thing, nn.Module):
        for key, tensor in thing.state_dict().items():
            tensors[f"{at}/{key}"] = tensor
        return {"network": dict(thing.spec), "at": at}  # type: ignore[arg-type]
    if is_dataclass(thing) and not isinstance(thing, type):
        inner = {f.name: _take(getattr(thing, f.name), f"{at}.{f.name}", tensors) for f in fields(thing)}
        return {"kind": name_of("predictor", type(thing)), "fields": inner}
    if isinstance(thing, (list, tuple)):
        return [_take(value, f"{at}.{i}", tensors) for i, value in enumerate(thing)]
    if thing is None or isinstance(thing, (str, int, float, bool)):
        return thing
    raise TypeError(f"{at}: a predictor holds JSON values, tensors, networks and predictors, not a {type(thing).__name__}")


def _give(shape: Any, tensors: Mapping[str, Tensor], template: nn.Module | None, device: Any) -> Any:
    if isinstance(shape, list):
        return tuple(_give(value, tensors, template, device) for value in shape)
    if not isinstance(shape, dict):
        return shape
    if "tensor" in shape:
        return tensors[shape["tensor"]]
    if "network" in shape:
        prefix = f"{shape['at']}/"
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        return rebuilt(shape["network"], state, template).to(device).eval()
    inner = {key: _give(value, tensors, template, device) for key, value in shape["fields"].items()}
    return find("predictor", shape["kind"])(**inner)
