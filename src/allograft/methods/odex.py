"""ODEx: a pool of models that grows when the images of a stage lie far from what each model was
trained on, and that chooses a model for every case (Gonzalez et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, copied, count_parameters
from allograft.parts.domain_features import check_one_size, domain_features, feature_name, features_of
from allograft.parts.stream import Phase, held_out_of, phases, stage_training, training_dice
from allograft.predictor import Prediction, evaluation_mode
from allograft.predictor.direct import padded
from allograft.recipe import Carry, Needs, Paper, Recipe, Scenario, Stage, parse_recipe
from allograft.step import named_state
from allograft.train import train

LEAST = 2
"""Subjects that a Gaussian is fitted on, and subjects that are held out of it, at least."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance (1/N) of features, as directions of a thin SVD: no D x D matrix is made
    (equation 3).

    Args:
        mean: (D,).
        directions: (R, D), orthonormal; R is the rank, at most N - 1.
        variances: (R,) along the directions.
        shrinkage: a in (1 - a) S + a (tr S / D) I; 0 leaves S, whose pseudo-inverse does not see
            what lies across the directions.
        level: tr S / D.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    shrinkage: float = 0.0
    level: float = 0.0

    @staticmethod
    def fit(features: Tensor, *, shrinkage: float = 0.0) -> Gaussian:
        """Fit to (N, D) features, in float64.

        Example:
            >>> features = torch.eye(3, 8)  # N <= D: every own case has squared distance N - 1
            >>> Gaussian.fit(features).mahalanobis(features).round(decimals=9).tolist()
            [2.0, 2.0, 2.0]
        """
        features = features.double()
        mean = features.mean(0)
        _, lengths, directions = torch.linalg.svd(features - mean, full_matrices=False)
        least = lengths.max() * max(features.shape) * torch.finfo(lengths.dtype).eps
        kept = lengths > least
        variances = lengths[kept].square() / len(features)
        return Gaussian(mean, directions[kept], variances, shrinkage, float(variances.sum() / features.shape[1]))

    def mahalanobis(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance of (..., D) features, float64: (...)."""
        apart = x.double() - self.mean
        along = apart @ self.directions.T
        if not self.shrinkage:
            return (along.square() / self.variances).sum(-1)
        spread = (1 - self.shrinkage) * self.variances + self.shrinkage * self.level
        across = (apart.square().sum(-1) - along.square().sum(-1)).clamp_min(0)
        return (along.square() / spread).sum(-1) + across / (self.shrinkage * self.level)

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return self.mean.numel() + self.directions.numel() + self.variances.numel()


@dataclass(frozen=True)
class Expert:
    """A model of the pool, what it was trained on, and how far such images lie from that.

    Args:
        network: the model.
        history: a Gaussian for each stage that it, or the model it was copied from, was trained on.
        held_out: (M,) distances of cases that no Gaussian was fitted on, each as it was after its
            stage.
        rule: ``sum``, ``mean`` or ``last``: what is made of the distances to the history.
        dice: mean Dice of the training cases after its last stage; 0 where nobody asked.
        inherited: how many of ``held_out`` are of the model that it was copied from.
    """

    network: AnyNetwork
    history: tuple[Gaussian, ...]
    held_out: Tensor
    rule: str = "sum"
    dice: float = 0.0
    inherited: int = 0

    def distance(self, features: Tensor) -> Tensor:
        """(N, D) features of this model -> (N,) squared distances to the history (equation 4)."""
        features = features.to(self.history[0].mean.device)
        every = torch.stack([gaussian.mahalanobis(features) for gaussian in self.history])
        return {"sum": every.sum(0), "mean": every.mean(0), "last": every[-1]}[self.rule]

    def scaled(self, distance: Tensor) -> Tensor:
        """(d - min) / (2 max - min) of the held-out cases, so that models can be compared."""
        low, high = self.held_out.min(), self.held_out.max()
        return (distance - low) / (2 * high - low).clamp_min(torch.finfo(high.dtype).tiny)

    @property
    def mean(self) -> float:
        """mu: the mean scaled distance of the held-out cases."""
        return float(self.scaled(self.held_out).mean())


@dataclass(frozen=True)
class OdexPredictor:
    """The nearest model answers; ``score`` is its scaled distance and ``chosen`` its number.

    Args:
        experts: the pool.
        kind, limit: of the features, see ``domain_features``.
    """

    experts: tuple[Expert, ...]
    kind: str
    limit: int
    sees_whole_cases: ClassVar[bool] = True

    @property
    def reference_scores(self) -> Tensor:
        """(M,) scores of the held-out cases of every model, each once, which a new score is
        compared with."""
        return torch.cat([expert.scaled(expert.held_out)[expert.inherited :] for expert in self.experts])

    def __call__(self, batch: Batch) -> Prediction:
        """Slices of one volume, ``NAME#0``, ``NAME#1``, ..., are a case and share a model."""
        distances = torch.stack([
            expert.scaled(expert.distance(domain_features(expert.network, batch.image, self.kind, self.limit)))
            for expert in self.experts
        ])  # fmt: skip
        names = [name.rpartition("#")[0] or name for name in batch.cases]
        score, chosen = _mean_by_case(distances.to(batch.image.device), names).min(0)
        outputs: dict[str, Tensor] = {}
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                with evaluation_mode(expert.network):
                    for key, value in padded(expert.network, batch.image[rows]).items():
                        outputs.setdefault(key, value.new_empty((len(batch), *value.shape[1:])))[rows] = value
        return {**outputs, "chosen": chosen, "score": score}


def _mean_by_case(distances: Tensor, names: list[str]) -> Tensor:
    """(K, B) -> (K, B), each the mean over the images of its case."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    of = torch.tensor([numbers[name] for name in names], device=distances.device)
    total = distances.new_zeros(len(distances), len(numbers)).index_add(1, of, distances)
    return (total / torch.bincount(of))[:, of]


@dataclass(frozen=True)
class Odex:
    """Train along a stream with a pool of models: a stage far from every model's history gets a
    model of its own, begun as a copy of the nearest one (ODEx).

    A stage's distance to a model is the mean over its cases of the squared Mahalanobis distances of
    the model's features to each Gaussian of its history, summed; it is scaled by the model's own
    held-out cases, mu is their mean, and a shift is a distance of at least ``factor`` mu. A grown
    model copies weights and history. No site is looked at, in training or at inference. Cases that
    are held out of the Gaussian are trained on as all others. Where the paper is silent: the
    aggregation over cases is a mean, distances are squared, and mu is of the scaled ones.

    Args:
        grow: ``shift``; or the ablations ``always`` (the paper's -infinity xi), ``never``, which is
            sequential training, and ``dice-drop``: when the Dice of the training cases falls by
            more than ``drop`` (DiceEx).
        factor: xi = factor * mu; 2 in the paper. Infinite is ``grow: never``.
        history: ``sum`` as in the paper, which penalises old models, even without a shift;
            ``mean``; or ``last``, the ablation without a history.
        feature: ``batch-norm``: the output of the first normalisation; ``gram``: the Gram matrix of
            its channels, compared by Euclidean distance (the ablation).
        limit: values of a feature at most, by average pooling; 10,000 in the paper. With far more
            values than cases a pseudo-inverse sees little of a shift: choose about as many.
        shrinkage: of the covariance, see ``Gaussian``; 0 in the paper.
        held_out: share of a stage's subjects that the Gaussian is not fitted on.
        drop: of ``dice-drop``, in Dice.
    """

    grow: Literal["shift", "always", "never", "dice-drop"] = "shift"
    factor: Annotated[float, Gt(0)] = 2.0
    history: Literal["sum", "mean", "last"] = "sum"
    feature: Literal["batch-norm", "gram"] = "batch-norm"
    limit: Annotated[int, Ge(1)] = 10_000
    shrinkage: Annotated[float, Ge(0), Le(1)] = 0.0
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.3
    drop: Annotated[float, Gt(0), Lt(1)] = 0.1

    paper: ClassVar[Paper | None] = Paper(
        key="gonzalez2022task",
        authors="Gonzalez, C. and Ranem, A. and Othman, A. and Mukhopadhyay, A.",
        title="Task-Agnostic Continual Hippocampus Segmentation for Smooth Population Shifts",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_11",
    )
    needs: ClassVar[Needs] = Needs(stream=True)

    @property
    def same_as(self) -> Recipe | None:
        """A pool that never grows is trained as ``sequential`` trains."""
        never = self.grow == "never" or (self.grow == "shift" and math.isinf(self.factor))
        return parse_recipe("sequential") if never else None

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a stage too small to fit and to hold out, and images of several
        sizes."""
        for phase in phases(scenario):
            cases = len(phase.cohort.subjects)
            if cases < 2 * LEAST:
                raise SpecError(
                    f"odex: {phase.name} of the stream ({', '.join(phase.seen)}) has {cases} subjects with labels; "
                    f"expected at least {2 * LEAST}, {LEAST} to fit and {LEAST} held out; join it with another stage"
                )
        check_one_size(scenario.stream, "odex")
        if self.grow == "dice-drop" and context.supervised_task.key != "mask":
            raise SpecError("odex: grow: dice-drop needs masks, and the task has none; choose grow: shift")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Per stage: choose a model, perhaps copy it, train it, and add the stage to its
        history."""
        pool: list[Expert] = []
        for phase in phases(scenario):
            nearest, grown, facts = self._choose(pool, phase, context)
            before = pool[nearest] if pool else Expert(network, (), torch.zeros(0), self.history)
            before = replace(before, inherited=len(before.held_out)) if grown else before
            model = copied(before.network) if grown else before.network
            nearest = len(pool) if grown else nearest
            step, batches, steps = stage_training(model, phase, context)
            train(step, batches, steps=steps, context=context, name=phase.name)
            pool[nearest : nearest + 1] = [self._described(model, before, phase, context)]
            newest = pool[nearest].history[-1]
            reached: dict[str, float | int | str] = {"models": len(pool), "storage_mb": storage(pool), **facts}
            reached |= {"rank": len(newest.variances), "values": len(newest.mean), "feature": feature_name(model)}
            yield Stage(phase.name, OdexPredictor(tuple(pool), self.feature, self.limit), phase.seen, facts=reached)
        others = {f"model-{number}": expert.network for number, expert in enumerate(pool) if number != nearest}
        return Carry(model, named_state(step.optimizer, model), others)

    def _choose(self, pool: list[Expert], phase: Phase, context: Context) -> tuple[int, bool, dict[str, float]]:
        """Which model is trained, whether a copy of it, and the distance that says so."""
        if not pool:
            return 0, False, {}
        distances = [
            float(expert.scaled(expert.distance(self._features(expert.network, phase.cohort, context))).mean())
            for expert in pool
        ]
        nearest = distances.index(min(distances))
        threshold = self.factor * pool[nearest].mean
        facts = {"distance": distances[nearest], "threshold": threshold}
        if self.grow == "dice-drop":
            facts["dice_before"] = training_dice(pool[nearest].network, phase.cohort, context)
            return nearest, pool[nearest].dice - facts["dice_before"] > self.drop, facts
        return nearest, self.grow == "always" or (self.grow == "shift" and distances[nearest] >= threshold), facts

    def _described(self, model: AnyNetwork, before: Expert, phase: Phase, context: Context) -> Expert:
        """The trained model, with this stage in its history and among its held-out distances; the
        ablation without a history keeps those of this stage alone."""
        held, fitted = held_out_of(phase, self.held_out, context, LEAST)
        features = self._features(model, fitted, context)
        fit = centre(features) if self.feature == "gram" else Gaussian.fit(features, shrinkage=self.shrinkage)
        dice = training_dice(model, phase.cohort, context) if self.grow == "dice-drop" else 0.0
        expert = Expert(model, (*before.history, fit), before.held_out, self.history, dice)
        distances = expert.distance(self._features(model, held, context))
        earlier = before.held_out if self.history != "last" else torch.zeros(0)
        inherited = min(before.inherited, len(earlier))
        return replace(expert, held_out=torch.cat([earlier, distances]), inherited=inherited)

    def _features(self, network: AnyNetwork, cohort: Cohort, context: Context) -> Tensor:
        return features_of(network, cohort, context, self.feature, self.limit)


def centre(features: Tensor) -> Gaussian:
    """The mean alone: (N, D), whose squared distance is Euclidean."""
    mean = features.double().mean(0)
    return Gaussian(mean, mean.new_zeros(0, len(mean)), mean.new_zeros(0), 1.0, 1.0)


def storage(pool: list[Expert]) -> float:
    """MB that the pool takes on a disk, rounded: weights of 4 bytes, distributions of 8."""
    weights = sum(count_parameters(expert.network) for expert in pool)
    numbers = sum(gaussian.numbers for expert in pool for gaussian in expert.history)
    return round((4 * weights + 8 * numbers) / 1e6, 3)
