"""What messages, help and documentation advise can be done: commands parse, options exist, YAML
lines are keys of a study."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from allograft.cli import app
from allograft.strict import parse_yaml
from allograft.study.reading import make_study
from allograft.study.spec import Study

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "allograft"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"generated", "_build"} & set(page.parts)),
]
COMMAND: Any = typer.main.get_command(app)
STUDY: dict[str, Any] = {
    "cohort": "manifest.csv",
    "task": {"segmentation": {"classes": ["vessel"]}},
    "source": ["a"],
    "target": ["b"],
    "recipes": ["supervised"],
}


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, by the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


EVERY = dict(commands(COMMAND))
OPTIONS = {
    path: {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for path, command in EVERY.items()
}


def parse(line: str) -> None:
    """A command line as a user would paste it, up to the point where the command begins its
    work."""
    program, *words = shlex.split(line.partition(" > ")[0], comments=True)
    assert program == "allograft"
    command: Any = COMMAND
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    command.make_context("allograft", words).close()


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """The strings of a module that are not documentation, f-strings with 'x' for what they fill
    in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    skipped = {
        id(one.body[0].value)
        for one in ast.walk(tree)
        if isinstance(one, documented) and isinstance(one.body[0], ast.Expr)
    }
    inner = {id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) for part in one.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped | inner:
            yield node.lineno, node.value


def blocks(page: Path, *languages: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [text for language, text in fenced if language in languages]


def lines_of_pages() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        found = [
            line for text in blocks(page, "", "bash", "console") for line in text.replace("\\\n", " ").splitlines()
        ]
        found += re.findall(
            r"`(allograft [^`]+)`", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        )
        for line in found:
            text = line.strip().removeprefix("$ ")
            if text.startswith("allograft ") and "..." not in text:
                yield page.name, text.replace("\n", " ")


def is_call(text: str) -> bool:
    """More than the name of a command, which is how prose speaks of it."""
    return tuple(text.split()[1:]) not in EVERY and "|" not in text


EXAMPLES = [
    (" ".join(path), command.epilog.removeprefix("Example: ")) for path, command in EVERY.items() if command.epilog
]
PASTED = [(page, text) for page, text in lines_of_pages() if is_call(text)]


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_of_every_command_parses(name: str, line: str) -> None:
    assert line.split()[1:][: len(name.split())] == name.split()
    parse(line)


def test_every_command_has_an_example() -> None:
    assert {" ".join(path) for path, command in EVERY.items() if path and not hasattr(command, "commands")} == {
        name for name, _ in EXAMPLES
    }


@pytest.mark.parametrize(("page", "line"), PASTED, ids=[f"{page}-{number}" for number, (page, _) in enumerate(PASTED)])
def test_commands_of_the_documentation_parse(page: str, line: str) -> None:
    parse(line)


def test_a_wrong_option_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --subject"):
        parse("allograft import folder data data --subject '{subject}_*'")


FORMATS = [path[1] for path in EVERY if path[:1] == ("import",) and len(path) == 2]


@pytest.mark.parametrize("name", FORMATS)
def test_an_import_names_only_options_that_it_has(name: str) -> None:
    for number, text in strings(SOURCE / "cohort" / "importers" / f"{name}.py"):
        for option in re.findall(r"--[a-z][a-z-]*[a-z]", text):
            assert option in OPTIONS["import", name], f"{name}.py, line {number}: {option}"


FOREIGN = {"--shm-size", "--raw", "--frame", "--head"}  # of docker, gdcmconv, dcm2img and ray


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_options_that_messages_name_exist(file: Path) -> None:
    known = set().union(*OPTIONS.values()) | FOREIGN
    for number, text in strings(file):
        if "<" not in text and "var(" not in text:  # not of a page's style
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?!\w*:)", text):
                assert option in known, f"line {number}: {option} in {text!r}"


def made(part: dict[str, Any]) -> Study:
    tree = {key: value for key, value in STUDY.items() if not (key == "cohort" and "cohorts" in part)}
    if "stream" in part:
        tree = {key: value for key, value in tree.items() if key not in ("source", "target")}
    return make_study(tree | part)


SHEETS = [(page.name, text) for page in PAGES for text in blocks(page, "yaml") if page.stem != "your-own-method"]
"""That page's recipe is of a package, which ``test_my_method`` installs."""


@pytest.mark.parametrize(("page", "text"), SHEETS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(SHEETS)])
def test_yaml_of_the_documentation_is_a_study_or_a_part_of_one(page: str, text: str) -> None:
    assert made(parse_yaml(text, page)).rows


FILLED = {  # what a reader puts in the place of dots and capitals
    "classes: [...]": "classes: [normal, ill]",
    "classes: x": "classes: [vessel]",
    "[...]": "[8, 8]",
    "{...}": "{}",
    "size: x": "size: [8, 8]",
    "fraction: ...": "fraction: 0.5",
    "folds: ...": "folds: 2",
    "folds: x": "folds: 2",
    "subjects: n": "subjects: 2",
    "[SITE], [SITE]": "[a], [b]",
    "SITE": "a",
    "NAME": "north",
}


def yaml_lines(text: str) -> Iterator[str]:
    """``key: [...]`` and ``key: {...}`` in a sentence, of keys of a study, brackets closed."""
    if "{{" in text:  # a template of str.format
        text = text.replace("{{", "{").replace("}}", "}")
    end = 0
    for found in re.finditer(rf"(?<![\w.])(?:{'|'.join(field.name for field in fields(Study))}): (?=[\[{{])", text):
        depth = 0
        for at in range(found.end(), len(text)) if found.start() >= end else ():
            depth += (text[at] in "[{") - (text[at] in "]}")
            if depth == 0:
                end = at + 1
                yield text[found.start() : end]
                break


SENTENCES = [(f"{file.name}:{number}", text) for file in sorted(SOURCE.rglob("*.py")) for number, text in strings(file)]
LINES = [(place, line) for place, text in SENTENCES for line in yaml_lines(text)]


@pytest.mark.parametrize(("place", "line"), LINES, ids=[place for place, _ in LINES])
def test_a_yaml_line_that_a_message_advises_is_part_of_a_study(place: str, line: str) -> None:
    for dots, value in FILLED.items():
        line = line.replace(dots, value)
    assert made(parse_yaml(line, place)).made_task


def test_enough_was_found() -> None:
    assert (len(EXAMPLES) > 15, len(PASTED) > 15, len(SHEETS) > 5, len(LINES) > 25) == (True, True, True, True)
