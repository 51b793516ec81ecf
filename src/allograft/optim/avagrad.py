"""AvaGrad: an adaptive optimizer whose learning rate and adaptability can be tuned apart (Savarese
et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

Variant = Literal["paper", "released"]
BLOCK = 1 << 19
"""Elements worked on at a time on a CPU, so that one sweep over gradient, weights and moments stays
in the cache."""


class AvaGrad(Optimizer):
    """Adam-like steps whose vector of learning rates is normalised, so that ``eps`` no longer
    changes the size of the steps.

    With g the gradient, d the number of all parameters, and every product element by element
    (Sheikh et al. 2022, "Adaptive
    Optimization with Fewer Epochs Improves Across-Scanner Generalization", section 2.3)::

        m_t = beta1 m_{t-1} + (1 - beta1) g_t            eta_t = 1 / (sqrt(v_{t-1}) + eps)
        w_{t+1} = w_t - lr eta_t / ||eta_t / sqrt(d)||_2 m_t
        v_t = beta2 v_{t-1} + (1 - beta2) g_t^2

    The norm goes over all groups. A parameter counts in it from its first gradient on; where
    ``weight_decay`` is not decoupled it is added to the gradient. As eta_{t+1} needs v_t alone, its
    norm is taken in the same sweep that updates v.

    ``variant="released"`` is what the authors' code does: the norm is per group and lags by one
    step, both moments are corrected for
    their bias, and the first gradient only initialises::

        c(t) = sqrt(1 - beta2^t)     w_{t+1} = w_t - lr gamma_t / (1 - beta1^t) m_t / (sqrt(v_{t-1}) / c(t - 1) + eps)
        gamma_{t+1} = sqrt(d) / ||1 / (sqrt(v_{t-1}) / c(t) + eps)||_2

    Args:
        params: parameters, or groups of them.
        lr: the step size; 10 in Sheikh et al. for U-Nets.
        betas: decay of m and of v.
        eps: adaptability: large values tend to SGD with momentum, small ones to Adam.
        weight_decay: strength of the L2 penalty, or of the decay when decoupled.
        decoupled: multiply the weights by ``1 - lr * weight_decay`` before each step instead
            (AvaGradW).
        variant: "paper" or "released".

    Raises:
        ValueError: a value out of its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> weight.grad = torch.tensor([1.0, -2.0])
        >>> AvaGrad([weight], lr=1.0, betas=(0.9, 0.99)).step()  # the first step is SGD: all of v is 0
        >>> weight.tolist()
        [0.89..., 1.20...]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 10.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.1,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        variant: Variant = "paper",
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected a number from 0 on")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps is {eps}, expected a number above 0")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}, expected two numbers from 0 to below 1")
        if variant not in ("paper", "released"):
            raise ValueError(f"variant is {variant!r}, expected 'paper' or 'released'")
        settings = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "variant": variant,
        }
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        members = [self._known(group) for group in self.param_groups]
        everything = [member for each in members for member in each]
        overall = _rms(everything)
        ones: dict[Any, Tensor | None] = {}
        for group, each in zip(self.param_groups, members, strict=True):
            if group["variant"] == "paper":
                for bucket in _buckets(each, ages=False):
                    kind = bucket[0][0].device, bucket[0][0].dtype
                    # once a step: a gradient that is not finite leaves its mark in it
                    if kind not in ones:
                        ones[kind] = _ones([p for p, _ in everything if (p.device, p.dtype) == kind])
                    _paper(bucket, overall, group, ones[kind])
            else:
                norm = _rms(each)
                for bucket in _buckets(each, ages=True):
                    _released(bucket, norm, group)
        return loss

    def _known(self, group: dict[str, Any]) -> list[Member]:
        """The group's parameters that have, or had, a gradient, each with its state: looked up
        once, as that is slow."""
        members = []
        for p in group["params"]:
            state = self.state.get(p)
            if not state and p.grad is not None:
                state = self.state[p] = _begun(p, group)
            if state:
                members.append((p, state))
        return members


