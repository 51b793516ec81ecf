"""A step of fine-tuning ``top`` against one of ``full``: Swin UNETR, 12 features, 64^3, batch 1;
time and peak memory; and the time of the default U-Net's, and of its step with fused Adam.

Seconds: the variants in turn in one process, one step each, the median of the ratios; processor
time beside it, which a busy machine disturbs less. Memory: each variant in a process of its own,
the largest sum of live tensors in one step by torch's profiler, which sees every allocation since
the network was built; beside it the largest resident set of the process in that step.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from ratio import compare, keep, seconds
from torch.profiler import ProfilerActivity, profile, record_function

from allograft.batch import Batch
from allograft.context import Meter
from allograft.networks import build, trainable
from allograft.networks.cache import FrozenOutputs, OnKept
from allograft.tasks.segmentation import Segmentation

SPEC = {"build": {"swin_unetr": {"in_channels": 1, "outputs": {"mask": 2}, "feature_size": 12}}, "surgery": []}
TASK = Segmentation(("lesion",))
VARIANTS = ("full", "top", "top_cached")
ROUNDS = 3
LIMITS = {"top": {"seconds": 0.6, "memory": 0.5}, "top_cached": {"seconds": 0.2, "memory": 0.3}}


def stepper(variant: str, stack: ExitStack) -> Callable[[], None]:
    """One optimizer step of a variant. The first call of a cached one computes what it keeps."""
    torch.manual_seed(0)
    network = build(SPEC)
    batch = Batch(
        torch.randn(1, 1, 64, 64, 64),
        torch.zeros(1).long(),
        ("case",),
        {"mask": torch.randint(0, 2, (1, 1, 64, 64, 64))},
    )
    objective = OnKept(TASK.objective, FrozenOutputs(1)) if variant == "top_cached" else TASK.objective
    moving = stack.enter_context(trainable(network, "full" if variant == "full" else "top"))
    optimizer = torch.optim.Adam(moving, 1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*objective(network, batch).values()]).sum().backward()
        optimizer.step()

    return step


def memory(variant: str) -> None:
    """Print the peak of live tensors in the second step, and the process's largest resident set in
    it, in MiB."""
    with ExitStack() as stack, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step = stepper(variant, stack)
        step()
        meter = Meter()
        with record_function("measured"):
            step()
        rss = meter.cost()["peak_memory_mb"]
    events = sorted(watched.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    window = next(event for event in events if event.name() == "measured")
    live = peak = 0
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            if window.start_ns() <= event.start_ns() <= window.end_ns():
                peak = max(peak, live)
    print(json.dumps({"live": peak / 2**20, "rss": rss}))


def in_a_process_of_its_own(variant: str) -> dict[str, float]:
    """What ``memory`` prints."""
    done = subprocess.run([sys.executable, __file__, variant], capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios, pair by pair."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def unet_stepper(dims: int, scope: str, stack: ExitStack, *, fused: bool = False) -> Callable[[], None]:
    """One optimizer step of the default U-Net, on four slices of 128 x 128 or one volume of 64^3."""
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "spatial_dims": dims}}})
    cases, size = (4, (128, 128)) if dims == 2 else (1, (64, 64, 64))
    batch = Batch(
        torch.randn(cases, 1, *size),
        torch.zeros(cases).long(),
        tuple(map(str, range(cases))),
        {"mask": torch.randint(0, 2, (cases, 1, *size))},
    )
    optimizer = torch.optim.Adam(stack.enter_context(trainable(network, scope)), 1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*TASK.objective(network, batch).values()]).sum().backward()
        optimizer.step()

    return step


def unets() -> None:
    """Steps of the default U-Net: of its top, and with fused Adam."""
    for dims, limit in ((2, 0.7), (3, 0.9)):
        with ExitStack() as stack:
            top, full = (unet_stepper(dims, scope, stack) for scope in ("top", "full"))
            compare(f"scope_top_to_full_unet_{dims}d", top, full, limit=limit)
    with ExitStack() as stack:
        fused, plain = (unet_stepper(2, "full", stack, fused=fused) for fused in (True, False))
        compare("fused_adam_unet_2d", fused, plain, limit=None, rounds=21)


def main() -> None:
    unets()
    took: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    worked: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with ExitStack() as stack:
        steps = {variant: stepper(variant, stack) for variant in VARIANTS}
        for step in steps.values():
            step()
        for turn in range(ROUNDS):
            for variant in VARIANTS if turn % 2 == 0 else reversed(VARIANTS):
                began = time.process_time()
                took[variant].append(seconds(steps[variant]))
                worked[variant].append(time.process_time() - began)
    peak = {variant: in_a_process_of_its_own(variant) for variant in VARIANTS}
    for variant, limits in LIMITS.items():
        keep(
            f"scope_{variant}_to_full",
            {
                "wall_seconds": ratio(took[variant], took["full"]),
                "live_mib": round(peak[variant]["live"]),
                "live_mib_full": round(peak["full"]["live"]),
                "rss_mib": round(peak[variant]["rss"]),
                "rss_mib_full": round(peak["full"]["rss"]),
                "rounds": ROUNDS,
            },
            seconds=([a / b for a, b in zip(worked[variant], worked["full"], strict=True)], limits["seconds"]),
            memory=([peak[variant]["live"] / peak["full"]["live"]], limits["memory"]),
        )


if __name__ == "__main__":
    memory(sys.argv[1]) if sys.argv[1:] else main()
