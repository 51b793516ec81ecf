"""The card of a model folder: what it must say before anything else of the folder is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from allograft.errors import ModelError
from allograft.networks.network import Spec
from allograft.predictor.mapped import DTYPES

FORMAT = 1
CARD: Mapping[str, tuple[type, ...]] = {
    **{
        "format": (int,),
        "allograft": (str,),
        "checksum": (str,),
        "contains_images": (bool,),
        "channels": (int,),
        "seed": (int,),
    },
    **{
        "task": (dict,),
        "preprocessing": (dict,),
        "slices": (dict, type(None)),
        "recipe": (dict,),
        "cost": (dict,),
        "metrics": (dict,),
    },
    **{
        "protocol": (dict,),
        "unit": (str,),
        "stage": (str,),
        "intended_use": (str,),
        "target": (str, type(None)),
        "training_images": (list,),
    },
    "sites": (list,),
}
"""What a card's facts must be, where they are given."""
DEEPEST = 16
"""Predictors inside predictors; no method needs more than a few."""


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model folder, its facts of the kinds that they must be."""
    path = folder / "card.json"
    if not os.path.isfile(path):  # which says no to a name that is too long, where Path raises
        raise ModelError(
            f"{str(folder)[:200]}: no model folder; expected a folder with card.json and model.safetensors, as "
            "'allograft study' writes it"
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        form = card["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a model card ({error})") from error
    if form != FORMAT:
        raise ModelError(
            f"{path}: format {form!r}, this version of Allograft reads {FORMAT}; use the version that wrote it: "
            f"{card.get('allograft')}"
        )
    _check_card(card, path)
    return dict(card)


def sites_of(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Sites as a predictor numbers them; a cohort must number them alike before it sees a batch."""
    return tuple(map(str, card.get("sites", ())))


def _check_card(card: Mapping[str, Any], path: Path) -> None:
    for key, kinds in CARD.items():
        if key in card and type(card[key]) not in kinds:
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise ModelError(f"{path}: {key}: expected {wanted}, found {str(card[key])[:60]!r}; export the model again")
    if len(card.get("task", {"": {}})) != 1:
        found = ", ".join(card["task"]) or "nothing"
        raise ModelError(f"{path}: task: expected one {{name: {{...}}}}, found {found}; export the model again")
    if not all(isinstance(image, str) for image in card.get("training_images", ())):
        raise ModelError(f"{path}: training_images: expected a list of hashes; export the model again")
    if "predictor" in card:
        _check_shape(card["predictor"], f"{path}: predictor")


_KINDS = {
    int: "a whole number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def _check_shape(shape: object, at: str, depth: int = 0) -> None:
    """Raise ``ModelError`` unless ``shape`` is what ``_flatten`` makes: numbers, texts, lists,
    tensors, networks and predictors."""
    if depth > DEEPEST:
        raise ModelError(f"{at[:200]}: predictors inside predictors, more than {DEEPEST} deep; export the model again")
    if isinstance(shape, list):
        for number, part in enumerate(shape):
            _check_shape(part, f"{at}.{number}", depth + 1)
    elif isinstance(shape, dict):
        kinds = {key: type(value) for key, value in shape.items()}
        if kinds == {"kind": str, "fields": dict}:
            for key, part in shape["fields"].items():
                _check_shape(part, f"{at}.{key}", depth + 1)
        elif kinds == {"network": dict, "at": str}:
            _check_spec(shape["network"], at)
        elif kinds == MAPPED:
            _check_mapped(shape, at)
        elif kinds != {"tensor": str}:
            raise ModelError(
                f"{at}: expected a tensor, network or predictor, found {str(shape)[:60]}; export the model again"
            )


MAPPED = {"mapped": str, "dtype": str, "shape": list, "hashes": str}
"""What a card says of rows in a file of their own."""


def _check_mapped(shape: Mapping[str, Any], at: str) -> None:
    sizes, name = shape["shape"], shape["mapped"]
    fits = sizes and all(type(size) is int and size >= 0 for size in sizes) and shape["dtype"] in DTYPES
    if not fits or not re.fullmatch(r"\w[\w.-]*\.bin", name, re.ASCII):
        raise ModelError(
            f"{at}: expected rows in a .bin file of the folder, found {str(shape)[:60]}; export the model again"
        )


def _check_spec(spec: Spec, at: str) -> None:
    build, surgery = spec.get("build"), spec.get("surgery", [])
    steps = [build, *surgery] if isinstance(surgery, list) else []
    if not steps or any(
        not isinstance(network, dict) or len(network) != 1 or not isinstance(next(iter(network.values())), dict)
        for network in steps
    ):
        expected = "{'build': {name: {...}}, 'surgery': [{name: {...}}, ...]}"
        raise ModelError(f"{at}: expected a network as {expected}, found {str(spec)[:60]}; export the model again")


def first_network(shape: object) -> Spec:
    """The spec of the first network in a card's predictor; one member of an ensemble is not what
    was asked for."""
    if isinstance(shape, dict) and shape.get("kind") == "ensemble":
        raise ModelError("an ensemble holds several networks; start from the folder of one of its members")
    spec = next(_networks(shape), None)
    if spec is None:
        raise ModelError("the card's predictor holds no network to start from; choose another model")
    return spec


def _networks(shape: object) -> Iterator[Spec]:
    if isinstance(shape, list):
        for part in shape:
            yield from _networks(part)
    elif isinstance(shape, dict) and "network" in shape:
        yield shape["network"]
    elif isinstance(shape, dict) and "fields" in shape:
        for part in shape["fields"].values():
            yield from _networks(part)
