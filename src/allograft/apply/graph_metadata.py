"""What a program that runs an exported network must know: how images are prepared, and what the
outputs mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allograft import __version__
from allograft.apply.model import Model

METADATA = "metadata.json"
"""As a MONAI bundle calls it, in its folder ``configs``."""
USE = "research use only, not a medical device"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def facts_of(
    model: Model, out: Path, form: str, sizes: Sequence[tuple[int, ...]], *, is_flexible: bool
) -> dict[str, Any]:
    """What ``FILE.json`` says.

    ``input`` describes the tensor that the file takes: (B, channels, *spatial) float32, prepared
    as ``preprocessing`` says. ``outputs`` are in the order of the file's, each with its
    ``channels`` and what makes probabilities of it.
    """
    multiple = int(model.predictor.network.multiple)  # type: ignore[attr-defined]
    return {
        "file": out.name,
        "format": form,
        "allograft": __version__,
        "intended_use": USE,
        "checksum": model.card.get("checksum"),
        "task": model.card["task"],
        "classes": list(getattr(model.task, "names", ())),
        "preprocessing": asdict(model.prepared().preprocessing),
        "slices": model.card.get("slices"),
        "spacing": model.prepared().preprocessing.spacing,
        "input": {
            "name": "image",
            "dtype": "float32",
            "channels": model.card["channels"],
            "size": None if is_flexible else list(sizes[0]),
            "multiple": multiple,
            "padding": "each side to a multiple, at its end, by the border's values; outputs are cropped back",
        },
        "outputs": [
            {"name": key, "channels": channels_of(model, key), "probabilities": activation(model, key)}
            for key in model.task.outputs
        ],
        "compared_at": [list(size) for size in sizes],
    }


def channels_of(model: Model, key: str) -> list[str]:
    """The meaning of each channel of an output."""
    task = getattr(model.task, {"mask": "segmentation", "label": "classification"}.get(key, ""), model.task)
    names = list(getattr(task, "names", ()))
    if key == "mask":
        return ["background", *names]
    return names if len(names) == model.task.outputs[key] else [f"channel {n}" for n in range(model.task.outputs[key])]


def activation(model: Model, key: str) -> str:
    """What makes probabilities of an output: softmax, sigmoid, or none."""
    if key == "paired":
        return "none"
    return "sigmoid" if key == "label" and model.task.coding.several else "softmax"


def bundle_metadata(model: Model, facts: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata.json`` with the keys that MONAI's bundle specification asks for; ``allograft``
    holds the rest.

    What a card does not know, such as the modality, is ``n/a``.
    """
    import monai

    ((kind, _),) = model.card["task"].items()
    classes = ", ".join(facts["classes"]) or "images"
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by Allograft {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "optional_packages_version": {},
        "name": str(facts["file"]),
        "task": f"{kind} of {classes}",
        "description": f"{kind} of {classes}, from images prepared as the key allograft says; outputs are logits",
        "authors": "n/a",
        "copyright": "n/a",
        "intended_use": USE,
        "network_data_format": _data_format(facts),
        "allograft": dict(facts),
    }


def _data_format(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that go in and come out."""
    multiple, fixed = facts["input"]["multiple"], facts["input"]["size"]
    axes = len(facts["compared_at"][0])
    shape: list[Any] = (
        list(fixed) if fixed else ["*" if multiple == 1 else f"{multiple}*{'nmk'[a]}" for a in range(axes)]
    )
    common = {"modality": "n/a", "dtype": "float32", "value_range": [], "is_patch_data": fixed is not None}
    channels = int(facts["input"]["channels"])
    image = {"type": "image", "format": "magnitude", "num_channels": channels, "spatial_shape": shape, **common}
    outputs = {}
    for each in facts["outputs"]:
        is_dense = each["name"] != "label"
        outputs[each["name"]] = {
            "type": "image" if is_dense else "probabilities",
            "format": {"mask": "labels", "label": "classes"}.get(each["name"], "magnitude"),
            "num_channels": len(each["channels"]),
            "spatial_shape": shape if is_dense else [],
            **common,
            "channel_def": {str(number): name for number, name in enumerate(each["channels"])},
        }
    return {
        "inputs": {"image": {**image, "channel_def": {str(n): f"channel {n}" for n in range(channels)}}},
        "outputs": outputs,
    }
