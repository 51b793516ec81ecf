"""The documentation says what is true: commands run, tests that it names exist, links lead
somewhere, every method has its page."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from allograft.table import rows

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "generated" not in page.parts and "_build" not in page.parts)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from typer.testing import CliRunner

    from allograft.cli import app

    monkeypatch.chdir(tmp_path)
    (study,) = (text for text in blocks(DOCS / "tutorial.md", "yaml") if text.startswith("# study.yaml"))
    Path("study.yaml").write_text(study)
    commands = [line for block in blocks(DOCS / "tutorial.md", "bash") for line in block.splitlines()]
    assert len(commands) >= 6
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "allograft"
        few = (
            ["--set", "budget.steps=2", "--set", "budget.adapt_steps=2", "--set", "seeds=1"]
            if words[0] == "study"
            else []
        )
        done = CliRunner().invoke(app, [*words, *few], catch_exceptions=False)
        assert done.exit_code == 0, f"{command}: {done.output}"
    assert Path("runs/first/report.html").exists()
    assert any(Path("predictions").iterdir())


def test_the_studies_of_how_many_labels_are_planned_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from typer.testing import CliRunner

    from allograft.cli import app

    monkeypatch.chdir(tmp_path)
    page = DOCS / "howto" / "how-many-labels.md"
    for text in blocks(page, "yaml"):
        Path(text.splitlines()[0].removeprefix("# ")).write_text(text)
    commands = [shlex.split(line)[1:] for block in blocks(page, "bash") for line in block.splitlines()]
    assert [words[0] for words in commands] == ["phantom", "study", "study"]
    assert "subjects: [1, 2, 4, 8, 16]" in Path("budgets.yaml").read_text()
    for words in commands:
        few = ["--plan", "--set", "seeds=1"] if words[0] == "study" else []
        # the smallest and the largest of its budgets
        few += ["--set", "target_labels={subjects: [1, 16]}"] if "budgets.yaml" in words else []
        done = CliRunner().invoke(app, [*words, *few], catch_exceptions=False)
        assert done.exit_code == 0, f"{' '.join(words)}: {done.output}"


def links_of(page: Path) -> list[str]:
    """The files that a page links to."""
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    return [link for link in links if not link.startswith("http") and "generated" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    for link in links_of(page):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_there_are_pages_and_links_to_look_at():
    """Else the test above would pass on nothing."""
    assert len(PAGES) > 20
    assert sum(map(len, map(links_of, PAGES))) > 10


def test_tests_that_are_named_exist():
    named = [
        found
        for page in PAGES
        for found in re.findall(r"`(?:(tests/[\w/]+\.py))?::(\w+)`", page.read_text(encoding="utf-8"))
    ]
    walks = (ROOT / "tests/cli/test_walks.py").read_text(encoding="utf-8")
    assert len(named) >= 5
    for _, function in named:
        assert f"def {function}(" in walks


@pytest.mark.parametrize("method", sorted(rows("method")))
def test_every_method_has_a_page_with_each_of_its_settings(method: str, generate: ModuleType):
    from dataclasses import fields

    from allograft.table import find

    page = generate.method_page(method)
    assert page.startswith(f"# `{method}`")
    told = generate.arguments(find("method", method).__doc__ and __import__("inspect").getdoc(find("method", method)))
    for field in fields(find("method", method)):
        assert f"| `{field.name}` |" in page
        assert told.get(field.name), f"{method}: the docstring says nothing of '{field.name}' under Args"


def test_the_study_page_lists_every_key(generate: ModuleType):
    page = generate.study_page()
    for key in ("cohort", "target_labels", "selection", "schedule"):
        assert f"`{key}`" in page


def test_the_page_of_costs_has_every_promise_as_it_was_measured(generate: ModuleType):
    page = generate.cost_page()
    for path in (DOCS.parent / "benchmarks" / "results").glob("*.json"):
        kept = json.loads(path.read_text())
        for key, limit in kept["limits"].items():
            assert f"| `{path.stem}` {key.replace('_', ' ')} | {kept['result'][key]} | at most {limit} |" in page


def test_the_table_of_large_cohorts_has_a_row_for_each_phase_and_size(generate: ModuleType):
    phases = {name: {"seconds": 2.0, "memory_mib": 300, "open_files": 9} for name in ("gate", "report")}
    phases["report"]["page_mb"] = 1.5
    table = generate.scale_table({"1000": phases, "10000": phases}).splitlines()
    assert table[2:] == [
        "| gate | 1,000 | 2.0 | 2.00 | 300 | 9 |  |",
        "| gate | 10,000 | 2.0 | 0.20 | 300 | 9 |  |",
        "| report | 1,000 | 2.0 | 2.00 | 300 | 9 | 1.5 |",
        "| report | 10,000 | 2.0 | 0.20 | 300 | 9 | 1.5 |",
    ]
