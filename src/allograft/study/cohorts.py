"""The cohorts of a study: read, each with its own labels and preprocessing, filtered to the sites
that the study names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from allograft.cohort import Case, Coding, Cohort, Preprocessing
from allograft.cohort.alteration import drawn_alteration
from allograft.cohort.coding import categories
from allograft.errors import SpecError, SplitError, nearest
from allograft.seeds import Seeds
from allograft.strict import validated
from allograft.study.keys import CohortSpec, Gradual, GradualStream, Transformed, TransformedStream
from allograft.study.spec import Study
from allograft.study.where import take_sides
from allograft.tree import plain


def read_cohorts(study: Study, cache: Path) -> tuple[Study, tuple[Cohort, ...]]:
    """The study, its sides naming sites alone, and the cohorts that hold them.

    Of several cohorts, cases, subjects and sites are ``NAME/...``. All number their sites alike.

    Raises:
        ManifestError: a site that no case has, with the nearest name.
        SpecError: classes or channels that no network could share, a stage of the stream that lies
            in two cohorts.
    """
    specs = study.cohorts or {"": CohortSpec(study.cohort, slices=study.slices)}
    cohorts = {name: _read(study, name, spec, cache) for name, spec in specs.items()}
    if isinstance(study.stream, GradualStream):
        gradual = replace(study.stream.gradual, sites=_expanded(study.stream.gradual.sites, cohorts))
        study = replace(study, stream=GradualStream(gradual))
        cohorts = {name: _graded(cohort, gradual) for name, cohort in cohorts.items()}
    elif isinstance(study.stream, TransformedStream):
        transformed = replace(study.stream.transformed, sites=_expanded(study.stream.transformed.sites, cohorts))
        study = replace(study, stream=TransformedStream(transformed), target=())
        cohorts = {name: _transformed(cohort, transformed) for name, cohort in cohorts.items()}
    elif study.stream:
        phases = tuple(_expanded(phase, cohorts) for phase in study.stream)
        study = replace(study, stream=phases, target=())
    else:
        named = {"source": _expanded(study.source, cohorts), "target": _expanded(study.target, cohorts)}
        study = study if (named["source"], named["target"]) == (study.source, study.target) else replace(study, **named)  # type: ignore[arg-type]
    study = replace(study, pool=_expanded(study.pool, cohorts)) if study.pool else study
    cases = [case for cohort in cohorts.values() for case in cohort.cases]
    coded = tuple(_with_attributes(cohort, categories(cases)) for cohort in cohorts.values())
    kept = take_sides(coded, study.source, study.target, study.where, study.pool)
    _check_phases(study, kept)
    return study, kept


def _read(study: Study, name: str, spec: CohortSpec, cache: Path) -> Cohort:
    """One cohort, its names behind its own."""
    where = f"cohorts.{name}.preprocessing" if name else "preprocessing"
    preprocessing = study.preprocessing
    if spec.preprocessing:
        preprocessing = validated(Preprocessing, {**plain(preprocessing), **spec.preprocessing}, where)
    task = study.made_task
    coding, words = _coding(task.coding, spec.classes, name)
    cohort = Cohort.read(
        study.find_manifest(spec.manifest), coding, preprocessing=preprocessing, cache=cache, slices=spec.slices
    )
    cases = tuple(_renamed(case, name, words) for case in cohort.cases)
    return replace(cohort, cases=cases, sites=tuple(f"{name}/{site}" for site in cohort.sites)) if name else cohort


def _with_attributes(cohort: Cohort, attributes: Mapping[str, tuple[str, ...]]) -> Cohort:
    """Attributes are numbered over all cohorts."""
    coding = replace(cohort.prepared.coding, attributes=attributes)
    return replace(cohort, prepared=replace(cohort.prepared, coding=coding))


def _coding(
    task: Coding, classes: Mapping[str, tuple[int | str, ...]] | None, name: str
) -> tuple[Coding, dict[str, str]]:
    """What this cohort's labels mean to the task: mask values of each class, and its words for a
    label."""
    if classes is None:
        return task, {}
    known = (*task.mask, *task.label)
    unknown = next((class_ for class_ in classes if class_ not in known), None)
    if unknown is not None:
        raise SpecError(f"cohorts.{name}.classes: {nearest(unknown, known, 'class')}")
    words = {str(word): label for label in task.label for word in classes.get(label, ())}
    if not task.mask:
        return task, words
    values = {
        class_: tuple(value for value in classes.get(class_, ()) if isinstance(value, int)) for class_ in task.mask
    }
    texts = [value for class_ in task.mask for value in classes.get(class_, ()) if not isinstance(value, int)]
    if texts:
        raise SpecError(
            f"cohorts.{name}.classes: found '{texts[0]}'; expected the mask's values, for example "
            f"{{{next(iter(values))}: [255]}}"
        )
    return replace(task, mask=values), words


def _renamed(case: Case, name: str, words: Mapping[str, str]) -> Case:
    labels = {key: words.get(str(value), value) if key == "label" else value for key, value in case.labels.items()}
    if not name:
        return case
    return replace(
        case, name=f"{name}/{case.name}", subject=f"{name}/{case.subject}", site=f"{name}/{case.site}", labels=labels
    )


def _expanded(sites: Sequence[str], cohorts: Mapping[str, Cohort]) -> tuple[str, ...]:
    """A cohort's name stands for all its sites."""
    return tuple(
        dict.fromkeys(
            site for listed in sites for site in (cohorts[listed].sites if listed and listed in cohorts else (listed,))
        )
    )


