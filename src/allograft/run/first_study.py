"""A first study for a cohort: what can be asked of its sites and labels, with settings that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from allograft.cohort import Preprocessing
from allograft.cohort.gate import compare
from allograft.cohort.manifest import Case, read_manifest
from allograft.cohort.survey import Look, survey
from allograft.errors import ManifestError, SpecError, nearest
from allograft.run.defaults import LONGEST_CROP

HEALTHY = ("normal", "no-finding", "no finding", "healthy", "negative", "none", "control", "benign")
"""Class names that stand first, so that the others are the findings."""
KINDS = ("mask", "label", "boxes", "paired")
TASKS = {"mask": "segmentation", "label": "classification", "boxes": "detection", "paired": "synthesis"}
MOST_CLASSES = 16
"""Mask values beyond which a mask numbers objects, not classes."""
MOST_TARGETS = 3
MULTIPLE = {"mask": 16, "label": 32, "boxes": 32, "paired": 16}
"""What the sides of an image must be multiples of, for the network of each kind."""
LARGEST = {"mask": 768, "label": 128, "boxes": 384, "paired": 256}
SHRUNK = {"mask": 384, "label": 128, "boxes": 320, "paired": 256}
"""Longest side beyond which 2-D images are resized, and to what."""
FEW = 20
"""Subjects at a target below which half of them are tested."""


@dataclass(frozen=True)
class Sides:
    """What is asked: from where to where.

    Args:
        source, target: sites; the same one where there is no other.
        labelled: site -> subjects that have a label.
        notes: why these.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    labelled: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def within(self) -> bool:
        """Whether one site is both."""
        return self.source == self.target

    @property
    def fewest(self) -> int:
        """Labelled subjects at the target that has fewest."""
        return min(self.labelled[site] for site in self.target)


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
            "since a model is trained on them: add a column, allograft import does"
        )
    sides = _sides(manifest, cases, kind, source, target)
    used = [case for case in cases if case.site in (*sides.source, *sides.target)]
    looks = survey(used, Preprocessing())
    broken = [look for look in looks if any(what in ("unreadable", "geometry") for what, _ in look.problems)]
    if broken:
        raise ManifestError(
            f"{manifest}, row {broken[0].row}: {broken[0].problems[0][1]}; {len(broken)} of {len(looks)} cases cannot "
            "be used; correct them or remove their rows, allograft doctor lists them"
        )
    return _written(manifest, kind, sides, looks)


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
    notes = [f"{s} has one subject: it can be trained on and not tested" for s in alone]
    for name in source:
        if not labelled[name]:
            raise SpecError(f"--source {name}: no case there has a '{kind}'; expected one of {', '.join(learnt)}")
    for name in target:
        if name in alone:
            raise SpecError(f"--target {name}: has one subject, so that none is left to test; choose another site")
    testable = [s for s in sites if s not in alone and s not in source]
    chosen = tuple(source) or _start(learnt, testable, target)
    aims = tuple(target) or tuple(sorted((s for s in testable if s not in chosen), key=lambda s: -labelled[s]))
    if len(aims) > MOST_TARGETS and not target:
        notes.append(f"left out as targets: {', '.join(aims[MOST_TARGETS:])}; add them to target")
        aims = aims[:MOST_TARGETS]
    if not aims and labelled[chosen[0]] >= 3:
        notes.append(f"no other site can be tested: this asks within {chosen[0]}, from some patients to others")
        aims = chosen[:1]
    if not aims:
        raise ManifestError(
            f"{manifest}: found {', '.join(f'{s} ({subjects[s]} subjects, {labelled[s]} labelled)' for s in sites)}; "
            "expected two sites, one with labels and one with two subjects, or three labelled subjects at one: add "
            "rows"
        )
    return Sides(chosen if aims != chosen[:1] else aims, aims, labelled, tuple(notes))


def _start(learnt: Mapping[str, tuple[int, int]], testable: Sequence[str], target: Sequence[str]) -> tuple[str, ...]:
    """The site to train on: most classes, then most labelled subjects, and another is left to
    test."""
    able = [site for site in learnt if site not in target] or list(learnt)
    good = [site for site in able if target or any(other != site for other in testable)] or able
    return (max(good, key=lambda site: (*learnt[site], site)),)


