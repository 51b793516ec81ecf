"""What sentences advise, wherever they are: commands in messages, dotted keys, ``KEY: VALUE`` without brackets, and the
YAML of documentation strings, help texts and prose."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from tests.unit.test_advice import EVERY, FILLED, OPTIONS, PAGES, SENTENCES, SOURCE, made, parse, strings, yaml_lines

from allograft import table
from allograft.errors import AllograftError
from allograft.strict import parse_yaml
from allograft.study.spec import Study

WORDS = sorted({path[0] for path in EVERY if path})
KEYS = "|".join(field.name for field in fields(Study))


def documented() -> Iterator[tuple[str, str]]:
    """Documentation strings, help texts and the prose of pages, each on one line."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                yield f"{file.name}:{getattr(node, 'lineno', 1)}", " ".join(text.split())
    for path, command in EVERY.items():
        for text in (command.help, *(getattr(option, "help", "") for option in command.params)):
            yield f"allograft {' '.join(path)} --help", " ".join((text or "").split())
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        yield page.name, " ".join(text.split())


DOCUMENTED = list(documented())
EVERYWHERE = [*SENTENCES, *DOCUMENTED]


# ---------------------------------------------------------- commands
def printed_commands(text: str) -> Iterator[str]:
    """``allograft WORD ...`` in a sentence; in quotes, backticks or brackets up to their end, else up to the end of
    the line."""
    for found in re.finditer(rf"(?<![\w./-])(['`(]*)allograft (?:{'|'.join(WORDS)})\b[^\n;`]*", text):
        line = found[0].lstrip("'`(")
        end = {"'": "'", "`": "`", "(": ")"}.get(found[1][:1], "")
        yield (line.partition(end)[0] if end else line).strip().rstrip(".,:")


def is_possible(line: str) -> bool:
    """Whether a line parses, or begins with words that do and hold all of its options: prose may follow a command."""
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    options = [word for word in words if word.startswith("-")]
    is_group = any(path[:-1] == tuple(words[1:2]) for path in EVERY if len(path) > 1)
    if is_group and words[2:] and tuple(words[1:3]) not in EVERY:
        return False
    if tuple(words[1:2]) in EVERY and not options:
        return True  # the name alone, or in a sentence
    for count in range(len(words), 1, -1):
        if [word for word in words[:count] if word.startswith("-")] == options:
            try:
                parse(shlex.join(words[:count]))
            except Exception:  # of click, of many kinds
                continue
            return True
    return False


def shown(page: Path) -> str:
    """A page, each command on one line and without its comment."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"--set '[^'`]*'", lambda found: " ".join(found[0].split()), text)
    return re.sub(r"(?m) +#.*$", "", text)


SHOWN = [(page.name, shown(page)) for page in PAGES]  # in any block of any page
IN_CODE = [(place, text) for place, text in EVERYWHERE if not place.endswith(".md")]
PRINTED = [(place, line) for place, text in (*IN_CODE, *SHOWN) for line in printed_commands(text) if "..." not in line]


@pytest.mark.parametrize(("place", "line"), PRINTED, ids=[place for place, _ in PRINTED])
def test_a_command_in_a_message_can_be_given(place: str, line: str) -> None:
    assert is_possible(line), f"{place}: {line}"


IMPORTS = set().union(*(options for path, options in OPTIONS.items() if path[:1] == ("import",)))


@pytest.mark.parametrize("file", sorted((SOURCE / "cohort" / "importers").glob("*.py")), ids=lambda file: file.name)
def test_importers_name_options_of_imports(file: Path) -> None:
    for number, text in strings(file):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text):
            assert option in IMPORTS, f"line {number}: {option}"


# ---------------------------------------------------------- dotted keys
def inner(kind: Any) -> Iterator[Any]:
    """The dataclasses in a type."""
    if is_dataclass(kind):
        yield kind
    for one in get_args(kind) if get_origin(kind) is not None or isinstance(kind, Union.__class__) else ():
        yield from inner(one)
    for one in getattr(kind, "__args__", ()) if not get_args(kind) else ():
        yield from inner(one)


def paths(kind: Any = Study, before: str = "") -> Iterator[str]:
    """``budget``, ``budget.steps``, ..."""
    for name, hint in get_type_hints(kind).items():
        if name in {field.name for field in fields(kind)}:
            yield before + name
            for each in inner(hint):
                yield from paths(each, f"{before}{name}.")


PATHS = set(paths())
FREE = ("task", "recipes", "network", "optimizer", "schedule", "each", "cohorts", "stream")
"""Keys below which names are the user's, or those of a table."""
FILES = (".json", ".csv", ".js", ".html", ".yaml")
PYTHON = {"task.fields", "task.description", "budget.batches"}  # of a progress bar; names of variables
DOTTED = [
    (place, found[0])
    for place, text in EVERYWHERE
    for found in re.finditer(rf"(?<![\w./`{{\[(-])(?:{KEYS})\.[a-z_.]+[a-z]\b(?!\()", text)
    if not found[0].endswith(FILES) and found[0] not in PYTHON
]


