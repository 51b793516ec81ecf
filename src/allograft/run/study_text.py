"""A first study as a commented YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allograft.run.first_study import FirstStudy

ALWAYS = {
    "cohort": "looked for next to this file, in the current folder, and below the folder that ALLOGRAFT_DATA names",
    "recipes": "no adaptation, with and without strong augmentation, is always in the table; allograft methods lists "
    "all",
    "seeds": "trainings of each recipe: 1 for a first look, 3 to 5 for a result",
    "budget": "steps of the source training, and of each adaptation",
}
"""Key -> what is said of it in every file."""


def study_text(first: FirstStudy, name: str) -> str:
    """The file of this name: each key below what is to be known of it.

    >>> made = FirstStudy({"source": ["a"], "seeds": 3}, {"source": "the only one with labels"})
    >>> print(study_text(made, "a.yaml"))
    # A first study, written by allograft init.
    # Dry run:  allograft study a.yaml --out runs/first --plan
    <BLANKLINE>
    # the only one with labels
    source: [a]
    # trainings of each recipe: 1 for a first look, 3 to 5 for a result
    seeds: 3
    <BLANKLINE>
    """
    lines = [
        "# A first study, written by allograft init.",
        f"# Dry run:  allograft study {name} --out runs/first --plan",
        "",
    ]
    for key, value in first.keys.items():
        lines += [f"# {text}" for text in (ALWAYS.get(key, ""), first.comments.get(key, "")) if text]
        lines.append(f"{key}: {_flow(value)}" if key != "recipes" or not value else f"{key}:")
        lines += [f"  - {_flow(recipe)}" for recipe in value] if key == "recipes" else []
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value on one line, as a study file has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(str(key))}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else _word(str(value))


def _word(text: str) -> str:
    """Quoted where YAML would read something else.

    >>> _word("chase"), _word("a: b"), _word("no"), _word("3")
    ('chase', "'a: b'", "'no'", '3')
    """
    import yaml

    plain = yaml.safe_dump(text, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return text if text.replace(".", "", 1).isdigit() else plain
