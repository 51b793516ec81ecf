"""The section that says whether a model's features tell the site or the label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from allograft.report.target import Extra
from allograft.results.analysis.features import Known
from allograft.results.analysis.robustness import features_of, robustness_sheet
from allograft.results.select import Line
from allograft.study.world import World


def robustness(
    out: Path,
    world: World,
    table: Sequence[Line],
    target: str,
    template: nn.Module | None,
    *,
    device: Any,
    known: defaultdict[Path, Known],
) -> list[Extra]:
    """Site probe and robustness index of every finished model of a target; [] within one site, in a
    stream, and where a site has too few subjects."""
    if target not in world.sites or world.study.stream:
        return []
    sheet = robustness_sheet(features_of(out, world, table, target, template, device=device, known=known))
    return [] if sheet is None else [Extra("The site in the features", (sheet,))]
