"""Paired timings: two functions in turn, the median of the ratios; kept as JSON beside this file,
with what was promised.

Processor time, because a busy machine disturbs it less than wall time; a GPU's work is told by wall
time alone.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
NOISE = 1.1
"""By how much a number that was measured once may miss its limit."""
Clock = Callable[[], float]


def seconds(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Time of one call, wall time by default."""
    began = clock()
    run()
    return clock() - began


def ratios(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int = 9,
    clock: Clock = time.process_time,
) -> list[float]:
    """Time of ours / theirs, pair by pair, after one warm-up of each."""
    ours(), theirs()
    found = []
    for turn in range(rounds):
        # neither always runs on the warmer machine
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        a, b = seconds(first, clock), seconds(second, clock)
        found.append(a / b if turn % 2 == 0 else b / a)
    return found


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    limit: float | None,
    rounds: int = 9,
    clock: Clock = time.process_time,
) -> float:
    """Print and keep the median of ours / theirs over ``rounds`` pairs. ``limit`` is what was
    promised."""
    found = ratios(ours, theirs, rounds=rounds, clock=clock)
    keep(name, {"rounds": rounds}, ratio=(found, limit))
    return statistics.median(found)


def keep(name: str, result: Mapping[str, Any], **measured: tuple[list[float], float | None]) -> None:
    """Print one line, and write ``results/NAME.json``: schema 2, the numbers, their limits, and the
    class of the hardware.

    Args:
        result: numbers that nothing was promised of.
        measured: name -> its values and its limit, None for none. Kept are the median, and, of
            several values, the first and third quartile.
    """
    numbers = dict(result)
    for key, (values, _) in measured.items():
        numbers[key] = round(statistics.median(values), 4)
        if len(values) > 1:
            quartiles = statistics.quantiles(values, n=4, method="inclusive")
            numbers[f"{key}_quartiles"] = [round(quartiles[0], 4), round(quartiles[2], 4)]
    tree = {
        "schema": 2,
        "name": name,
        "result": numbers,
        "limits": {key: limit for key, (_, limit) in measured.items() if limit is not None},
        "hardware": hardware(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")
    told = {
        key: f"{value} (limit {tree['limits'][key]})" if key in tree["limits"] else value
        for key, value in numbers.items()
    }  # type: ignore[index]
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in told.items())}", flush=True)


def missed(tree: Mapping[str, Any]) -> list[str]:
    """The promises that a kept result misses beyond noise: where three quarters of the pairs do, or
    a number measured once by a tenth.

    >>> missed({"name": "a", "result": {"ratio": 1.2, "ratio_quartiles": [0.9, 1.3]}, "limits": {"ratio": 1.0}})
    []
    >>> missed({"name": "a", "result": {"ratio": 1.2, "ratio_quartiles": [1.1, 1.3]}, "limits": {"ratio": 1.0}})
    ['a: ratio is 1.2, promised 1.0']
    """
    found, lines = tree["result"], []
    for key, limit in tree["limits"].items():
        lowest = found.get(f"{key}_quartiles", [found[key] / NOISE])[0]
        if lowest > limit:
            lines.append(f"{tree['name']}: {key} is {found[key]}, promised {limit}")
    return lines


def hardware() -> dict[str, object]:
    """The class of this machine, and what else numbers depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "torch": torch.__version__,
    }
