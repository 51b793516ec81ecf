"""Prose is at most 100 columns wide: docstrings and comments; ruff holds all lines to 120."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import allograft

PROSE = 100
PACKAGE = Path(allograft.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def prose(source: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of docstrings, examples, their output and literal blocks left out, and of comments."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield from _sentences(lines, statement.lineno, statement.end_lineno or statement.lineno)
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip().startswith("# "))


def _sentences(lines: list[str], first: int, last: int) -> Iterator[tuple[int, str]]:
    example, literal = False, -1
    for number in range(first, last + 1):
        line = lines[number - 1]
        indent = len(line) - len(line.lstrip())
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        literal = -1 if line.strip() and indent <= literal else literal
        if not example and literal < 0:
            yield number, line
        if line.rstrip().endswith("::"):
            literal = indent


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_prose_is_narrow(path: Path) -> None:
    wide = [
        f"{path}:{number}" for number, line in prose((PACKAGE / path).read_text(encoding="utf-8")) if len(line) > PROSE
    ]
    assert wide == []


def test_a_wide_sentence_is_seen_and_a_wide_example_is_not() -> None:
    wide = "word " * 25
    lines = (f'"""{wide}"""', "def f():", '    """Do.', "", f"    >>> {wide}", f"    {wide}", "", "    As here::", "")
    source = "\n".join((*lines, f"        {wide}", '    """'))
    assert [number for number, line in prose(source) if len(line) > PROSE] == [1]
