"""The training settings that every row of a study shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from allograft.errors import SpecError

Strength = Literal["none", "light", "strong"]


@dataclass(frozen=True)
class Budget:
    """How long to train: in steps, or in epochs when ``epochs`` is given.

    Args:
        steps: steps of a training from scratch.
        adapt_steps: steps of an adaptation.
        epochs: epochs of a training from scratch, instead of ``steps``.
        adapt_epochs: epochs of an adaptation, instead of ``adapt_steps``.
        batch_size: cases per step.
        steps_per_epoch: the length of an epoch, if it is not one pass over the cases.
        checkpoints: models of each training that are evaluated: the last of each of so many equal
            parts. ``selection`` chooses among them. The training is the same for any number; each
            costs its evaluation and a model file.
    """

    steps: int = 600
    adapt_steps: int = 200
    epochs: int | None = None
    adapt_epochs: int | None = None
    batch_size: int = 16
    steps_per_epoch: int | None = None
    checkpoints: int = field(default=1, metadata={"how": True})

    def __post_init__(self) -> None:
        for name in ("steps", "adapt_steps", "epochs", "adapt_epochs", "batch_size", "steps_per_epoch", "checkpoints"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SpecError(f"budget.{name}: found {getattr(self, name)}, expected at least 1")

    def training(self, epoch: int) -> int:
        """Steps of a training from scratch, for a loader whose epoch has ``epoch`` steps."""
        return self.steps if self.epochs is None else self.epochs * epoch

    def adaptation(self, epoch: int) -> int:
        """Steps of an adaptation."""
        return self.adapt_steps if self.adapt_epochs is None else self.adapt_epochs * epoch

    def marks(self, steps: int) -> tuple[int, ...]:
        """After how many steps of a training there is a checkpoint, its end left out.

        >>> Budget(checkpoints=4).marks(10), Budget(checkpoints=4).marks(2), Budget().marks(10)
        ((2, 5, 7), (1,), ())
        """
        return tuple(sorted({steps * part // self.checkpoints for part in range(1, self.checkpoints)} - {0}))


@dataclass(frozen=True)
class Settings:
    """What a study says about training; part of every unit's key.

    Args:
        budget: lengths and batch size.
        optimizer: one ``{name: arguments}`` of the table of optimizers.
        augmentation: none, light or strong, for every row alike.
        patch: training crops of this size; None trains on whole images.
        clip: the largest gradient norm.
        schedule: one ``{name: arguments}`` of the table of schedules.
        loss: one ``{name: arguments}`` of MONAI's or PyTorch's losses; {} is the task's own.
    """

    budget: Budget = field(default_factory=Budget)
    optimizer: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"adam": {"lr": 1e-3}})
    augmentation: Strength = "light"
    patch: tuple[int, ...] | None = None
    clip: float | None = None
    schedule: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"constant": {}})
    loss: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
