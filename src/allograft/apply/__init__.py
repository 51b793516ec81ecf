"""What one does with a model: load it, predict, evaluate, export; and tools that label images."""

from allograft.apply.model import Model, load

__all__ = ["Model", "load"]
