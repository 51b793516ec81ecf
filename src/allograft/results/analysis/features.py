"""What a model makes of a case before its heads: the encoder's last feature, pooled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort, Whole
from allograft.predictor.whole import whole_prediction
from allograft.seeds import Seeds


@dataclass(frozen=True)
class Cloud:
    """Features (N, C) float64, and of each its group and what was asked of the prediction."""

    rows: NDArray[np.float64]
    groups: list[str]
    facts: list[Any]
    notes: tuple[str, ...]


Known = dict[str, NDArray[np.float64]]
"""Case -> its feature, of one model."""


def cloud_of(
    predictor: Any,
    groups: Mapping[str, Cohort],
    sites: Sequence[str] | None,
    most: int,
    known: Known,
    fact: Callable[[Mapping[str, Tensor], Whole], Any] | None = None,
) -> Cloud | None:
    """Features of cases, an equal share of each group, and a ``fact`` of each prediction; without
    one the facts are the cases, and what is ``known`` is not predicted again. Other arguments as
    ``embedding``, whose None it shares."""
    encoder = encoder_of(predictor)
    chosen, notes = _sampled(groups, most)
    if encoder is None or sum(len(cohort.cases) for cohort in chosen.values()) < 2:
        return None
    rows, names, facts = [], [], []
    with Seeds(0).everything("embedding"):
        for name, cohort in chosen.items():
            numbered = cohort if sites is None else replace(cohort, sites=tuple(sites))
            for whole in (numbered if fact else numbered.where(lambda case: case.name not in known)).wholes():
                feature, prediction = _seen(predictor, encoder, whole.batch)
                if feature is None:
                    return None
                known[whole.case.name] = feature
                facts += [fact(prediction, whole)] if fact else []
            rows += [known[case.name] for case in cohort.cases]
            names += [name] * len(cohort.cases)
            facts += [] if fact else cohort.cases
    return Cloud(np.stack(rows), names, facts, notes)


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


def _seen(predictor: Any, encoder: nn.Module, images: Batch) -> tuple[NDArray[np.float64] | None, dict[str, Tensor]]:
    """A case's feature as the predictor itself makes it, mean over slices and over all its passes
    (donors), and the prediction."""
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    with features(encoder) as captured:
        prediction = whole_prediction(predictor, images.to(device))
    return (torch.cat(captured).mean(0).numpy() if captured else None), prediction


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


def _sampled(groups: Mapping[str, Cohort], most: int) -> tuple[dict[str, Cohort], tuple[str, ...]]:
    """At most ``most`` cases, an equal share of each group as far as it has them, in an order that
    does not depend on the others."""
    full = {name: cohort for name, cohort in groups.items() if cohort.cases}
    total, left = sum(len(cohort.cases) for cohort in full.values()), most
    kept: dict[str, Cohort] = {}
    smallest_first = sorted(full, key=lambda name: len(full[name].cases))  # what they leave is shared
    for index, name in enumerate(smallest_first):
        share = left // (len(full) - index)
        turns = {case.name: Seeds(0, ("embedding",)).number(case.name) for case in full[name].cases}
        cases = tuple(sorted(full[name].cases, key=lambda case: turns[case.name])[:share])
        kept[name] = replace(full[name], cases=cases)
        left -= len(cases)
    shown = sum(len(cohort.cases) for cohort in kept.values())
    notes = (f"{shown} of {total} cases, drawn by group.",) if shown < total else ()
    return {name: kept[name] for name in full}, notes
