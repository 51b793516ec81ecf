"""AvaGrad: the paper's equations in a slow loop, what must be equal, and what must survive a
checkpoint."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allograft.optim import AvaGrad, avagrad
from allograft.table import find

SHAPES = [(3,), (2, 5), (4, 3, 2, 2)]


def _parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def _gradients(steps: int, seed: int = 1) -> list[list[Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [[0.3 * torch.randn(shape, generator=rng, dtype=torch.float64) for shape in SHAPES] for _ in range(steps)]


def _run(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients: list[list[Tensor]]
) -> list[Tensor]:
    for each in gradients:
        for p, gradient in zip(parameters, each, strict=True):
            p.grad = gradient.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def _slow(
    gradients: list[list[Tensor]],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> list[float]:
    """Section 2.3 of the paper, one number at a time; all parameters are one long vector."""
    w = [float(x) for p in _parameters() for x in p.detach().flatten()]
    m, v = [0.0] * len(w), [0.0] * len(w)
    for each in gradients:
        g = [float(x) for one in each for x in one.flatten()]
        if decoupled:
            w = [x * (1 - lr * weight_decay) for x in w]
        else:
            g = [gi + weight_decay * x for gi, x in zip(g, w, strict=True)]
        m = [betas[0] * mi + (1 - betas[0]) * gi for mi, gi in zip(m, g, strict=True)]
        eta = [1 / (math.sqrt(vi) + eps) for vi in v]  # of v before this step's update
        norm = math.sqrt(sum((e / math.sqrt(len(w))) ** 2 for e in eta))
        w = [x - lr * e / norm * mi for x, e, mi in zip(w, eta, m, strict=True)]
        v = [betas[1] * vi + (1 - betas[1]) * gi**2 for vi, gi in zip(v, g, strict=True)]
    return w


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("weight_decay", "decoupled"), [(0.0, False), (0.02, False), (0.02, True)])
@pytest.mark.parametrize(
    ("lr", "betas", "eps"), [(10.0, (0.9, 0.999), 0.1), (0.05, (0.8, 0.9), 1e-6), (1.0, (0.0, 0.5), 5.0)]
)
def test_slow_reference(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool, groups: int
) -> None:
    parameters, gradients = _parameters(), _gradients(9)
    told: list[Any] = parameters if groups == 1 else [{"params": parameters[:1]}, {"params": parameters[1:]}]
    optimizer = AvaGrad(told, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled)
    found = torch.cat([p.flatten() for p in _run(optimizer, parameters, gradients)])
    expected = torch.tensor(_slow(gradients, lr, betas, eps, weight_decay, decoupled), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_the_first_step_is_sgd_and_a_huge_eps_stays_sgd() -> None:
    gradients = _gradients(5)
    ours, sgd = _parameters(), _parameters()
    _run(AvaGrad(ours, lr=0.3), ours, gradients[:1])
    _run(torch.optim.SGD(sgd, lr=0.03), sgd, gradients[:1])
    for a, b in zip(ours, sgd, strict=True):
        torch.testing.assert_close(a, b)
    ours, sgd = _parameters(), _parameters()
    _run(AvaGrad(ours, lr=0.3, eps=1e9), ours, gradients)
    _run(
        torch.optim.SGD(sgd, lr=0.3, momentum=0.9, dampening=0.0), sgd, [[0.1 * g for g in each] for each in gradients]
    )
    for a, b in zip(ours, sgd, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_scaling_the_loss_and_eps_together_scales_the_step() -> None:
    gradients = _gradients(6)
    ours, scaled = _parameters(), _parameters()
    _run(AvaGrad(ours, lr=1.0, eps=0.1), ours, gradients)
    _run(AvaGrad(scaled, lr=0.01, eps=10.0), scaled, [[100 * g for g in each] for each in gradients])
    for a, b in zip(ours, scaled, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13), (torch.bfloat16, 0.03)])
def test_the_fused_pass_is_the_plain_formula(dtype: torch.dtype, bound: float) -> None:
    v, g = [p.detach().abs() for p in _parameters()], [p.detach() for p in _parameters(seed=3)]
    v[0][0] = g[0][0] = 0.0
    found, etas = [one.to(dtype, copy=True) for one in v], [torch.full_like(one, 7.0, dtype=dtype) for one in v]
    etas = avagrad._renew(found, [one.to(dtype) for one in g], etas, avagrad._ones(found), beta2=0.9, eps=1e-3)
    for old, gradient, new, eta in zip(v, g, found, etas, strict=True):
        expected = 0.9 * old + 0.1 * gradient**2
        torch.testing.assert_close(new.double(), expected, rtol=bound, atol=0)
        torch.testing.assert_close(eta.double(), 1 / (expected.sqrt() + 1e-3), rtol=bound, atol=0)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_where_a_gpu_goes_is_the_same_way(variant: Any, decoupled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.02, "decoupled": decoupled, "variant": variant}
    gradients = _gradients(9)
    on_cpu = _run(AvaGrad(p := _parameters(), **settings), p, gradients)
    norm_of = avagrad._rms
    monkeypatch.setattr(avagrad, "_rms", lambda members: torch.as_tensor(norm_of(members), dtype=torch.float64))
    monkeypatch.setattr(avagrad, "_ones", lambda weights: None)
    monkeypatch.setattr(avagrad, "_norms", lambda etas: list(torch._foreach_norm(etas)))
    for a, b in zip(on_cpu, _run(AvaGrad(p := _parameters(), **settings), p, gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


class _Traffic(TorchDispatchMode):
    """Counts the values that operations on lists of tensors read and write on a device without
    memory, and the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.values = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (name := func.__name__).startswith("_foreach") and args[0][0].is_meta:
            lists = [one for one in args if isinstance(one, list | tuple) and isinstance(one[0], Tensor)]
            written = args[0] if name.split(".")[0].endswith("_") else result
            self.values += sum(t.numel() for one in [*lists, written] for t in one)
            self.operations += 1
        return result


