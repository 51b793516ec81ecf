"""Pages made from the code: one for each method, the command line, the study file and the names in
it, the public primitives."""

from __future__ import annotations

import csv
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from notebook_pages import page as notebook_page
from reference_pages import cell, reference_pages

from allograft.recipe import Needs, is_recipe, title, total_needs
from allograft.study.cite import bibtex
from allograft.study.schema import arguments
from allograft.table import find, rows, summaries
from allograft.tree import default

EVIDENCE = Path(__file__).parent / "evidence"
NOTEBOOKS = Path(__file__).parent / "notebooks"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS, GOALS = BENCHMARKS / "results", BENCHMARKS / "goals.csv"
MATHS = re.compile(r"allograft\.(nn(?!\.processes)|metrics|transforms|optim)\.")
CITES = re.compile(r"et al\.|\beqs?\.|\(eq|[Aa]lgorithm \d|\b(?:19|20)\d\d\)")
COST = """Measured by `make bench` on the machine that each line names; the results are kept in
`benchmarks/results`. Ratios are medians of alternating runs, in processor time.

- Reports take at most 5 % of the time of a running study, and one is written at most every 30
  seconds. Running a finished study again rewrites no page; `allograft report` does.
- Prepared images are mapped and hold no file open, so `ulimit -n` does not limit their number.
- `finetune: {scope: top}` trains a tenth of the parameters. That saves time and memory where most of
  a step is spent below them, as in Swin UNETR, and less in the default U-Net, whose top works at
  full resolution: see `scope_*` below.
- `--precision bf16-mixed`, of `predict` and of `study`, there with `channels_last: true` in the study
  file, is faster on processors that multiply in bfloat16, and rounds to three digits on the way."""
LARGE = """Images of 64 x 64 pixels with masks, two sites, one patient each; one epoch of a small
U-Net, and at most 1,024 open files."""
GREW = """What grew with its input, or was seen by no benchmark before, and what it was to come down to. *Now* is
what `make bench BENCH=...` kept: one thread, processor time, medians of alternating runs. A 1 in *before*
is the old way itself; a goal of *none* is a cost that stays."""
PROMISED = """`make bench CHECK=--check` ends with 1 where a number misses its limit beyond noise: where
three quarters of the pairs do, or, for what is measured once, by a tenth."""
MODULES = (
    "optim",
    "transforms.fourier",
    "transforms.stain",
    "transforms.skin_tone",
    "transforms.hair",
    "metrics.similarity",
    "metrics.surface",
    "nn.catenorm",
)
GROUPS = ("Nothing", "Target images", "Target labels", "A pool of images, for pre-training", "A stream of sites")
NEEDED = {
    "source_images": "labelled source cases",
    "target_images": "target images, without labels",
    "target_labels": "the labelled target cases of the budget",
    "all_target_labels": "all target labels: an upper bound",
    "every_target": "what it is given of the target, of all targets of the study",
    "pool": "images for pre-training, without labels",
    "pool_labels": "labelled images for pre-training",
    "stream": "phases in order",
    "optimizer_state": "the optimizer state of `first`",
}


def write_pages(folder: Path) -> None:
    """Write all generated pages; unchanged ones are left, so that Sphinx does not read them
    again."""
    pages = {f"methods/{name}.md": method_page(name) for name in rows("method")}
    pages |= {
        "methods/index.md": methods_index(),
        "cli.md": cli_page(),
        **reference_pages(),
        "primitives.md": primitives_page(),
        "cost.md": cost_page(),
    }
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        pages[f"{notebook.stem}.md"], pictures = notebook_page(notebook)
        for name, content in pictures.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def method_page(name: str) -> str:
    """What it does, its settings with their defaults, what it is given, its paper, and where it was
    tried."""
    cls = find("method", name)
    module = sys.modules[cls.__module__]
    parts = [f"# `{name}`", prose(module), prose(cls), "## Settings", settings_table(cls)]
    if needs := [f"- {words}" for key, words in NEEDED.items() if getattr(_needs(cls), key)]:
        parts += ["## What it is given", "\n".join(needs)]
    if functions := equations(module):
        parts += [
            "## Its equations, as functions",
            *(f"```{{eval-rst}}\n.. autofunction:: {name}\n   :no-index:\n```" for name in functions),
        ]
    if cls.paper is not None:
        parts += ["## Paper", f"```bibtex\n{bibtex(cls.paper)}\n```"]
    parts += ["## Where it was tried", "\n".join(evidence_of(name)) or "Only in its tests so far."]
    return "\n\n".join(parts) + "\n"


def settings_table(cls: type) -> str:
    """The fields of a recipe with their defaults, which are the paper's."""
    if not fields(cls):  # type: ignore[arg-type]
        return "It has none."
    meanings = arguments(inspect.getdoc(cls) or "")
    lines = ["| key | default | |", "|---|---|---|"]
    for field in fields(cls):  # type: ignore[arg-type]
        value = default(field)
        shown = title(value) if is_recipe(value) else "required" if value is MISSING else value
        lines.append(f"| `{field.name}` | `{shown}` | {cell(meanings.get(field.name, ''))} |")
    return "\n".join(lines)


