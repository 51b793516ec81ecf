"""What a unit asks of a Ray cluster, and how the cluster is reached; without Ray itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from allograft.run.executors import ray_cluster
from allograft.run.executors.jobs import Asked, Job

ASKED = Asked("cpu", "32-true", 2, 60.0, (), 1000)


def test_a_unit_asks_for_its_threads_its_loaders_and_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    on_cpu, on_gpu = (ray_cluster._request(Asked(device, "32-true", 2, 60.0, (), 1000)) for device in ("cpu", "cuda"))
    assert (on_cpu["CPU"], on_cpu["GPU"]) == (5, 0)
    assert (on_gpu["CPU"], on_gpu["GPU"]) == (5, 1)
    assert on_cpu["memory"] - on_gpu["memory"] == 1000


def test_a_task_has_the_threads_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(ray_cluster, "_WORKERS", {ASKED: lambda job: job})
    job = Job(Path("part"), "unit", "label")
    assert ray_cluster.run_job(ASKED, job) is job  # type: ignore[comparison-overlap]
    assert set_to == [3]


@pytest.mark.parametrize(
    ("address", "reached"),
    [("[::1]:6379", ("::1", 6379)), ("ray://host:10001", ("host", 10001)), ("host", None), ("auto", None)],
)
def test_an_address_is_tried_before_ray_is(
    address: str, reached: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[tuple[str, int], float]] = []

    class Open:
        def close(self) -> None:
            """Of nothing."""

    def connect(place: tuple[str, int], *, timeout: float) -> Any:
        tried.append((place, timeout))
        return Open()

    monkeypatch.setattr(ray_cluster.socket, "create_connection", connect)
    ray_cluster._reach(address)
    assert tried == ([(reached, ray_cluster.REACH)] if reached else [])
