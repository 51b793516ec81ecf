"""A report of 40 rows and 5 targets with pictures of every line: bytes, processor seconds to make it,
and seconds until headless Chromium has loaded it, where one is installed."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ratio import keep

from allograft.recipe import parse_recipe, title
from allograft.report import Picture, Shows, Slice, draw_overlay, write_report
from allograft.results.evidence import marked, verdicts_of
from allograft.results.record import Part, Record
from allograft.results.select import lines
from allograft.results.standing import Standing
from allograft.study.plan import Plan, Row
from allograft.study.reading import make_study

sys.path.append(str(Path(__file__).parent.parent))
from tests.unit.report.test_browser import CHROMIUM, Browser
from tests.unit.tiny import a_row

ROWS, TARGETS, SEEDS, SUBJECTS = 40, 5, 3, 20
BYTES, OPENS = 10.0, 2.0
RECIPES: list[Any] = ["supervised", *({"fourier": {"beta": round(0.005 * n, 3)}} for n in range(1, ROWS))]


def a_record(plan: Plan, row: Row, number: int, site: str, part: Part) -> Record:
    """Twenty subjects, whose Dice grows with the number of the recipe."""
    rng = np.random.default_rng([row.seed, number, len(site)])
    found = np.clip(0.4 + 0.01 * number + rng.normal(0, 0.05, SUBJECTS), 0, 1).tolist()
    cases = [
        {"case": f"{site}-{n}.png", "subject": f"{site}-{n}", "dice": dice, "iou": dice / (2 - dice), "hd95": 9.0}
        for n, dice in enumerate(found)
    ]
    return Record(
        row.unit,
        {"name": title(row.recipe).split()[0], "title": title(row.recipe), "parameters": {}},
        row.seed,
        "end",
        0,
        site,
        part,
        target=row.target,
        cases=tuple(cases),
        metrics=plan.task.aggregate(cases),
        cost={"train_seconds": 9.0, "predict_seconds": 1.0, "peak_memory_mb": 900.0, "trainable_parameters": 10**6},
    )


def pictures(rng: np.random.Generator) -> list[Picture]:
    """Three volumes of noise, which compresses worst, nine slices each."""
    mask = np.zeros((96, 96), int)
    mask[20:70, 30:60] = 1
    drawn = [draw_overlay(rng.normal(size=(96, 96)), mask, np.roll(mask, n)) for n in range(9)]
    more = tuple(Slice(n, png) for n, png in enumerate(drawn) if n != 4)
    return [Picture(name, "S001, dice 0.500", drawn[4], 4, 9, more) for name in ("worst", "median", "best")]


def main() -> None:
    sites = [f"t{number}" for number in range(TARGETS)]
    study = make_study(
        {
            "cohort": "manifest.csv",
            "task": {"segmentation": {"classes": ["vessel"]}},
            "source": ["s"],
            "target": sites,
            "recipes": RECIPES[1:],
            "seeds": SEEDS,
        }
    )
    made = [parse_recipe(recipe) for recipe in RECIPES]
    rows = [
        (number, a_row(recipe, site, seed, 0, f"{number}.{site}.{seed}"))
        for seed in range(SEEDS)
        for number, recipe in enumerate(made)
        for site in sites
    ]
    plan = Plan(tuple(row for _, row in rows), SEEDS, study.made_task)
    records = [
        a_record(plan, row, number, site, part)
        for number, row in rows
        for site, part in ((row.target, "test"), ("s", "test"), ("s", "val"))
    ]
    began = time.process_time()
    table = lines(plan, {record.name: record for record in records}, study.selection)
    in_table = time.process_time() - began
    verdicts = verdicts_of(study, plan, table)
    standing = Standing(tuple(marked(table, verdicts)), verdicts, len(rows), len(rows))
    rng = np.random.default_rng(0)
    shown = {(line.title, line.target): pictures(rng) for line in table}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        began = time.process_time()
        write_report(path, study=study, plan=plan, standing=standing, shows=Shows(shown))
        seconds = time.process_time() - began
        opened = in_browser(path, Path(folder) / "profile") if CHROMIUM else []
        size = path.stat().st_size / 1e6
    numbers = {"lines": len(table), "table_seconds": round(in_table, 2), "page_seconds": round(seconds, 2)}
    keep("page_40_rows", numbers, megabytes=([size], BYTES), **({"opens_seconds": (opened, OPENS)} if opened else {}))


def in_browser(path: Path, profile: Path) -> list[float]:
    """Seconds from the command to the page's load event, five times after a first one."""
    browser, found = Browser.start(profile), []
    try:
        for _ in range(6):
            began = time.perf_counter()
            browser.open(path)
            found.append(time.perf_counter() - began)
            browser.open(Path("/dev/null"))
    finally:
        browser.stop()
    return found[1:]


if __name__ == "__main__":
    main()
