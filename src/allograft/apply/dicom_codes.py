"""What the classes of a model are in a coding scheme, as DICOM objects name them: SNOMED CT,
another public scheme, or one of the hospital's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allograft.errors import SpecError, nearest
from allograft.strict import parse_yaml, validated

OWN = "99ALLOGRAFT"
"""The scheme of classes that have no code; DICOM keeps designators that begin with 99 for local
schemes."""
LONGEST = 64
"""Characters of a meaning, and of a segment's label."""


@dataclass(frozen=True)
class Concept:
    """A code.

    Args:
        scheme: DICOM's designator of the coding scheme: ``SCT`` is SNOMED CT.
        value: the code; a whole number needs no quotes.
        meaning: the words that a reader sees, at most 64 characters.
    """

    scheme: str
    value: str | int
    meaning: str


@dataclass(frozen=True)
class CodedClass(Concept):
    """The code of a class, in the file of codes.

    Args:
        category: what kind of thing it is, an anatomical structure for example.
    """

    category: Concept | None = None


@dataclass(frozen=True)
class NamedClass:
    """A class of a model with its code.

    Args:
        name: as the model calls it.
        code: what it is.
        category: what kind of thing it is; None where nobody said.
    """

    name: str
    code: Concept
    category: Concept | None = None


def plain_classes(names: Sequence[str]) -> tuple[NamedClass, ...]:
    """Classes without a file of codes: each has a code of Allograft's own, and its name as its
    meaning.

    >>> plain_classes(["liver"])[0].code
    Concept(scheme='99ALLOGRAFT', value='CLASS1', meaning='liver')
    """
    return tuple(
        NamedClass(name, Concept(OWN, f"CLASS{number}", name[:LONGEST])) for number, name in enumerate(names, 1)
    )


def read_codes(path: Path, names: Sequence[str]) -> tuple[NamedClass, ...]:
    """The classes of a model with the codes that a YAML or JSON file gives them.

    The file has one entry per class: ``{scheme: SCT, value: 10200004, meaning: Liver}``, and on
    request its ``category``, a code of the same form.

    Args:
        names: the classes of the model, in their order.

    Raises:
        SpecError: a file that cannot be read; a class without a code, or one that the model does
            not have; an unknown scheme.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SpecError(f"{path}: cannot be read ({reason}); expected a YAML or JSON file of codes") from error
    if not isinstance(tree, Mapping):
        raise SpecError(f"{path}: expected one entry per class, for example {_example(names[0])}")
    for name in tree:
        if name not in names:
            raise SpecError(f"{path}: {nearest(name, names, 'class')}")
    missing = [name for name in names if name not in tree]
    if missing:
        raise SpecError(f"{path}: class '{missing[0]}' has no code; add one, for example {_example(missing[0])}")
    return tuple(_named(path, name, tree[name]) for name in names)


def _named(path: Path, name: str, tree: Any) -> NamedClass:
    where = f"{path}: {name}"
    if not isinstance(tree, Mapping):
        raise SpecError(f"{where}: found {str(tree)[:60]!r}; expected a code, for example {_example(name)}")
    for key, part in {"": tree, "category: ": tree.get("category")}.items():
        if isinstance(part, Mapping) and isinstance(part.get("value"), (float, bool)):
            raise SpecError(
                f"{where}: {key}value: found {part['value']}, a number or yes and no to YAML; put it in quotes"
            )
    coded = validated(CodedClass, tree, where)
    category = None if coded.category is None else _checked(coded.category, f"{where}: category")
    return NamedClass(name, _checked(coded, where), category)


def _checked(concept: Concept, where: str) -> Concept:
    """The same with its value as text.

    Raises:
        SpecError: a scheme that DICOM does not know; an empty value or meaning, or a long one.
    """
    known = [scheme for scheme in _schemes() if scheme != "SCT"]
    if concept.scheme not in ("SCT", *known) and not concept.scheme.startswith("99"):
        raise SpecError(
            f"{where}: unknown coding scheme '{concept.scheme}'; expected SCT (SNOMED CT), a scheme of your own whose "
            f"name begins with 99, such as 99NORTH, or one of {', '.join(known)}"
        )
    text = str(concept.value)
    for key, given, longest in (
        ("scheme", concept.scheme, 16),
        ("value", text, LONGEST),
        ("meaning", concept.meaning, LONGEST),
    ):
        if not given.strip() or len(given) > longest or "\\" in given or not given.isprintable():
            raise SpecError(
                f"{where}.{key}: found {given[:80]!r}; expected 1 to {longest} characters without backslash"
            )
    return Concept(concept.scheme, text, concept.meaning)


def _schemes() -> list[str]:
    from pydicom.sr.codedict import codes

    return [str(scheme) for scheme in codes.schemes()]


def _example(name: str) -> str:
    return f"{name}: {{scheme: SCT, value: 91723000, meaning: Anatomical Structure}}"


def coded(concept: Concept) -> Any:
    """The code as highdicom takes it."""
    import highdicom

    return highdicom.sr.CodedConcept(str(concept.value), concept.scheme, concept.meaning)