def _written(manifest: Path, kind: str, sides: Sides, looks: Sequence[Look]) -> FirstStudy:
    task, notes = _task(manifest, kind, looks)
    dims = len(looks[0].size)
    keys: dict[str, Any] = {"cohort": str(manifest), "task": task, "source": list(sides.source)}
    keys["target"] = list(sides.target)
    comments = {"source": "; ".join(sides.notes)}
    recipes, why = _recipes(kind, dims, sides)
    keys |= {"recipes": recipes, "network": _network(kind, dims, looks, recipes)}
    comments["recipes"] = why
    if sides.within:
        keys |= {"pool": list(sides.source)} if any("first" in str(recipe) for recipe in recipes) else {}
    elif sides.fewest and (budget := _budget(sides.fewest)):
        keys["target_labels"] = {"subjects": budget}
        comments["target_labels"] = "labelled patients of each target that a recipe may use; the rest of them tests"
    if not sides.fewest:
        comments["target"] = "without labels nothing is scored here: annotate some patients later and run it again"
    if not sides.within and sides.fewest < FEW:
        keys["test"] = {"fraction": 0.5}
    keys |= _sizes(kind, looks, comments)
    prints = {look.case.name: look.print for look in looks if look.print is not None}
    found = compare(prints, [look.case for look in looks])
    if found.near or found.copies:
        keys["near_duplicates"] = "group"
        comments["near_duplicates"] = "pictures of several patients are alike: they count as one patient"
    keys |= {"seeds": 3, "budget": _steps(kind, dims), "augmentation": "light"}
    return FirstStudy(keys, {key: text for key, text in comments.items() if text}, (*sides.notes, *notes))


def _task(manifest: Path, kind: str, looks: Sequence[Look]) -> tuple[dict[str, Any], tuple[str, ...]]:
    if kind == "mask":
        return {"segmentation": {"classes": _mask_classes(manifest, looks)}}, ()
    if kind == "boxes":
        return {"detection": {"classes": sorted({name for look in looks for name in look.boxes})}}, ()
    if kind == "paired":
        return {"synthesis": {}}, ()
    texts = {str(look.case.labels[kind]) for look in looks if kind in look.case.labels}
    names = sorted({part.strip() for text in texts for part in text.split("|")})
    names.sort(key=lambda name: name.lower() not in HEALTHY)
    if any("|" in text for text in texts):
        return {"multilabel": {"classes": names}}, ()
    if len(names) < 2:
        raise ManifestError(
            f"{manifest}: every label is '{names[0]}'; expected two classes at least: add cases of another"
        )
    return {"classification": {"classes": names}}, ()


def _mask_classes(manifest: Path, looks: Sequence[Look]) -> list[str] | dict[str, list[int]]:
    codes = sorted({code for look in looks for code in look.codes if code})
    if not codes:
        raise ManifestError(f"{manifest}: every mask is empty; expected foreground in some; correct the masks")
    if set(codes) <= {1, 255} and not any({1, 255} <= set(look.codes) for look in looks):
        return ["foreground"]
    if len(codes) > MOST_CLASSES:
        raise ManifestError(
            f"{manifest}: masks hold {len(codes)} values, up to {codes[-1]}; expected at most {MOST_CLASSES} classes: "
            "where each object has a number of its own, store 1 for all of them"
        )
    return {f"class-{code}": [code] for code in codes}


def _recipes(kind: str, dims: int, sides: Sides) -> tuple[list[Any], str]:
    """Recipes that have what they need, and what they ask."""
    if sides.within:
        within: dict[str, list[Any]] = {
            "mask": [{"supervised": {"first": "reconstruction"}}],
            "label": ["ldam", "ohem"],
            "boxes": [],
            "paired": [] if dims == 3 else ["mris"],
        }
        asked = {"mask": "does pre-training help?", "label": "do losses for rare classes help?"}
        told = "one site: does strong augmentation help (always in the table)? " + asked.get(kind, "")
        return within[kind], told.strip()
    free: dict[str, list[Any]] = {
        "mask": ["fourier", "histogram", "adabn"],
        "label": ["histogram", "adabn"],
        "boxes": ["fourier", "histogram"],
        "paired": ["histogram"],
    }
    few: list[Any] = [{"finetune": {"scope": "top"}}, {"finetune": {"scope": "full"}}]
    if not (sides.fewest and _budget(sides.fewest)):
        return free[kind], "these need no target labels, of which there are too few"
    return [*free[kind], *few], "the first need no target labels; finetune uses those of target_labels"


