"""Batch normalisation whose statistics are those of the batches of all processes that train
together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from allograft.errors import SpecError
from allograft.nn.processes import processes


def batch_norm(x: Tensor, norm: _BatchNorm) -> Tensor:
    """``norm(x)``, over the batches of all processes when several train together.

    Args:
        x: (B, C, *spatial); B may be 0 on some of several processes.
        norm: of C channels.

    Returns:
        (B, C, *spatial).

    Raises:
        SpecError: a process alone, and a training batch with a single value per channel, which has
            no spread.
    """
    if processes() == 1 and norm.training and x.numel() <= x.shape[1]:
        size = "x".join(map(str, x.shape[2:]))
        raise SpecError(
            f"batch normalisation of {len(x)} image of {size} pixels has no spread to divide by; set batch_size: 2, "
            "or more"
        )
    with shared_batch_norm([norm]):
        normal: Tensor = norm(x)
    return normal


@contextmanager
def shared_batch_norm(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, every batch normalisation in these modules is a ``SharedBatchNorm``: same object,
    same parameters, same names.

    Nothing changes for a process alone, and nothing of what the modules are made of: afterwards
    each is of its own class again.
    """
    inner = {layer for module in modules for layer in module.modules()} if processes() > 1 else set()
    layers: dict[nn.Module, Any] = {layer: type(layer) for layer in inner if isinstance(layer, _BatchNorm)}
    layers = {
        layer: kind for layer, kind in layers.items() if not issubclass(kind, (nn.SyncBatchNorm, SharedBatchNorm))
    }
    for layer, kind in layers.items():
        layer.__class__ = _shared(kind)
    try:
        yield
    finally:
        for layer, kind in layers.items():
            layer.__class__ = kind


class SharedBatchNorm(_BatchNorm):
    """What a batch normalisation of any kind becomes while several processes train: in training it
    normalises by all their batches.

    ``torch.nn.SyncBatchNorm`` does so on GPUs alone: it refuses CPU tensors once there is a process
    group.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C, *spatial)."""
        if not self.training or processes() == 1:
            return super().forward(x)
        # the layer's own forward runs, whatever else it does: timm's have an activation inside
        with _Shared():
            return super().forward(x)


@cache
def _shared(kind: Any) -> Any:
    return type(f"Shared{kind.__name__}", (SharedBatchNorm, kind), {})


class _Shared(TorchFunctionMode):
    """Inside, torch's function of batch normalisation takes its statistics over all processes."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_normalised if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _normalised(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` in training, over all processes."""
    normal, mean, variance, count = _OverProcesses.apply(x, eps)
    if running_mean is not None and running_var is not None:
        unbiased = variance * (count / (count - 1).clamp_min(1))
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    shape = (1, -1, *[1] * (x.ndim - 2))
    scaled = normal if weight is None else normal * weight.view(shape)
    return (scaled if bias is None else scaled + bias.view(shape)).to(x.dtype)


class _OverProcesses(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps)`` with mean and biased variance per channel of the
    batches of all processes.

    Forward sums (count, sum of x, sum of x^2) over processes, backward (sum of dy, sum of dy y):
    with n the count of all, ``dx = (dy - sum dy / n - y sum(dy y) / n) / sqrt(variance + eps)``
    (Ioffe and Szegedy 2015, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        own = x.numel() // x.shape[1]
        # A large mean would swallow a small variance in float32: sums are taken about the own mean,
        # and brought to 0 in float64.
        centre = wide.sum(axes) / max(own, 1)
        apart = wide - centre.view(shape)
        centre, rest, squares = centre.double(), apart.sum(axes).double(), apart.square().sum(axes).double()
        sums = torch.cat(
            [centre.new_full((1,), own), own * centre + rest, own * centre.square() + 2 * centre * rest + squares]
        )
        dist.all_reduce(sums)
        count, total, squares = sums.split([1, x.shape[1], x.shape[1]])
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        scale = torch.rsqrt(variance + eps).to(wide.dtype)
        normal = (apart - (mean - centre).to(wide.dtype).view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normal, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normal, scale, count = ctx.saved_tensors
        axes, shape = (0, *range(2, normal.ndim)), (1, -1, *[1] * (normal.ndim - 2))
        sums = torch.cat([gradient.sum(axes), (gradient * normal).sum(axes)]).double()
        dist.all_reduce(sums)
        about, along = (sums / count).to(normal.dtype).chunk(2)
        return (gradient - about.view(shape) - normal * along.view(shape)) * scale.view(shape), None
