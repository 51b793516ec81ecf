"""The tables of the evidence pages and of the README, built from the CSV files in
``docs/evidence/data/PAGE``.

``python docs/tables.py`` rebuilds all tables; ``python docs/tables.py run PAGE`` runs the page's
commands, keeps what they left, and rebuilds its tables. A table is what lies between ``<!-- table
{...} -->`` and ``<!-- end -->`` in a page; the braces hold its description (``TABLES``).
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EVIDENCE = ROOT / "docs" / "evidence"
DATA = EVIDENCE / "data"
FILES = ("results.csv", "metrics.csv")
CORRECTION = "correction.csv"
"""Kept where a row corrects boxes and others drew boxes of the same images."""
BLOCK = re.compile(r"<!-- table (\{.*?\}) -->\n.*?<!-- end -->", re.DOTALL)

Row = Mapping[str, str]


def rebuilt(path: Path) -> str:
    """The text of a file with its tables built again."""

    def table(found: re.Match[str]) -> str:
        spec = json.loads(found[1])
        lines = TABLES[spec["kind"]](spec)
        return f"<!-- table {found[1]} -->\n\n{lines}\n\n<!-- end -->"

    return BLOCK.sub(table, path.read_text(encoding="utf-8"))


def pages() -> list[str]:
    """Those with kept files."""
    return sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())


@cache
def read(path: Path) -> tuple[Row, ...]:
    """The rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def score(row: Row) -> str:
    """Mean ± sd over seeds; the mean alone of one seed."""
    spread = f" ± {float(row['sd_over_seeds']):.3f}" if row["sd_over_seeds"] else ""
    return f"{float(row['mean']):.3f}{spread}" if row["mean"] else ""


def difference(row: Row) -> str:
    """The difference to no adaptation and its 95 % interval."""
    if not row["difference"]:
        return ""
    bounds = [f"{float(row[f'difference_{end}']):+.3f}" for end in ("low", "high") if row[f"difference_{end}"]]
    return f"{float(row['difference']):+.3f}" + (f" ({' to '.join(bounds)})" if bounds else "")


def p_value(row: Row) -> str:
    """The exact test's p after adjustment."""
    value = row["p_adjusted"]
    return "" if not value else "<0.001" if float(value) < 0.001 else f"{float(value):.2g}"


SHOWN: Mapping[str, Callable[[Row], str]] = {
    "score": score,
    "difference": difference,
    "p": p_value,
    "interval": lambda row: f"{float(row['low']):.3f} to {float(row['high']):.3f}" if row["low"] else "",
    "subjects": lambda row: row["subjects"],
    "parameters": lambda row: f"{float(row['trainable_parameters']):.0f}" if row["trainable_parameters"] else "",
    "predicting": lambda row: f"{float(row['predict_seconds_per_100']):.1f}" if row["predict_seconds_per_100"] else "",
    "seconds": lambda row: f"{float(row['train_seconds']):.0f}" if row["train_seconds"] else "",
}


def scores(spec: Mapping[str, Any]) -> str:
    """A row per recipe. ``columns``: [heading, site, what of SHOWN or a metric]; ``rows``: title ->
    what it is called, all titles in their order if absent; ``part`` of a study that has parts, which
    a column may name as its fourth. A site that is a target is asked for as that target's.
    ``published``: title -> what a paper states, in a last column."""
    folder, part = DATA / spec["data"], spec.get("part")
    parts = {part, *(column[3] for column in spec["columns"] if len(column) > 3)}
    results, metrics = ([row for row in read(folder / name) if row.get("part") in parts] for name in FILES)
    titles = spec.get("rows") or {row["recipe"]: row["recipe"] for row in results}

    def cell(title: str, site: str, what: str, part: str | None = part) -> str:
        targets = {row["target"] for row in results if row.get("part") == part}
        target = site if site in targets else spec.get("target", min(targets, default=site))
        of = [
            row
            for row in (results if what in SHOWN else metrics)
            if (row.get("part"), row["recipe"], row["target"], row["site"]) == (part, title, target, site)
            and (what in SHOWN or row["metric"] == what)
        ]
        return SHOWN.get(what, score)(of[0]) if of else ""

    head = ["recipe", *(column[0] for column in spec["columns"])]
    body = {title: [name, *(cell(title, *column[1:]) for column in spec["columns"])] for title, name in titles.items()}
    if "published" in spec:
        head.append("published")
        for title, row in body.items():
            row.append(spec["published"].get(title, ""))
    return grid(head, list(body.values()))


