"""The database of a model that retrieves: cases are added and removed without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from allograft.apply.model import Model, load
from allograft.cohort import Cohort
from allograft.cohort.manifest import read_manifest
from allograft.cohort.prepared_images import PreparedImages, file_hash
from allograft.errors import ModelError, SpecError
from allograft.predictor.folder import save_predictor, sites_of
from allograft.predictor.retrieval import Retrieval
from allograft.tree import copy_folder, remove


@dataclass(frozen=True)
class Changed:
    """What became of a database.

    Args:
        changed: cases added or removed.
        total: cases in it now.
        unmatched: names of rows without the modality that is made, which were left out.
    """

    changed: int
    total: int
    unmatched: tuple[str, ...] = ()


def add_to_index(folder: Path, manifest: Path, *, device: str = "auto") -> Changed:
    """Embed the paired images of a manifest and add them to the model's database; nothing is
    trained.

    Images are prepared as the training's were. The card lists their hashes among the training
    images, so that they are refused as test images.

    Raises:
        ModelError: a model without a database.
        SpecError: a case that is there already, no case with a pair, or images on another grid.
    """
    model = load(folder, device=device)
    predictor = _retrieval(model, folder)
    cases = read_manifest(manifest)
    matched = tuple(case for case in cases if "paired" in case.labels)
    if not matched:
        raise SpecError(f"{manifest}: no row has a paired image to add; fill the column paired")
    prepared = PreparedImages(model.prepared().preprocessing, model.task.coding)
    cohort = Cohort(matched, sites_of(model.card), prepared, model.slices)
    items = [cohort.case(item) for item in range(len(cohort))]
    images = [item.labels["paired"] for item in items]
    made = predictor.added(
        torch.cat([image for image in images if isinstance(image, Tensor)]),
        tuple(item.cases[0] for item in items),
        tuple(item.subjects[0] for item in items),
    )
    hashes = {file_hash(path) for case in matched for path in case.image}
    card = {**model.card, "training_images": sorted({*model.card.get("training_images", ()), *hashes})}
    _replace(folder, made, card)
    return Changed(len(items), len(made), tuple(case.name for case in cases if case not in matched))


def remove_from_index(folder: Path, subject: str) -> Changed:
    """Remove a subject's cases from the model's database. The encoders have still seen them, if
    they were trained on them.

    Raises:
        ModelError: a model without a database.
        SpecError: a subject who has no case there, or no other who has.
    """
    model = load(folder, device="cpu")
    before = _retrieval(model, folder)
    made = before.removed(subject)
    smallest = min(len(made), *(band.k for band in made.bands))
    made = Retrieval(tuple(replace(band, k=smallest) for band in made.bands))
    _replace(folder, made, model.card)
    return Changed(len(before) - len(made), len(made))


def _retrieval(model: Model, folder: Path) -> Retrieval:
    if not isinstance(model.predictor, Retrieval):
        raise ModelError(f"{folder}: this model has no database of images; choose one that mris made")
    return model.predictor


def _replace(folder: Path, predictor: Retrieval, card: object) -> None:
    """The changed model in the place of the old one: whole, or the old one stays."""
    assert isinstance(card, dict)
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    remove(part)
    remove(old)
    copy_folder(folder, part)
    save_predictor(predictor, part, card)
    folder.rename(old)
    part.rename(folder)
    remove(old)
