"""What a model that leaves a study knows of its validation: distances to its training images,
calibration by site, and how groups of patients fared.

Fitted on training and validation cases that the model's recipe may see, and never on test cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allograft import tree
from allograft.cohort import Cohort, Whole
from allograft.cohort.splits import budget_order
from allograft.errors import AllograftError
from allograft.metrics.calibration import reliability, temperature_of
from allograft.metrics.classification import expected_calibration_error
from allograft.metrics.mahalanobis import TiedGaussian
from allograft.networks import Network
from allograft.predictor.card import read_card, sites_of
from allograft.predictor.deployment import (
    DISTANCE,
    FILE,
    LEAST,
    Deployment,
    case_features,
    encoder_of,
    read_deployment,
    write_deployment,
)
from allograft.predictor.direct import Weights
from allograft.predictor.folder import load_predictor
from allograft.predictor.whole import case_prediction
from allograft.recipe import Scenario, total_needs
from allograft.results.analysis.fairness import validation_audits
from allograft.results.record import Record
from allograft.seeds import Seeds
from allograft.study.plan import Row, scenario_of
from allograft.study.world import World
from allograft.tree import content_hash

MOST = 256
"""Training cases that a Gaussian is fitted on, and validation cases that are predicted, at most."""
PIXELS = 2000
"""Pixels of a case that a temperature is fitted on, at most."""


@dataclass(frozen=True)
class Images:
    """What a model's recipe may see, once more.

    Args:
        fitted: training cases that the Gaussian is fitted on.
        held_out: cases that it is not fitted on.
        labelled: validation cases with labels.
        how: what the held-out cases are, in words.
    """

    fitted: tuple[Cohort, ...]
    held_out: tuple[Cohort, ...]
    labelled: tuple[Cohort, ...]
    how: str

    @staticmethod
    def of(world: World, row: Row, sites: tuple[str, ...]) -> Images:
        """Of a row's recipe; where too few cases validate, a third of the training subjects is left
        out of the fit."""
        seen = scenario_of(world, row).narrowed(total_needs(row.recipe))
        training = _thinned(_known(seen, sites))
        names = dict.fromkeys(case.site for cohort in seen.source for case in cohort.cases)
        parts = tuple(replace(world.part(site, "val", row.fold), sites=sites) for site in names)
        held_out = _thinned(tuple(part for part in parts if part.cases))
        labelled = tuple(part.labelled(world.study.made_task.key) for part in held_out)
        if sum(len(part.cases) for part in held_out) >= LEAST:
            return Images(training, held_out, labelled, f"validation cases of {', '.join(names)}")
        subjects = sorted({case.subject for cohort in training for case in cohort.cases})
        left = set(budget_order(subjects, Seeds(0, ("deployment",)))[: len(subjects) // 3])
        fitted = tuple(cohort.where(lambda case: case.subject not in left) for cohort in training)
        out = tuple(cohort.where(lambda case: case.subject in left) for cohort in training)
        return Images(fitted, out, labelled, "training subjects left out of the fit, which the network was trained on")

    def fingerprint(self) -> list[Any]:
        """JSON values of all that it holds."""
        return [[cohort.fingerprint() for cohort in part] for part in (self.fitted, self.held_out, self.labelled)]


def _known(seen: Scenario, sites: tuple[str, ...]) -> tuple[Cohort, ...]:
    every = (*seen.source, *seen.target, *seen.stream)
    return tuple(replace(cohort, sites=sites) for cohort in every if cohort.cases)


def _thinned(cohorts: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
    """At most ``MOST`` cases in all, at equal steps."""
    total = sum(len(cohort.cases) for cohort in cohorts)
    step = max(1, -(-total // MOST))
    return tuple(replace(cohort, cases=cohort.cases[::step]) for cohort in cohorts)


@dataclass(frozen=True)
class Source:
    """What a pack is made from.

    Args:
        world, row: the study and the model's row.
        validation: the model's records of validation cases.
        template: the user's own network.
        device: to predict on.
    """

    world: World
    row: Row
    validation: Sequence[Record] = ()
    template: nn.Module | None = field(default=None, repr=False)
    device: str | torch.device = "cpu"


def add_deployment(folder: Path, source: Source, earlier: Path | None = None) -> None:
    """Write ``deployment.safetensors`` into a model folder; nothing for pre-trained weights.

    Args:
        earlier: the folder of an earlier export, whose file is copied where it is of the same model
            and cases.
    """
    card = read_card(folder)
    images = Images.of(source.world, source.row, sites_of(card))
    key = content_hash(
        card.get("checksum"), images.fingerprint(), [asdict(split)["cases"] for split in source.validation]
    )
    if earlier is not None and (known := _earlier(earlier, card.get("checksum"))) and known.facts.get("key") == key:
        tree.write_bytes(folder / FILE, (earlier / FILE).read_bytes())
        return
    predictor, _ = load_predictor(folder, template=source.template, device=source.device)
    if isinstance(predictor, Weights):
        return
    with Seeds(0, ("deployment",)).everything("deployment"):
        made = _fitted(predictor, images, source)
    write_deployment(folder, replace(made, facts={**made.facts, "key": key, "checksum": card.get("checksum")}))


def _earlier(folder: Path, checksum: str | None) -> Deployment | None:
    try:
        return read_deployment(folder, checksum) if (folder / FILE).exists() else None
    except AllograftError:  # of another model, or damaged: made again
        return None


def _fitted(predictor: Any, images: Images, source: Source) -> Deployment:
    task, notes = source.world.study.made_task, list[str]()
    network, gaussian, held_out = encoder_of(predictor), None, torch.zeros(0, dtype=torch.float64)
    try:
        if network is None:
            raise AllograftError("its network has no part that is an encoder")
        gaussian = TiedGaussian.fit(*_features(network, images.fitted, task, source.device))
        held_out = _distances(gaussian, network, images.held_out, source.device)
    except (AllograftError, RuntimeError, ValueError) as error:  # a network may refuse a size
        gaussian = None
        notes.append(f"no distance to the training images: {str(error).splitlines()[0]}")
    reference, units, calibration = _predicted(predictor, images.labelled, task, source.device)
    if len(held_out):
        reference[DISTANCE] = sorted(held_out.tolist())
    audits = validation_audits(task, _measured(source.validation), source.world.cases())
    facts = {
        "held_out": images.how,
        "calibration": calibration,
        "fairness": audits,
        "reference": {key: sorted(values) for key, values in reference.items()},
        "units": units,
        "notes": notes,
    }
    return Deployment(gaussian, held_out, facts)


def _measured(records: Iterable[Record]) -> list[Mapping[str, Any]]:
    return [case for record in records for case in record.measured]


def _features(network: Network, cohorts: Sequence[Cohort], task: Any, device: Any) -> tuple[Tensor, Tensor | None]:
    """(N, D) features, and the class of each where every case has one of several."""
    features, labels = [], list[int]()
    classifies = getattr(task, "classification", task).key == "label" and not task.coding.several
    for cohort in cohorts:
        for whole in cohort.wholes():
            seen = case_features(network, whole.batch.to(device))
            features.append(seen)
            if classifies and "label" in whole.case.labels:
                labels += [int(whole.label)] * len(seen)  # type: ignore[arg-type]
    every = torch.cat(features) if features else torch.zeros(0, 1)
    return every, torch.tensor(labels) if len(labels) == len(every) and labels else None


def _distances(gaussian: TiedGaussian, network: Network, cohorts: Sequence[Cohort], device: Any) -> Tensor:
    """(n,) of each case."""
    made = [
        gaussian.distance(case_features(network, whole.batch.to(device))).mean()
        for cohort in cohorts
        for whole in cohort.unlabelled().wholes()
    ]
    return torch.stack(made) if made else torch.zeros(0, dtype=torch.float64)


def _predicted(
    predictor: Any, cohorts: Sequence[Cohort], task: Any, device: Any
) -> tuple[dict[str, list[float]], list[str], dict[str, Any]]:
    """The numbers that ``results.csv`` would have of the validation cases, the units of its
    volumes, and the calibration at each site."""
    units = set[Any]()
    reference: dict[str, list[float]] = {}
    calibration: dict[str, Any] = {}
    for cohort in cohorts:
        answers: list[tuple[Tensor, Tensor]] = []
        for whole in cohort.wholes():
            prediction = case_prediction(predictor, whole, task, device)
            answer = task.answer(prediction, whole)
            numbers = {name: float(value) for name, value in answer.values.items() if not isinstance(value, str)}
            named = getattr(task, "classification", task)
            if named.key == "label" and not task.coding.several:
                numbers["confidence"] = max(numbers[name] for name in named.names)
            for name, value in numbers.items():
                reference.setdefault(name, []).append(value)
            units |= {answer.unit} - {None}
            if (said := answers_of(prediction, whole, task)) is not None:
                answers.append(said)
        if len(answers) >= LEAST:
            calibration[cohort.cases[0].site] = calibrated(answers)
    return reference, sorted(units), calibration


def answers_of(prediction: Mapping[str, Any], whole: Whole, task: Any) -> tuple[Tensor, Tensor] | None:
    """What a labelled case says of calibration: logits (N, K) and labels (N,), one of a class an
    image, K of K findings, at most ``PIXELS`` of a mask; None for tasks without probabilities."""
    if task.key == "label":
        found, truth = task.probabilities(prediction).clamp(1e-12, 1 - 1e-12), task.truth(whole)
        if task.coding.several:
            logits = torch.stack([torch.zeros_like(found), torch.logit(found)], 1)
            return logits, torch.tensor(truth).round().long()
        return found.log()[None], torch.tensor([truth])
    if task.key != "mask":
        return None
    mask, probabilities = whole.mask.flatten(), task.probabilities(prediction, whole).flatten(1).T
    counts = mask >= 0 if whole.region is None else (mask >= 0) & whole.region.flatten()
    logits, label = probabilities[counts].double().clamp_min(1e-12).log(), mask[counts]
    step = max(1, -(-len(label) // PIXELS))
    return logits[::step], label[::step]


def calibrated(answers: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Temperature, calibration error before and after it, and the reliability diagram before it.

    ``error_after`` is of the cases that the temperature was fitted on.
    """
    logits, label = (torch.cat(parts) for parts in zip(*answers, strict=True))
    temperature = temperature_of(logits, label)
    (before, right), (after, _) = (_confident(logits / each, label) for each in (1.0, temperature))
    return {
        "cases": len(answers),
        "answers": len(label),
        "temperature": round(temperature, 4),
        "error_before": expected_calibration_error(before, right),
        "error_after": expected_calibration_error(after, right),
        "reliability": [asdict(bin_) for bin_ in reliability(before, right)],
    }


def _confident(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    confidence, predicted = logits.softmax(1).max(1)
    return confidence, predicted == label
