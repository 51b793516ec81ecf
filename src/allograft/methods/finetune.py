"""Fine-tuning: continue to train all of the network, or a part of it, on labelled target cases."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from allograft.cohort import Loader
from allograft.context import Context, Journal, Settings
from allograft.context.settings import Strength
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, scope_parameters, trainable
from allograft.networks.cache import FrozenOutputs, OnKept
from allograft.networks.scopes import Scope
from allograft.parts.feature_series import train_with_features
from allograft.parts.paired_batches import require_encoder
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class Finetune:
    """Tune all or part of the network on the labelled target cases.

    Frozen parts are in evaluation mode and keep nothing for backward. The learning rate is the
    study's.

    Args:
        scope: ``full``; ``decoder`` (with the heads); ``top`` (the last tensors up to 10 % of the
            parameters); ``first`` (the first two levels of the encoder, which hold most of what
            differs between scanners).
        augmentation: none, light or strong; by default the study's.
        cache_features: compute the frozen part of the network once a case and keep what the tuned
            part reads of it, so that a step runs the tuned part alone. For ``top`` and ``decoder``,
            and where a case looks the same at every step: without augmentation and patches. Results
            are those of the plain run up to rounding, with one case a step to the byte.
        show_features: show how the features of source and target move in the tuning; the recipe
            then sees the images of both.
        first: what the tuning starts from.
    """

    scope: Scope = "full"
    augmentation: Strength | None = None
    cache_features: bool = field(default=False, metadata={"how": True})
    show_features: bool = False
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="shirokikh2020first",
        authors="Shirokikh, B. and Zakazov, I. and Chernyavskiy, A. and Fedulova, I. and Belyaev, M.",
        title="First U-Net Layers Contain More Domain Specific Information Than The Last Ones",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2020,
    )

    @property
    def needs(self) -> Needs:
        """The labelled target cases; images to show, if any are."""
        return Needs(target_labels=True, target_images=self.show_features, source_images=self.show_features)

    def __post_init__(self) -> None:
        if self.cache_features and self.scope not in ("decoder", "top"):
            raise SpecError(
                f"finetune: cache_features keeps what comes before the tuned part, and scope '{self.scope}' tunes "
                "from the start; "
                "set scope: top or scope: decoder, or cache_features: false"
            )

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for settings under which features cannot be kept or shown, or a scope
        that the network does not have."""
        if self.cache_features:
            self._check_views(context.settings)
        if self.show_features:
            require_encoder(network, "show_features")
        scope_parameters(network, self.scope)

    def _check_views(self, settings: Settings) -> None:
        strength = self.augmentation or settings.augmentation
        needs = "finetune: cache_features needs cases that look the same at every step"
        if strength != "none":
            mend = "set augmentation: none, in the recipe or in the study, or cache_features: false"
            raise SpecError(f"{needs}, and augmentation is '{strength}'; {mend}")
        if settings.patch is not None:
            mend = "set patch: null, with preprocessing.size for images that are too large, or cache_features: false"
            raise SpecError(f"{needs}, and patch: {list(settings.patch)} cuts them at random; {mend}")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates of the scope on target batches."""
        self.check(scenario, network, context)
        network = (yield from context.run(self.first, scenario, network)).network
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target", augmentation=self.augmentation)
        with trainable(network, self.scope):
            steps = context.settings.budget.adaptation(batches.epoch)
            objective = (
                OnKept(context.supervised_task.objective, _outputs(batches, context)) if self.cache_features else None
            )
            step = context.gradient_step(network, objective, steps=steps)
            stage = Stage("tuned", Direct(network), scenario.sites)
            training = partial(train_with_checkpoints, step, batches, context=context, along=[stage])
            if self.show_features:
                yield from train_with_features(training, network, scenario, steps, context)
            else:
                yield from training(steps=steps)
        yield stage
        return Carry(network, named_state(step.optimizer, network))


def _outputs(batches: Loader, context: Context) -> FrozenOutputs:
    def say(line: str) -> None:
        if context.progress:
            print(f"{context.label}{line}", file=sys.stderr)

    folder = context.journal.folder if isinstance(context.journal, Journal) else None
    return FrozenOutputs(sum(map(len, batches.cohorts)), folder, say)
