"""What the README and the examples promise is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from allograft.cli import app
from allograft.phantoms.brain import write_brain
from allograft.recipe import total_needs
from allograft.study.reading import read_study
from allograft.table import find, rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(title: str, language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", section(title), flags=re.M | re.S)
    return text


def group_of(method: str) -> str:
    """What a recipe at its defaults needs of the target."""
    try:
        needs = total_needs(find("method", method)())
    except TypeError:  # a setting without default
        needs = find("method", method).needs
    if needs.stream:
        return "a stream of sites"
    if needs.only_pool or needs.pool or needs.pool_labels:
        return "a pool of images, for pre-training"
    if needs.target_labels or needs.all_target_labels:
        return "target labels"
    return "target images" if needs.target_images else "nothing"


def test_every_method_is_listed_once_by_what_it_needs() -> None:
    listed = {
        group: re.findall(r"`(\w+)`", names)
        for group, names in re.findall(r"^\| (.+?) \| (.+?) \|$", section("Methods"), flags=re.M)
        if group != "needs"
    }
    names = [name for each in listed.values() for name in each]
    assert sorted(names) == sorted(rows("method"))
    assert {name: group for group, each in listed.items() for name in each} == {name: group_of(name) for name in names}


def test_the_result_is_that_of_the_evidence_page() -> None:
    page = (ROOT / "docs" / "evidence" / "vessels_strong.md").read_text(encoding="utf-8")
    measured = re.findall(r"^\| .+? \| (0\.\d.*?) \| (.*?) \| (\d+) \|", section("A result on real images"), flags=re.M)
    assert len(measured) == 6
    for score, difference, seconds in measured:
        wanted = rf"^\| .+? \| {re.escape(score)} \| .*\| {re.escape(difference)} \| .*\| {seconds} \|"
        assert re.search(wanted, page, re.M), score


def test_it_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) < 150
    assert max(len(line) for line in lines if not line.startswith(("|", "[", "!"))) <= 120
    assert all(
        len(block(title, kind).splitlines()) <= 10
        for title, kind in (("Your own images", "bash"), ("Python", "python"))
    )


def test_the_extras_are_those_that_can_be_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    listed = re.search(r"Optional extras: (.+?), for example", section("Install"), flags=re.S)
    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(declared) - {"dev", "docs"}


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_parses(file: Path) -> None:
    study = read_study(file)
    assert study.rows
    assert study.made_task.outputs


def test_paths_in_the_readme_exist() -> None:
    paths = re.findall(r"\]\(([\w./-]+)\)", README)
    assert {"LICENSE", "CHANGELOG.md", "docs/index.md"} <= set(paths)
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_lines_for_images_of_your_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for site in "AB":
        (tmp_path / "scans" / site / "masks").mkdir(parents=True)
        for number in range(5):
            picture = rng.integers(0, 200, (32, 32), dtype=np.uint8)
            mask = np.zeros((32, 32), np.uint8)
            mask[8 + number : 20, 8:20] = 1
            Image.fromarray(picture + 50 * mask).save(f"scans/{site}/{site}{number}.png")
            Image.fromarray(mask).save(f"scans/{site}/masks/{site}{number}.png")
    few = ["--set", "budget.steps=2", "--set", "budget.adapt_steps=2", "--set", "seeds=1", "--set", "recipes=[zscore]"]
    for line in block("Your own images", "bash").splitlines():
        words = shlex.split(line)
        done = CliRunner().invoke(app, [*words[1:], *(few if words[1] == "study" else [])], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.output}"
    assert Path("runs/first/report.html").exists()
    assert Path("predictions/results.csv").exists()


def test_the_lines_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_brain(tmp_path / "data", dims=2, subjects=6, size=32, sites={"a": "none", "b": "severe"})
    text = block("Python", "python")
    small = '"budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2}, "seeds": 1, "baselines": False, "recipes"'
    names: dict[str, Any] = {}
    exec(compile(text.replace('"recipes"', small), "README.md", "exec"), names)
    assert set(names["result"].table.recipe) == {"supervised", "histogram"}
    assert "Cohort(12 cases of 12 subjects at a, b; mask)" in capsys.readouterr().out
