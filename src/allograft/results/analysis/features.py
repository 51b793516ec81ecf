"""What a model makes of a case before its heads: the encoder's last feature, pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from allograft.cohort import Case, Cohort, Whole
from allograft.metrics.label_free import KEYS, mean_entropy
from allograft.predictor.whole import whole_prediction
from allograft.seeds import Seeds

MOST = 300
"""Cases that a figure holds at most; of more an equal share of each group is drawn."""


@dataclass(frozen=True)
class Seen:
    """What a model makes of a case.

    Args:
        feature: (C,) float64.
        loss: see ``loss_of``.
        entropy: the mean of the prediction's; None for outputs that have none.
    """

    feature: NDArray[np.float64]
    loss: float | None
    entropy: float | None


Known = dict[str, Seen]
"""Case -> what one model makes of it."""


@dataclass(frozen=True)
class Cloud:
    """Cases, and of each its group and what the model makes of it."""

    cases: list[Case]
    groups: list[str]
    seen: list[Seen]
    notes: tuple[str, ...]

    @property
    def rows(self) -> NDArray[np.float64]:
        """Features (N, C)."""
        return np.stack([seen.feature for seen in self.seen])


def cloud_of(
    predictor: Any, task: Any, groups: Mapping[str, Cohort], sites: Sequence[str] | None, most: int, known: Known
) -> Cloud | None:
    """What a model makes of cases, an equal share of each group. What is ``known`` is not predicted
    again. Other arguments as ``embedding``, whose None it shares."""
    encoder = encoder_of(predictor)
    chosen, notes = _sampled(groups, most)
    if encoder is None or sum(len(cohort.cases) for cohort in chosen.values()) < 2:
        return None
    cloud = Cloud([], [], [], notes)
    with Seeds(0).everything("embedding"):
        for name, cohort in chosen.items():
            numbered = cohort if sites is None else replace(cohort, sites=tuple(sites))
            for whole in numbered.where(lambda case: case.name not in known).wholes():
                seen = _look(predictor, encoder, task, whole)
                if seen is None:
                    return None
                known[whole.case.name] = seen
            cloud.cases.extend(cohort.cases)
            cloud.groups.extend([name] * len(cohort.cases))
            cloud.seen.extend(known[case.name] for case in cohort.cases)
    return cloud


def encoder_of(thing: Any) -> nn.Module | None:
    """The encoder of the first network in a predictor, or in one inside it; None for a network that
    is one opaque module."""
    if isinstance(thing, nn.Module):
        encoder = getattr(thing, "encoder", None)
        return encoder if isinstance(encoder, nn.Module) and hasattr(thing, "heads") else None
    inner: Sequence[Any] = thing if isinstance(thing, (list, tuple)) else ()
    if is_dataclass(thing) and not isinstance(thing, type):
        inner = [getattr(thing, f.name) for f in fields(thing)]
    return next((encoder for part in inner if (encoder := encoder_of(part)) is not None), None)


def _look(predictor: Any, encoder: nn.Module, task: Any, whole: Whole) -> Seen | None:
    """What the predictor itself makes of a case; None when it does not call the encoder."""
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    with features(encoder) as captured:
        prediction = whole_prediction(predictor, whole.batch.to(device))
    if not captured:
        return None
    entropy = mean_entropy(prediction[task.key], several=task.coding.several) if task.key in KEYS else None
    measured = task.measure(prediction, whole) if task.key in whole.case.labels else {}
    return Seen(one_feature(captured), loss_of(task, measured), entropy)


def loss_of(task: Any, measured: Mapping[str, Any]) -> float | None:
    """1 - headline of a case, or mean -log of the probabilities of its label(s); None for one that
    is not measured, where it is undefined, and for boxes.

    Args:
        measured: as ``Task.measure`` gives it; {} without a label.
    """
    if task.headline in measured:
        return None if measured[task.headline] is None else 1.0 - float(measured[task.headline])
    if task.key != "label" or "label" not in measured:
        return None
    if isinstance(measured["label"], list):
        pairs = zip(measured["label"], measured["probabilities"], strict=True)
        right = [p if present > 0.5 else 1 - p for present, p in pairs]
    else:
        right = [measured["probabilities"][measured["label"]]]
    return -sum(math.log(max(p, 1e-12)) for p in right) / len(right)


def one_feature(captured: Sequence[Tensor]) -> NDArray[np.float64]:
    """(C,) of a case: the mean over slices and all passes (donors) of what ``features`` kept."""
    return torch.cat(list(captured)).mean(0).numpy()


@contextmanager
def features(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, whatever the encoder's last feature is, pooled over space, is added to the list: (B,
    C) float64 on the CPU a pass."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        last: Tensor = output[-1] if isinstance(output, (list, tuple)) else output
        kept.append((last.flatten(2).double().mean(2) if last.ndim > 2 else last.double()).detach().cpu())

    handle = encoder.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def in_turn(cases: Iterable[Case]) -> tuple[Case, ...]:
    """In the order in which a figure draws them, which of two does not depend on the others."""
    return tuple(sorted(cases, key=lambda case: Seeds(0, ("embedding",)).number(case.name)))


def _sampled(groups: Mapping[str, Cohort], most: int) -> tuple[dict[str, Cohort], tuple[str, ...]]:
    """At most ``most`` cases, an equal share of each group as far as it has them, ``in_turn``."""
    full = {name: cohort for name, cohort in groups.items() if cohort.cases}
    total, left = sum(len(cohort.cases) for cohort in full.values()), most
    kept: dict[str, Cohort] = {}
    smallest_first = sorted(full, key=lambda name: len(full[name].cases))  # what they leave is shared
    for index, name in enumerate(smallest_first):
        share = left // (len(full) - index)
        cases = in_turn(full[name].cases)[:share]
        kept[name] = replace(full[name], cases=cases)
        left -= len(cases)
    shown = sum(len(cohort.cases) for cohort in kept.values())
    notes = (f"{shown} of {total} cases, drawn by group.",) if shown < total else ()
    return {name: kept[name] for name in full}, notes