def stages(spec: Mapping[str, Any]) -> str:
    """The mean over seeds at each stage of ``rows`` (title -> name) at each of ``sites``."""
    found = read(DATA / spec["data"] / "stages.csv")
    head = ["recipe", *(f"{site}, {stage}" for site in spec["sites"] for stage in spec["stages"])]
    body = []
    for title, name in spec["rows"].items():
        cells = []
        for site in spec["sites"]:
            for stage in spec["stages"]:
                asked = (title, site, stage)
                values = [float(row["score"]) for row in found if (row["recipe"], row["site"], row["stage"]) == asked]
                cells.append(f"{fmean(values):.3f}" if values else "")
        body.append([name, *cells])
    return grid(head, body)


def pairs(spec: Mapping[str, Any]) -> str:
    """From (rows) to (columns): no adaptation, at home on the diagonal, and in brackets what
    ``recipe`` adds."""
    found = read(DATA / spec["data"] / "results.csv")
    sites = sorted({row["source"] for row in found})

    def cell(source: str, site: str) -> str:
        at = {
            row["recipe"]: row
            for row in found
            if (row["source"], row["site"]) == (source, site) and (row["target"] == site or source == site)
        }
        plain = at["supervised"]
        if source == site:
            return f"{float(plain['mean']):.3f}"
        return f"{float(plain['mean']):.3f} ({float(at[spec['recipe']]['mean']) - float(plain['mean']):+.3f})"

    return grid(["", *sites], [[source, *(cell(source, site) for site in sites)] for source in sites])


def pair_means(spec: Mapping[str, Any]) -> str:
    """A row per recipe: its mean over all pairs, the gain, pairs ahead, the worst pair, and the mean
    gain of ``groups`` (name -> pairs). ``part``: how the names of the study's parts end; ``metric``:
    in the place of the headline."""
    part, metric = spec.get("part", ""), spec.get("metric")
    found = [
        row
        for row in read(DATA / spec["data"] / ("metrics.csv" if metric else "results.csv"))
        if row["site"] == row["target"]
        and row.get("part", "").endswith(part)
        and (metric is None or metric == row["metric"])
    ]
    of: dict[str, dict[str, float]] = {}
    for row in found:
        of.setdefault(row["recipe"], {})[f"{row['source']} to {row['site']}"] = float(row["mean"])
    plain = of["supervised"]
    body = []
    for title, name in (spec.get("rows") or {title: title for title in of}).items():
        gains = {pair: value - plain[pair] for pair, value in of[title].items()}
        worst = min(of[title], key=lambda pair: of[title][pair])
        cells = [name, f"{fmean(of[title].values()):.3f}"]
        cells += (
            ["", ""]
            if title == "supervised"
            else [
                f"{fmean(gains.values()):+.3f}",
                f"{sum(gain > 0 for gain in gains.values())} of {len(gains)}",
            ]
        )
        cells.append(f"{of[title][worst]:.3f}, {worst}")
        cells += [
            "" if title == "supervised" else f"{fmean(gains[pair] for pair in group):+.3f}"
            for group in spec.get("groups", {}).values()
        ]
        body.append(cells)
    heads = [f"gain, {name}" for name in spec.get("groups", {})]
    return grid(["recipe", f"mean over {len(plain)} pairs", "gain", "pairs ahead", "worst pair", *heads], body)


