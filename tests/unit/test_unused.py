"""Nothing in the package is there for nothing: what is given is read, and what is written is
called. A call or an argument that is left out by mistake leaves its other end behind."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import allograft
from allograft import table

SRC = Path(allograft.__file__).parent
FILES = sorted(str(path.relative_to(SRC)) for path in SRC.rglob("*.py"))
FOR_OTHERS = {"__dataclass_fields__", "__pydantic_config__", "_root", "_should_skip_dynamo", "false_claim_of_accuracy"}
FOR_OTHERS |= {
    "average_surface_distance",
    "popar_loss",
    "srsim",
    "swap_amplitude",
    "unbiased_cross_entropy",
}
"""Names that only users, other libraries, or tests of an equation refer to."""
AS_OTHERS = {
    *(("check", name) for name in ("scenario", "network", "context")),
    *(("forward", name) for name in ("features", "decoded")),
    *((name, "mask") for name in ("read_metaimage", "read_nrrd", "read_volume")),
    *((name, "whole") for name in ("answer",)),
    *(("enter", name) for name in ("module", "inputs")),
    *(("leave", name) for name in ("name", "module", "inputs")),
    *(("run", name) for name in ("scenario", "context")),
    *(("loss", name) for name in ("output", "batch")),
    *(("__call__", name) for name in ("batch", "loss")),
    *(("passed", name) for name in ("name", "span")),
    *(("once", "name"), ("shown", "objective"), ("__torch_dispatch__", "types"), ("_normalised", "training")),
    *(("_file_hash", name) for name in ("size", "time")),
    *(("_root", "version"), ("__torch_function__", "types"), ("__missing__", "key")),
    *(("_add", "layer"), ("_row", "number"), ("constant", "progress"), ("_mapping", "deep")),
}
"""(Function, parameter) that is there because others are called in the same way, and use it."""
MOST_AS_OTHERS = {"run": 2, "__call__": 3, "forward": 6, "loss": 2, "answer": 2}
READ_BY_ITS_PREDICTOR = {
    "methods/diffmic.py": {"samples", "bfloat16", "temperature", "sampler", "spacing", "start"},
}


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((SRC / file).read_text(encoding="utf-8"))


@cache
def names_in(file: str) -> frozenset[str]:
    """Every name that is read, called or imported, or is a word of its own."""
    names = {entry.partition(":")[2] for entries in table._TABLES.values() for entry in entries.values()}
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names.add(node.value)
    return frozenset(names)


def functions(file: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef))


def test_nothing_is_imported_or_assigned_for_nothing() -> None:
    options = ["--isolated", "--no-cache", "--select", "F", "--output-format", "concise", str(SRC)]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_function_is_called() -> None:
    """A private one in its own file."""
    everywhere = frozenset[str]().union(*map(names_in, FILES)) | FOR_OTHERS
    uncalled = [
        f"{file}: {each.name}"
        for file in FILES
        for each in functions(file)
        if not each.name.startswith("__")
        and each.name not in ((names_in(file) | FOR_OTHERS) if each.name.startswith("_") else everywhere)
        and not any("command" in ast.unparse(decorator) for decorator in each.decorator_list)
    ]
    assert not uncalled


def test_every_parameter_is_read() -> None:
    unread = [
        (each.name, argument.arg, file)
        for file in FILES
        for each in functions(file)
        if len(each.body) > 1 or not isinstance(each.body[0], ast.Expr)
        for argument in (*each.args.args, *each.args.kwonlyargs)
        if not argument.arg.startswith(("_", "self", "cls"))
        and not any(
            isinstance(node, ast.Name) and node.id == argument.arg for part in each.body for node in ast.walk(part)
        )
    ]
    assert not [each for each in unread if each[:2] not in AS_OTHERS]
    count = {name: sum(each[0] == name for each in unread) for name in MOST_AS_OTHERS}
    assert not [name for name, most in MOST_AS_OTHERS.items() if count[name] > most]


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("methods")])
def test_every_option_of_a_recipe_is_read_in_its_file(file: str) -> None:
    options = [
        option.target.id
        for each in tree_of(file).body
        if isinstance(each, ast.ClassDef)
        for option in each.body
        if isinstance(option, ast.AnnAssign)
        and isinstance(option.target, ast.Name)
        and "ClassVar" not in ast.unparse(option.annotation)
    ]
    read = {
        node.attr
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert set(options) - read == READ_BY_ITS_PREDICTOR.get(file, set())
