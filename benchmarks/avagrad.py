"""One AvaGrad step against Adam's: on 5 M parameters in about 60 tensors, as the paper and as the
released code have it, and on the default U-Net's 0.4 M."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ratio import compare

from allograft.networks import build
from allograft.optim import AvaGrad

SHAPES = [
    (64, 3, 9),
    *[(64, 64, 3, 3)] * 10,
    *[(64,)] * 10,
    *[(128, 128, 3, 3)] * 10,
    *[(128,)] * 10,
    *[(256, 256, 3, 3)] * 5,
]
SHAPES += [*[(256,)] * 10, *[(512, 24, 3, 3)] * 2, *[(512,)] * 3]
STEPS = 4


def stepper(
    kind: Callable[..., torch.optim.Optimizer], device: str, shapes: Sequence[Sequence[int]] = SHAPES, **settings: Any
) -> Callable[[], None]:
    rng = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(tuple(shape), generator=rng).to(device)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=rng).to(device)
    optimizer = kind(parameters, **settings)

    def run() -> None:
        for _ in range(STEPS):
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    adam = torch.optim.Adam
    compare(
        "avagrad_to_foreach_adam",
        stepper(AvaGrad, "cpu", lr=0.1),
        stepper(adam, "cpu", lr=1e-3, foreach=True),
        limit=0.5,
    )
    compare(
        "avagrad_to_fused_adam", stepper(AvaGrad, "cpu", lr=0.1), stepper(adam, "cpu", lr=1e-3, fused=True), limit=2.5
    )
    released = stepper(AvaGrad, "cpu", lr=0.1, variant="released")
    compare("avagrad_released_to_foreach_adam", released, stepper(adam, "cpu", lr=1e-3, foreach=True), limit=0.8)
    compare("avagrad_released_to_fused_adam", released, stepper(adam, "cpu", lr=1e-3, fused=True), limit=5.0)
    unet = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}}}})
    shapes = [parameter.shape for parameter in unet.parameters()]
    ours, theirs = (
        stepper(AvaGrad, "cpu", shapes, lr=0.1),
        stepper(adam, "cpu", shapes, lr=1e-3, foreach=True),
    )
    compare("avagrad_unet_to_foreach_adam", ours, theirs, limit=1.0, rounds=31)
    if torch.cuda.is_available():
        ours = stepper(AvaGrad, "cuda", lr=0.1)
        compare(
            "avagrad_to_foreach_adam_gpu",
            ours,
            stepper(adam, "cuda", lr=1e-3, foreach=True),
            limit=1.3,
            rounds=31,
            clock=time.perf_counter,
        )


if __name__ == "__main__":
    main()
