"""The parts of a study: one of each source-target pair, of each named setting, of each number of
target labels.

Each part is a study of its own in ``OUT/parts/NAME``, with its own table, report and records; they
share ``OUT/units``, so what two parts have in common is trained once, and ``OUT/cache``. A site's
test subjects are the same in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from allograft import tree
from allograft.errors import SpecError
from allograft.study.keys import TargetLabels
from allograft.study.reading import make_study
from allograft.study.spec import Study

PARTS, PAIRS = "parts", "pairs"
"""Folder of the studies that a study of several parts consists of; and as earlier versions called
it."""


def parts_of(study: Study) -> dict[str, Study]:
    """The studies that a study consists of, by name; of one that is not parted, itself under "".

    >>> task = {"segmentation": {"classes": ["vessel"]}}
    >>> study = make_study({"cohort": "m.csv", "task": task, "source": ["a", "b", "c"],
    ...     "recipes": ["fourier"], "pairs": "all"})
    >>> {name: (part.source, part.target) for name, part in parts_of(study).items()}["from a"]
    (('a',), ('b', 'c'))
    >>> [(part.source, part.target) for part in parts_of(replace(study, pairs="leave-one-site-out")).values()][0]
    (('b', 'c'), ('a',))
    """
    return {
        ", ".join(filter(None, (pair, setting, labels))): made
        for setting, study_of_part in _settings(study).items()
        for pair, sided in _pairs(study_of_part).items()
        for labels, made in _budgets(sided).items()
    }


def _settings(study: Study) -> dict[str, Study]:
    """The study with each of its named overrides."""
    if not study.each:
        return {"": study}
    made = {}
    for name, override in study.each.items():
        if wrong := next((key for key in ("each", "cohort", "cohorts") if key in override), None):
            raise SpecError(f"each.{name}: overrides '{wrong}', which all parts share; write a study of its own")
        merged = _merged(
            {key: value for key, value in tree.plain(study).items() if key not in ("file", "each")}, override
        )
        try:
            made[name] = replace(make_study(merged), file=study.file)
        except SpecError as error:
            raise SpecError(f"each.{name}: {error}") from None
    return made


def _merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings of plain keys are merged; one ``{name: arguments}`` replaces another."""
    named = ("network", "optimizer", "schedule", "task", "loss", "target_labels", "stream")
    merged = dict(base)
    for key, value in override.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping) and key not in named
        merged[key] = {**base[key], **value} if nested else value
    return merged


def _pairs(study: Study) -> dict[str, Study]:
    directions: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    if study.pairs == "listed":
        return {"": study}
    if study.pairs == "all":
        directions = {
            f"from {source}": ((source,), tuple(site for site in study.target if site != source))
            for source in study.source
        }
    else:
        directions = {
            f"to {target}": (tuple(site for site in study.source if site != target), (target,))
            for target in study.target
        }
    return {
        name: replace(study, pairs="listed", source=here, target=there)
        for name, (here, there) in directions.items()
        if here and there
    }


def _budgets(study: Study) -> dict[str, Study]:
    labels = study.target_labels
    if not isinstance(labels, TargetLabels) or len(labels.amounts) == 1:
        return {"": study}
    budgets = [TargetLabels(**{labels.unit: amount}) for amount in labels.amounts]  # type: ignore[arg-type]
    return {budget_name(budget): replace(study, target_labels=budget) for budget in budgets}


def budget_name(budget: TargetLabels) -> str:
    """The name of the part with one budget.

    >>> budget_name(TargetLabels(subjects=4))
    'subjects-4'
    """
    return f"{budget.unit}-{budget.amounts[0]:g}"


def part_folder(out: Path, name: str) -> Path:
    """``OUT/parts/from-a``, safe as a folder name; two parts never share one. A folder of an
    earlier version keeps its place."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    safe = safe if safe == name.replace(", ", "-").replace(" ", "-", 1) else f"{safe}.{tree.content_hash(name)[:6]}"
    return out / (PAIRS if (out / PAIRS).is_dir() else PARTS) / safe


def shared_folder(out: Path) -> Path:
    """The folder that all parts of a study share: of a study in one part, its own."""
    return out.parent.parent if out.parent.name in (PAIRS, PARTS) else out
