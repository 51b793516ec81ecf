"""A recipe run by itself, outside ``Context.run``: what it draws then depends on no setting and no
data."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from tests.contract.numbers import Summary, summary
from torch import Tensor, nn

from allograft.batch import Batch, Boxes, collate
from allograft.context import Context, Settings
from allograft.figure import to_json
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
        numbers: of its networks, optimizer, predictions, figures and facts.
    """

    weights: str
    predictions: dict[str, bytes]
    figures: tuple[str, ...]
    facts: dict[str, dict[str, float | int | str]]
    numbers: Mapping[str, Summary] = field(default_factory=dict, compare=False)


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
    predicted: list[Any] = []
    start = session.start(world, seed)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    running = recipe.run(scenario, start, context)
    while True:
        try:
            with context.seeds.everything("directly"):
                stage = next(running)
        except StopIteration as end:
            left, figures = end.value, context.meter.figures
            numbers = {**_of_networks(left, before), "predictions": predicted, "facts": facts}
            numbers |= {f"figure {name}": to_json(figure) for name, figure in figures.items()}
            kept = {name: made for name, value in numbers.items() if any(made := summary(value))}
            return Left(digest(left.network), predictions, tuple(sorted(figures)), facts, kept)
        if not stage.unit:
            facts[stage.name] = dict(stage.facts)
        if not stage.unit and stage.predictor is not None:
            predicted.append(stage.predictor(batch))
            predictions[stage.name] = b"".join(_bytes(value) for _, value in sorted(predicted[-1].items()))


def _of_networks(left: Carry, before: Mapping[str, Tensor]) -> dict[str, Any]:
    """How far what is carried on went from the start, and each entry of the optimizer's state."""
    numbers: dict[str, Any] = {"weights": _moved(left.network, before)}
    numbers |= {f"part {name}": _moved(part, before) for name, part in left.parts.items()}
    state: Any = (left.optimizer or {}).get("state", {})
    for name, entries in sorted(state.items()):
        for key, value in entries.items():
            numbers.setdefault(f"optimizer {key}", []).append((name, value))
    return numbers


def _moved(module: nn.Module, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value - before[name] if name in before and before[name].shape == value.shape else value
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }


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