def equations(module: Any) -> list[str]:
    """The functions of a method's file that are the paper's mathematics, by their full names: its
    own public ones, those it takes from ``nn``, ``metrics``, ``transforms`` and ``optim``, and of
    ``parts`` those that cite a paper or an equation."""
    functions = [thing for thing in vars(module).values() if inspect.isfunction(thing)]
    own = [each for each in functions if each.__module__ == module.__name__ and not each.__name__.startswith("_")]
    maths = [each for each in functions if MATHS.match(each.__module__)]
    parts = [each for each in functions if each.__module__.startswith("allograft.parts.")]
    cited = [each for each in parts if CITES.search(inspect.getdoc(each) or "")]
    return [f"{each.__module__}.{each.__name__}" for each in (*own, *maths, *cited)]


def evidence_of(name: str) -> Iterator[str]:
    """Links to the pages of evidence that name a method."""
    for page in sorted(EVIDENCE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if re.search(rf"\b{re.escape(name)}\b", text):
            yield f"- [{text.splitlines()[0].lstrip('# ')}](../../evidence/{page.name})"


def methods_index() -> str:
    """All methods with their first sentence, by what they need of the target."""
    parts = ["# Methods", "By what they need of the target. `allograft methods` prints the list."]
    lines = dict(summaries("method"))
    grouped = {name: group_of(name) for name in lines}
    for group in GROUPS:
        named = [f"| [`{name}`]({name}.md) | {cell(lines[name])} |" for name in lines if grouped[name] == group]
        parts += [f"## {group}", "\n".join(["| recipe | |", "|---|---|", *named])]
    toc = "\n".join(rows("method"))
    return "\n\n".join([*parts, f"```{{toctree}}\n:hidden:\n{toc}\n```"]) + "\n"


def group_of(name: str) -> str:
    """What a recipe at its defaults needs of the target, a heading of the index."""
    needs = _needs(find("method", name))
    with suppress(TypeError):  # a setting without default
        needs = needs | total_needs(find("method", name)())
    if needs.stream:
        return GROUPS[4]
    if needs.pool or needs.pool_labels:
        return GROUPS[3]
    if needs.target_labels or needs.all_target_labels:
        return GROUPS[2]
    return GROUPS[1] if needs.target_images else GROUPS[0]


def cli_page() -> str:
    """The help of every command."""
    commands = ["", *_commands()]
    shown = [
        f"## `allograft {command}`\n\n```text\n{_help(command)}\n```" if command else f"```text\n{_help('')}\n```"
        for command in commands
    ]
    return "\n\n".join(["# Command line", *shown]) + "\n"


def primitives_page() -> str:
    """The parts that are usable in anybody's code."""
    shown = [
        f"## `allograft.{name}`\n\n```{{eval-rst}}\n.. automodule:: allograft.{name}\n   :members:\n```"
        for name in MODULES
    ]
    return "\n\n".join(
        [
            "# Primitives",
            "Each paper's maths is importable on its own; these import only torch and their field's library.",
            *shown,
        ]
    )


def cost_page() -> str:
    """How cost grows with a cohort, and every measured promise, from the kept results."""
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    parts = ["# What it costs", COST]
    if "scale" in kept:
        parts += ["## Large cohorts", LARGE, scale_table(kept["scale"]["result"]["images"])]
    parts += ["## Where cost grew", GREW, goals_table(kept)]
    lines = ["| | measured | promised | machine |", "|---|---|---|---|"]
    for name, one in kept.items():
        hardware = one["hardware"]
        machine = f"{hardware['machine']}, threads {hardware['threads']}, torch {hardware['torch']}"
        lines += [
            f"| `{name}` {key.replace('_', ' ')} | {one['result'][key]} | at most {limit} | {machine} |"
            for key, limit in one["limits"].items()
        ]
    return "\n\n".join([*parts, "## What was promised", PROMISED, "\n".join(lines)]) + "\n"


def goals_table(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """What each goal of ``benchmarks/goals.csv`` was before and is now, and why one is missed."""
    lines = ["| | before | goal | now | `BENCH=` |", "|---|---|---|---|---|"]
    with GOALS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            result = kept.get(row["result"], {"result": {}})["result"]
            now = result.get(row["key"], "not measured yet")
            said = f"{now}: {row['why']}" if row["why"] else now
            lines.append(f"| {row['what']} | {row['before']} | {row['goal']} | {said} | {row['benchmark']} |")
    return "\n".join(lines)


def scale_table(images: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Phase by phase, a row for each number of images."""
    lines = ["| phase | images | processor seconds | ms per image | peak memory, MiB | open files | page, MB |"]
    lines.append("|---|---|---|---|---|---|---|")
    for phase in next(iter(images.values())):
        for count, found in images.items():
            one = found[phase]
            each = 1000 * one["seconds"] / int(count)
            cells = (f"{each:.2f}", one["memory_mib"], one["open_files"], one.get("page_mb", ""))
            lines.append(f"| {phase} | {int(count):,} | {one['seconds']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def prose(thing: Any) -> str:
    """What a docstring says before its sections and examples, as Markdown."""
    words = re.split(r"^(?:Args:|Returns:|Raises:|Example:|>>>)", inspect.getdoc(thing) or "", flags=re.M)[0]
    return words.replace("``", "`").replace("*", "\\*").strip()


def _needs(cls: type) -> Needs:
    needs = getattr(cls, "needs", Needs())
    # a property of the recipe's own settings
    return needs if isinstance(needs, Needs) else cls().needs


def _commands() -> list[str]:
    listed = re.findall(r"^\s{2}([a-z-]+)\s{2,}", _help("").split("Commands:")[-1], flags=re.M)
    return listed


def _help(command: str) -> str:
    words = [sys.executable, "-m", "allograft", *command.split(), "--help"]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, env={"COLUMNS": "100", "PYTHONPATH": ":".join(sys.path)}
    ).stdout
