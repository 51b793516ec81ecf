"""What a first study chooses by its images and labels: task, recipes, network, sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from allograft.cohort.survey import Look
from allograft.errors import ManifestError
from allograft.run.defaults import LONGEST_CROP

HEALTHY = ("normal", "no-finding", "no finding", "healthy", "negative", "none", "control", "benign")
"""Class names that stand first, so that the others are the findings."""
MOST_CLASSES = 16
"""Mask values beyond which a mask numbers objects, not classes."""
MULTIPLE = {"mask": 16, "label": 32, "boxes": 32, "paired": 16}
"""What the sides of an image must be multiples of, for the network of each kind."""
LARGEST = {"mask": 768, "label": 128, "boxes": 384, "paired": 256}
SHRUNK = {"mask": 384, "label": 128, "boxes": 320, "paired": 256}
"""Longest side beyond which 2-D images are resized, and to what."""
SMALL, UNLIKE = 64, 1.25
"""Longest side of a small image, and the ratio of longest sides from which images count as of
several sizes."""
FREE: Mapping[str, list[Any]] = {
    "mask": ["fourier", "histogram", "adabn"],
    "label": ["histogram", "adabn"],
    "boxes": ["fourier", "histogram"],
    "paired": ["histogram"],
}
FEW_SHOT: list[Any] = [{"finetune": {"scope": "top"}}, {"finetune": {"scope": "full"}}]
WITHIN: Mapping[str, tuple[list[Any], str]] = {
    "mask": ([{"supervised": {"first": "reconstruction"}}], "does pre-training help?"),
    "label": (["ldam", "ohem"], "do losses for rare classes help?"),
    "boxes": ([], ""),
    "paired": (["mris"], "does retrieval beat a network that draws?"),
}
"""Recipes that need no target labels, that need some, and that need no second site."""
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

    @property
    def budget(self) -> int:
        """Labelled subjects of a target that a recipe may use, at most 4; the rest is tested."""
        tested = max(1, round((0.5 if self.fewest < FEW else 0.3) * self.fewest))
        return max(0, min(4, self.fewest - tested))


def task_of(manifest: Path, kind: str, looks: Sequence[Look]) -> dict[str, Any]:
    """What the labels allow.

    Raises:
        ManifestError: labels of one class, masks without foreground or with a number per object.
    """
    if kind == "mask":
        return {"segmentation": {"classes": _mask_classes(manifest, looks)}}
    if kind == "boxes":
        return {"detection": {"classes": sorted({name for look in looks for name in look.boxes})}}
    if kind == "paired":
        return {"synthesis": {}}
    texts = {str(look.case.labels[kind]) for look in looks if kind in look.case.labels}
    names = sorted({part.strip() for text in texts for part in text.split("|")})
    names.sort(key=lambda name: (*HEALTHY, name.lower()).index(name.lower()))
    if any("|" in text for text in texts):
        return {"multilabel": {"classes": names}}
    if len(names) < 2:
        raise ManifestError(
            f"{manifest}: every label is '{names[0]}'; expected two classes at least: add cases of another"
        )
    return {"classification": {"classes": names}}


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


def recipes_of(kind: str, chosen: Sides, looks: Sequence[Look], sizes: Mapping[str, Any]) -> tuple[list[Any], str]:
    """Recipes that have what they need, and what they ask."""
    if chosen.within:
        asked = "one site: does strong augmentation help (always in the table)?"
        recipes = [_smaller(looks) if recipe == "mris" else recipe for recipe in WITHIN[kind][0]]
        return recipes, f"{asked} {WITHIN[kind][1]}".strip()
    free = [_reaching(looks, sizes) if recipe == "fourier" else recipe for recipe in FREE[kind]]
    if not chosen.budget:
        return free, "these need no target labels, of which there are too few"
    return [*free, *FEW_SHOT], "the first need no target labels; finetune uses those of target_labels"


def _smaller(looks: Sequence[Look]) -> Any:
    """``mris``, with no more neighbours than a small database has; a quarter of the images are sure
    to be trained on."""
    return "mris" if len(looks) >= 80 else {"mris": {"k": max(1, len(looks) // 4)}}


def _reaching(looks: Sequence[Look], sizes: Mapping[str, Any]) -> Any:
    """``fourier``, with a beta that reaches beyond the mean on images too small for its own, 0.01
    of the short side."""
    shortest = min(sizes["preprocessing"].get("size") or [min(look.size) for look in looks])
    return "fourier" if shortest > 100 else {"fourier": {"beta": math.ceil(150 / shortest) / 100}}


def network_of(kind: str, looks: Sequence[Look], recipes: Sequence[Any]) -> dict[str, Any]:
    """The network of a kind, with batch normalisation where a recipe is about that."""
    dims = len(looks[0].size)
    if kind == "boxes":
        return {"faster_rcnn": {"backbone": "tiny"}}
    if kind == "label":
        small = {"small_stem": True} if max(max(look.size) for look in looks) <= SMALL else {}
        return {"resnet": {"depth": 18, **small, **({"spatial_dims": 3} if dims == 3 else {})}}
    channels = [16, 32, 64] if dims == 3 else [16, 32, 64, 128]
    return {"unet": {"spatial_dims": dims, "channels": channels, **({"norm": "batch"} if "adabn" in recipes else {})}}


def sizes_of(kind: str, looks: Sequence[Look], comments: dict[str, str]) -> dict[str, Any]:
    """``preprocessing`` and ``patch``."""
    prepared: dict[str, Any] = {"intensity": "zscore"}
    channels = {look.channels for look in looks}
    if len(channels) == 2 and min(channels) == 1:
        prepared["channels"] = max(channels)
    middle = tuple(median_low(lengths) for lengths in zip(*(look.size for look in looks), strict=True))
    return (_planes if len(middle) == 2 else _volumes)(kind, looks, middle, prepared, comments)


def _planes(
    kind: str, looks: Sequence[Look], middle: tuple[int, ...], prepared: dict[str, Any], comments: dict[str, str]
) -> dict[str, Any]:
    """One size where sites differ or images are large; crops where complete ones would be slow."""
    multiple, longest = MULTIPLE[kind], [max(look.size) for look in looks]
    divides = len({look.size for look in looks}) == 1 and all(length % multiple == 0 for length in middle)
    if max(middle) > LARGEST[kind] or max(longest) > UNLIKE * min(longest) or (kind != "mask" and not divides):
        scale = min(1.0, SHRUNK[kind] / max(middle))
        middle = tuple(max(multiple, round(scale * length / multiple) * multiple) for length in middle)
        prepared["size"], divides = list(middle), True
        words = f"every image is resized to size, multiples of {multiple}; larger sees more and takes longer"
        comments["preprocessing"] = words
    crop = [max(multiple, min(LONGEST_CROP[2], length) // multiple * multiple) for length in middle]
    if kind == "mask" and max(middle) > LONGEST_CROP[2]:
        words = "pixels of a training crop: complete images would be slow; models are evaluated on complete images"
        comments["patch"] = words
        return {"preprocessing": prepared, "patch": crop}
    return {"preprocessing": prepared} if divides else {"preprocessing": prepared, "patch": crop}


def _volumes(
    kind: str, looks: Sequence[Look], middle: tuple[int, ...], prepared: dict[str, Any], comments: dict[str, str]
) -> dict[str, Any]:
    """One spacing where images differ; crops, or for a class the middle of the image."""
    crop = [max(8, min(LONGEST_CROP[3], length) // 8 * 8) for length in middle]
    prepared = prepared | _spacing(looks, comments)
    if kind == "label":
        return {"preprocessing": {**prepared, "size": crop}}
    comments["patch"] = "voxels of a training crop; models are evaluated on complete images"
    return {"preprocessing": prepared, "patch": crop}


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


def steps_of(kind: str, looks: Sequence[Look]) -> dict[str, int]:
    """``budget``: enough for a first look."""
    batch = 2 if len(looks[0].size) == 3 else {"mask": 8, "label": 16, "boxes": 4, "paired": 8}[kind]
    return {"steps": 400, "adapt_steps": 100, "batch_size": batch}
