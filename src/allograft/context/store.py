"""Finished units: what each carries on, and its stages' predictors, so that it can be built upon
and judged again without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from allograft import tree
from allograft.batch import Batch
from allograft.errors import AllograftError
from allograft.figure import Figure, from_json, to_json
from allograft.networks import own_spec, rebuilt, remade
from allograft.predictor import Prediction, Predictor, load_predictor, save_predictor
from allograft.predictor.folder import intact, read_card
from allograft.recipe import Carry, Stage


@dataclass(frozen=True)
class Store:
    """The folder of one unit: ``carry.safetensors``, written last, and ``stages/NAME/``.

    Args:
        folder: of this unit.
        writes: False on all processes but the first.
        template: the user's own network, for specs that name it.
    """

    folder: Path
    writes: bool = True
    template: nn.Module | None = None

    @property
    def carry_file(self) -> Path:
        """Its existence says that the unit is finished."""
        return self.folder / "carry.safetensors"

    @property
    def lock_file(self) -> Path:
        """Held while the unit runs."""
        return self.folder / "lock"

    def stage_folder(self, name: str) -> Path:
        """Where a stage's predictor lies."""
        return self.folder / "stages" / name

    def keep_stage(self, stage: Stage, card: Mapping[str, object]) -> None:
        """Save a stage's predictor, the moment it is yielded: the network moves on."""
        folder = self.stage_folder(stage.name)
        if self.writes and stage.predictor is not None and not (folder / "card.json").exists():
            save_predictor(stage.predictor, folder, card)

    def kept_stage(self, name: str) -> Kept | None:
        """A stage's predictor on disk; None where there is none, or a damaged one, which is removed
        to be made again."""
        folder = self.stage_folder(name)
        if intact(folder):
            return Kept(folder, self.template)
        tree.remove(folder)
        return None

    @property
    def figures_file(self) -> Path:
        """What the unit has to show in the report."""
        return self.folder / "figures.json"

    def keep(
        self, carry: Carry, stages: list[Stage], cost: Mapping[str, float | int], figures: Mapping[str, Figure]
    ) -> None:
        """Save the end of a run; only now is the unit finished."""
        if self.writes:
            tree.write_json(self.figures_file, {name: to_json(figure) for name, figure in figures.items()})
            parts = {
                name: {"spec": dict(own_spec(part)), "state": part.state_dict()} for name, part in carry.parts.items()
            }
            state = {
                "spec": dict(carry.network.spec),
                "network": carry.network.state_dict(),
                "optimizer": carry.optimizer,
                "parts": parts,
                "stages": [
                    {
                        **{"name": stage.name, "seen": list(stage.seen), "judged": stage.predictor is not None},
                        "facts": dict(stage.facts),
                    }
                    for stage in stages
                ],
                "cost": dict(cost),
            }
            tree.save(self.carry_file, state)

    def figures(self, *, images: bool = True) -> dict[str, Figure]:
        """Name -> figure; empty for an unfinished unit, and for one whose file is damaged: figures
        decide nothing.

        Args:
            images: whether those that show images of patients are wanted too.
        """
        try:
            kept = json.loads(self.figures_file.read_text(encoding="utf-8"))
            found = {name: from_json(one) for name, one in kept.items()}
        except (OSError, ValueError, AttributeError, AllograftError):
            return {}
        return {name: figure for name, figure in found.items() if images or not figure.shows_images}

    def tidy(self) -> None:
        """Remove the journal of a finished unit, which a process killed between its last write and
        clearing left."""
        if self.writes:
            tree.remove(self.folder / "journal")

    def load(self) -> tuple[Carry, list[Stage], dict[str, float | int]] | None:
        """The carry, the stages (predictors load when called) and the cost; None when unfinished or
        damaged."""
        kept, stages = tree.load_whole(self.carry_file), self.stages()
        if kept is None or stages is None:
            return None
        parts = {name: remade(part["spec"], part["state"], self.template) for name, part in kept["parts"].items()}
        network = rebuilt(kept["spec"], kept["network"], self.template)
        return Carry(network, kept["optimizer"], parts), stages, kept["cost"]

    def stages(self) -> list[Stage] | None:
        """The stages of ``load``, without building a network."""
        kept = tree.load_whole(self.carry_file)
        if kept is None:
            return None
        stages = []
        for one in kept["stages"]:
            predictor = self.kept_stage(one["name"]) if one["judged"] else None
            if one["judged"] and predictor is None:
                return None
            cost = kept["cost"] if predictor is None else read_card(predictor.folder)["cost"]
            stages.append(Stage(one["name"], predictor, tuple(one["seen"]), one["facts"], cost=cost))
        return stages


@dataclass(frozen=True)
class Kept:
    """A stage's predictor on disk, loaded when it is first called."""

    folder: Path
    template: nn.Module | None = None

    loaded: dict[str, Predictor] = field(default_factory=dict, compare=False)

    def __call__(self, batch: Batch) -> Prediction:
        made: Prediction = self.on(str(batch.image.device))(batch)
        return made

    @property
    def sees_whole_cases(self) -> bool:
        """What the predictor itself says."""
        known = next(iter(self.loaded.values()), None) or self.on("cpu")
        return getattr(known, "sees_whole_cases", False)

    def on(self, device: str) -> Predictor:
        """The predictor on a device."""
        if device not in self.loaded:
            self.loaded[device] = load_predictor(self.folder, template=self.template, device=device)[0]
        return self.loaded[device]
