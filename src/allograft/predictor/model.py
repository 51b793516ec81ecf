"""A saved model on new images: read, prepared as its card says, and predicted; masks are brought back to each image's own grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Case, Coding, Cohort, Preprocessing, Slices
from allograft.cohort.dicom import is_dicom
from allograft.cohort.manifest import read_manifest
from allograft.cohort.readers import SUFFIXES, read_image
from allograft.cohort.shelf import Shelf
from allograft.errors import ImageError, ManifestError, ModelError
from allograft.predictor.direct import Predictor
from allograft.predictor.folder import load_predictor
from allograft.recipe import validated
from allograft.table import find
from allograft.tasks import Answer

CHUNK = 16
"""Slices of a volume predicted at a time."""


@dataclass(frozen=True)
class Predicted:
    """What a model says of one image.

    Args:
        name: the image's path as given.
        files: the image's file, or files that are channels.
        affine: (4, 4) of the image, or None for photographs.
        answer: numbers, and pictures on the image's own grid.
    """

    name: str
    files: tuple[Path, ...]
    affine: np.ndarray | None
    answer: Answer


@dataclass(frozen=True)
class Model:
    """A predictor with its card. Research use only; not a medical device.

    Example (not run: needs a trained model)::

        model = allograft.load("runs/vessels/models/finetune@chase")
        for one in model.predict(["photo.png"]):
            print(one.name, one.answer.values)
    """

    predictor: Predictor
    card: Mapping[str, Any]
    device: torch.device

    @property
    def task(self) -> Any:
        """The task the model was trained for."""
        ((name, arguments),) = self.card["task"].items()
        return validated(find("task", name), arguments, "card: task")

    def predict(self, images: Path | str | Iterable[Path | str]) -> Iterator[Predicted]:
        """Predict image files, all images of a folder, or the cases of a manifest, one after another.

        Raises:
            ImageError: an unreadable image, or one whose channels are not those of the training images.
        """
        cases = [case.unlabelled() for case in _cases(images)]  # a manifest's masks are not looked at
        cohort = Cohort(tuple(cases), (), self.shelf(), validated(Slices, s, "card") if (s := self.card.get("slices")) else None)
        for which, case in enumerate(cases):
            yield self._predict(cohort, which, case)

    def shelf(self) -> Shelf:
        """Prepares images as the training did; keeps nothing on the disk."""
        return Shelf(validated(Preprocessing, self.card["preprocessing"], "card: preprocessing"), Coding())

    def _predict(self, cohort: Cohort, which: int, case: Case) -> Predicted:
        channels = cohort.shelf.image(case)[0].shape[0]
        if channels != self.card["channels"]:
            raise ImageError(f"{case.name}: has {channels} channels, the model was trained on {self.card['channels']}; convert the image")
        prediction = whole_prediction(self.predictor, cohort.whole(which).to(self.device), CHUNK)
        answer = self.task.answer(prediction, cohort, which)
        cohort.shelf.memory.clear()  # one image at a time
        return Predicted(case.name, case.image, read_image(case.image).affine, answer)


def load(folder: Path | str, *, network: nn.Module | None = None, device: str = "cpu") -> Model:
    """Load a model folder.

    Args:
        folder: as a study leaves it in ``models/``.
        network: your own module, when the model was trained with one.

    Raises:
        ModelError: not a model folder; a pickle is never opened.
    """
    predictor, card = load_predictor(folder, template=network, device=device)
    for key in ("task", "preprocessing", "channels"):
        if key not in card:
            raise ModelError(f"{folder}: the card lacks '{key}', so images cannot be prepared; use a folder below models/")
    return Model(predictor, card, torch.device(device))


def whole_prediction(predictor: Predictor, batch: Batch, chunk: int) -> dict[str, Tensor]:
    """A prediction for a batch of any length, ``chunk`` cases at a time, on the CPU."""
    outputs = [predictor(batch[start : start + chunk].unlabelled()) for start in range(0, len(batch), chunk)]
    return {key: torch.cat([output[key].cpu() for output in outputs]) for key in outputs[0]}


def _cases(images: Path | str | Iterable[Path | str]) -> Iterator[Case]:
    given = [images] if isinstance(images, (str, Path)) else list(images)
    for one in map(Path, given):
        if one.suffix in (".csv", ".parquet"):
            yield from read_manifest(one)
        elif one.is_dir():
            if any(is_dicom(path) for path in one.iterdir() if path.is_file()):
                yield _bare(one, one.name)  # a series is one image
                continue
            found = sorted(path for path in one.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
            if not found:
                raise ManifestError(f"{one}: holds no image; expected files ending in {', '.join(SUFFIXES)}")
            yield from (_bare(path, path.relative_to(one).as_posix()) for path in found)
        else:
            yield _bare(one, one.name)


def _bare(path: Path, name: str) -> Case:
    if not path.exists():
        raise ImageError(f"{path}: no such file; expected an image, a folder of images or a manifest")
    return Case(name, subject=name, site="", image=(path,))


def stem(name: str) -> str:
    """``a/b.nii.gz`` -> ``a/b``; several files joined as channels -> the first."""
    first = name.split(";")[0]
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if first.lower().endswith(suffix):
            return first[: -len(suffix)]
    return first