@pytest.mark.parametrize(("place", "key"), DOTTED, ids=[f"{place}-{key}" for place, key in DOTTED])
def test_a_dotted_key_exists(place: str, key: str) -> None:
    assert key in PATHS or key.split(".")[0] in FREE, f"{place}: {key}"


def test_keys_that_exist_are_known() -> None:
    assert {"budget.adapt_steps", "preprocessing.window", "test.folds", "target_labels.fraction"} <= PATHS
    assert not {"budget.step", "preprocessing.sizes", "test.fold"} & PATHS


# ---------------------------------------------------------- KEY: VALUE
VERBS = r"(?:set|choose|write|name it in|use it with|raise|lower|through)"
VALUES = [
    (place, found[1], found[2])
    for place, text in EVERYWHERE
    for found in re.finditer(rf"\b{VERBS} ({KEYS}): (?![\[{{ ])([\w.-]+)", text)
]
TABLES = {"task": table.TASKS, "network": table.NETWORKS, "optimizer": table.OPTIMIZERS, "schedule": table.SCHEDULES}


@pytest.mark.parametrize(
    ("place", "key", "value"), VALUES, ids=[f"{place}-{key}-{value}" for place, key, value in VALUES]
)
def test_a_value_that_a_sentence_advises_is_one(place: str, key: str, value: str) -> None:
    """``preprocessing: size`` names an inner key, ``augmentation: none`` is a value."""
    if f"{key}.{value}" in PATHS or value in TABLES.get(key, ()) or value in ("x", "timm", "FOLDER", "classes"):
        return
    try:
        made(parse_yaml(f"{key}: {value}", place))
    except AllograftError as error:
        pytest.fail(f"{place}: {key}: {value}: {error}")


# ---------------------------------------------------------- YAML of documentation
WITHIN = (  # parts of something else: of a grid, of a study that lists the row, of a description
    "augmentation: [none, strong]",
    "primary: {finetune: {scope: full}}",
    "network: {name: arguments}",
    "network: {upsampling_head: ...}",
    "network: {diffusion_unet: ...}",
)
MORE = {"{missed: diagonal}": "{classes: [vessel], missed: diagonal}", "{size: ...}": "{size: [8, 8]}"}
TOLD = [(place, line) for place, text in DOCUMENTED for line in yaml_lines(text) if line not in WITHIN]


@pytest.mark.parametrize(("place", "line"), TOLD, ids=[f"{place}-{line}" for place, line in TOLD])
def test_a_yaml_line_of_the_documentation_is_part_of_a_study(place: str, line: str) -> None:
    for dots, value in (MORE | FILLED).items():
        line = line.replace(dots, value)
    assert made(parse_yaml(line, place)).made_task


# ---------------------------------------------------------- the test itself
def test_enough_was_found() -> None:
    found = {"printed": len(PRINTED), "dotted": len(DOTTED), "values": len(VALUES), "told": len(TOLD)}
    assert (found["printed"] > 15, found["dotted"] > 25, found["values"] > 8, found["told"] > 15) == (True,) * 4, found


@pytest.mark.parametrize(
    "wrong",
    [
        "use 'allograft studies' to compare them",
        "run it again: allograft predict x IMAGES -o predictions --overlays",
        "allograft clean x --force removes x MiB",
        "see `allograft import nifti data`",
    ],
)
def test_a_wrong_command_is_noticed(wrong: str) -> None:
    unknown = not list(printed_commands(wrong)) and re.search(r"allograft [a-z]+", wrong)
    assert unknown or not all(map(is_possible, printed_commands(wrong)))


def test_words_after_the_name_of_the_program_are_commands() -> None:
    """In quotes or backticks, or at the end of a sentence that says "run"."""
    for place, text in EVERYWHERE:
        for word in re.findall(r"(?:['`]|\brun |\bas )allograft ([a-z-]+)", text):
            assert word in WORDS, f"{place}: allograft {word}"


def test_the_folder_of_the_source_is_the_one_that_is_read() -> None:
    assert Path(table.__file__).parent == SOURCE
