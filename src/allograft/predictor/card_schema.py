"""A JSON schema of a model's card."""

from __future__ import annotations

from typing import Any

from allograft.predictor.card import CARD, FORMAT

KINDS = {int: "integer", str: "string", bool: "boolean", dict: "object", list: "array", type(None): "null"}


def card_schema() -> dict[str, Any]:
    """The facts of ``card.json`` by which a card is checked when a model is read; others may
    follow.

    >>> card_schema()["properties"]["slices"]
    {'type': ['object', 'null']}
    """
    properties: dict[str, Any] = {
        key: {"type": [KINDS[kind] for kind in kinds] if len(kinds) > 1 else KINDS[kinds[0]]}
        for key, kinds in CARD.items()
    }
    properties["format"] = {"const": FORMAT}
    properties["task"] |= {"minProperties": 1, "maxProperties": 1}
    properties["training_images"] |= {"items": {"type": "string"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The card of a model of Allograft",
        "type": "object",
        "properties": properties,
        "required": ["format"],
    }
