"""Allograft: carry a medical-imaging model from one hospital to the next, and judge every way of
doing it by one protocol.

Research use only; not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev3"

_PUBLIC = {
    "Batch": "allograft.batch",
    "Boxes": "allograft.batch",
    "Cohort": "allograft.cohort",
    "run_study": "allograft.studies",
    "read_records": "allograft.results.record",
    "load": "allograft.apply",
    "compare": "allograft.apply.compare",
    "AllograftError": "allograft.errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __dir__() -> list[str]:
    """The public names alone, whether or not they have been used."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import allograft`` alone costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'allograft' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
