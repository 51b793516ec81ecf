"""What must be equal in MetaMedSeg: one inner SGD step is scaled SGD, weights of models that do not
differ are equal, and a model that has not moved takes all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tiny import a_context
from torch import Tensor

from allograft.batch import Batch
from allograft.methods.metamedseg import (
    Metamedseg,
    TaskStep,
    inverse_distance_weights,
    meta_update,
    volumetric_task,
)
from allograft.networks import AnyNetwork, build
from allograft.parts.foreground import Foreground
from allograft.parts.local_models import released_weights

ONE_STEP = Metamedseg(
    rule="average",
    tasks=1,
    shots=3,
    local_epochs=1,
    batch_size=3,
    optimizer="sgd",
    weight_decay=0.0,
    lr=0.3,
    meta_lr=0.2,
)


def a_network(seed: int = 0) -> AnyNetwork:
    torch.manual_seed(seed)
    return build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1}}}
    )


def a_task(seed: int, count: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 1, 16, 16, generator=rng)
    return Batch(image, torch.zeros(count).long(), tuple(map(str, range(count))), {"mask": (image > 0.5).long()})


def flat(network: AnyNetwork) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_reptile_with_one_inner_sgd_step_is_scaled_sgd() -> None:
    meta, plain, batch = a_network(), a_network(), a_task(1)
    TaskStep(ONE_STEP, meta, a_context())(batch)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3 * 0.2)
    sum(Foreground("bce")(plain, batch).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.testing.assert_close(flat(meta), flat(plain), rtol=1e-4, atol=1e-7)
    assert not torch.equal(flat(meta), flat(a_network()))


def test_several_tasks_of_one_step_are_the_mean_gradient() -> None:
    meta, plain = a_network(), a_network()
    step = TaskStep(replace(ONE_STEP, tasks=2), meta, a_context())
    before = flat(meta)
    step(a_task(1))
    assert torch.equal(flat(meta), before)  # it moves with the last task of the meta-epoch
    step(a_task(2))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3 * 0.2 / 2)
    for seed in (1, 2):
        sum(Foreground("bce")(plain, a_task(seed)).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.testing.assert_close(flat(meta), flat(plain), rtol=1e-4, atol=1e-7)
    assert step.locals.models == []


def test_a_training_is_resumed_within_a_meta_epoch() -> None:
    recipe = replace(ONE_STEP, tasks=2)
    whole, first, second = (TaskStep(recipe, a_network(), a_context()) for _ in range(3))
    for seed in (1, 2):
        whole(a_task(seed))
    first(a_task(1))
    second.network.load_state_dict(first.network.state_dict())
    second.locals.load_state_dict(first.locals.state_dict())
    second.number = first.number
    second(a_task(2))
    assert torch.equal(flat(second.network), flat(whole.network))


def test_the_local_rate_restarts_with_each_task_or_falls_with_the_meta_epochs() -> None:
    def rates(decay: str, tasks: int) -> list[float]:
        recipe = replace(ONE_STEP, local_epochs=5, decay=decay, tasks=1)  # type: ignore[arg-type]
        step, seen = TaskStep(recipe, a_network(), a_context()), []
        real = torch.optim.SGD.step

        def watched(self: torch.optim.SGD, *args: object) -> object:
            seen.append(self.param_groups[0]["lr"] / 0.3)
            return real(self, *args)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", watched)
            for seed in range(tasks):
                step(a_task(seed))
        return seen

    assert rates("local-epochs", 2) == pytest.approx([1, 1, 0.7, 0.7, 0.49] * 2)
    assert rates("meta-epochs", 3) == pytest.approx([1] * 10 + [0.7] * 5)


def test_all_at_the_meta_point_weigh_alike_and_one_there_takes_all() -> None:
    meta = torch.randn(7, dtype=torch.float64)
    still = meta.repeat(4, 1)
    assert inverse_distance_weights(meta, still).tolist() == [0.25] * 4
    assert torch.equal(meta_update(meta, still, inverse_distance_weights(meta, still), 0.5), meta)
    still[1:] += 1.0
    assert inverse_distance_weights(meta, still).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert released_weights(meta, meta.repeat(3, 1)).tolist() == pytest.approx([1 / 27, 1 / 9, 1 / 3])


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_weights_are_inverse_squared_distances_in_a_slow_loop(count: int, size: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    meta, local = (
        torch.randn(size, generator=rng, dtype=torch.float64),
        torch.randn(count, size, generator=rng, dtype=torch.float64),
    )
    for to in ("meta", "others", "mean"):
        raw = []
        for l in range(count):  # noqa: E741
            others = [local[k] for k in range(count) if k != l]
            centre = meta
            if to == "others" and others:
                centre = sum(others) / len(others)  # type: ignore[assignment]
            if to == "mean" or (to == "others" and not others):
                centre = sum(local) / count  # type: ignore[assignment]
            raw.append(sum(float(local[l, i] - centre[i]) ** 2 for i in range(size)))
        inverse = [1 / d if d else 1.0 for d in raw]
        expected = [one / sum(inverse) for one in inverse]
        assert inverse_distance_weights(meta, local, to=to).tolist() == pytest.approx(expected)  # type: ignore[arg-type]


def test_weights_do_not_overflow_near_the_meta_point() -> None:
    local = torch.tensor([[1e-22], [2e-22]])
    assert inverse_distance_weights(torch.zeros(1), local, to="meta").isfinite().all()


def test_the_released_update_weighs_the_running_sum() -> None:
    rng = torch.Generator().manual_seed(3)
    meta, local = (
        torch.randn(5, generator=rng, dtype=torch.float64),
        torch.randn(4, 5, generator=rng, dtype=torch.float64),
    )
    d = (local - meta).square().sum(1)
    w = 1 - d / d.sum()
    w = w / w.sum()
    running = torch.zeros(5, dtype=torch.float64)
    for weight, model in zip(w, local, strict=True):
        running = (running + (model - meta)) * weight
    torch.testing.assert_close(meta_update(meta, local, released_weights(meta, local), 0.1), meta + 0.1 * running)


@given(st.integers(1, 200), st.integers(1, 40))
def test_a_volumetric_task_is_every_step_th_slice(depth: int, shots: int) -> None:
    places = volumetric_task(depth, shots)
    step = -(-depth // shots)
    assert places[0] == 0
    assert {b - a for a, b in itertools.pairwise(places)} <= {step}
    assert 1 <= len(places) <= shots
    assert places[-1] + step >= depth > places[-1]
    if depth <= shots:
        assert places == list(range(depth))


def test_the_loss_is_of_the_foreground_and_reads_what_counts() -> None:
    network, batch = a_network(), a_task(4)
    value = float(Foreground("bce")(network, batch)["bce"])
    logits = network(batch.image)["mask"].double()
    each = []
    for b in range(3):
        p, y = (logits[b, 1] - logits[b, 0]).sigmoid(), batch.labels["mask"][b, 0].double()  # type: ignore[index]
        weight = (y == 0).sum() / (y == 1).sum()
        each.append(float(-(weight * y * p.log() + (1 - y) * (1 - p).log()).mean()))
    assert value == pytest.approx(sum(each) / 3, rel=1e-4)
    region = torch.ones_like(batch.image, dtype=torch.bool)
    region[..., :8] = False
    other = batch.labels["mask"].clone()  # type: ignore[union-attr]
    other[..., :8] = -100
    hidden = replace(batch, region=region)
    for loss in ("bce", "iou", "bce_iou", "dice", "focal-tversky"):
        assert torch.equal(
            Foreground(loss)(network, hidden)[loss],
            Foreground(loss)(network, replace(hidden, labels={"mask": other}))[loss],
        )
