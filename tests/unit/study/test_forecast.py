"""What a step is foreseen to need is what it needs, and looking changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from allograft.batch import Batch
from allograft.networks import build, count_parameters, trainable
from allograft.study.forecast import MB, forecast
from allograft.tasks.segmentation import Segmentation
from allograft.tree import digest

TASK = Segmentation(("vessel",))


def unet(**more: Any) -> Any:
    return build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [16, 32], **more}}})


def a_batch(size: int = 64) -> Batch:
    image = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.zeros(2).long(), ("a", "b"), {"mask": (image > 0).long()})


def profiled(step: Callable[[], Any]) -> float:
    """The largest sum of live tensors that were made inside, in MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    live = peak = 0
    for event in sorted(watched.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / MB


@pytest.mark.parametrize("scope", ["full", "top"])
def test_memory_is_what_the_profiler_sees(scope: Any) -> None:
    network, batch = unet(), a_batch()
    with trainable(network, scope) as moving:
        found = forecast(network, TASK.objective, batch)

        def step() -> None:
            made = torch.optim.Adam(moving)
            image, mask = batch.image.clone(), batch.labels["mask"].clone()  # type: ignore[union-attr]
            weights = [tensor.clone() for tensor in network.state_dict().values()]
            states = [torch.zeros_like(p) for p in moving for _ in range(2)]
            torch.stack([*TASK.objective(network, Batch(image, batch.site, batch.cases, {"mask": mask})).values()]).sum().backward()
            made.step()
            del weights, states

        seen = profiled(step)
    assert 0.7 < found.step_mb / seen < 1.3
    assert found.parameters_mb * MB == 4 * count_parameters(network)
    assert found.seconds > 0


def test_it_grows_with_the_batch_and_shrinks_with_the_scope() -> None:
    network = unet()
    small, large = (forecast(network, TASK.objective, a_batch(size)) for size in (32, 64))
    assert large.step_mb > 2 * small.step_mb
    with trainable(network, "top"):
        assert forecast(network, TASK.objective, a_batch(64)).step_mb < 0.8 * large.step_mb


def test_the_optimizers_state_counts() -> None:
    network = nn.Linear(1000, 1000)
    batch = Batch(torch.zeros(1, 1000), torch.zeros(1), ("a",))

    def objective(network: Any, batch: Batch) -> dict[str, Tensor]:
        return {"sum": network(batch.image).sum()}

    plain = forecast(network, objective, batch, lambda moving: torch.optim.SGD(moving, 0.1)).step_mb
    assert forecast(network, objective, batch).step_mb - plain == pytest.approx(2 * 4 * 1001000 / MB, rel=0.01)
    assert plain == pytest.approx(2 * 4 * 1001000 / MB, rel=0.02)  # weights and their gradient


def test_nothing_is_changed() -> None:
    network = unet(norm="batch", dropout=0.5)
    network.decoder.eval()
    modes = [module.training for module in network.modules()]
    before, state = digest(network), torch.get_rng_state()
    forecast(network, TASK.objective, a_batch())
    assert digest(network) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(p.grad is None for p in network.parameters())
