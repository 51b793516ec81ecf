"""A study from its YAML file, from Python, or from the folder that it left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from allograft.errors import OutputError, SpecError
from allograft.strict import overridden, parse_yaml, validated
from allograft.study.spec import Study


def read_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read a study file.

    Args:
        overrides: ``key=value`` or ``key.inner=value``, values as YAML: ``budget.steps=20``.

    Raises:
        SpecError: with the line or key, what was found, and the nearest known name.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(
            f"{path}: no such study file; expected YAML with the keys cohort, task, source, target, recipes"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        kind = {list: "a list", type(None): "nothing"}.get(type(tree), f"{str(tree)[:40]!r}")
        raise SpecError(
            f"{path}: found {kind}; expected keys and values, as in allograft init; write the five keys cohort, task, "
            "source, target, recipes"
        )
    try:
        return replace(make_study(overridden(tree, overrides)), file=path)
    except SpecError as error:  # a line for each key that is wrong
        raise SpecError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def make_study(tree: Mapping[str, Any] | Study) -> Study:
    """A study from the same keys as the file, for Python."""
    if isinstance(tree, Study):
        return tree
    if "file" in tree:
        raise SpecError("study.file: unknown key 'file'")
    study: Study = validated(Study, tree, "study")
    _ = study.made_task
    return study


def kept_study(out: Path) -> Study:
    """The study of an output folder. ``OutputError`` for a folder that no study wrote."""
    kept = out / "study.json"
    try:
        return make_study(json.loads(kept.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise OutputError(f"{out}: holds no study.json; expected the output folder of 'allograft study'") from error
    except (ValueError, OSError) as error:
        raise OutputError(f"{kept}: cannot be read ({error}); run the study again into this folder") from error
