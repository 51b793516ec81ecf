"""``examples/my_method``: installed as its page says, used in a study, and uninstalled."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.cli.conftest import Command

import allograft as package
from allograft import table

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "my_method"
PAGE = ROOT / "docs" / "howto" / "your-own-method.md"
TINY = [
    f"--set={change}"
    for change in (
        "baselines=false",
        "seeds=1",
        "budget.steps=3",
        "budget.adapt_steps=3",
        "target_labels.subjects=1",
        "recipes=[biases, {biases: {heads: false}}]",
    )
]
OFFLINE = {"install": ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile"], "uninstall": ["--yes"]}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def fresh_environment(folder: Path) -> tuple[Path, Path]:
    """(Python, site-packages) of an environment that sees the packages under test."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    where = {"base": str(folder), "platbase": str(folder)}
    place = Path(sysconfig.get_path("purelib", "venv", where))
    seen = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(package.__file__).parents[1])]
    (place / "tested.pth").write_text("\n".join(dict.fromkeys(seen)))
    return Path(sysconfig.get_path("scripts", "venv", where)) / "python", place


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Afterwards the package is neither imported nor listed in this process."""
    yield
    table._offered.cache_clear()
    sys.modules.pop("my_method", None)


@pytest.mark.usefixtures("forgotten")
def test_the_package_is_installed_used_and_uninstalled_as_its_page_says(
    tmp_path: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "my_method"
    shutil.copytree(PACKAGE, here, ignore=shutil.ignore_patterns("build", "*.egg-info", "runs", "brains"))
    python, place = fresh_environment(tmp_path / "environment")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def said(*words: str) -> str:
        # -P: what pip left in this folder is not found
        done = subprocess.run([str(python), "-P", "-m", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    (commands,) = blocks(PAGE, "bash")
    install, methods, phantom, study, uninstall = (shlex.split(line) for line in commands.splitlines())
    assert install[:2] == ["pip", "install"]
    said("pip", "-q", "install", *OFFLINE["install"], *install[2:])
    assert said(*methods).splitlines()[-1].split(maxsplit=1) == [
        "biases",
        "Tune only the biases of the network on the labelled target cases.",
    ]

    # in this process, which has imported what the environment's would import again
    monkeypatch.syspath_prepend(place)
    table._offered.cache_clear()
    for (program, *words), tiny in ((phantom, []), (study, TINY)):
        assert program == "allograft"
        answer = allograft(*words, *tiny)
        assert answer.code == 0, answer.err
    assert Path(sys.modules["my_method"].__file__ or "").parent == place
    check_what_moved(here / "runs" / "biases" / "models")

    assert uninstall[:2] == ["pip", "uninstall"]
    said("pip", "-q", "uninstall", *OFFLINE["uninstall"], *uninstall[2:])
    assert "biases" not in said("allograft", "methods")


def check_what_moved(models: Path) -> None:
    start = load_file(models / "supervised@b" / "model.safetensors")
    for name, heads in {"biases@b": True, "biases-heads-False@b": False}.items():
        assert "biases" in json.loads((models / name / "card.json").read_text())["recipe"]
        tuned = load_file(models / name / "model.safetensors")
        moved = {key for key, value in tuned.items() if not value.equal(start[key])}
        assert {key for key in tuned if key.endswith(".bias") and "heads." in key} <= moved
        assert len([key for key in moved if "encoder." in key]) > 1
        assert all(key.endswith(".bias") or (heads and "heads." in key) for key in moved), moved
        assert any(key.endswith(".weight") for key in moved) == heads


def test_the_page_quotes_the_package() -> None:
    assert blocks(PACKAGE / "README.md", "bash") == blocks(PAGE, "bash")
    files = {"python": ("my_method.py", 4), "toml": ("pyproject.toml", 1), "yaml": ("study.yaml", 1)}
    for language, (name, count) in files.items():
        quoted = blocks(PAGE, language)
        assert len(quoted) == count
        for block in quoted:
            assert block in (PACKAGE / name).read_text(encoding="utf-8"), block


def test_the_links_of_its_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (PACKAGE / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (PACKAGE / link).exists()] == []
