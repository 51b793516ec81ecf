"""A saved model on new images: read, prepared as its card says, and predicted; masks are brought
back to each image's own grid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allograft.cohort import Case, Coding, Cohort, Preprocessing, Slices, Whole
from allograft.cohort.manifest import read_manifest
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.readers import SUFFIXES, Grid, Series
from allograft.cohort.readers.listing import images_below
from allograft.errors import AllograftError, ImageError, ManifestError, ModelError, SpecError
from allograft.predictor.card import sites_of
from allograft.predictor.deployment import DISTANCE, Deployment, encoder_of, read_deployment
from allograft.predictor.direct import Predictor
from allograft.predictor.folder import load_predictor
from allograft.predictor.whole import case_facts, case_prediction
from allograft.run.fabric import check_precision, find_device
from allograft.strict import validated
from allograft.table import find
from allograft.tasks import Answer

Images = Path | str | np.ndarray | Tensor | Cohort | Iterable[Path | str | Case | np.ndarray | Tensor]
"""Paths, cases of a manifest, or arrays."""
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What convolutions and matrix products are computed in where a precision is not 32-true."""


@dataclass(frozen=True)
class Predicted:
    """What a model says of one image.

    Args:
        name: the image's path as given.
        files: the image's file, or files that are channels.
        grid: where its voxels lie, as stored.
        answer: numbers, and pictures on the image's own grid.
        facts: what the predictor says beside, such as a ``score``; see ``case_facts``.
    """

    name: str
    files: tuple[Path | Series, ...]
    grid: Grid
    answer: Answer
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def affine(self) -> np.ndarray | None:
        """(4, 4) of the image, or None for photographs."""
        return self.grid.affine

    def __repr__(self) -> str:
        said = self.answer.values.items()
        values = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in said)
        return f"Predicted({self.name}: {', '.join(values) or 'no numbers'})"


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
    half: torch.dtype | None = None
    deployment: Deployment | None = None

    @property
    def task(self) -> Any:
        """The task the model was trained for."""
        return _task(self.card)

    def __repr__(self) -> str:
        recipe, (task,) = next(iter(self.card.get("recipe", {})), "no recipe"), self.card["task"]
        names = ", ".join(getattr(self.task, "names", ()))
        return f"Model({recipe}; {task}{f' of {names}' if names else ''}; {self.device})"

    def cases(self, images: Path | str | Iterable[Path | str | Case]) -> list[Case]:
        """The images that ``predict`` predicts, without their labels, which are not looked at."""
        return [case.unlabelled() for case in _cases(images, planes=self._sees_planes)]

    def predict(self, images: Images, *, failed: dict[str, AllograftError] | None = None) -> list[Predicted]:
        """Predict image files, all images of a folder, the cases of a manifest or a cohort, or
        arrays.

        Args:
            images: a path, an array or tensor, a cohort, or several of these. Arrays have the
                channels first, at most four of them, as in an ``.npy`` file: (H, W), (C, H, W) or
                (C, i, j, k). They have no voxel size, so models with a ``spacing`` refuse them.
            failed: gets the name of each image that cannot be predicted, and why, instead of
                raising it.

        Returns:
            One prediction per image, in order; ``predictions`` gives them one after another.

        Raises:
            ImageError: an unreadable image, or one whose channels are not those of the training
                images.
        """
        return list(self.predictions(images, failed=failed))

    def predictions(self, images: Images, *, failed: dict[str, AllograftError] | None = None) -> Iterator[Predicted]:
        """As ``predict``, one after another, so that only one is in memory."""
        with TemporaryDirectory(prefix="allograft-") as folder:
            cases = self.cases(_as_files(images, Path(folder)))
            cohort = Cohort(tuple(cases), sites_of(self.card), self.prepared(), self.slices)
            for index, case in enumerate(cases):
                try:
                    made = self._predict(cohort, index, case)
                except AllograftError as error:
                    if failed is None:
                        raise
                    failed[case.name] = error
                else:
                    yield made

    @property
    def slices(self) -> Slices | None:
        """How volumes were cut for the training."""
        return validated(Slices, self.card["slices"], "slices") if self.card.get("slices") else None

    @property
    def _sees_planes(self) -> bool:
        """Whether it was trained on planes, so that each slice of a series is an image of its
        own."""
        preprocessing = self.prepared().preprocessing
        return self.slices is None and len(preprocessing.size or preprocessing.spacing or ()) == 2

    def prepared(self) -> PreparedImages:
        """Prepares images as the training did; keeps nothing on the disk."""
        return PreparedImages(_preprocessing(self.card), Coding())

    def prediction(self, whole: Whole) -> dict[str, Tensor]:
        """The prediction for a complete case, on the CPU; see ``case_prediction``.

        Raises:
            ModelError: the predictor cannot take the image, or what it gives is no prediction.
        """
        try:
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                prediction = case_prediction(self.predictor, whole, self.task, self.device)
            for key, count in self.task.outputs.items():
                if key != "boxes" and prediction[key].shape[1] != count:
                    raise ModelError(
                        f"its predictor gives {prediction[key].shape[1]} channels for '{key}', its task has {count}; "
                        "export it again"
                    )
            return prediction
        except AllograftError:
            raise
        except Exception as error:  # of a network on a shape that nobody has tried
            what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            found = f"shape {tuple(whole.batch.image.shape[1:])} ({what})"
            raise ModelError(
                f"{whole.case.name}: the model cannot predict an image of {found}; give it what it was trained on"
            ) from error

    def _distance(self, whole: Whole) -> float | None:
        """How far a case lies from the training images."""
        network = encoder_of(self.predictor)
        if self.deployment is None or network is None:
            return None
        return self.deployment.distance(network, whole.batch.to(self.device))

    def _predict(self, cohort: Cohort, index: int, case: Case) -> Predicted:
        try:
            channels = cohort.prepared.image(case)[0].shape[0]
        except SpecError as error:  # of the model's own settings, which nobody can change here
            found = str(error).partition(";")[0]
            raise ImageError(
                f"{found}; the model was trained on other images; give it what it was trained on"
            ) from error
        if channels != self.card["channels"]:
            raise ImageError(
                f"{case.name}: has {channels} channels, the model was trained on {self.card['channels']}; convert the "
                "image"
            )
        whole = cohort.whole(index)
        prediction = self.prediction(whole)
        answer, facts = self.task.answer(prediction, whole), case_facts(prediction)
        if (far := self._distance(whole)) is not None:
            facts[DISTANCE] = far
        notes = [
            text for topic, text in cohort.prepared.notes(case).items() if topic == "sform"
        ]  # millimetres hang on it
        answer = replace(answer, warnings=(*answer.warnings, *notes, *facts.get("warnings", ())))
        grid = cohort.prepared.grid(case)
        cohort.prepared.memory.clear()  # one image at a time
        return Predicted(case.name, case.image, grid, answer, facts)


