"""A recipe run by itself, outside ``Context.run``: what it draws then depends on no setting and no
data."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from allograft.batch import Batch, Boxes, collate
from allograft.context import Context, Settings
from allograft.recipe import Carry, Scenario, Stage, total_needs
from allograft.run.session import Session
from allograft.study.world import World
from allograft.tree import digest


@dataclass(frozen=True)
class Left:
    """What a recipe left.

    Args:
        weights: digest of the network that it carries on.
        predictions: stage -> bytes of what it predicts for the target's test images.
        figures: names of what it shows.
        facts: stage -> what it says of itself.
    """

    weights: str
    predictions: dict[str, bytes]
    figures: tuple[str, ...]
    facts: dict[str, dict[str, float | int | str]]


@dataclass(frozen=True)
class OwnSettings(Context):
    """A context whose settings are those of the recipe alone: what comes before by ``first`` runs
    in ``others``."""

    others: Context | None = None

    def run(self, recipe: Any, scenario: Scenario, network: Any) -> Generator[Stage, None, Carry]:
        """As ``others`` runs it."""
        assert self.others is not None
        return (yield from self.others.run(recipe, scenario, network))


def left_by(
    recipe: Any,
    scenario: Scenario,
    session: Session,
    world: World,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    narrowed: bool = True,
) -> Left:
    """Run a recipe; what comes before by ``first`` is kept in the session's folder, and found there
    by the next.

    Args:
        settings: of the recipe's own training; None = the study's.
        narrowed: whether it is shown what it needs alone, as by ``Context.run``.
    """
    if narrowed:
        scenario = scenario.narrowed(total_needs(recipe))
    # as from within the recipe, which may continue an optimizer
    context, batch = replace(session.context(seed), continues=True), unseen_images(world)
    if settings is not None:
        given = {field.name: getattr(context, field.name) for field in fields(context)}
        context = OwnSettings(**{**given, "settings": settings}, others=context)
    predictions: dict[str, bytes] = {}
    facts: dict[str, dict[str, float | int | str]] = {}
    running = recipe.run(scenario, session.start(world, seed), context)
    while True:
        try:
            with context.seeds.everything("directly"):
                stage = next(running)
        except StopIteration as end:
            return Left(digest(end.value.network), predictions, tuple(sorted(context.meter.figures)), facts)
        if not stage.unit:
            facts[stage.name] = dict(stage.facts)
        if not stage.unit and stage.predictor is not None:
            predictions[stage.name] = b"".join(_bytes(value) for _, value in sorted(stage.predictor(batch).items()))


def unseen_images(world: World) -> Batch:
    """The target's test images as one batch, without labels."""
    cohort = replace(world.part("b", "test", 0).unlabelled(), sites=())
    return collate([cohort.case(index) for index in range(len(cohort))])


def _bytes(value: Any) -> bytes:
    if isinstance(value, tuple):  # words, or the boxes of several images
        return b"".join(_bytes_of_one(part) for part in value)
    return _bytes_of_one(value)


def _bytes_of_one(value: Any) -> bytes:
    if isinstance(value, Boxes):
        return b"".join(_bytes_of_one(part) for part in (value.xyxy, value.label, value.score))
    if not isinstance(value, Tensor):
        return repr(value).encode()
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
