"""Tasks: what is predicted, its loss, and its metrics."""

from allograft.tasks.task import Answer, Forward, Outputs, Task, Value

__all__ = ["Answer", "Forward", "Outputs", "Task", "Value"]