def stream(spec: Mapping[str, Any]) -> str:
    """What a stream's rows (title -> name) score at the end, forget and gain, mean ± sd over seeds.

    ``sites``: those of each stage, in order; ``stages``: the stage of the recipe after each, of which a
    row judged at the end alone has its last. ``facts``: numbers of the last stage.
    """
    from allograft.results.analysis.stream import Matrix, backward_transfer, forward_transfer

    folder, size = DATA / spec["data"], range(len(spec["sites"]))
    found, told = read(folder / "stages.csv"), read(folder / "facts.csv")

    def matrices(title: str) -> Iterator[Matrix]:
        own = [row for row in found if row["recipe"] == title]
        last = own[-1]["stage"]
        for seed in sorted({row["seed"] for row in own}):
            at = {(row["stage"], row["site"]): float(row["score"]) for row in own if row["seed"] == seed}
            names = spec["stages"] if len({row["stage"] for row in own}) > 1 else [last]
            yield tuple(tuple(at[stage, site] for site in spec["sites"]) for stage in names)

    def over_seeds(values: Sequence[float], digits: str) -> str:
        spread = f" ± {stdev(values):{digits.replace('+', '')}}" if len(values) > 1 else ""
        return f"{fmean(values):{digits}}{spread}" if values else ""

    body = []
    for title, name in spec["rows"].items():
        every = list(matrices(title))
        ends = [[row[-1][place] for row in every] for place in size]
        cells = [over_seeds([fmean(row[-1]) for row in every], ".3f"), *(f"{fmean(end):.3f}" for end in ends)]
        for measure in (backward_transfer, forward_transfer):
            whole = [value for row in every if len(row) == len(size) and (value := measure(row)) is not None]
            cells.append(over_seeds(whole, "+.3f"))
        for fact in spec.get("facts", ()):
            asked = (title, spec["stages"][-1], fact)
            values = [float(row["value"]) for row in told if (row["recipe"], row["stage"], row["fact"]) == asked]
            cells.append(", ".join(f"{value:g}" for value in values))
        body.append([name, *cells])
    heads = ["at the end", *(f"stage {place + 1}" for place in size), "backward", "forward", *spec.get("facts", ())]
    return grid(["recipe", *heads], body)


def science(spec: Mapping[str, Any]) -> str:
    """The means over seeds of a science test (``data``: a file): a row for each of ``rows`` (row ->
    name), a column for each of ``columns``: [heading, setting, measure]. ``signed``: with +."""
    lines = read(DATA / spec["data"])
    digits = "+.3f" if spec.get("signed") else ".3f"

    def cell(row: str, setting: str, measure: str) -> str:
        asked = (setting, row, measure)
        values = [float(line["value"]) for line in lines if (line["setting"], line["row"], line["measure"]) == asked]
        return f"{fmean(values):{digits}}" if values else ""

    head = ["", *(column[0] for column in spec["columns"])]
    return grid(
        head, [[name, *(cell(row, *column[1:]) for column in spec["columns"])] for row, name in spec["rows"].items()]
    )


def facts(spec: Mapping[str, Any]) -> str:
    """What the stages of ``rows`` (title -> name) report of themselves, means over seeds: a column
    for each of ``columns``: [heading, fact, digits]; ``part`` of a study that has parts."""
    reported = [row for row in read(DATA / spec["data"] / "facts.csv") if row.get("part") == spec.get("part")]

    def cell(title: str, fact: str, digits: str) -> str:
        values = [float(row["value"]) for row in reported if (row["recipe"], row["fact"]) == (title, fact)]
        return f"{fmean(values):{digits}}" if values else ""

    head = ["recipe", *(column[0] for column in spec["columns"])]
    return grid(
        head,
        [[name, *(cell(title, *column[1:]) for column in spec["columns"])] for title, name in spec["rows"].items()],
    )


def correction(spec: Mapping[str, Any]) -> str:
    """The boxes that came to each of ``rows`` (title -> name), and those that it made of them, with
    precision and recall against a ``reader`` and 95 % over subjects."""

    def rate(row: Row, name: str) -> str:
        bounds = [f"{float(row[f'{name}_{end}']):.3f}" for end in ("low", "high") if row[f"{name}_{end}"]]
        return f"{float(row[name]):.3f}" + (f" ({' to '.join(bounds)})" if bounds else "")

    body = [
        [name, row["boxes"], f"{float(row['count']):g}", rate(row, "precision"), rate(row, "recall")]
        for title, name in spec["rows"].items()
        for row in read(DATA / spec["data"] / CORRECTION)
        if (row["recipe"], row["reader"]) == (title, spec["reader"])
    ]
    return grid(["recipe", "boxes", "number", "precision", "recall"], body)


def counts(spec: Mapping[str, Any]) -> str:
    """How often each of ``values`` occurs in each file of ``rows`` (file -> name)."""
    folder, body = DATA / spec["data"], []
    for file, name in spec["rows"].items():
        of = {row["value"]: row["count"] for row in read(folder / f"{file}.csv")}
        body.append([name, *(of.get(value, "0") for value in spec["values"])])
    return grid([spec["heading"], *spec["values"]], body)


