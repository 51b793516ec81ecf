"""Imports go one way: a module may import its own layer and those below it, inside its functions
too; a type hint may look up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import allograft

PACKAGE = Path(allograft.__file__).parent
LAYERS = (
    ("errors", "docstrings", "mistakes", "strict", "table", "batch", "seeds", "tree", "grey", "figure"),
    ("cohort", "phantoms"),
    ("nn", "optim", "transforms", "metrics"),
    ("tasks", "networks"),
    ("predictor",),
    ("recipe",),
    ("schedule", "step", "updates", "progress", "train"),
    ("context",),
    ("parts",),
    ("methods",),
    ("study",),
    ("results",),
    ("report",),
    ("run",),
    ("apply",),
    ("studies", "adapt", "clean", "freeze"),
    ("cli",),
    # the public names and `python -m allograft`: nothing else imports them
    ("__init__", "__main__"),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def _absolute(node: ast.ImportFrom, package: list[str]) -> str:
    """The dotted name after ``from``, a relative one resolved against the package it stands in."""
    if not node.level:
        return node.module or ""
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of whatever is imported, ``import_module("...")`` with the name written
    out included, but for type hints."""
    hints = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _is_for_types(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hints:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "allograft" else [module]
            yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def _is_for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _part(name: str) -> str | None:
    """The layer's part that a dotted name belongs to; None when it is not ours, or only the
    version."""
    parts = name.split(".")
    if parts[0] != "allograft" or parts[1:] == ["__version__"]:
        return None
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"


def violations(source: str, path: Path) -> list[str]:
    """What a module, at ``path`` relative to the package, imports from a layer above its own."""
    here = path.parts[0].removesuffix(".py")
    package = ["allograft", *path.parts[:-1]]
    imported = ((line, name, _part(name)) for line, name in _imports(ast.parse(source), package))
    return [
        f"{path}:{line}: {here} imports {name}" for line, name, part in imported if part and RANK[part] > RANK[here]
    ]


def test_the_contributors_page_names_every_layer() -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.search(r"^    errors, .*?cli$", page, flags=re.M | re.S)
    assert listed
    named = tuple(tuple(re.findall(r"\w+", layer)) for layer in listed.group().split("<-"))
    assert named == LAYERS[:-1]


MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    assert path.parts[0].removesuffix(".py") in RANK, f"{path} stands in no layer; give it a place in LAYERS"
    assert violations((PACKAGE / path).read_text(encoding="utf-8"), path) == []


def methods_in(source: str, path: Path) -> list[str]:
    """The files of methods that a module imports: one outside ``methods`` finds them in the table,
    by the name that a study gives."""
    return [
        name
        for _, name in _imports(ast.parse(source), ["allograft", *path.parts[:-1]])
        if name.startswith("allograft.methods")
    ]


def test_no_module_outside_methods_imports_one() -> None:
    outside = [path for path in MODULES if path.parts[0] != "methods"]
    assert {
        path: found for path in outside if (found := methods_in((PACKAGE / path).read_text(encoding="utf-8"), path))
    } == {}


def test_an_import_of_a_method_is_seen() -> None:
    assert methods_in("def draw():\n    from ..methods.catenorm import TwoPass", Path("run/pictures.py")) == [
        "allograft.methods.catenorm"
    ]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("batch.py", "import allograft.cohort"),
        ("batch.py", "from allograft import Cohort"),
        ("errors.py", "import allograft"),
        ("cohort/loader.py", "from allograft.tasks import segmentation"),
        ("cohort/loader.py", "from ..tasks import segmentation"),
        ("cohort/loader.py", "from .. import train"),
        ("cohort/__init__.py", "from ..study import plan"),
        ("methods/fourier.py", "def run():\n    from allograft.run.judge import Judge"),
        ("predictor/direct.py", "def run():\n    import_module('allograft.methods.fourier')"),
        ("predictor/direct.py", "from allograft.recipe import Stage"),
        ("recipe/recipe.py", "from allograft.context import Context"),
        ("results/select.py", "from allograft.report import page"),
        ("run/judge.py", "if not TYPE_CHECKING:\n    from allograft.cli import main"),
    ],
)
def test_an_import_from_above_is_seen(path: str, source: str) -> None:
    assert len(violations(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("context.py", "from allograft import __version__"),
        ("context.py", "from allograft.predictor.direct import Direct"),
        ("cohort/loader.py", "from .manifest import read"),
        ("cohort/loader.py", "from ..batch import Batch"),
        ("cohort/readers/nifti.py", "from ..manifest import read"),
        ("methods/fourier.py", "from allograft.transforms.fourier import swap_amplitude"),
        ("recipe/recipe.py", "if TYPE_CHECKING:\n    from allograft.context import Context"),
        ("errors.py", "import difflib, allograft_plugin"),
        ("__main__.py", "from allograft.cli import main"),
    ],
)
def test_an_import_from_below_or_beside_passes(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []
