"""Executors: the units of a study on several processes or machines, in the order in which they are
built on each other."""

from allograft.run.executors.jobs import Executor, check_executor, execute
from allograft.run.executors.local import LocalExecutor
from allograft.run.executors.ray_cluster import RayExecutor

__all__ = ["Executor", "LocalExecutor", "RayExecutor", "check_executor", "execute"]