def curves(spec: Mapping[str, Any]) -> str:
    """Curves of a recipe's figure, mean over seeds: a row for each of ``rows``: [name, file below
    ``data``, recipe, curve], a column for each x; ``digits`` of a value."""
    found: dict[float, None] = {}
    body = []
    for name, file, recipe, line in spec["rows"]:
        at: dict[float, list[float]] = {}
        for row in read(DATA / spec["data"] / file):
            if (row["recipe"], row["line"]) == (recipe, line):
                at.setdefault(float(row["x"]), []).append(float(row["y"]))
        found |= dict.fromkeys(at)
        body.append([name, *(f"{fmean(values):{spec['digits']}}" for _, values in sorted(at.items()))])
    return grid([spec["heading"], *(f"{x:g}" for x in sorted(found))], body)


def shares(spec: Mapping[str, Any]) -> str:
    """The mean of each of ``lines`` of a figure, as a share of the largest line's, mean over seeds: a
    row for each of ``rows`` (recipe -> name)."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in read(DATA / spec["data"] / "curves.csv"):
        values.setdefault((row["recipe"], row["seed"]), {}).setdefault(row["line"], []).append(float(row["y"]))
    body = []
    for recipe, name in spec["rows"].items():
        seeds = [{line: fmean(ys) for line, ys in of.items()} for (title, _), of in values.items() if title == recipe]
        cells = [fmean(means[line] / max(means.values()) for means in seeds) for line in spec["lines"]]
        body.append([name, *(f"{share:.3f}" for share in cells)])
    return grid([spec["heading"], *spec["lines"]], body)


def samplers(spec: Mapping[str, Any]) -> str:
    """How two samplers of one classifier agree, from a file of counts (``data``) whose values are
    FIRST/SECOND/TRUE class; ``rows``: the names of the two."""
    counted = [(tuple(map(int, row["value"].split("/"))), int(row["count"])) for row in read(DATA / spec["data"])]
    total = sum(count for _, count in counted)
    known = sorted({classes[2] for classes, _ in counted})
    body = []
    for place, name in enumerate(spec["rows"]):
        hits = {label: sum(n for c, n in counted if c[place] == c[2] == label) for label in known}
        found = {label: sum(n for c, n in counted if c[place] == label) for label in known}
        true = {label: sum(n for c, n in counted if c[2] == label) for label in known}
        f1 = fmean(2 * hits[label] / (found[label] + true[label]) for label in known)
        same = sum(n for c, n in counted if c[0] == c[1]) / total
        shares = " / ".join(f"{found[label]}" for label in known)
        body.append([name, f"{f1:.3f}", f"{sum(hits.values()) / total:.3f}", shares, f"{same:.1%}" if place else ""])
    return grid(["sampler", "macro-F1", "accuracy", "named each class", "the same class as above"], body)


def distances(spec: Mapping[str, Any]) -> str:
    """The distance of a shift, and in brackets the threshold that it has to reach (bold where it does):
    a row per number of fitted cases, a column for each of ``columns`` (feature -> heading)."""
    found = {(row["fitted"], row["feature"]): row for row in read(DATA / spec["data"])}

    def cell(fitted: str, feature: str) -> str:
        distance, threshold = (float(found[fitted, feature][key]) for key in ("distance", "threshold"))
        return f"**{distance:.2f}** ({threshold:.2f})" if distance >= threshold else f"{distance:.2f} ({threshold:.2f})"

    numbers = list(dict.fromkeys(fitted for fitted, _ in found))
    body = [[fitted, *(cell(fitted, feature) for feature in spec["columns"])] for fitted in numbers]
    return grid(["fitted cases", *spec["columns"].values()], body)


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "scores": scores,
    "stages": stages,
    "pairs": pairs,
    "pair_means": pair_means,
    "stream": stream,
    "science": science,
    "facts": facts,
    "correction": correction,
    "counts": counts,
    "curves": curves,
    "shares": shares,
    "samplers": samplers,
    "distances": distances,
}


def parts_in(out: Path) -> dict[str, Path]:
    """The folders of a study's parts by name; of a study in one part, its own under ""."""
    from allograft.study.parts import part_folder

    names = dict.fromkeys(row.get("part", "") for row in read(out / "results.csv"))
    return {name: part_folder(out, name) if name else out for name in names}


