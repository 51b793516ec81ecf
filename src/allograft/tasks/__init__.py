"""Tasks: what is predicted, its loss, and its metrics."""

from allograft.tasks.task import Answer, Task

__all__ = ["Answer", "Task"]