def load(
    folder: Path | str, *, network: nn.Module | None = None, device: str = "auto", precision: str = "32-true"
) -> Model:
    """Load a model folder.

    Args:
        folder: as a study leaves it in ``models/``.
        network: your own module, when the model was trained with one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: of the network's arithmetic: ``32-true``, or ``bf16-mixed`` or ``16-mixed``,
            which are faster and round to three digits.

    Raises:
        ModelError: not a model folder; a pickle is never opened.
        SpecError: an unknown precision.
    """
    on = find_device(device)
    check_precision(precision, on)
    predictor, card = load_predictor(folder, template=network, device=on)
    for key in ("task", "preprocessing", "channels"):
        if key not in card:
            raise ModelError(
                f"{folder}: the card lacks '{key}', so images cannot be prepared; use a folder below models/"
            )
    model = Model(predictor, card, on, HALF.get(precision))
    try:
        _ = model.task, model.slices, model.prepared()
    except AllograftError as error:
        raise ModelError(f"{Path(folder) / 'card.json'}: {error}") from error
    return replace(model, deployment=read_deployment(Path(folder), card.get("checksum")))


def _task(card: Mapping[str, Any]) -> Any:
    ((name, arguments),) = card["task"].items()
    return validated(find("task", name), arguments, "task")


def _preprocessing(card: Mapping[str, Any]) -> Preprocessing:
    made: Preprocessing = validated(Preprocessing, card["preprocessing"], "preprocessing")
    return made


def _as_files(images: Images, folder: Path) -> list[Path | str | Case]:
    """The same with each given in a file of the folder."""
    if isinstance(images, Cohort):
        return list(images.cases)
    if isinstance(images, (str, Path, np.ndarray, Tensor)):
        images = [images]
    if not isinstance(images, Iterable):
        raise ImageError(f"images: found {type(images).__name__}; expected a path, an array, a cohort, or a list")
    files: list[Path | str | Case] = []
    for number, given in enumerate(images):
        if isinstance(given, Tensor):
            given = given.detach().cpu().numpy()
        if isinstance(given, np.ndarray):
            if given.dtype.kind not in "biuf":
                raise ImageError(f"array-{number}: holds {given.dtype}; expected numbers; convert it with astype")
            file = folder / f"array-{number}.npy"
            np.save(file, given, allow_pickle=False)
            files.append(file)
        elif isinstance(given, (str, Path, Case)):
            files.append(given)
        else:
            raise ImageError(f"image {number}: found {type(given).__name__}; expected a path, an array or a case")
    return files


def _cases(images: Path | str | Iterable[Path | str | Case], *, planes: bool) -> Iterator[Case]:
    for given in [images] if isinstance(images, (str, Path)) else list(images):
        if isinstance(given, Case):
            yield given
            continue
        path = Path(given)
        if path.suffix in (".csv", ".parquet"):
            yield from read_manifest(path)
        elif os.path.isdir(path):
            found = images_below(path, planes=planes)
            if not found:
                raise ManifestError(f"{path}: holds no image; expected DICOM, or files ending in {', '.join(SUFFIXES)}")
            yield from (Case(name, subject=name, site="", image=(image,)) for name, image in found)
        else:
            yield _bare(path, path.name)


def _bare(path: Path, name: str) -> Case:
    # nor a pipe, which would be read for ever
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise ImageError(f"{str(path)[:200]}: no such file; expected an image, a folder of images or a manifest")
    return Case(name, subject=name, site="", image=(path,))
