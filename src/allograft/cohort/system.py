"""``allograft doctor --system``: what the machine offers."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path


def describe_system() -> dict[str, str]:
    """Name -> value, in the order to print: versions, accelerators, memory, shared memory, threads.

    >>> "torch" in describe_system()
    True
    """
    import torch

    from allograft import __version__

    system = platform.uname()
    facts = {
        "allograft": __version__,
        "python": platform.python_version(),
        "system": f"{system.system} {system.release} {system.machine}",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda or "torch was built without it"),
    }
    facts |= _accelerators()
    facts["memory"] = _memory()
    facts["/dev/shm"] = _shared()
    facts["cpu cores"] = str(os.cpu_count() or "unknown")
    if hasattr(os, "sched_getaffinity"):
        facts["cores for this process"] = str(len(os.sched_getaffinity(0)))
    facts["torch threads"] = str(torch.get_num_threads())
    facts["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "not set")
    return facts


def _accelerators() -> dict[str, str]:
    import torch

    if torch.cuda.is_available():
        devices = {}
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            capability = f"compute capability {device.major}.{device.minor}"
            devices[f"gpu {number}"] = f"{device.name}, {_size(total)}, {_size(free)} free, {capability}"
        return devices
    if torch.backends.mps.is_available():
        return {"gpu": "Apple (mps)"}
    return {"gpu": "none that torch can use; training runs on the CPU"}


def _memory() -> str:
    """Total and available memory, the container's limit where there is one."""
    facts = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(":")
            if key in ("MemTotal", "MemAvailable"):
                facts[key] = int(value.split()[0]) * 1024
    except (OSError, ValueError):
        return "unknown"
    limit = ""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            number = int(Path(file).read_text(encoding="ascii"))
        except (OSError, ValueError):  # absent, or the word "max"
            continue
        if number < facts.get("MemTotal", 0):
            limit = f", this container may use {_size(number)}"
    return f"{_size(facts.get('MemTotal', 0))}, {_size(facts.get('MemAvailable', 0))} available{limit}"


def _shared() -> str:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return "none: keep --workers 0"
    warning = (
        "; small: loader workers may die, enlarge it (docker: --shm-size 2g) or keep --workers 0"
        if usage.total < 2**30
        else ""
    )
    return f"{_size(usage.total)}, {_size(usage.free)} free{warning}"


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB"
