"""The Fabric that a study runs on: where it is placed, in which precision, on how many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def local_fabric(devices: int = 1, precision: str = "32-true", strategy: str = "auto", accelerator: str = "auto") -> Fabric:
    """A launched Fabric, by itself on CUDA where there is any.

    Never by itself on an Apple GPU, which Fabric would take: it has no double precision, and scores are computed in that.
    """
    import torch
    from lightning_fabric import Fabric

    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)  # type: ignore[arg-type]
    fabric.launch()
    return fabric
