"""What a person reads is plain English: words that read as a translation do not come back."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import allograft
from allograft.cli import app
from allograft.table import find, rows

ROOT = Path(__file__).parents[2]
PACKAGE = Path(allograft.__file__).parent
UNIT = r"(?:seed|case|subject|unit|site|step|row|stage|pair|class|image|level|side|fold|patient|name)"
COUNTED = (
    r"(?:rows?|files?|records?|models?|dots?|lines?|images?|networks?|steps|seconds|minutes|columns?|values?|pages?|"
    r"numbers?|class|classes|labels?|cases|subjects?|slices?|scores?|logits?|features?|trainings?|maps?)"
)
WORDS = {
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\banew\b": "again",
    r"(?<!cannot be )\btold(?: (?!apart|from)|[.,;])|\btells? of\b": "reported, says, given",
    r"\bstands?\b(?! for\b|-)": "is, are listed",
    rf"\b{COUNTED} an? {UNIT}\b": "per",
    r"\bgo(?:es|ing)? on\b": "continue, resume",
    r"\bc[ao]mes? out\b": "result",
    r"\bis said\b|\bsays? so\b": "reports",
    r"\bof which\b[^.;]*\bof which\b": "two sentences",
    r"(?<!the )(?<!\ba )\bwhole\b(?! numbers?\b|[ -]slide\b)": "complete, entire",
    r"\bjudg(?:ed|es|ing)\b|\b(?:to|and|nor|not) judge\b|\bjudge (?:a|the|every|all|each|on|them|it)\b": "evaluate",
    r"\bcarr(?:y|ies|ied|ying)\b[^.;]{0,30}\bover\b|\bcarr(?:y|ies|ied|ying) (?:a|the|your) model\b": "transfer, adapt",
    r"\bbeside\b": "next to, besides",
    r"\basked for\b": "requested",
    r"\bby itself\b": "automatically",
}
"""Pattern -> what to write."""


def pages() -> Iterator[tuple[str, str]]:
    """The prose of README and of the pages, code left out."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if page.is_file() and not {"generated", "_build"} & set(page.parts):
            text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
            text = re.sub(r"^    .*$", "", text, flags=re.M)
            yield str(page.relative_to(ROOT)), re.sub(r"`[^`\n]*`", "``", text)
    for template in sorted(PACKAGE.rglob("*.j2")):
        text = re.sub(
            r"<style>.*?</style>|<script>.*?</script>|\{[{%#].*?[}%#]\}|<[^>]*>", "", _text(template), flags=re.S
        )
        yield str(template.relative_to(PACKAGE)), text


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def helps() -> Iterator[tuple[str, str]]:
    """The help of every command and option."""

    def below(path: str, command: object) -> Iterator[tuple[str, str]]:
        texts = [getattr(command, "help", "") or ""]
        texts += [getattr(option, "help", "") or "" for option in getattr(command, "params", ())]
        yield f"allograft{path} --help", " ".join(texts)
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(f"{path} {name}", inner)

    yield from below("", typer.main.get_command(app))


def messages() -> Iterator[tuple[str, str]]:
    """The sentences of the source that are no documentation: what is raised, printed and shown."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(_text(file))
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                bare |= {id(part) for part in node.values}
                text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
                text = node.value
            else:
                continue
            if " " in text and not text.startswith("<"):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", text


def documented() -> Iterator[tuple[str, str]]:
    """The documentation that pages are made of: of what a study names, and of the public names."""
    things = {
        f"{kind} {name}": find(kind, name) for kind in ("method", "task", "network", "schedule") for name in rows(kind)
    }
    things |= {f"module of {name}": sys.modules[find("method", name).__module__] for name in rows("method")}
    things |= {name: getattr(allograft, name) for name in allograft.__all__ if name != "__version__"}
    for name, thing in things.items():
        yield name, inspect.getdoc(thing) or ""


def found_in(text: str) -> list[str]:
    """The words of a text that are on the list, with what to write."""
    words = " ".join(text.split())
    return [
        f"'{match[0]}' (write: {better})"
        for pattern, better in WORDS.items()
        for match in re.finditer(pattern, words, re.I)
    ]


@pytest.mark.parametrize("read", [pages, helps, messages, documented], ids=lambda read: read.__name__)
def test_the_words_on_the_list_do_not_come_back(read) -> None:  # type: ignore[no-untyped-def]
    assert {place: found for place, text in read() if (found := found_in(text))} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Mend the manifest and run it anew.", 2),
        ("one record a unit", 1),
        ("a record of a unit is a case", 0),
        ("classes: names, the i-th standing for mask value i + 1; it stands for mask value 1", 0),
        ("expected a whole number; the whole image; whole images", 1),
        ("the judge alone judges", 1),
        ("a model is carried over", 1),
    ],
)
def test_a_word_on_the_list_is_seen(text: str, count: int) -> None:
    assert len(found_in(text)) == count


def test_each_command_has_a_complete_line_in_the_help() -> None:
    """At 80 columns none is cut in the middle of a sentence."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    cut = {name: line for name, command in commands.items() if (line := command.get_short_help_str(66)).endswith("...")}
    assert cut == {}
