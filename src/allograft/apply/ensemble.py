"""Several model folders as one, which ``predict``, ``evaluate`` and ``compare`` take like any
other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from allograft.apply.model import Model, load
from allograft.errors import ModelError, OutputError
from allograft.predictor import save_predictor
from allograft.predictor.card import sites_of
from allograft.predictor.direct import Weights
from allograft.predictor.ensemble import Ensemble

SHARED = ("task", "preprocessing", "channels", "slices")
"""What the cards of all members must agree on."""


def make_ensemble(models: Sequence[Path | str], out: Path | str, *, network: nn.Module | None = None) -> Path:
    """Write a model folder that holds copies of several models and predicts the mean of their
    probabilities.

    Args:
        models: model folders of one task, classes and preprocessing; several seeds of a recipe, or
            several recipes.
        out: the folder, new or empty.
        network: your own module, when the members were trained with one.

    Raises:
        ModelError: fewer than two models, one named twice, models that differ in task, classes or
            preprocessing, and models that find boxes or predict nothing.
        OutputError: ``out`` holds something.
    """
    folders, out = [Path(model) for model in models], Path(out)
    if len(folders) < 2:
        raise ModelError(f"ensemble: found {len(folders)} model, expected at least two; name more model folders")
    if os.path.exists(out) and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: is not empty; choose a new folder for the ensemble")
    members = [load(folder, network=network, device="cpu") for folder in folders]
    for folder, member in zip(folders, members, strict=True):
        _check(folder, member, folders[0], members[0])
    _check_different(folders, members)
    cards = [member.card for member in members]
    sites = tuple(dict.fromkeys(site for card in cards for site in sites_of(card)))
    ensemble = Ensemble(
        tuple(member.predictor for member in members),
        tuple(_numbers(sites, sites_of(card)) for card in cards),
        bool(members[0].task.coding.several),
        any(bool(card.get("contains_images")) for card in cards),
    )
    save_predictor(ensemble, out, _card(cards, sites))
    return out


def _numbers(sites: Sequence[str], own: Sequence[str]) -> tuple[int, ...]:
    return tuple(own.index(site) if site in own else -1 for site in sites)


def _check(folder: Path, member: Model, first_folder: Path, first: Model) -> None:
    if isinstance(member.predictor, Weights):
        raise ModelError(f"{folder}: holds pre-trained weights only, which predict nothing; name a model that predicts")
    if "boxes" in member.task.outputs:
        raise ModelError(
            f"{folder}: finds boxes, and an ensemble averages probabilities; use one detector, or fuse the boxes of "
            "each model's coco.json"
        )
    for key in SHARED:
        found, expected = _plain(member, key), _plain(first, key)
        if found != expected:
            raise ModelError(
                f"{folder}: {key}: found {str(found)[:120]}, expected {str(expected)[:120]} as in {first_folder}; an "
                "ensemble needs models of the same task, classes and preprocessing"
            )


def _plain(model: Model, key: str) -> Any:
    """What the card says, with defaults filled in, so that two ways of writing it are one."""
    if key == "task":
        task = model.task
        return {"kind": type(task).__name__.lower(), "classes": list(getattr(task, "names", ()))} | {
            "outputs": dict(task.outputs),
            "mask": getattr(task.coding, "mask", None),
        }
    return model.prepared().preprocessing if key == "preprocessing" else model.card.get(key)


def _check_different(folders: Sequence[Path], members: Sequence[Model]) -> None:
    seen: dict[str, Path] = {}
    for folder, member in zip(folders, members, strict=True):
        checksum = str(member.card.get("checksum", folder.resolve()))
        if checksum in seen:
            raise ModelError(f"{folder}: holds the same model as {seen[checksum]}; name each model once")
        seen[checksum] = folder


def _card(cards: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> dict[str, Any]:
    """What the ensemble says of itself: what its members share, and of each where it came from."""
    first = cards[0]
    kept = ("recipe", "seed", "stage", "target", "unit", "checksum", "metrics")
    return {
        "intended_use": first.get("intended_use", "research use only, not a medical device"),
        **{key: first[key] for key in SHARED if key in first},
        "sites": list(sites),
        "training_images": sorted({image for card in cards for image in card.get("training_images", ())}),
        "members": [{key: card[key] for key in kept if key in card} for card in cards],
    }