Member = tuple[Tensor, dict[str, Tensor]]


def _begun(p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    if p.grad is not None and p.grad.is_sparse:
        raise ValueError("AvaGrad needs dense gradients; make the embedding with sparse=False")
    first, second = (torch.zeros_like(p, memory_format=torch.preserve_format) for _ in range(2))
    state = {"exp_avg": first, "exp_avg_sq": second}
    if group["variant"] == "paper":
        state["eta"] = torch.full_like(second, 1 / group["eps"])
    else:
        state["step"] = torch.tensor(0.0)
    state["eta_norm"] = torch.full((), math.sqrt(p.numel()) / group["eps"], dtype=p.dtype, device=p.device)
    return state


def _rms(members: list[Member]) -> Tensor | float:
    """``||eta / sqrt(d)||_2`` over parameters: a number on a CPU; elsewhere, where one would wait
    for it, a tensor."""
    if not members:
        return 1.0
    device = members[0][0].device
    norms = [state["eta_norm"] for _, state in members]
    if any(norm.device != device for norm in norms):
        norms = [norm.to(device) for norm in norms]
    rms = torch.linalg.vector_norm(torch.stack(norms), dtype=torch.float64) / math.sqrt(
        sum(p.numel() for p, _ in members)
    )
    return float(rms) if device.type == "cpu" else rms


def _buckets(members: list[Member], *, ages: bool) -> Iterator[list[Member]]:
    """Parameters with a gradient that can be stepped together: of one device, dtype and age; on a
    CPU, few enough for the cache."""
    open_: dict[Any, list[Member]] = {}
    sizes: dict[Any, int] = {}
    for p, state in members:
        if p.grad is None:
            continue
        key = (p.device, p.dtype, int(state["step"]) if ages else None)
        if p.is_cpu and key in open_ and sizes[key] + p.numel() > BLOCK:
            yield open_.pop(key)
            sizes[key] = 0
        open_.setdefault(key, []).append((p, state))
        sizes[key] = sizes.get(key, 0) + p.numel()
    yield from open_.values()


def _prepared(bucket: list[Member], group: dict[str, Any], *, moves: bool) -> tuple[list[Tensor], ...]:
    """Weights, gradients with the penalty, and both moments; weights decayed; the first moment is
    that of this step."""
    weights = [p for p, _ in bucket]
    gradients = [p.grad for p in weights if p.grad is not None]
    means, squares = [state["exp_avg"] for _, state in bucket], [state["exp_avg_sq"] for _, state in bucket]
    if group["weight_decay"] and not group["decoupled"]:
        gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
    if group["weight_decay"] and group["decoupled"] and moves:
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_lerp_(means, gradients, 1 - group["betas"][0])
    return weights, gradients, means, squares


def _paper(bucket: list[Member], norm: Tensor | float, group: dict[str, Any], ones: Tensor | None) -> None:
    weights, gradients, means, squares = _prepared(bucket, group, moves=True)
    etas = [state["eta"] for _, state in bucket]
    _descend(weights, means, etas, norm, group["lr"])
    etas = _renew(squares, gradients, etas, ones, beta2=group["betas"][1], eps=group["eps"])
    for (_, state), eta, kept in zip(bucket, etas, _norms(etas), strict=True):
        state["eta"], state["eta_norm"] = eta, kept


def _released(bucket: list[Member], norm: Tensor | float, group: dict[str, Any]) -> None:
    """With 1 / (sqrt(v) / c + eps) as c / (sqrt(v) + c eps): the roots are taken once, for c(t - 1)
    and c(t), and c is multiplied into numbers."""
    age = int(bucket[0][1]["step"])
    beta1, beta2 = group["betas"]
    weights, gradients, means, squares = _prepared(bucket, group, moves=age > 0)
    before, now = (math.sqrt(1 - beta2**count) for count in (age, age + 1))  # c(0) is 0
    denominators = list(torch._foreach_sqrt(squares))
    if age > 0:
        torch._foreach_add_(denominators, before * group["eps"])
        size = group["lr"] * before / (1 - beta1 ** (age + 1))
        if isinstance(norm, Tensor):  # it stays on the device: nobody waits for the number
            means = list(torch._foreach_mul(means, (1 / norm).to(means[0])))
        else:
            size /= norm
        torch._foreach_addcdiv_(weights, means, denominators, value=-size)
    torch._foreach_add_(denominators, (now - before) * group["eps"])
    torch._foreach_reciprocal_(denominators)
    for (_, state), kept in zip(bucket, _norms(denominators), strict=True):
        state["eta_norm"] = kept.mul_(now)
    _decay(squares, gradients, beta2)
    torch._foreach_add_([state["step"] for _, state in bucket], 1)


def _descend(weights: list[Tensor], means: list[Tensor], etas: list[Tensor], norm: Tensor | float, lr: float) -> None:
    if isinstance(norm, Tensor):  # it stays on the device: nobody waits for the number
        torch._foreach_mul_(etas, (1 / norm).to(etas[0]))  # they are made anew after this step
        torch._foreach_addcmul_(weights, means, etas, value=-lr)
    else:
        torch._foreach_addcmul_(weights, means, etas, value=-lr / norm)


def _decay(squares: list[Tensor], gradients: list[Tensor], beta2: float) -> None:
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)


