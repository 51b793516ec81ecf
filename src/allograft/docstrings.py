"""What docstrings say of arguments, for the schema of study files and for errors."""

from __future__ import annotations

import re


def arguments(docstring: str) -> dict[str, str]:
    """Name -> what the section ``Args:`` says of it; names that share a line share it.

    >>> arguments("Do.\\n\\nArgs:\\n    a, b: two\\n        things.\\n    c: one.\\n\\nRaises:\\n    E: no.")
    {'a': 'two things.', 'b': 'two things.', 'c': 'one.'}
    """
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", docstring, flags=re.M)
    entries = re.split(r"^[ ]{4}(?=\S)", section.group(1), flags=re.M)[1:] if section else []
    meanings: dict[str, str] = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        meanings |= {name.strip().lstrip("*"): " ".join(text.split()) for name in names.split(",")}
    return meanings


def meaning_and_example(text: str) -> tuple[str, str]:
    """A meaning, and the line of YAML that shows it; "" where there is none.

    >>> meaning_and_example("how many. Example: ``seeds: 5``.")
    ('how many.', 'seeds: 5')
    """
    meaning, _, example = text.partition(" Example: ")
    return meaning, example.removesuffix(".").strip("`")