def _budget(labelled: int) -> int:
    """Labelled subjects that a recipe may use, where so many are there and some are tested."""
    tested = max(1, round((0.5 if labelled < FEW else 0.3) * labelled))
    return max(0, min(4, labelled - tested))


def _network(kind: str, dims: int, looks: Sequence[Look], recipes: Sequence[Any]) -> dict[str, Any]:
    if kind == "boxes":
        return {"faster_rcnn": {"backbone": "tiny"}}
    if kind == "label":
        small = max(max(look.size) for look in looks) <= 64
        return {
            "resnet": {
                "depth": 18,
                **({"small_stem": True} if small else {}),
                **({"spatial_dims": 3} if dims == 3 else {}),
            }
        }
    channels = [16, 32, 64] if dims == 3 else [16, 32, 64, 128]
    norm = {"norm": "batch"} if "adabn" in recipes else {}
    return {"unet": {"spatial_dims": dims, "channels": channels, **norm}}


def _sizes(kind: str, looks: Sequence[Look], comments: dict[str, str]) -> dict[str, Any]:
    """``preprocessing`` and ``patch``."""
    dims, multiple = len(looks[0].size), MULTIPLE[kind] if len(looks[0].size) == 2 else 8
    middle = tuple(median_low(lengths) for lengths in zip(*(look.size for look in looks), strict=True))
    prepared: dict[str, Any] = {"intensity": "zscore"}
    if len({look.channels for look in looks}) == 2 and min(look.channels for look in looks) == 1:
        prepared["channels"] = max(look.channels for look in looks)
    if dims == 3:
        prepared |= _spacing(looks, comments)
        crop = [max(multiple, min(LONGEST_CROP[3], length) // multiple * multiple) for length in middle]
        comments["patch"] = "voxels of a training crop; models are evaluated on whole images"
        return (
            {"preprocessing": prepared, "patch": crop}
            if kind != "label"
            else {"preprocessing": {**prepared, "size": crop}}
        )
    longest, is_one_size = max(middle), len({look.size for look in looks}) == 1
    unlike = max(max(look.size) for look in looks) > 1.25 * min(max(look.size) for look in looks)
    if longest > LARGEST[kind] or unlike or (kind != "mask" and not (is_one_size and _divides(middle, multiple))):
        scale = min(1.0, SHRUNK[kind] / longest)
        middle = tuple(max(multiple, round(scale * length / multiple) * multiple) for length in middle)
        prepared["size"] = list(middle)
        comments["preprocessing"] = (
            f"every image is resized to size, multiples of {multiple}; larger sees more and takes longer"
        )
    keys: dict[str, Any] = {"preprocessing": prepared}
    if kind in ("mask", "paired") and max(middle) > LONGEST_CROP[2]:
        keys["patch"] = [min(LONGEST_CROP[2], length // multiple * multiple) for length in middle]
        comments["patch"] = (
            "pixels of a training crop: whole images would be slow; models are evaluated on whole images"
        )
    elif kind == "mask" and "size" not in prepared and not (is_one_size and _divides(middle, multiple)):
        keys["patch"] = [max(multiple, length // multiple * multiple) for length in middle]
    return keys


def _divides(size: Sequence[int], multiple: int) -> bool:
    return all(length % multiple == 0 for length in size)


def _spacing(looks: Sequence[Look], comments: dict[str, str]) -> dict[str, Any]:
    """The median spacing, where images differ by more than a twentieth."""
    known = [look.spacing for look in looks if look.spacing is not None]
    if len(known) < len(looks):
        return {"orientation": None}
    columns = list(zip(*known, strict=True))
    if all(max(column) <= 1.05 * min(column) for column in columns):
        return {"orientation": "RAS"}
    comments["preprocessing"] = "spacing is the median: images of several voxel sizes are brought to one"
    return {"orientation": "RAS", "spacing": [round(median_low(column), 2) for column in columns]}


def _steps(kind: str, dims: int) -> dict[str, int]:
    batch = 2 if dims == 3 else {"mask": 8, "label": 16, "boxes": 4, "paired": 8}[kind]
    return {"steps": 400, "adapt_steps": 100, "batch_size": batch}
