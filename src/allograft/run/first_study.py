"""A first study for a cohort: what can be asked of its sites and labels, with settings that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allograft.cohort import Preprocessing
from allograft.cohort.copies import compare
from allograft.cohort.manifest import Case, read_manifest
from allograft.cohort.survey import Look, survey
from allograft.errors import ManifestError, SpecError, nearest
from allograft.run.first_choices import FEW, Sides, network_of, recipes_of, sizes_of, steps_of, task_of

KINDS = ("mask", "label", "boxes", "paired")
MOST_TARGETS = 3


@dataclass(frozen=True)
class FirstStudy:
    """A study's keys in the order to write them.

    Args:
        keys: of the file.
        comments: key -> sentences above it.
        notes: what a reader should know beforehand.
    """

    keys: Mapping[str, Any]
    comments: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def first_study(manifest: Path, *, source: Sequence[str] = (), target: Sequence[str] = ()) -> FirstStudy:
    """Look at every file of a cohort and choose task, sides, sizes and recipes that fit it.

    Raises:
        ManifestError: no label, files that cannot be read, or sites of which nothing can be asked.
        SpecError: a site that is not there.
    """
    cases = read_manifest(manifest)
    kind = next((kind for kind in KINDS if any(kind in case.labels for case in cases)), None)
    if kind is None:
        raise ManifestError(
            f"{manifest}: no case has a label; found no {', '.join(KINDS)}; expected labels at one site at least, "
            "since a model is trained on them: add a column, or import the cohort again with its labels"
        )
    chosen = _sides(manifest, cases, kind, source, target)
    used = [case for case in cases if case.site in (*chosen.source, *chosen.target)]
    looks = survey(used, Preprocessing())
    broken = [look for look in looks if any(what in ("unreadable", "geometry") for what, _ in look.problems)]
    if broken:
        raise ManifestError(
            f"{manifest}: {broken[0].case.name}: {broken[0].problems[0][1]}; {len(broken)} of {len(looks)} cases "
            "cannot be used; correct them or remove their rows, allograft doctor lists them"
        )
    return _written(manifest, kind, chosen, looks)


def _sides(manifest: Path, cases: Sequence[Case], kind: str, source: Sequence[str], target: Sequence[str]) -> Sides:
    sites = sorted({case.site for case in cases})
    for name in (*source, *target):
        if name not in sites:
            raise SpecError(f"{manifest}: {nearest(name, sites, 'site')}")
    labelled = {s: len({c.subject for c in cases if c.site == s and kind in c.labels}) for s in sites}
    subjects = {s: len({c.subject for c in cases if c.site == s}) for s in sites}
    classes = {s: len({c.labels[kind] for c in cases if c.site == s and kind in c.labels}) for s in sites}
    learnt = {s: (min(classes[s], 9) if kind == "label" else 0, labelled[s]) for s in sites if labelled[s]}
    alone = [s for s in sites if subjects[s] < 2]
    notes = [f"{s} has one subject: a model can be trained on it, but not tested" for s in alone]
    for name in source:
        if not labelled[name]:
            raise SpecError(f"--source {name}: no case there has a '{kind}'; expected one of {', '.join(learnt)}")
    for name in target:
        if name in alone:
            raise SpecError(f"--target {name}: has one subject, so none is left to test; choose another site")
    testable = [s for s in sites if s not in alone and s not in source]
    chosen = tuple(source) or _start(learnt, testable, target)
    aims = tuple(target) or tuple(sorted((s for s in testable if s not in chosen), key=lambda s: -labelled[s]))
    if len(aims) > MOST_TARGETS and not target:
        notes.append(f"left out as targets: {', '.join(aims[MOST_TARGETS:])}; add them to target")
        aims = aims[:MOST_TARGETS]
    if not aims and labelled[chosen[0]] >= 3:
        notes.append(f"no other site can be tested: the study stays within {chosen[0]}, from some patients to others")
        aims = chosen[:1]
    if not aims:
        raise ManifestError(
            f"{manifest}: found {', '.join(f'{s} ({subjects[s]} subjects, {labelled[s]} labelled)' for s in sites)}; "
            "expected two sites, one with labels and one with two subjects, or three labelled subjects at one: add "
            "rows"
        )
    one_class = [s for s in aims if kind == "label" and classes[s] == 1]
    notes += [f"{s} has only one class: its auroc is undefined, accuracy and recall are measured" for s in one_class]
    return Sides(chosen if aims != chosen[:1] else aims, aims, labelled, tuple(notes))


def _start(learnt: Mapping[str, tuple[int, int]], testable: Sequence[str], target: Sequence[str]) -> tuple[str, ...]:
    """The site to train on: most classes, then most labelled subjects, and another is left to
    test."""
    able = [site for site in learnt if site not in target] or list(learnt)
    good = [site for site in able if target or any(other != site for other in testable)] or able
    return (min(good, key=lambda site: (-learnt[site][0], -learnt[site][1], site)),)


def _written(manifest: Path, kind: str, chosen: Sides, looks: Sequence[Look]) -> FirstStudy:
    comments = {"source": "; ".join(chosen.notes)}
    sizes = sizes_of(kind, looks, comments)
    recipes, comments["recipes"] = recipes_of(kind, chosen, looks, sizes)
    keys: dict[str, Any] = {"cohort": str(manifest), "task": task_of(manifest, kind, looks)}
    keys |= {"source": list(chosen.source), "target": list(chosen.target), "recipes": recipes}
    keys["network"] = network_of(kind, looks, recipes)
    keys |= _labels(chosen, recipes, comments) | sizes
    copies = compare({look.case.name: look.print for look in looks if look.print}, [look.case for look in looks])
    if copies.near or copies.copies:
        keys["near_duplicates"] = "group"
        comments["near_duplicates"] = "pictures of several patients are alike: they count as one patient"
    keys |= {"seeds": 3, "budget": steps_of(kind, looks), "augmentation": "light"}
    return FirstStudy(keys, {key: text for key, text in comments.items() if text}, chosen.notes)


def _labels(chosen: Sides, recipes: Sequence[Any], comments: dict[str, str]) -> dict[str, Any]:
    """``pool``, ``target_labels`` and ``test``."""
    if chosen.within:
        return {"pool": list(chosen.source)} if any("first" in str(recipe) for recipe in recipes) else {}
    keys: dict[str, Any] = {}
    if chosen.budget:
        keys["target_labels"] = {"subjects": chosen.budget}
        comments["target_labels"] = "labelled patients of each target that a recipe may use; the others are tested"
    if not chosen.fewest:
        comments["target"] = "without labels nothing is scored here: annotate some patients later and run it again"
    return keys | ({"test": {"fraction": 0.5}} if chosen.fewest < FEW else {})
