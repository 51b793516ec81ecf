"""MRIS: an image of one modality is made of the database images whose other modality looks alike
(Chen and Niethammer 2023)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Generator as Rng
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.orders import OnePerSubject, by_subject
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import OptimizerRequest, check_optimizer
from allograft.networks import AnyNetwork, Network, build
from allograft.networks.load import load_weights
from allograft.networks.network import spec_of
from allograft.nn.retrieval import Negative, recall, synthesise, triplet_loss
from allograft.predictor.mapped import Mapped
from allograft.predictor.retrieval import Database, Retrieval, embed, keys_of
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Planned
from allograft.step import average_buffers, average_gradients
from allograft.tasks.synthesis import Synthesis
from allograft.train import train
from allograft.transforms.sample import Sample

__all__ = ["Mris", "synthesise", "triplet_loss"]

NETWORK = {"resnet": {"depth": 18}}
"""The encoder of the paper."""
PAPERS: OptimizerRequest = {"adamw": {"lr": 1e-4, "weight_decay": 1e-3}}
"""The optimizer of the paper."""
SHOWN = 5
"""Unmatched cases that a stage names."""


@dataclass(frozen=True)
class OfTheImageAlone:
    """A loader's transform: crops and augments what is seen, and leaves the paired image, which
    lies in an atlas, where it is."""

    sample: Sample

    def __call__(self, case: Batch, rng: Rng) -> Batch:
        """``case`` has B = 1; each image has draws of its own."""
        return replace(self.sample(case.unlabelled(), rng), labels=case.labels)


@dataclass
class TripletStep:
    """One update of both encoders.

    Args:
        query, key: networks without heads.
        optimizer: over both, a group each.
        schedule: of the optimizer.
        fabric: autocast, backward.
        margin: m of eq. 3.
        clip: the largest norm of the gradients of either encoder.
        band: which part of the paired image along its first axis, of how many.
    """

    query: Network
    key: Network
    optimizer: torch.optim.Optimizer
    schedule: Any
    fabric: Any
    margin: float
    clip: float | None
    band: tuple[int, int] = (0, 1)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        paired = batch.labels["paired"]
        assert isinstance(paired, Tensor)
        part = paired.chunk(self.band[1], 2)[self.band[0]].nan_to_num(0.0)
        self.optimizer.zero_grad(set_to_none=True)
        with self.fabric.autocast():
            x, y = embed(self.query, batch.image), embed(self.key, part)
        loss = triplet_loss(x.float(), y.float(), self.margin, subject=batch.subjects)
        self.fabric.backward(loss)
        for network in (self.query, self.key):
            average_gradients([*network.parameters()])
            average_buffers(network)
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        self.optimizer.step()
        self.schedule(loss.detach())
        return {"triplet": loss.detach()}


@dataclass(frozen=True)
class Mris:
    """Learn a space in which matching images of two modalities lie together, and answer for an
    image by its k nearest neighbours of the other modality.

    Two encoders with weights of their own are trained by the triplet loss on cosine similarities;
    an epoch shows each subject once, at one of its timepoints, and images of one subject are no
    negatives of one another. The training cases are the database; the predictor holds their images,
    so it ``contains_images``. Cases are added and removed without training: `allograft index`.

    Augmentation is the study's, on the seen image alone; so is the preprocessing (the paper's:
    ``intensity: percentile99``, and right knees mirrored by ``mirror``). The rate falls to a fifth
    at each third of the training unless the study names a schedule. Where we differ from the
    released code: the negatives exclude the subject, not the side; each image has its own
    augmentation, where a batch shares one there. Database images are kept in half precision. Of
    several processes, each finds negatives in its own share of a batch.

    Args:
        encoder: ``{name: arguments}`` of the table of networks, for both modalities.
        margin: m.
        k: neighbours.
        negative: ``released``: eq. 4 as printed, by which a negative similarity has a negative
            weight; ``clamp``: it has none.
        weights: what both encoders start from: ``timm:NAME`` or ``hf:OWNER/NAME``; the paper's
            ImageNet weights are ``timm:resnet18``; null for scratch. The stage says it.
        bands: equal parts of the paired image along its first axis, each with networks and a
            database of its own. 1 = the paper's MRIS-C, 2 = MRIS-S of a femoral map above a tibial
            one.
        key_rate: learning rate of the paired image's encoder, as a multiple of the other's: 1e-5 of
            1e-4.
        optimizer: one ``{name: arguments}``; null for the study's.
        clip: the largest gradient norm of either encoder (released); null for the study's.
    """

    encoder: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(NETWORK))
    margin: Annotated[float, Ge(0)] = 0.1
    k: Annotated[int, Ge(1)] = 20
    negative: Negative = "released"
    weights: str | None = None
    bands: Annotated[int, Ge(1)] = 1
    key_rate: Annotated[float, Gt(0)] = 0.1
    optimizer: OptimizerRequest | None = field(
        default_factory=lambda: {name: dict(settings) for name, settings in PAPERS.items()}
    )
    clip: Annotated[float, Gt(0)] | None = 1.0

    paper: ClassVar[Paper | None] = Paper(
        key="chen2023mris",
        authors="Chen, B. and Niethammer, M.",
        title="MRIS: A Multi-modal Retrieval Approach for Image Synthesis on Diverse Modalities",
        venue="Medical Image Computing and Computer Assisted Intervention",
        year=2023,
        doi="10.1007/978-3-031-43999-5_26",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer, "mris")
        if len(self.encoder) != 1:
            raise SpecError(
                f"mris: encoder: expected one {{name: {{...}}}}, found {', '.join(self.encoder) or 'nothing'}"
            )
        if self.weights is not None and not self.weights.startswith(("timm:", "hf:")):
            raise SpecError(
                f"mris: weights is '{self.weights}'; expected timm:NAME or hf:OWNER/NAME, which name one file for good"
            )

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task that is no synthesis, a database smaller than k, or images
        that do not divide into bands or lie on several grids."""
        if not isinstance(context.task, Synthesis):
            raise SpecError("mris: makes images; expected task: {synthesis: {...}} and a column paired in the manifest")
        pairs = paired(scenario.source)
        count = sum(len(cohort) for cohort in pairs)
        if count == 0:
            raise SpecError(
                "mris: no source case has both modalities, so the database is empty; fill the column paired"
            )
        if self.k > count:
            raise SpecError(f"mris: k is {self.k}, the database has {count} images; lower k, or add source cases")
        if len({subject for cohort in pairs for subject in cohort.subjects}) < 2:
            raise SpecError("mris: all pairs are of one subject, so there is no negative; add subjects")
        shapes = {tuple(_map(cohort, item).shape[1:]) for cohort in pairs for item in range(len(cohort))}
        if len(shapes) > 1:
            found = " and ".join("x".join(map(str, shape[1:])) for shape in sorted(shapes)[:2])
            raise SpecError(
                f"mris: paired images of {found}; neighbours are averaged on one grid, set preprocessing.size"
            )
        if (side := next(iter(shapes))[1]) % self.bands:
            raise SpecError(f"mris: {side} rows do not divide into {self.bands} bands; choose another size or bands: 1")
        self._networks(scenario)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Section 2, over ``budget.steps``; the study's network is left as it is."""
        pairs = paired(scenario.source)
        maps = torch.cat([_map(cohort, item) for cohort in pairs for item in range(len(cohort))])
        made: list[Database] = []
        facts: dict[str, float | int | str] = {}
        parts: dict[str, Network] = {}
        for number, part in enumerate(maps.chunk(self.bands, 2)):
            query, key = (encoder.to(context.fabric.device).train() for encoder in self._networks(scenario))
            name = "train" if self.bands == 1 else f"band-{number + 1}"
            self._train(query, key, pairs, context, (number, name))
            cases = [cohort.cases[cohort.items[item][0]] for cohort in pairs for item in range(len(cohort))]
            names, subjects = tuple(case.name for case in cases), tuple(case.subject for case in cases)
            keys = keys_of(key, part).cpu()
            made.append(Database(query, key, keys, Mapped.of(part.half()), names, subjects, self.k, self.negative))
            facts |= {f"recall@{k} ({name})": value for k, value in self._recall(query, keys, pairs, context).items()}
            parts |= {f"query-{number}": query, f"key-{number}": key}
        yield Stage("trained", Retrieval(tuple(made)), scenario.sites, {**facts, **self._said(scenario, maps)})
        return Carry(network, parts=parts)

    def _train(
        self, query: Network, key: Network, pairs: Sequence[Cohort], context: Context, band: tuple[int, str]
    ) -> None:
        number, name = band
        order = OnePerSubject(by_subject(pairs), context.batch_size, context.loader_seeds(name))
        transform = OfTheImageAlone(Sample(context.settings.augmentation, context.settings.patch))
        batches = context.loader(pairs, name, order=order, transform=transform)
        steps = context.settings.budget.training(batches.epoch)
        optimizer = context.optimizer(query.parameters(), self.optimizer)
        rate = self.key_rate * optimizer.param_groups[0]["lr"]
        optimizer.add_param_group({"params": list(key.parameters()), "lr": rate})
        thirds = Planned(LambdaLR(optimizer, lambda done: 0.2 ** (3 * done // steps)))
        schedule = context.schedule(optimizer, steps) or thirds
        step = TripletStep(
            query,
            key,
            optimizer,
            schedule,
            context.fabric,
            self.margin,
            context.settings.clip if self.clip is None else self.clip,
            (number, self.bands),
        )
        train(step, batches, steps=steps, context=context, name=name)

    def _networks(self, scenario: Scenario) -> tuple[Network, Network]:
        """Query and key encoder, their weights drawn."""
        case = paired(scenario.source)[0].case(0)
        label = case.labels["paired"]
        assert isinstance(label, Tensor)
        built = [build(spec_of(self.encoder, image.shape[1], {})) for image in (case.image, label)]
        first, second = built
        if not isinstance(first, Network) or not isinstance(second, Network):
            raise SpecError("mris: encoder: the network is one opaque module; choose one of our table, as resnet")
        if self.weights is not None:
            for encoder in (first, second):
                load_weights(encoder, self.weights)
        return first, second

    def _recall(self, query: Network, keys: Tensor, pairs: Sequence[Cohort], context: Context) -> dict[int, float]:
        """Of the training pairs, whose own map is among the k nearest: how far the training
        came."""
        from allograft.parts.features import images_in_order
        from allograft.predictor import evaluation_mode

        with evaluation_mode(query):
            seen = [embed(query, image.to(context.fabric.device)).cpu() for image in images_in_order(pairs, 64)]
        return recall(torch.cat(seen), keys)

    def _said(self, scenario: Scenario, maps: Tensor) -> dict[str, float | int | str]:
        """Facts of the stage: where the weights come from, and which cases have no pair."""
        alone = [case.name for cohort in scenario.source for case in cohort.cases if "paired" not in case.labels]
        facts: dict[str, float | int | str] = {"encoders": self.weights or "from scratch", "database": len(maps)}
        if alone:
            more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
            facts["without a pair"] = ", ".join(alone[:SHOWN]) + more
        return facts


def paired(cohorts: Sequence[Cohort]) -> list[Cohort]:
    """The cases that have both modalities; cohorts without one are left out."""
    return [made for cohort in cohorts if len(made := cohort.labelled("paired"))]


def _map(cohort: Cohort, item: int) -> Tensor:
    paired = cohort.case(item).labels["paired"]
    assert isinstance(paired, Tensor)
    return paired
