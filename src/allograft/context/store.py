"""Finished units: what each carries on, and its stages' predictors, so that it can be built upon
and judged again without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NotRequired, TypedDict, cast

from torch import Tensor, nn

from allograft import tree
from allograft.batch import Batch
from allograft.errors import AllograftError, OutputError
from allograft.figure import Figure, Relabelled, from_json, to_json
from allograft.networks import own_spec, rebuilt, remade
from allograft.networks.network import Spec
from allograft.predictor import Prediction, Predictor, load_predictor, save_predictor
from allograft.predictor.card import read_card
from allograft.predictor.folder import intact
from allograft.predictor.whole import sees_whole_images
from allograft.recipe import Carry, Stage

LEFT_OUT: Final = "optimizer_left_out"
"""In a carry: the run had an optimizer's state, which was not kept since nothing asked for it."""


class StageTree(TypedDict):
    """What a carry's file says of a stage."""

    name: str
    seen: list[str]
    judged: bool
    facts: dict[str, float | int | str]


class PartTree(TypedDict):
    """A part of a carry."""

    spec: Spec
    state: dict[str, Tensor]


class CarryTree(TypedDict):
    """A carry's file."""

    spec: Spec
    network: dict[str, Tensor]
    optimizer: Mapping[str, object] | None
    parts: dict[str, PartTree]
    stages: list[StageTree]
    cost: dict[str, float | int]
    optimizer_left_out: NotRequired[bool]


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
    def cleaned_file(self) -> Path:
        """Names the stages that ``clean`` removed."""
        return self.folder / "cleaned.json"

    def cleaned(self) -> tuple[str, ...]:
        """The stages that ``clean`` removed, which are made again when they are asked for."""
        try:
            return tuple(json.loads(self.cleaned_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return ()

    def clean_stage(self, name: str) -> None:
        """Remove the predictor of a stage, and say so first."""
        tree.write_json(self.cleaned_file, sorted({*self.cleaned(), name}))
        tree.remove(self.stage_folder(name))

    def clean_optimizer(self) -> None:
        """Leave out the state of the optimizer from the carry."""
        kept = self._read()
        if kept is not None and kept["optimizer"] is not None:
            tree.save(self.carry_file, {**kept, "optimizer": None, LEFT_OUT: True})

    def optimizer_bytes(self) -> int:
        """What the state of the optimizer takes in the carry."""
        kept = self._read()
        return 0 if kept is None else _bytes_of(kept["optimizer"])

    def forget(self) -> None:
        """Let the unit be run again, for what was cleaned; stages that are there stay."""
        tree.remove(self.carry_file)
        tree.remove(self.cleaned_file)

    @property
    def figures_file(self) -> Path:
        """What the unit has to show in the report."""
        return self.folder / "figures.json"

    def keep(
        self,
        carry: Carry,
        stages: list[Stage],
        cost: Mapping[str, float | int],
        figures: Mapping[str, Figure | Relabelled],
        *,
        optimizer: bool = True,
    ) -> None:
        """Save the end of a run; only now is the unit finished.

        Args:
            optimizer: whether the optimizer's state is kept too, which is twice the network for
                Adam.
        """
        if self.writes:
            tree.write_json(self.figures_file, {name: to_json(figure) for name, figure in figures.items()})
            parts = {
                name: {"spec": dict(own_spec(part)), "state": part.state_dict()} for name, part in carry.parts.items()
            }
            state = {
                "spec": dict(carry.network.spec),
                "network": carry.network.state_dict(),
                "optimizer": carry.optimizer if optimizer else None,
                LEFT_OUT: carry.optimizer is not None and not optimizer,
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
        drawable = {name: shown for name, shown in self._shown().items() if not isinstance(shown, Relabelled)}
        return {name: figure for name, figure in drawable.items() if images or not figure.shows_images}

    def relabelled(self) -> Relabelled | None:
        """The boxes that the unit corrected; None where it corrected none, and as ``figures``."""
        return next((shown for shown in self._shown().values() if isinstance(shown, Relabelled)), None)

    def _shown(self) -> dict[str, Figure | Relabelled]:
        try:
            kept = json.loads(self.figures_file.read_text(encoding="utf-8"))
            return {name: from_json(described) for name, described in kept.items()}
        except (OSError, ValueError, AttributeError, AllograftError):
            return {}

    def tidy(self) -> None:
        """Remove the journal of a finished unit, which a process killed between its last write and
        clearing left."""
        if self.writes:
            tree.remove(self.folder / "journal")

    def serves(self, *, optimizer: bool) -> bool:
        """Whether the unit is finished, and with the state of its optimizer where that is asked
        for."""
        kept = self._read() if optimizer else None
        return self.carry_file.exists() and not (kept is not None and kept.get(LEFT_OUT, False))

    def _read(self) -> CarryTree | None:
        return cast("CarryTree | None", tree.load_whole(self.carry_file))

    def load(self, *, optimizer: bool = False) -> tuple[Carry, list[Stage], dict[str, float | int]] | None:
        """The carry, the stages (predictors load when called) and the cost; None when unfinished or
        damaged.

        Args:
            optimizer: None too where the optimizer's state was left out.
        """
        kept, stages = self._read(), self.stages()
        if kept is None or stages is None or (optimizer and kept.get(LEFT_OUT, False)):
            return None
        parts = {name: remade(part["spec"], part["state"], self.template) for name, part in kept["parts"].items()}
        network = rebuilt(kept["spec"], kept["network"], self.template)
        return Carry(network, kept["optimizer"], parts), stages, kept["cost"]

    def stages(self) -> list[Stage] | None:
        """The stages of ``load``, without building a network."""
        kept = self._read()
        if kept is None:
            return None
        stages, cleaned = [], self.cleaned()
        for described in kept["stages"]:
            predictor = self.kept_stage(described["name"]) if described["judged"] else None
            gone = described["judged"] and predictor is None
            if gone and described["name"] not in cleaned:
                return None
            cost = kept["cost"] if predictor is None else read_card(predictor.folder)["cost"]
            held = Cleaned(self.folder) if gone else predictor
            stages.append(Stage(described["name"], held, tuple(described["seen"]), described["facts"], cost=cost))
        return stages


def _bytes_of(thing: object) -> int:
    """Of all tensors in a tree."""
    if isinstance(thing, Tensor):
        return thing.numel() * thing.element_size()
    inner = thing.values() if isinstance(thing, Mapping) else thing if isinstance(thing, (list, tuple)) else ()
    return sum(map(_bytes_of, inner))


@dataclass(frozen=True)
class Cleaned:
    """In the place of a stage's predictor that ``clean`` removed: its records are there, and
    whoever needs more runs the unit again."""

    folder: Path

    def __call__(self, batch: Batch) -> Prediction:
        """Raises ``OutputError``: it is to be run again."""
        raise OutputError(f"{self.folder}: 'allograft clean' removed this model; run the study again to restore it")


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
        return getattr(self._known, "sees_whole_cases", False)

    @property
    def sees_whole_images(self) -> bool:
        """What the predictor itself, or one inside it, says."""
        return sees_whole_images(self._known)

    @property
    def _known(self) -> Predictor:
        return next(iter(self.loaded.values()), None) or self.on("cpu")

    def on(self, device: str) -> Predictor:
        """The predictor on a device."""
        if device not in self.loaded:
            self.loaded[device] = load_predictor(self.folder, template=self.template, device=device)[0]
        return self.loaded[device]
