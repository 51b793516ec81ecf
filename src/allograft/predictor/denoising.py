"""Class vectors of images, denoised step by step about what a guidance expects of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import ModelError
from allograft.networks.diffmic import Guided
from allograft.nn.denoiser import Folded
from allograft.nn.diffusion import Spacing, denoise_step, implicit_step, sampling_alphas
from allograft.predictor.direct import Prediction, evaluation_mode, padded_image
from allograft.predictor.noise import content_noise

Prior = Literal["sum", "mean_softmax"]
Start = Literal["paper", "forward"]
Sampler = Literal["ddpm", "ddim"]


class Condition(NamedTuple):
    """What guides a pass of the denoiser: ``drift`` (B, C) is the prior of eq. 2, ``vectors`` (B, n
    C) are those concatenated with y_t (eq. 3)."""

    drift: Tensor
    vectors: Tensor


class Moment(NamedTuple):
    """The sampler after a step: how many are ``left``; the ``vectors`` (B, samples, K); and the
    last hidden layer of the denoiser that led to them, (B, samples, width), None before the first
    step."""

    left: int
    vectors: Tensor
    feature: Tensor | None


def conditions(guided: Guided, prior: Prior) -> dict[str, Condition]:
    """The passes of training: by both priors, and by each alone, in y_t and in the condition (eq.
    5).

    ``sum``: y_g and y_l are softmax probabilities, the drift their sum, the condition both; a pass
        by
    one prior has that one twice, because the paper leaves open what takes the place of the other.
    ``mean_softmax``: the softmax of the mean of both logits, or of the one.
    """
    if prior == "sum":
        whole, local = guided.whole.softmax(1), guided.local.softmax(1)
        pairs = {"both": (whole, local), "whole": (whole, whole), "local": (local, local)}
        drifts = {"both": whole + local, "whole": whole, "local": local}
        return {name: Condition(drifts[name], torch.cat(pair, 1)) for name, pair in pairs.items()}
    each = {"both": guided.fused, "whole": guided.whole, "local": guided.local}
    return {name: Condition(logits.softmax(1), logits.softmax(1)) for name, logits in each.items()}


def unguided(count: int, classes: int, like: Tensor) -> Condition:
    """No prior at all: plain DDPM."""
    return Condition(like.new_zeros(count, classes), like.new_zeros(count, 0))


@dataclass(frozen=True)
class DiffMicPredictor:
    """Denoises class vectors of an image; what does not depend on the step is computed once.

    Noise is keyed by the image's values, so an image has one answer whatever its name or its batch.

    Args:
        network: a ``DiffMicNetwork``; the other fields are those of ``DiffMic``.
    """

    network: Any
    steps: int
    samples: int
    temperature: float
    bfloat16: bool
    prior: Prior
    start: Start
    spacing: Spacing
    sampler: Sampler

    def __call__(self, batch: Batch) -> Prediction:
        """``label`` (B, K): the log of the mean probability over samples; ``spread`` (B,): the
        standard deviation of the denoised vectors over samples, mean over classes."""
        with evaluation_mode(self.network):
            each = self.denoised(batch.image)
        probabilities = (each / self.temperature).softmax(2).mean(1)
        label = {"label": probabilities.clamp_min(torch.finfo(each.dtype).tiny).log()}
        return label if self.samples == 1 else {**label, "spread": each.std(1, correction=0).mean(1)}

    def denoised(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, samples, K)."""
        *_, last = self.path(image)
        return last.vectors

    def path(self, image: Tensor) -> Iterator[Moment]:
        """From noise to the answer."""
        network, count, steps = self.network, len(image), self.steps
        whole = padded_image(image, network.multiple)
        guided = None if network.guidance is None else network.guidance(whole)
        given = unguided(count, network.classes, whole) if guided is None else conditions(guided, self.prior)["both"]
        if not given.drift.isfinite().all():
            raise ModelError(
                "diffmic: the guidance gives a prior that is not a number; the model is damaged or diverged"
            )
        prior, vectors, embedded = (each.repeat_interleave(self.samples, 0) for each in (*given, network.embed(whole)))
        noise = content_noise(image, (self.samples, steps + 1, network.classes), "diffmic").flatten(0, 1)
        times, alphas = sampling_alphas(network.steps, steps, self.spacing)
        predict = Folded(network.denoiser, vectors, embedded, bfloat16=self.bfloat16)
        y = noise[:, steps] + (prior / 2 if (self.prior, self.start) == ("sum", "paper") else prior)
        shape = (count, self.samples)
        yield Moment(steps, y.unflatten(0, shape), None)
        for t in range(steps - 1, -1, -1):
            feature = predict.feature(y, times[t])
            if self.sampler == "ddim":
                y = implicit_step(y, t, prior, predict.noise(feature), alphas)
            else:
                y = denoise_step(y, t, prior, predict.noise(feature), noise[:, t], alphas)
            yield Moment(t, y.unflatten(0, shape), feature.unflatten(0, shape))
