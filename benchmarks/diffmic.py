"""DiffMIC's sampler, a batch of 32 at 224 pixels: beside the matrix products that it holds, and
beside samplers that call encoders at every step.

A step costs what its matrix products cost, and these wait for memory: how far ahead of the slow
samplers ours is depends on the processor, and ``bfloat16: true`` halves what is read.

The slow samplers are not run for all 100 steps: their seconds are 100 times those of one step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from ratio import compare, keep, seconds

from allograft.methods.diffmic import DiffMic, denoise_step
from allograft.networks import build
from allograft.nn.denoiser import Folded
from allograft.nn.diffusion import implicit_step, sampling_alphas
from allograft.predictor import evaluation_mode

BATCH, CLASSES, STEPS, SHORT = 32, 4, 100, 10


def median(run: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of a call, after one to warm up."""
    run()
    return statistics.median(seconds(run) for _ in range(rounds))


def main() -> None:
    torch.manual_seed(0)
    network = DiffMic()._operated(build({"build": {"resnet": {"in_channels": 3, "outputs": {"label": CLASSES}}}}))
    image = torch.rand(BATCH, 3, 224, 224)
    with evaluation_mode(network):
        assert network.guidance is not None
        assert network.denoiser is not None
        embedded, vectors = torch.rand(BATCH, 6144), torch.rand(BATCH, 2 * CLASSES)
        y, prior, noise = torch.randn(3, BATCH, CLASSES).unbind(0)
        times, alphas = sampling_alphas(1000, STEPS, "respaced")
        weights = [layer.weight for layer in (*network.denoiser.layers, network.denoiser.last)]
        inputs = [torch.rand(BATCH, weight.shape[1]) for weight in weights]

        def sampled(*, bfloat16: bool = False, implicit: bool = False, count: int = SHORT) -> None:
            predict, vector = Folded(network.denoiser, vectors, embedded, bfloat16=bfloat16), y  # type: ignore[arg-type]
            for t in range(count - 1, -1, -1):
                e = predict(vector, times[t])
                vector = (
                    implicit_step(vector, t, prior, e, alphas)
                    if implicit
                    else denoise_step(vector, t, prior, e, noise, alphas)
                )

        def products() -> None:
            for _ in range(SHORT):
                for weight, value in zip(weights, inputs, strict=True):
                    torch.mm(value, weight.t())

        compare("diffmic_steps_to_products", sampled, products, limit=1.05, rounds=5)
        compare("diffmic_bfloat16_to_products", lambda: sampled(bfloat16=True), products, limit=0.4, rounds=5)
        step = median(sampled) / SHORT
        half_step = median(lambda: sampled(bfloat16=True)) / SHORT
        short = median(lambda: sampled(implicit=True))
        half_short = median(lambda: sampled(bfloat16=True, implicit=True))
        encoder = median(lambda: network.embed(image))
        guidance = median(lambda: network.guidance(image))  # type: ignore[misc]
    ours, half = encoder + guidance + STEPS * step, encoder + guidance + STEPS * half_step
    every, images = STEPS * (encoder + guidance + step), guidance + STEPS * (encoder + step)
    keep("diffmic_to_encoders_at_every_step", {"times": round(every / ours, 1), "at_least": 30})
    keep("diffmic_bfloat16_to_encoders_at_every_step", {"times": round(every / half, 1), "at_least": 30})
    keep("diffmic_to_image_encoder_at_every_step", {"times": round(images / ours, 1), "at_least": 5})
    keep("diffmic_ddim_10_to_encoders", {"ratio": round(short / (encoder + guidance), 4), "limit": 0.2})
    keep("diffmic_bfloat16_ddim_10_to_encoders", {"ratio": round(half_short / (encoder + guidance), 4), "limit": 0.2})


if __name__ == "__main__":
    main()
