"""The Fabric that a study runs on: where it is placed, in which precision, on how many
processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allograft.errors import SpecError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Weights are float32 in all of them; Fabric's others would need networks that it wraps."""


def local_fabric(
    devices: int = 1, precision: str = "32-true", strategy: str = "auto", accelerator: str = "auto"
) -> Fabric:
    """A launched Fabric. Where ``torchrun`` has started this process, on all of its processes and
    machines.

    Args:
        devices: processes that train together, where they are not started already.
        precision: one of ``PRECISIONS``.
        strategy: as Fabric names it.
        accelerator: a device, see ``find_device``; one that is numbered goes with ``devices`` 1.

    Raises:
        SpecError: something of this that the machine, or Fabric, does not have.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    on, nodes = find_device(accelerator), 1
    check_precision(precision, on)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if on.index is not None and devices != 1:
        raise SpecError(
            f"device: '{accelerator}' is one device, and devices is {devices}; choose device {on.type}, or devices 1"
        )
    try:
        numbered = devices if on.index is None else [on.index]
        fabric = Fabric(
            accelerator=on.type,
            devices=numbered,
            num_nodes=nodes,
            precision=precision,  # type: ignore[arg-type]
            strategy=strategy,
        )
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        asked = f"devices {devices}, strategy {strategy}, on {on.type}"
        raise SpecError(
            f"{asked}: cannot be used here ({str(error).strip().splitlines()[0]}); choose devices 1, strategy auto"
        ) from error
    fabric.launch()
    return fabric


def check_precision(precision: str, on: torch.device) -> None:
    """Raise ``SpecError`` for a precision that is not one of ``PRECISIONS``, or that the device
    does not have."""
    if precision not in PRECISIONS:
        raise SpecError(f"precision: found '{precision}', expected {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    # Fabric would take bf16-mixed, with a warning
    if precision == "16-mixed" and on.type == "cpu":
        raise SpecError("precision: 16-mixed needs a GPU, and this runs on the processor; choose bf16-mixed or 32-true")


def find_device(named: str) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1`` or ``auto``: CUDA where there is any, else the processor.

    Never by itself an Apple GPU: it has no double precision, and scores are computed in that.

    Raises:
        SpecError: a device that this machine does not have.
    """
    import torch

    if named == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        on = torch.device(named)
        torch.empty(1, device=on)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = str(error).strip().splitlines()[0]
        raise SpecError(f"device: '{named}' cannot be used here ({found}); choose auto or cpu") from error
    return on
