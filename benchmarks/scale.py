"""1,000 and 10,000 small images through gate, doctor, preparing, one epoch, judging and report, with
at most 1,024 open files: processor seconds, peak memory, open files and size of the page.

``python benchmarks/scale.py [IMAGES ...]``; each size in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ratio import keep

from allograft.cohort import read_manifest
from allograft.cohort.copies import find_duplicates
from allograft.cohort.doctor import examine
from allograft.context import Meter
from allograft.run.fabric import local_fabric
from allograft.run.judge import Judge
from allograft.run.session import Session
from allograft.study.plan import scenario_of
from allograft.study.reading import make_study

COUNTS = (1_000, 10_000)
SIDE, OPEN_FILES = 64, 1024
GROWTH = 1.5
"""What an image of 10,000 may cost in a phase, against one of 1,000."""


def write_cohort(folder: Path, images: int) -> Path:
    """Photographs of two sites, a patient each: noise of many scales, and a bright disc, the mask."""
    folder.mkdir()
    rows = ["image,mask,subject,site"]
    places = np.stack(np.mgrid[:SIDE, :SIDE])
    for number in range(images):
        rng = np.random.default_rng(number)
        coarse, fine = (rng.normal(0, 30, (side, side)).astype(np.float32) for side in (4, 16))
        noise = sum(cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for one in (coarse, fine))
        disc = ((places - rng.integers(16, 48, (2, 1, 1))) ** 2).sum(0) < rng.integers(6, 14) ** 2
        cv2.imwrite(str(folder / f"{number}.png"), np.clip(90 + noise + 70 * disc, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / f"{number}-mask.png"), disc.astype(np.uint8))
        rows.append(f"{number}.png,{number}-mask.png,s{number},{'ab'[number % 2]}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


class Phases:
    """What each phase takes, and the most files that are open in it."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        meter, most, over = Meter(), [len(os.listdir("/proc/self/fd"))], threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                most.append(len(os.listdir("/proc/self/fd")))

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.process_time()
        try:
            yield
        finally:
            seconds = time.process_time() - began
            most.append(len(os.listdir("/proc/self/fd")))
            over.set(), watching.join()
        peak = meter.cost()["peak_memory_mb"]
        self.found[name] = {"seconds": round(seconds, 1), "memory_mib": round(peak), "open_files": max(most)}
        print(f"{name}: {self.found[name]}", flush=True)


def measure(images: int, folder: Path) -> dict[str, Any]:
    """All phases of a study of so many images."""
    manifest, out, phase = write_cohort(folder / "cohort", images), folder / "out", Phases()
    study = make_study(
        {
            "cohort": str(manifest),
            "task": {"segmentation": {"classes": ["disc"]}},
            "network": {"unet": {"channels": [8, 16, 32]}},
            "source": ["a"],
            "target": ["b"],
            "recipes": [],
            "seeds": 1,
            "budget": {"epochs": 1, "batch_size": 16},
        }
    )
    with phase("gate"):
        find_duplicates(read_manifest(manifest), cache=out / "cache")
    with phase("doctor"):
        examine(manifest)
    session = Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    with phase("preparing"):
        world = session.prepare()
        plan = session.plan(world)
    row = plan.rows[0]
    context = session.context(0)
    with phase("one epoch"):
        (stage,) = context.run(row.recipe, scenario_of(world, row), session.start(world, 0))
    judge = Judge((*world.tests(0), *world.unlabelled_training(0)), study.made_task, out / "records", session.fabric)
    with phase("judging"):
        judge(stage, 0, 0)
    with phase("report"):
        session.finish(world, plan, report=True)
    phase.found["report"]["page_mb"] = round((out / "report.html").stat().st_size / 1e6, 2)
    return phase.found


def in_a_process_of_its_own(images: int) -> dict[str, Any]:
    """``measure`` with few files, in a fresh process, and on one thread: threads that wait for each
    other spend processor time too."""
    with tempfile.TemporaryDirectory() as folder:
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, "--one", str(images), folder], check=True, env=one_thread)
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
    return found


def main(counts: list[int]) -> None:
    torch.set_num_threads(1)
    found: dict[int, Any] = {}
    for count in sorted(counts):
        found[count] = in_a_process_of_its_own(count)
        write(found)


def write(found: dict[int, Any]) -> None:
    """Keep what was measured so far."""
    growths = {}
    if len(found) > 1:
        first, last = min(found), max(found)
        growths = {
            f"growth_{name.replace(' ', '_')}": (
                [found[last][name]["seconds"] / last / max(found[first][name]["seconds"] / first, 1e-4)],
                GROWTH,
            )
            for name in ("preparing", "one epoch", "judging")
        }
    most = max(one["open_files"] for each in found.values() for one in each.values())
    page = max(each["report"]["page_mb"] for each in found.values())
    keep(
        "scale",
        {"images": {str(count): one for count, one in found.items()}},
        open_files=([most], OPEN_FILES),
        page_mb=([page], 10),
        **growths,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        made = measure(int(sys.argv[2]), Path(sys.argv[3]))
        (Path(sys.argv[3]) / "found.json").write_text(json.dumps(made))
    else:
        main(list(map(int, sys.argv[1:])) or list(COUNTS))
