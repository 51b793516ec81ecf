"""A denoising network for vectors: layers whose gain depends on the time step, and their folded
form for sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

HIDDEN = 2
"""Layers between the first and the last."""


class Denoiser(nn.Module):
    """Predicts the noise in a noisy class vector from the vector, a condition and an image feature.

    Each layer is ``softplus(norm(gain[t] * linear(x)))``, the output layer linear alone; after the
    first, its output is multiplied by the image feature (Yang et al. 2023, "Training Details"; the
    time-step embedding is a table, drawn from U(0, 1), as in the released code).

    Args:
        inputs: numbers of the vector and the condition together.
        classes: of the vector.
        width: of the layers and the image feature.
        steps: T.
    """

    def __init__(self, inputs: int, classes: int, width: int, steps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs if not at else width, width) for at in range(1 + HIDDEN))
        self.gains = nn.ModuleList(nn.Embedding(steps, width) for _ in self.layers)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in self.layers)
        self.last = nn.Linear(width, classes)
        for table in self.gains.parameters():
            nn.init.uniform_(table)

    def forward(self, vector: Tensor, condition: Tensor, image: Tensor, t: Tensor) -> Tensor:
        """(B, C), (B, inputs - C), (B, width), (B,) int64 from 0 to T - 1 -> (B, C)."""
        hidden = torch.cat([vector, condition], 1)
        for at, (layer, gain, norm) in enumerate(zip(self.layers, self.gains, self.norms, strict=True)):
            hidden = F.softplus(norm(gain(t) * layer(hidden)))
            hidden = hidden * image if at == 0 else hidden
        noise: Tensor = self.last(hidden)
        return noise


class Folded:
    """A ``Denoiser`` in evaluation mode for one batch and all its steps: what does not change from
    step to step is computed once.

    Gain and batch normalisation of a layer are one factor and one shift for each unit; the share of
    the condition in the first layer is computed at once. The output is that of ``Denoiser`` but for
    rounding.

    Args:
        denoiser: with its running statistics.
        condition: (B, inputs - C).
        image: (B, width).
        bfloat16: multiply the matrices between hidden layers in bfloat16, for processors with such
            units; the predicted noise then has errors of about 1 %.
    """

    def __init__(self, denoiser: Denoiser, condition: Tensor, image: Tensor, *, bfloat16: bool = False) -> None:
        first, *hidden = (layer for layer in denoiser.layers if isinstance(layer, nn.Linear))
        classes = denoiser.last.out_features
        self.image, self.last = image, denoiser.last
        self.first = first.weight[:, :classes].t().contiguous()
        self.fixed = condition @ first.weight[:, classes:].t() + first.bias
        dtype = torch.bfloat16 if bfloat16 else image.dtype
        self.hidden = [layer.weight.to(dtype).t() for layer in hidden]
        self.biases = [layer.bias for layer in hidden]
        self.gains = list(denoiser.gains.parameters())
        norms = [norm for norm in denoiser.norms if isinstance(norm, _BatchNorm)]
        self.scales, self.shifts = zip(*map(_affine, norms), strict=True)

    def __call__(self, vector: Tensor, t: int) -> Tensor:
        """(B, C) at step ``t`` -> the predicted noise (B, C)."""
        return self.noise(self.feature(vector, t))

    def noise(self, feature: Tensor) -> Tensor:
        """(B, width), what ``feature`` gives -> the predicted noise (B, C)."""
        noise: Tensor = self.last(feature)
        return noise

    def feature(self, vector: Tensor, t: int) -> Tensor:
        """(B, C) at step ``t`` -> the last hidden layer (B, width)."""
        factors = [scale * gain[t] for scale, gain in zip(self.scales, self.gains, strict=True)]
        hidden = torch.addmm(self.fixed, vector, self.first)
        hidden = F.softplus(torch.addcmul(self.shifts[0], hidden, factors[0])).mul_(self.image)
        for weight, bias, factor, shift in zip(self.hidden, self.biases, factors[1:], self.shifts[1:], strict=True):
            product = (hidden.to(weight.dtype) @ weight).to(hidden.dtype)
            hidden = F.softplus(torch.addcmul(torch.addcmul(shift, bias, factor), product, factor))
        return hidden


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Factor and shift of a batch normalisation by its running statistics: (C,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
