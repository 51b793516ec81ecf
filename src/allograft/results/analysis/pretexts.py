"""What each pre-training reached and cost: validation loss, how close its restorations are, seconds
an epoch, memory (Mamalakis et al. 2024, fig. 2 a)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from allograft.results.analysis.sheet import Sheet, number
from allograft.results.record import Record
from allograft.study.plan import Plan

FACTS = {
    "validation_loss": "validation loss",
    "ms_ssim": "MS-SSIM",
    "ms_ssim_scales": "its scales",
    "dice": "Dice of masks",
    "hausdorff": "Hausdorff (mm)",
    "hd95": "HD95 (mm)",
}
"""Fact of a stage -> its column."""
FRECHET = {"frechet_start_encoder": "Fréchet distance, start's encoder"}
"""Fact and column of pretexts that measure it."""
NOTES = (
    "Means over held-out images of the pool and over seeds. MS-SSIM uses as many scales as fit. Masks of image and "
    "restoration are made with the image's own Otsu threshold; distances are in pixels if the images state no spacing. "
    "The validation loss is each pretext's own: 1 - SSIM of the restoration, unless it trains on something else.",
)
FRECHET_NOTE = (
    "The Fréchet distance is between restored and true images of the pool. It uses features of the encoder that the "
    "study starts from, which rows of one seed share. Lower is closer; it is no FID."
)


def pretext_sheet(plan: Plan, records: Iterable[Record]) -> Sheet | None:
    """A row for each recipe that left weights only; None where there is none that says what it
    restored.

    Args:
        records: those of this plan's nodes are read.
    """
    kept = [record for record in records if record.part == "weights" and record.unit in plan.nodes]
    by_title: dict[str, list[Record]] = {}
    for record in kept:
        if record.facts.keys() & {"validation_loss", *FRECHET}:
            by_title.setdefault(str(record.recipe["title"]), []).append(record)
    if not by_title:
        return None
    measured = any(record.facts.keys() & FRECHET.keys() for own in by_title.values() for record in own)
    facts, notes = ({**FACTS, **FRECHET}, (*NOTES, FRECHET_NOTE)) if measured else (FACTS, NOTES)
    columns = ("pretext", *facts.values(), "s per epoch", "peak memory (MB)", "parameters")
    rows = tuple((title, *_row(own, facts)) for title, own in by_title.items())
    return Sheet("What each pretext restores, and its cost", columns, rows, notes)


def _row(records: Sequence[Record], facts: Iterable[str]) -> list[str]:
    means = {key: _mean([record.facts for record in records], key) for key in facts}
    numbers = [number(value, ".0f" if key == "ms_ssim_scales" else ".3f") for key, value in means.items()]
    costs = [record.cost for record in records]
    seconds = [_seconds_per_epoch(record) for record in records]
    known = [value for value in seconds if value is not None]
    return [
        *numbers,
        number(fmean(known) if known else None, ".1f"),
        number(_mean(costs, "peak_memory_mb"), ".0f"),
        number(_mean(costs, "trainable_parameters"), ".0f"),
    ]


def _seconds_per_epoch(record: Record) -> float | None:
    """The training alone, without validation."""
    steps, epoch = (record.facts.get(key) for key in ("steps", "steps_per_epoch"))
    spent = record.cost.get("train_seconds")
    if not isinstance(steps, (int, float)) or not isinstance(epoch, (int, float)) or spent is None or not steps:
        return None
    return float(spent) * float(epoch) / float(steps)


def _mean(rows: Sequence[Mapping[str, object]], key: str) -> float | None:
    values = [float(value) for row in rows if isinstance(value := row.get(key), (int, float))]
    return fmean(values) if values else None
