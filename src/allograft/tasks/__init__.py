"""Tasks: what is predicted, its loss, and its metrics."""

from allograft.tasks.task import Task

__all__ = ["Task"]
