"""What a saved model knows of the images that it was validated on, so that others can be compared
with them: ``deployment.safetensors`` in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import ModelError
from allograft.metrics.mahalanobis import TiedGaussian
from allograft.networks import Network
from allograft.predictor.direct import evaluation_mode, padded_image
from allograft.predictor.whole import parts_of
from allograft.tree import write_bytes

FILE = "deployment.safetensors"
LEAST = 5
"""Cases that a threshold, or a temperature, is chosen on, at least."""
SLICES = 8
"""Slices of a volume that its distance is the mean of, at most."""
GAUSSIAN = ("means", "precision")
DISTANCE = "ood_distance"
"""The column of ``results.csv``."""


@dataclass(frozen=True)
class Deployment:
    """What a model knows of its validation.

    Args:
        gaussian: of the encoder's features of training images; None where there is none.
        held_out: (n,) distances of cases that it was not fitted on.
        facts: JSON: ``held_out`` in words, ``calibration`` by site, ``fairness``, ``reference``
            (column of ``results.csv`` -> numbers of the validation cases, sorted) and ``notes``.
    """

    gaussian: TiedGaussian | None = None
    held_out: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    facts: Mapping[str, Any] = field(default_factory=dict)

    def distance(self, network: Network, batch: Batch) -> float | None:
        """How far a case, or the slices of one, lies from the training images; None where that is
        not known."""
        if self.gaussian is None:
            return None
        return float(self.gaussian.distance(case_features(network, batch)).mean())


def encoder_of(predictor: object) -> Network | None:
    """The first network in a predictor that has an encoder."""
    return next((part for part in parts_of(predictor) if isinstance(part, Network)), None)


def case_features(network: Network, batch: Batch) -> Tensor:
    """The encoder's last features, averaged over pixels: (B, C, *spatial) images -> (B, D); of many
    slices ``SLICES`` at equal steps."""
    count = len(batch)
    chosen = torch.linspace(0, count - 1, min(count, SLICES)).round().long()
    with evaluation_mode(network):
        feature = network.encoder(padded_image(batch.image[chosen], network.multiple))[-1]
    return feature.flatten(2).mean(2).double().cpu() if feature.ndim > 2 else feature.double().cpu()


def write_deployment(folder: Path, made: Deployment) -> None:
    """Write the file into a model folder, whole or not at all; the same numbers give the same
    bytes."""
    from safetensors.torch import save as to_bytes

    tensors = {"held_out": made.held_out.double().contiguous()}
    if made.gaussian is not None:
        tensors |= {key: getattr(made.gaussian, key).double().contiguous() for key in GAUSSIAN}
    told = json.dumps({"facts": dict(made.facts), "digest": _digest(tensors)})
    write_bytes(folder / FILE, to_bytes(tensors, metadata={"deployment": told}))


def read_deployment(folder: Path, checksum: str | None) -> Deployment | None:
    """What a model folder knows of its validation; None where it says nothing.

    Args:
        checksum: of the model's card.

    Raises:
        ModelError: a damaged file, or one of another model.
    """
    from safetensors import safe_open

    if not (folder / FILE).exists():
        return None
    try:
        with safe_open(folder / FILE, "pt") as file:
            told = json.loads(file.metadata()["deployment"])
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a mapping
        if told["digest"] != _digest(tensors):
            raise ValueError("its content does not match its checksum")
        gaussian = TiedGaussian(*(tensors[key] for key in GAUSSIAN)) if GAUSSIAN[0] in tensors else None
        made = Deployment(gaussian, tensors["held_out"], told["facts"])
    # a damaged header may raise anything: an unknown dtype, names that are no UTF-8
    except Exception as error:
        raise ModelError(f"{folder / FILE}: damaged ({error}); copy the model folder again") from error
    if made.facts.get("checksum") != checksum:
        raise ModelError(f"{folder / FILE}: belongs to another model; copy the whole model folder again")
    return made


def _digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
