"""The database of a model that retrieves: cases are added and removed without training, and asked
whether an image finds its own map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from allograft.apply.model import Model, load
from allograft.batch import Batch
from allograft.cohort import Case, Cohort
from allograft.cohort.manifest import read_manifest
from allograft.cohort.prepared_images import PreparedImages, file_hash
from allograft.errors import ModelError, SpecError
from allograft.nn.retrieval import recall
from allograft.predictor import evaluation_mode
from allograft.predictor.card import sites_of
from allograft.predictor.folder import save_predictor
from allograft.predictor.retrieval import Retrieval, embed, keys_of
from allograft.results.models import refuse_training_images
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
    _recovered(folder)
    model = load(folder, device=device)
    predictor = _retrieval(model, folder)
    cases = read_manifest(manifest)
    cohort = _paired(model, cases, manifest)
    items = [cohort.case(item) for item in range(len(cohort))]
    made = predictor.added(
        _maps(items), tuple(item.cases[0] for item in items), tuple(item.subjects[0] for item in items)
    )
    hashes = {file_hash(path) for case in cohort.cases for path in case.image}
    card = {**model.card, "training_images": sorted({*model.card.get("training_images", ()), *hashes})}
    _replace(folder, made, card)
    return Changed(len(items), len(made), tuple(case.name for case in cases if case not in cohort.cases))


def remove_from_index(folder: Path, subject: str) -> Changed:
    """Remove a subject's cases from the model's database. The encoders have still seen them, if
    they were trained on them.

    Raises:
        ModelError: a model without a database.
        SpecError: a subject who has no case there, or no other who has.
    """
    _recovered(folder)
    model = load(folder, device="cpu")
    before = _retrieval(model, folder)
    made = before.removed(subject)
    smallest = min(len(made), *(band.k for band in made.bands))
    made = Retrieval(tuple(replace(band, k=smallest) for band in made.bands))
    _replace(folder, made, model.card)
    return Changed(len(before) - len(made), len(made))


@dataclass(frozen=True)
class Recall:
    """Whether images find their own map.

    Args:
        pairs: how many images were asked for, among as many maps.
        bands: of each band of the map, k -> the share of images whose own part is among the k most
            similar ones (Chen and Niethammer 2023, table 1).
    """

    pairs: int
    bands: tuple[dict[int, float], ...]


def recall_of(folder: Path, manifest: Path, *, where: Mapping[str, str] | None = None, device: str = "auto") -> Recall:
    """How often the encoders of a model put an image next to its own map, among the maps of a
    manifest: pairs that the model has not seen. Its database has no part in it.

    Args:
        where: columns and the cell that counted rows have: ``{"timepoint": "0"}`` for the first
            visit of each subject, whose later ones look alike.

    Raises:
        ModelError: a model without a database, or an image that it was trained on.
        SpecError: no such pair.
    """
    model = load(folder, device=device)
    predictor = _retrieval(model, folder)
    wanted = (where or {}).items()
    cases = tuple(case for case in read_manifest(manifest) if all(case.attributes.get(k) == v for k, v in wanted))
    refuse_training_images(model.card, cases, folder)
    cohort = _paired(model, cases, manifest)
    items = [cohort.case(item) for item in range(len(cohort))]
    recalls = []
    for band, maps in zip(predictor.bands, _maps(items).chunk(len(predictor.bands), 2), strict=True):
        with evaluation_mode(band.query):
            seen = torch.cat([embed(band.query, item.image.to(model.device)) for item in items])
        recalls.append(recall(seen, keys_of(band.key, maps)))
    return Recall(len(items), tuple(recalls))


def _paired(model: Model, cases: Sequence[Case], manifest: Path) -> Cohort:
    """The cases with both modalities, prepared as the training's."""
    matched = tuple(case for case in cases if "paired" in case.labels)
    if not matched:
        raise SpecError(f"{manifest}: none of these rows has a paired image; fill the column paired")
    prepared = PreparedImages(model.prepared().preprocessing, model.task.coding)
    return Cohort(matched, sites_of(model.card), prepared, model.slices)


def _maps(items: Sequence[Batch]) -> Tensor:
    return torch.cat([image for item in items if isinstance(image := item.labels["paired"], Tensor)])


def _retrieval(model: Model, folder: Path) -> Retrieval:
    if not isinstance(model.predictor, Retrieval):
        raise ModelError(f"{folder}: this model has no database of images; choose one that mris made")
    return model.predictor


def _replace(folder: Path, predictor: Retrieval, card: object) -> None:
    """The changed model in the place of the old one: whole, or the old one stays."""
    assert isinstance(card, dict)
    part, old = _beside(folder)
    remove(part)
    remove(old)
    copy_folder(folder, part)
    save_predictor(predictor, part, card)
    folder.rename(old)
    part.rename(folder)
    remove(old)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the new model is written, and where the old one is for the moment in which they change
    places."""
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")


def _recovered(folder: Path) -> None:
    """Bring back what an earlier change was killed over: of the two renames the first was done."""
    old = _beside(folder)[1]
    if old.is_dir() and not folder.exists():
        old.rename(folder)