def _graded(cohort: Cohort, gradual: Gradual) -> Cohort:
    """The cases of the gradual sites, each at the stage that its subject was drawn for.

    Stage k of N holds each site's subjects by their share there: of two sites, N - k parts of the
    first and k - 1 of the last.
    """
    subjects = {site: sorted({case.subject for case in cohort.cases if case.site == site}) for site in gradual.sites}
    if not any(subjects.values()):
        return cohort
    stage_of: dict[str, str] = {}
    for number, (site, names) in enumerate(subjects.items()):
        order = sorted(names, key=Seeds(0, ("gradual", site)).number)
        middle = number * (gradual.stages - 1) / (len(subjects) - 1)
        weights = [
            max(0.0, 1 - abs(stage - middle) * (len(subjects) - 1) / (gradual.stages - 1))
            for stage in range(gradual.stages)
        ]
        edges = [round(len(order) * sum(weights[: stage + 1]) / sum(weights)) for stage in range(gradual.stages)]
        for stage, (start, stop) in enumerate(zip([0, *edges], edges, strict=False)):
            stage_of |= dict.fromkeys(order[start:stop], gradual.names[stage])
    if empty := [name for name in gradual.names if sum(assigned == name for assigned in stage_of.values()) < 2]:
        raise SplitError(f"stream.gradual: stage '{empty[0]}' has fewer than two subjects; ask for fewer stages")
    cases = tuple(
        replace(case, site=stage_of[case.subject]) if case.site in gradual.sites else case for case in cohort.cases
    )
    return replace(cohort, cases=cases, sites=(*cohort.sites, *gradual.names))


def _transformed(cohort: Cohort, spec: Transformed) -> Cohort:
    """The cases of these sites, each at the stage that its subject was drawn for and altered as
    that stage is."""
    subjects = sorted({case.subject for case in cohort.cases if case.site in spec.sites})
    if not subjects:
        return cohort
    order = sorted(subjects, key=Seeds(0, ("transformed",)).number)
    if len(order) < 2 * spec.stages:
        raise SplitError(
            f"stream.transformed: {len(order)} subjects cannot fill {spec.stages} stages with two each; ask for fewer "
            "stages"
        )
    stage_of = {subject: number * spec.stages // len(order) for number, subject in enumerate(order)}

    def altered(case: Case) -> Case:
        stage = stage_of[case.subject]
        alteration = drawn_alteration(
            case.name,
            stage / (spec.stages - 1),
            intensity=spec.intensity,
            scale=spec.scale,
            degrees=spec.degrees,
            mm=spec.mm,
        )
        return replace(case, site=spec.names[stage], alteration=alteration if stage else None)

    cases = tuple(altered(case) if case.site in spec.sites else case for case in cohort.cases)
    return replace(cohort, cases=cases, sites=(*cohort.sites, *spec.names))


def _check_phases(study: Study, cohorts: Iterable[Cohort]) -> None:
    owner = {case.site: number for number, cohort in enumerate(cohorts) for case in cohort.cases}
    for phase in study.phases:
        if len({owner[site] for site in phase}) > 1:
            raise SpecError(f"stream: the stage [{', '.join(phase)}] lies in two cohorts; make a stage of each")


def facts_of(cohort: Cohort) -> dict[str, Any]:
    """What a card says of how a cohort's images are prepared."""
    return {"preprocessing": plain(cohort.prepared.preprocessing), "slices": plain(cohort.slices)}
