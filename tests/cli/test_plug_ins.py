"""Methods that installed packages add: in a package's ``__init__``, re-exported, in one file, and
some that cannot be loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Command, write_study

from allograft import table
from allograft.errors import SpecError

METHOD = """
from dataclasses import dataclass, field
from typing import ClassVar
from allograft.methods.supervised import Supervised
from allograft.recipe import AnyRecipe, Needs

@dataclass(frozen=True)
class Same:
    '''Keep the network of {name}.

    More lines.
    '''
    first: AnyRecipe = field(default_factory=Supervised)
    paper: ClassVar = None
    needs: ClassVar = Needs()

    def run(self, scenario, network, context):
        return (yield from context.run(self.first, scenario, network))
"""
FILES = {
    "plug_init/__init__.py": METHOD.format(name="a package"),
    "plug_again/__init__.py": "from plug_again.inner import Same",
    "plug_again/inner.py": METHOD.format(name="a module inside"),
    "plug_file.py": METHOD.format(name="one file"),
    "plug_import.py": "import einops_of_nobody",
    "plug_raises/__init__.py": "raise RuntimeError('no licence\\nof two lines')",
}
POINTS = {
    "in_init": "plug_init:Same",
    "import_fails": "plug_import:Same",
    "re_exported": "plug_again:Same",
    "raises": "plug_raises:Same",
    "in_file": "plug_file:Same",
    "no_class": "plug_file:Sane",
    "no_colon": "plug_file",
    "finetune": "plug_file:Same",
}
GOOD = {"in_init": "a package", "re_exported": "a module inside", "in_file": "one file"}
BAD = {
    "import_fails": "ModuleNotFoundError: No module named 'einops_of_nobody'",
    "raises": "RuntimeError: no licence",
    "no_class": "AttributeError: module 'plug_file' has no attribute 'Sane'",
    "no_colon": "ValueError: expected module:name",
}


@pytest.fixture
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package ``plug-ins`` as pip leaves it, which adds methods and an optimizer."""
    place = tmp_path / "site-packages"
    points = "\n".join(f"{name} = {value}" for name, value in POINTS.items())
    told = {
        **FILES,
        "plug_ins-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: plug-ins\nVersion: 1\n",
        "plug_ins-1.dist-info/entry_points.txt": f"[allograft.methods]\n{points}\n\n"
        "[allograft.optimizers]\nbroken = plug_import:Adam\n",
    }
    for name, text in told.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    monkeypatch.syspath_prepend(place)
    table._offered.cache_clear()
    yield
    table._offered.cache_clear()
    for name in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("plug_ins")
def test_methods_lists_what_loads_and_says_what_does_not(allograft: Command) -> None:
    answer = allograft("methods")
    assert answer.code == 0, answer.err
    lines = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert list(lines) == [*table.METHODS, *(name for name in POINTS if name != "finetune")]
    assert lines["finetune"] == "Tune all or part of the network on the labelled target cases."
    for name, where in GOOD.items():
        assert lines[name] == f"Keep the network of {where}."
    for name, why in BAD.items():
        assert lines[name] == (
            f"cannot be loaded from '{POINTS[name]}' ({why}); fix or uninstall the package 'plug-ins'"
        )


@pytest.mark.usefixtures("plug_ins")
def test_a_study_that_uses_a_broken_method_says_why(allograft: Command, tmp_path: Path) -> None:
    answer = allograft("study", write_study(tmp_path), "-o", tmp_path / "o", "--set", "recipes=[raises]")
    assert answer.code == 2
    assert answer.err.strip() == (
        f"error: {tmp_path / 'study.yaml'}: study.recipes.0: recipe 'raises' cannot be loaded from "
        "'plug_raises:Same' (RuntimeError: no licence); fix or uninstall the package 'plug-ins'"
    )


@pytest.mark.usefixtures("plug_ins")
def test_names_are_found_beside_packages_that_cannot_be_loaded() -> None:
    import torch

    for name in GOOD:
        assert table.name_of("method", table.find("method", name)) == name
    assert table.name_of("optimizer", torch.optim.Adam) == "adam"
    with pytest.raises(SpecError, match="is in no row"):
        table.name_of("optimizer", torch.optim.RMSprop)
    with pytest.raises(SpecError, match="unknown recipe 're_export'; did you mean 're_exported'"):
        table.find("method", "re_export")


@pytest.mark.usefixtures("plug_ins")
def test_a_name_that_two_packages_add_is_refused_with_both(allograft: Command, tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    for package, value in (("other-ins", "plug_init:Same"), ("same-ins", "plug_file:Same")):
        info = folder / f"{package.replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[allograft.methods]\nin_file = {value}\n")
    table._offered.cache_clear()
    why = "(ValueError: the package 'other-ins' and the package 'plug-ins' both add this name)"
    with pytest.raises(SpecError) as refused:
        table.find("method", "in_file")
    assert why.replace("plug-ins", "same-ins") in str(refused.value) or why in str(refused.value)
    lines = dict(line.split(maxsplit=1) for line in allograft("methods").out.splitlines())
    assert "both add this name" in lines["in_file"]
    assert lines["in_init"] == "Keep the network of a package."
