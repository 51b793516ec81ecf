"""Paired timings: two functions in turn, the median of the ratios; written as JSON beside this
file."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], *, limit: float | None, rounds: int = 9
) -> float:
    """Print and keep the median of ours / theirs over ``rounds`` pairs, after one warm-up of each.
    ``limit`` is what was promised."""
    ours(), theirs()
    ratios = []
    for turn in range(rounds):
        # neither always runs on the warmer machine
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        a, b = seconds(first), seconds(second)
        ratios.append(a / b if turn % 2 == 0 else b / a)
    median = statistics.median(ratios)
    low, high = round(min(ratios), 4), round(max(ratios), 4)
    keep(name, {"ratio": round(median, 4), "lowest": low, "highest": high, "limit": limit, "rounds": rounds})
    return median


def keep(name: str, result: dict[str, object]) -> None:
    """Print one line, and write ``results/NAME.json``: schema 1, the result, and the class of the
    hardware."""
    hardware: dict[str, object] = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }
    hardware["torch"] = torch.__version__
    RESULTS.mkdir(exist_ok=True)
    tree = {"schema": 1, "name": name, "result": result, "hardware": hardware}
    (RESULTS / f"{name}.json").write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in result.items())}", flush=True)


if __name__ == "__main__":
    print("shared by the benchmarks beside it")
