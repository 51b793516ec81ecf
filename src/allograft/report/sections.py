"""The further sections of a finished study's report: settings, who is served worse, what is
forgotten, what features see, rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from allograft.figure import Figure
from allograft.report.robustness import robustness
from allograft.report.target import Extra
from allograft.report.without_labels import without_labels
from allograft.results.analysis.correction import correction_sheet, corrections
from allograft.results.analysis.embedding import FURTHER, Embedding, embeddings_of
from allograft.results.analysis.fairness_sheets import fairness
from allograft.results.analysis.features import Known
from allograft.results.analysis.forgetting import forgetting, forgetting_figure, forgetting_sheets
from allograft.results.analysis.kept_features import known_of
from allograft.results.analysis.pretexts import pretext_sheet
from allograft.results.analysis.readers import reader_sheet
from allograft.results.analysis.selection import distance_sheet
from allograft.results.analysis.severity import severity_sheet
from allograft.results.analysis.stages import stage_sheet
from allograft.results.analysis.strata import strata_sheet
from allograft.results.analysis.stream import (
    against_sheet,
    ends,
    ends_figure,
    matrix_figure,
    stream_results,
    stream_sheet,
)
from allograft.results.analysis.sweep import sweeps
from allograft.results.analysis.uncertainty import uncertainty
from allograft.results.comparison import reference
from allograft.results.models import model_folder
from allograft.results.record import Record
from allograft.results.select import Line
from allograft.study.plan import Plan
from allograft.study.spec import Study
from allograft.study.world import World


def sections_of(
    out: Path,
    world: World,
    plan: Plan,
    records: Mapping[str, Record],
    table: Sequence[Line],
    template: nn.Module | None,
    *,
    device: Any,
) -> dict[str, list[Extra]]:
    """Target -> its further sections, those with nothing to show left out. Every finished line has
    its features."""
    parted: dict[bool, list[Line]] = {True: [], False: []}
    for line in table:
        parted[line.chosen or line is reference(table, plan, line.target)].append(line)
    known = _known(out, records, table, world.study)
    embeddings = embeddings_of(out, world, parted[True], template, device=device, known=known)
    others = embeddings_of(out, world, parted[False], template, device=device, most=FURTHER, known=known)
    return {
        target: [
            *without_labels(plan, table, target),
            *_stream(plan, records, world.study),
            *_pretexts(plan, records),
            *_sweeps(plan, table, target),
            *_fairness(plan, table, world, target),
            *_uncertainty(table, target),
            *_readers(table, target),
            *_corrections(out, world, table, target),
            *_strata(table, world, target),
            *_forgetting(plan, records, world, target),
            *robustness(out, world, table, target, template, device=device, known=known),
            *_features(_at(target, embeddings), _at(target, others)),
            *_stages(plan, records, target, world.study),
            *_selection(plan, records, target),
            *(_severity(plan, records) if target == world.study.questions[-1].name else ()),
        ]
        for target in (question.name for question in world.study.questions)
    }


def _known(out: Path, records: Mapping[str, Record], table: Sequence[Line], study: Study) -> defaultdict[Path, Known]:
    """Model folder -> what the model made of the cases that it was judged on."""
    of_stage: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records.values():
        of_stage[record.unit, record.stage].append(record)
    known: defaultdict[Path, Known] = defaultdict(dict)
    for line in table:
        if (run := line.best_run) is not None:
            judged = of_stage[run.row.unit, run.stage]
            known[model_folder(out, line)] = known_of(out / "records", judged, study.made_task)
    return known


def _stream(plan: Plan, records: Mapping[str, Record], study: Study) -> list[Extra]:
    streams = stream_results(plan, records.values(), study.phases) if study.stream else []
    if not streams:
        return []
    last = ends(plan, records.values(), study.phases)
    against = against_sheet(plan, last)
    sheets = (stream_sheet(plan, streams), *([] if against is None else [against]))
    figures: tuple[Figure, ...] = (
        ends_figure(last, study.phases, plan.headline),
        *(matrix_figure(stream, study.phases) for stream in streams),
    )
    return [Extra("Along the stream", sheets, figures)]


def _pretexts(plan: Plan, records: Mapping[str, Record]) -> list[Extra]:
    sheet = pretext_sheet(plan, records.values())
    return [] if sheet is None else [Extra("Pre-training", (sheet,))]


def _sweeps(plan: Plan, table: Sequence[Line], target: str) -> list[Extra]:
    figures = sweeps(plan, table, target)
    notes = (
        "Rows that differ in one number alone. Whiskers are one standard deviation over seeds; scores of the test "
        "choose no setting.",
    )
    return [Extra("Scores by setting", (), figures, notes)] if figures else []


def _fairness(plan: Plan, table: Sequence[Line], world: World, target: str) -> list[Extra]:
    audits = fairness(plan, table, world, target)
    return [] if audits is None else [Extra("Fairness: scores by group", (*audits.gaps, *audits.details))]


def _uncertainty(table: Sequence[Line], target: str) -> list[Extra]:
    uncertain = uncertainty(table, target)
    return [] if uncertain is None else [Extra("Does the spread find the errors?", (uncertain[0],), (uncertain[1],))]


def _readers(table: Sequence[Line], target: str) -> list[Extra]:
    sheet = reader_sheet(table, target)
    return [] if sheet is None else [Extra("Readers", (sheet,))]


def _corrections(out: Path, world: World, table: Sequence[Line], target: str) -> list[Extra]:
    made = corrections(out, world, [line for line in table if line.target == target])
    sheet, figures = correction_sheet(made), tuple(each.by_epoch for each in made if each.by_epoch is not None)
    return [] if sheet is None else [Extra("Are the corrected boxes better?", (sheet,), figures)]


def _strata(table: Sequence[Line], world: World, target: str) -> list[Extra]:
    sheet = strata_sheet(table, world.cases(), target)
    return [] if sheet is None else [Extra("Errors by label", (sheet,))]


def _forgetting(plan: Plan, records: Mapping[str, Record], world: World, target: str) -> list[Extra]:
    forgotten = forgetting(plan, records.values(), world.study.source, target)
    # of one budget the table of the target has all of it
    if forgotten is None or (len(forgotten.budgets) < 3 and not forgotten.unclear):
        return []
    figures = (forgetting_figure(forgotten),) if len(forgotten.budgets) > 2 else ()
    return [Extra("Forgetting: the source after the adaptation", forgetting_sheets(forgotten), figures)]


def _at(target: str, by_row: Mapping[tuple[str, str], Embedding]) -> list[Embedding]:
    return [embedding for (_, site), embedding in by_row.items() if site == target]


def _features(first: Sequence[Embedding], others: Sequence[Embedding]) -> list[Extra]:
    """The reference and the row that the verdict names, and in a fold the other lines; all in the
    open where there are no first ones."""
    folded = _drawn("The features of the other recipes", others)
    drawn = _drawn("What the features see", first)
    if drawn is None:
        return [] if folded is None else [replace(folded, title="What the features see")]
    return [replace(drawn, folded=folded)]


def _drawn(title: str, embeddings: Sequence[Embedding]) -> Extra | None:
    figures = tuple(figure for embedding in embeddings for figure in embedding.figures)
    notes = tuple(dict.fromkeys(note for embedding in embeddings for note in embedding.notes))
    return Extra(title, (), figures, notes) if figures else None


def _selection(plan: Plan, records: Mapping[str, Record], target: str) -> list[Extra]:
    sheet = distance_sheet(plan, records, target)
    return [] if sheet is None else [Extra("What each selection rule would have chosen", (sheet,))]


def _stages(plan: Plan, records: Mapping[str, Record], target: str, study: Study) -> list[Extra]:
    sheet = (
        None
        if study.stream
        else stage_sheet(plan, records.values(), target, tuple(dict.fromkeys((target, *study.source))))
    )
    return [] if sheet is None else [Extra("Stages: before and after", (sheet,))]


def _severity(plan: Plan, records: Mapping[str, Record]) -> list[Extra]:
    """Of this study's runs alone: a folder may hold those of other label budgets, under the same
    titles."""
    sheet = severity_sheet((records[name] for name in records if records[name].unit in plan.units), plan.headline)
    return [] if sheet is None else [Extra("Severe and subtle shifts", (sheet,))]
