"""The interface of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Coding, Cohort


class Task(Protocol):
    """What is predicted. A frozen dataclass; its fields come from the study's ``task:``."""

    key: ClassVar[str]
    """The label it needs, and the network's output it reads: "mask", "label", ..."""
    headline: ClassVar[str]
    """The metric that tables and selection use; larger is better."""

    @property
    def coding(self) -> Coding:
        """How the manifest's labels become numbers."""

    @property
    def outputs(self) -> Mapping[str, int]:
        """Network output -> channels."""

    def loss(self, output: Mapping[str, Any], batch: Batch) -> Mapping[str, Tensor]:
        """Named terms of the supervised loss of a network's output; cases with ignore values do not count."""

    def objective(self, network: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The supervised loss as an ``Objective``."""

    def measure(self, prediction: Mapping[str, Any], cohort: Cohort, which: int) -> dict[str, Any]:
        """Everything a record says of one case; ``prediction`` is that of ``cohort.whole(which)``."""

    def pool(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """Metrics of a test set from its cases; subjects are the unit. None = undefined."""