def test_a_step_on_a_gpu_moves_a_fifth_more_than_adams_at_most_and_waits_for_nothing() -> None:
    """A meta tensor has no number to wait for: asking for one raises. Adam's is the traffic of a
    step bound by memory."""

    def traffic(kind: Any, **settings: Any) -> _Traffic:
        parameters = [nn.Parameter(torch.empty(64, 64, device="meta")) for _ in range(60)]
        for p in parameters:
            p.grad = torch.empty_like(p)
        optimizer = kind(parameters, **settings)
        optimizer.step()
        with _Traffic() as counted:
            optimizer.step()
        return counted

    ours, adams = traffic(AvaGrad), traffic(torch.optim.Adam, foreach=True)
    assert ours.values <= 1.2 * adams.values
    assert ours.operations <= adams.operations + 2


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_checkpoint_goes_on_to_the_same_bytes(variant: Any) -> None:
    gradients = _gradients(6)
    whole = _parameters(torch.float32)
    _run(AvaGrad(whole, lr=1.0, variant=variant), whole, gradients)
    first = _parameters(torch.float32)
    optimizer = AvaGrad(first, lr=1.0, variant=variant)
    _run(optimizer, first, gradients[:3])
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = AvaGrad(second, lr=1.0, variant=variant)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(_run(resumed, second, gradients[3:]), whole, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_layout_blocks_and_absent_gradients_change_nothing(variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = _gradients(4)
    plain = _run(AvaGrad(p := _parameters(), lr=1.0, variant=variant), p, gradients)
    monkeypatch.setattr(avagrad, "BLOCK", 4)
    last = _parameters()
    last[2].data = last[2].data.to(memory_format=torch.channels_last)
    idle = nn.Parameter(torch.ones(50))  # never has a gradient: it does not count in the norm
    optimizer = AvaGrad([*last, idle], lr=1.0, variant=variant)
    for a, b in zip(plain, _run(optimizer, last, gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert torch.equal(idle, torch.ones(50))
    assert idle not in optimizer.state


def test_a_gradient_of_nan_does_not_outlive_its_parameter() -> None:
    spoilt = nn.Parameter(torch.ones(3))
    spoilt.grad = torch.full((3,), math.nan)
    AvaGrad([spoilt]).step()
    found = _run(AvaGrad(p := _parameters(torch.float32), lr=1.0), p, _gradients(3))
    assert all(bool(value.isfinite().all()) for value in found)


def test_the_table_knows_it_and_bad_values_are_named() -> None:
    assert find("optimizer", "avagrad") is AvaGrad
    weight = [nn.Parameter(torch.ones(1))]
    for wrong in ({"lr": -1.0}, {"eps": 0.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}, {"variant": "adam"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AvaGrad(weight, **wrong)
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        AvaGrad(embedding.parameters()).step()