def stage_rows(out: Path) -> Iterator[dict[str, Any]]:
    """The headline of each stage, site and seed on test subjects, from a study's records."""
    from allograft.results.record import read_all

    headlines = {row.get("part", ""): row["metric"] for row in read(out / "results.csv")}
    for part, folder in parts_in(out).items():
        for record in read_all(folder).values():
            if record.part == "test" and record.status == "done":
                yield ({"part": part} if part else {}) | {
                    "recipe": record.recipe["title"],
                    "stage": record.stage,
                    "site": record.site,
                    "seed": record.seed,
                    "score": record.metrics[headlines[part]],
                }


def fact_rows(out: Path) -> Iterator[dict[str, Any]]:
    """The numbers that each stage reports of itself, once per seed."""
    from allograft.results.record import read_all

    for part, folder in parts_in(out).items():
        reported = {}
        for record in read_all(folder).values():
            for name, value in record.facts.items():
                if isinstance(value, (int, float)):
                    reported[record.recipe["title"], record.stage, record.seed, name] = value
        for (title, stage, seed, name), value in reported.items():
            row = {"recipe": title, "stage": stage, "seed": seed, "fact": name, "value": value}
            yield ({"part": part} if part else {}) | row


def keep(out: Path, folder: Path, *, with_stages: bool = False) -> None:
    """Copy a study's CSV files beside a page, and its stages, with what they say of themselves, where
    the page shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    further = [CORRECTION] if (out / CORRECTION).is_file() else []
    for name in (*FILES, *further):
        shutil.copyfile(out / name, folder / name)
    for name, found in {"stages.csv": stage_rows, "facts.csv": fact_rows}.items() if with_stages else ():
        if rows := sorted(found(out), key=lambda row: [str(value) for value in row.values()]):
            with open(folder / name, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


def keep_curves(out: Path, figure: str, file: Path) -> None:
    """The points of a figure that recipes drew, once a seed."""
    from allograft.results.record import read_all

    units = {record.unit: record for record in read_all(out).values()}
    rows: list[dict[str, Any]] = []
    for unit, record in units.items():
        path = out / "units" / unit / "figures.json"
        drawn = json.loads(path.read_text(encoding="utf-8")).get(figure) if path.exists() else None
        for line, values in (drawn or {"y": {}})["y"].items():
            about = {"recipe": record.recipe["title"], "seed": record.seed, "line": line}
            rows += [about | {"x": x, "y": y} for x, y in zip(drawn["x"], values, strict=True)]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, ["recipe", "seed", "line", "x", "y"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: [str(value) for value in row.values()]))


def keep_counts(table: Path, column: str, file: Path) -> None:
    """How often each value of a column occurs, and nothing of any single image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["value", "count"])
        writer.writerows(sorted(Counter(row[column] for row in read(table)).items()))


def hardware() -> dict[str, Any]:
    """The class of this machine, as benchmarks keep it."""
    import torch

    return {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "torch": torch.__version__,
    }


def words_of(command: str) -> list[str]:
    """Of a command line, with the variables of the shell filled in."""
    return [os.path.expandvars(word) for word in shlex.split(command)]


def run(page: str) -> None:
    """Run a page's commands, keep what they left, and say with what."""
    plan = json.loads((DATA / page / "run.json").read_text(encoding="utf-8"))
    for command in plan["before"]:
        subprocess.run(words_of(command), cwd=ROOT, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name, study in plan["studies"].items():
        words = words_of(study["command"])
        subprocess.run(words, cwd=ROOT, check=True)
        if "--out" in words:
            out = ROOT / words[words.index("--out") + 1]
            keep(out, DATA / page / name, with_stages=study.get("stages", False))
            if "curves" in study:
                keep_curves(out, study["curves"], DATA / page / name / "curves.csv")
        elif "count" in study:
            keep_counts(ROOT / words[words.index("-o") + 1], study["count"], DATA / page / f"{name}.csv")
        elif "-o" in words:
            shutil.copyfile(ROOT / words[words.index("-o") + 1], DATA / page / f"{name}.csv")
        study |= {"commit": commit.strip(), "hardware": hardware()}
    (DATA / page / "run.json").write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def main(words: Sequence[str]) -> None:
    """``[]`` or ``["run", page]``."""
    if words:
        run(words[1])
    for path in (README, *(EVIDENCE / f"{page}.md" for page in pages())):
        path.write_text(rebuilt(path), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
