"""The line for a study from the labels of a ``dataset.json``: which mask values each class stands
for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from allograft.errors import ManifestError


def mask_notes(labels: object, source: Path) -> list[str]:
    """The line for a study, from ``{"1": "anterior"}`` or ``{"anterior": 1}``: name -> mask values
    without the background.

    Regions that overlap cannot be learnt by a softmax; the line then names the parts that do not,
    and a sentence says so.

    >>> mask_notes({"0": "background", "1": "anterior"}, Path("."))
    ['for the study: task: {segmentation: {classes: {"anterior": [1]}}}']
    """
    if not isinstance(labels, dict):
        return []
    values = _values(labels, source)
    ignored = values.pop("ignore", [])
    owners: dict[int, list[str]] = {}
    for name, numbers in values.items():
        for number in dict.fromkeys(numbers):
            owners.setdefault(number, []).append(name)
    notes = []
    if shared := next((number for number, names in owners.items() if len(names) > 1), None):
        first, second, *_ = owners[shared]
        found = f"mask value {shared} belongs to both '{first}' and '{second}'"
        notes.append(f"regions overlap: {found}, and a pixel has one class here; the line names the parts between them")
        parts: dict[str, list[int]] = {}
        for number, names in owners.items():
            # the part of a region that no other one has is not that region
            word = " and ".join(names) if len(names) > 1 or set(values[names[0]]) == {number} else f"{names[0]} only"
            parts.setdefault(word, []).append(number)
        values = parts
    if ignored:
        listed = ", ".join(map(str, ignored))
        notes.append(
            f"mask value {listed} means ignore, which has no class here: a study refuses masks that hold it; use a "
            "region"
        )
    line = f"for the study: task: {{segmentation: {{classes: {json.dumps(values, ensure_ascii=False)}}}}}"
    return [line, *notes] if values else notes


def count_notes(described: Mapping[str, object], found: int) -> list[str]:
    """A line where ``dataset.json`` counts other training cases than there are.

    >>> count_notes({"numTraining": 3}, 2)
    ['dataset.json says numTraining 3; found 2 training cases: some are missing, or the number is old']
    """
    said = described.get("numTraining")
    if not isinstance(said, int) or said == found:
        return []
    return [
        f"dataset.json says numTraining {said}; found {found} training cases: some are missing, or the number is old"
    ]


def check_channels(described: Mapping[str, object], found: int, source: Path) -> None:
    """Refuse a dataset that declares another number of channels than its images have.

    Raises:
        ManifestError: with the names of the channels.
    """
    for key in ("channel_names", "modality"):
        names = described.get(key)
        if isinstance(names, (dict, list)) and len(names) != found:
            shown = ", ".join(map(str, names.values() if isinstance(names, dict) else names))
            raise ManifestError(
                f"{source / 'dataset.json'}: '{key}' has {len(names)} channels ({shown}), the images have {found}; "
                "expected one for each; copy the missing files, or correct it"
            )


def _values(labels: Mapping[object, object], source: Path) -> dict[str, list[int]]:
    """Name -> mask values, without the background."""
    numbers_of: dict[str, list[int]] = {}
    for key, value in labels.items():
        name, number = (value, key) if isinstance(value, str) and str(key).isdigit() else (str(key), value)
        try:
            numbers = [_whole(entry) for entry in (number if isinstance(number, list) else [number])]
        except ValueError as error:
            raise ManifestError(
                f"{source}: label {name!r} is {number!r}; expected a whole number, or a list of them; correct "
                "dataset.json"
            ) from error
        if numbers and numbers != [0]:
            numbers_of.setdefault(name, []).extend(numbers)
    return numbers_of


def _whole(number: object) -> int:
    return int(number) if isinstance(number, float) and number.is_integer() else int(str(number))