def _renew(
    squares: list[Tensor], gradients: list[Tensor], etas: list[Tensor], ones: Tensor | None, *, beta2: float, eps: float
) -> list[Tensor]:
    """Take v on to this step; the eta that follows from it.

    On a CPU in one pass and in the memory they have, as fresh pages cost as much as the arithmetic:
    by PyTorch's fused AdamW with a first moment of 1, a learning rate of -1 and a weight decay of
    -1, which first clears the weights, so that 1 / (sqrt(v) + eps) is left in them. At an age of
    1e18 its bias corrections are 1, and its beta1 next to 1 keeps the moment.
    """
    if ones is None:
        _decay(squares, gradients, beta2)
        etas = list(torch._foreach_sqrt(squares))
        torch._foreach_add_(etas, eps)
        torch._foreach_reciprocal_(etas)
        return etas
    moments = [torch.as_strided(ones, eta.shape, eta.stride()) for eta in etas]
    gradients = [
        g if g.stride() == v.stride() else torch.empty_like(v).copy_(g) for g, v in zip(gradients, squares, strict=True)
    ]
    ages = [torch.tensor(1e18)] * len(etas)
    fixed: dict[str, Any] = {
        "lr": -1.0,
        "beta1": 1 - 2.0**-53,
        "weight_decay": -1.0,
        "amsgrad": False,
        "maximize": False,
    }
    torch._fused_adamw_(etas, gradients, moments, squares, [], ages, beta2=beta2, eps=eps, **fixed)
    return etas


def _ones(weights: list[Tensor]) -> Tensor | None:
    """Room for the longest of these parameters, all 1; None where the fused pass does not run."""
    if not (weights[0].is_cpu and weights[0].dtype in (torch.float32, torch.float64)):
        return None
    longest = max(p.numel() for p in weights)
    return _room(1 << longest.bit_length(), weights[0].dtype)[:longest].fill_(1)


@lru_cache(maxsize=8)
def _room(count: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(count, dtype=dtype)


def _norms(etas: list[Tensor]) -> list[Tensor]:
    if etas[0].is_cpu and etas[0].dtype in (torch.float32, torch.float64):
        # dense, in whatever order of axes
        flat = [torch.as_strided(eta, (eta.numel(),), (1,)) for eta in etas]
        return [torch.dot(vector, vector).sqrt_() for vector in flat]
    return list(torch._foreach_norm(etas))
