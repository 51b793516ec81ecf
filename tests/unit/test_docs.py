"""The documentation says what is true: commands run, tests that it names exist, links lead
somewhere, every method has its page."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from allograft.table import rows

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "generated" not in page.parts and "_build" not in page.parts)


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))  # as conf.py does
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(DOCS))


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
    meanings = generate.arguments(inspect.getdoc(find("method", method)) or "")
    for field in fields(find("method", method)):
        assert f"| `{field.name}` |" in page
        assert meanings.get(field.name), f"{method}: the docstring says nothing of '{field.name}' under Args"


def test_the_study_page_has_every_key_with_its_meaning_values_default_and_example(generate: ModuleType):
    from allograft.study.schema import study_schema

    schema = study_schema()
    page = generate.reference_pages()["study.md"]
    sections = dict(re.findall(r"^## `(\w+)`\n\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S))
    assert sections.keys() == schema["properties"].keys()
    for key, text in sections.items():
        meaning, rest = text.split("\n\n", 1)
        assert meaning.endswith("."), key
        assert re.match(r"- Values: .+\n- Default: .+\n\n```yaml\n" + key + ": .+\n```", rest), key
    for name in ("Budget", "Preprocessing", "TargetLabels", "Transformed", "Statistics"):
        for key in schema["$defs"][name]["properties"]:
            assert re.search(rf"^\| `{key}` \| .+ \| .+ \| .+ \|$", page, flags=re.M), key
    assert "- Default: `3`" in sections["seeds"]


@pytest.mark.parametrize("kind", ["task", "network", "schedule"])
def test_every_name_of_a_table_has_a_section_with_its_arguments(kind: str, generate: ModuleType):
    from allograft.study.schema import study_schema

    page = generate.reference_pages()[{"schedule": "optimizers"}.get(kind, f"{kind}s") + ".md"]
    for name in rows(kind):
        section = re.search(rf"^##+ `{name}`\n(.*?)(?=^##|\Z)", page, flags=re.M | re.S)
        assert section, name
        for key in study_schema()["$defs"][f"{kind}.{name}"]["properties"]:
            assert f"| `{key}` |" in section.group(1)


@pytest.mark.parametrize(
    ("method", "functions"),
    [
        ("fourier", ("allograft.transforms.fourier.swap_low_amplitude",)),
        ("mib", ("allograft.parts.distillation.distillation",)),
        ("spottunet", ()),
    ],
)
def test_a_method_s_page_has_its_equations_wherever_they_are(
    method: str, functions: tuple[str, ...], generate: ModuleType
):
    page = generate.method_page(method)
    for name in functions:
        assert f".. autofunction:: {name}\n" in page
    assert "autofunction:: allograft.context" not in page
    assert "autofunction:: allograft.recipe" not in page


def test_a_method_s_page_links_the_evidence_that_names_it(generate: ModuleType):
    assert "(../../evidence/vessels_adapt.md)" in generate.method_page("mmtl")
    assert "Only in its tests so far." not in generate.method_page("finetune")


def test_the_index_of_methods_has_each_in_the_group_of_the_readme(generate: ModuleType):
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Methods")[2].partition("\n## ")[0]
    readme = {
        group.capitalize(): set(re.findall(r"`(\w+)`", names))
        for group, names in re.findall(r"^\| (.+?) \| (.+?) \|$", text, flags=re.M)
        if group != "needs"
    }
    index = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |^```)", generate.methods_index(), flags=re.M | re.S))
    assert {group: set(re.findall(r"^\| \[`(\w+)`\]", lines, flags=re.M)) for group, lines in index.items()} == readme


def test_the_page_of_costs_has_every_promise_as_it_was_measured(generate: ModuleType):
    page = generate.cost_page()
    for path in (DOCS.parent / "benchmarks" / "results").glob("*.json"):
        kept = json.loads(path.read_text())
        for key, limit in kept["limits"].items():
            assert f"| `{path.stem}` {key.replace('_', ' ')} | {kept['result'][key]} | at most {limit} |" in page


GOALS = list(csv.DictReader((DOCS.parent / "benchmarks" / "goals.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("goal", GOALS, ids=[goal["what"] for goal in GOALS])
def test_each_goal_has_a_benchmark_with_a_limit_and_a_missed_one_its_reason(goal: dict[str, str], generate: ModuleType):
    benchmarks = DOCS.parent / "benchmarks"
    assert (benchmarks / f"{goal['benchmark']}.py").is_file()
    result = benchmarks / "results" / f"{goal['result']}.json"
    kept = json.loads(result.read_text()) if result.exists() else {"result": {}}
    now = kept["result"].get(goal["key"], "not measured yet")
    line = next(line for line in generate.cost_page().splitlines() if line.startswith(f"| {goal['what']} |"))
    assert f"| {goal['goal']} | {now}" in line
    if goal["key"] in kept["result"] and goal["goal"] != "none":
        assert kept["limits"].get(goal["key"]) is not None
        assert bool(goal["why"]) is (now > float(goal["goal"]))


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
