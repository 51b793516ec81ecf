"""Make the device of ``foreign.cpp`` known to PyTorch, once a process, and run methods on it:
``python -m tests.device.foreign METHOD...``.

It stands in for a GPU where there is none: what is left behind on the CPU, or drawn with a
generator of the CPU, raises as it would there.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor
from torch.utils.cpp_extension import load

NAME = "foreign"


def begin(build: Path) -> torch.device:
    """Compile and register the device."""
    build.mkdir(parents=True, exist_ok=True)
    made = load("foreign_device", [str(Path(__file__).with_name("foreign.cpp"))], build_directory=str(build))
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    nothing: Any = lambda *_: None  # noqa: E731
    module.__dict__.update(
        is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 1, current_device=lambda: 0
    )
    module.__dict__.update(
        set_device=nothing, manual_seed_all=nothing, synchronize=nothing, _is_in_bad_fork=lambda: False
    )
    module.__dict__.update(get_rng_state=lambda *_: torch.zeros(1, dtype=torch.uint8), set_rng_state=nothing)
    torch._register_device_module(NAME, module)  # type: ignore[no-untyped-call]
    made.begin()
    torch.utils.generate_methods_for_privateuse1_backend()  # type: ignore[no-untyped-call]
    _teach_libraries()
    return torch.device(NAME, 0)


def _teach_libraries() -> None:
    """Two things that know CUDA by its name: copies of storages, and safetensors."""
    plain, opened = Tensor.__deepcopy__, safetensors.safe_open

    def deep(self: Tensor, memo: dict[int, Any]) -> Any:
        if self.device.type != NAME:
            return plain(self, memo)  # type: ignore[no-untyped-call]
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        return memo[id(self)]

    class Opened:
        def __init__(self, path: Any, framework: str = "pt", device: Any = "cpu", **more: Any) -> None:
            self.device, self.file = (
                device,
                opened(path, framework, device="cpu" if NAME in str(device) else device, **more),
            )

        def __enter__(self) -> Opened:
            self.file.__enter__()
            return self

        def __exit__(self, *raised: Any) -> None:
            self.file.__exit__(*raised)

        def get_tensor(self, key: str) -> Tensor:
            found: Tensor = self.file.get_tensor(key)
            return found.to(self.device)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    Tensor.__deepcopy__ = deep  # type: ignore[method-assign]
    safetensors.safe_open = Opened  # type: ignore[misc, assignment]


def fabric_on(device: torch.device) -> Any:
    """A launched Fabric on it."""
    from lightning_fabric import Fabric
    from lightning_fabric.accelerators import CPUAccelerator
    from lightning_fabric.strategies import SingleDeviceStrategy

    class Anywhere(CPUAccelerator):
        def setup_device(self, device: torch.device) -> None:
            pass

    fabric = Fabric(strategy=SingleDeviceStrategy(device=device, accelerator=Anywhere()), devices=1)
    fabric.launch()
    return fabric


def main(build: str, *methods: str) -> int:
    """Run each method's small study on the device; how many failed."""
    from tests.contract.world import request, run, session_of, write_cohort

    device, failed = begin(Path(build)), 0
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_cohort(Path(folder) / "cohort")
        for method in methods:
            changes: dict[str, Any] = {"optimizer": {"avagrad": {"lr": 1.0}}} if method == "supervised" else {}
            session = session_of(
                manifest, Path(folder) / method, copy.deepcopy(request(method)), fabric=fabric_on(device), **changes
            )
            *_, records = run(session)
            errors = sorted({record.error for record in records.values() if record.status != "done"})
            print(f"{method}: {errors[0] if errors else 'done'}", flush=True)
            failed += bool(errors)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
