"""Prepared cases: read, put on the study's grid once, and kept memory-mapped under the hash of what
they are made of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allograft.batch import Boxes
from allograft.cohort.alignment import aligned
from allograft.cohort.boxes import boxes_to_grid, read_boxes
from allograft.cohort.coding import Coding
from allograft.cohort.geometry import Geometry, geometry, to_grid
from allograft.cohort.manifest import Case, is_missing
from allograft.cohort.picture import Grid, Picture, check_pixels
from allograft.cohort.preprocessing import Preprocessing, normalise, windowed, with_channels
from allograft.cohort.readers import read_image, read_mask
from allograft.cohort.readers.files import NOT_FETCHED, Series, companions, is_broken_link
from allograft.cohort.stored_arrays import Arrays, kept_arrays
from allograft.errors import ImageError, ManifestError
from allograft.tree import content_hash


@dataclass(frozen=True)
class PreparedImages:
    """Where prepared arrays lie: in ``folder``, or in memory when there is none.

    An array's name is the hash of the bytes of its files and of all settings that shape it, so no
    kept array is ever stale. An array in ``folder`` is mapped when it is first asked for, and holds
    no file open.
    """

    preprocessing: Preprocessing
    coding: Coding
    folder: Path | None = None
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def image(self, case: Case, *, uncut: bool = False) -> tuple[np.ndarray, Geometry]:
        """(C, *size) float32 on the study's grid, normalised, and its geometry.

        Args:
            uncut: with what preprocessing.size cuts off; see ``Geometry.uncut``.
        """
        key = self._image_key(case)
        if uncut:
            cut = self.image(case)
            if cut[1].uncut == cut[1]:
                return cut
            key = content_hash("uncut", key)
        made = self._kept(key, ("image", "geometry", "affine"), lambda: self._made(case, uncut=uncut))
        return made["image"], _geometry(made["geometry"])

    def _made(self, case: Case, *, uncut: bool) -> Arrays:
        """An image read and laid on the study's grid, its geometry and its affine."""
        picture = read_image(case.image, nan=self.preprocessing.nan)
        picture = replace(picture, array=with_channels(picture.array, self.preprocessing.channels, case.name))
        laid = geometry(picture, self.preprocessing, case.name, mirrored=self._is_mirrored(case))
        laid = laid.uncut if uncut else laid
        largest = (len(picture.array), *map(max, laid.size, laid.resampled))
        check_pixels(case.name, largest, "choose a smaller preprocessing size or a larger spacing")
        # normalised as stored: what is cut off still counts, and padding does not
        seen = windowed(picture.array, self.preprocessing.window)
        array = normalise(seen, self.preprocessing.intensity)
        if case.alteration is not None:  # squeezed after normalisation, which would undo it
            array = case.alteration.moved(case.alteration.squeezed(array), picture.spacing, nearest=False)
        grid = to_grid(array, laid, nearest=False)
        facts = {"dropped": picture.dropped, "thickness": picture.thickness, "shown": picture.shown}
        described = {"geometry": asdict(laid), "grid": facts, "notes": dict(picture.notes)}
        text = json.dumps(described).encode()
        affine = np.zeros((0, 0)) if picture.affine is None else picture.affine
        return {"image": grid, "geometry": np.frombuffer(text, dtype=np.uint8), "affine": affine}

    def grid(self, case: Case) -> Grid:
        """Where the image's own voxels lie, as stored."""
        shape = self.image(case)[1].shape
        kept = self.memory[self._image_key(case)]
        affine = np.array(kept["affine"])
        return Grid(shape, affine if affine.size else None, **json.loads(bytes(kept["geometry"]))["grid"])

    def notes(self, case: Case) -> dict[str, str]:
        """What is worth knowing of the file, by topic; see ``Picture``."""
        self.image(case)
        notes: dict[str, str] = json.loads(bytes(self.memory[self._image_key(case)]["geometry"]))["notes"]
        return notes

    def mask(self, case: Case, kind: type[np.integer[Any]] = np.int64, *, uncut: bool = False) -> np.ndarray:
        """(1, *size) class indices on the study's grid. ``KeyError`` when the mask is hidden.

        Args:
            kind: of the numbers. They are kept as int16: asked for as that, nothing is copied.
            uncut: as of ``image``.
        """
        path = Path(case.labels["mask"])
        key = content_hash("mask", file_hash(path), self._image_key(case), list(self.coding.mask.items()))
        key, laid = self._laid(key, case, uncut=uncut)

        def make() -> Arrays:
            index = self.coding.mask_to_index(self._on_grid(path, case).array, str(path))
            return {"mask": to_grid(index.astype(np.int16), laid, nearest=True)}

        return self._kept(key, ("mask",), make)["mask"].astype(kind, copy=False)

    def paired(self, case: Case) -> np.ndarray:
        """(C, *size) float32 of the paired image on the study's grid, resampled as images are.
        ``KeyError`` when it is hidden."""
        path = Path(case.labels["paired"])
        key = content_hash(
            "paired", file_hash(path), self._image_key(case), self.coding.paired, self.coding.paired_range
        )

        def make() -> Arrays:
            return {"paired": to_grid(self.stored_pair(case).numpy(), self.image(case)[1], nearest=False)}

        return self._kept(key, ("paired",), make)["paired"]

    def region(self, case: Case, *, uncut: bool = False) -> np.ndarray | None:
        """(1, *size) bool on the study's grid, or None; ``uncut`` as of ``image``."""
        if case.region is None:
            return None
        path = case.region
        key, laid = self._laid(content_hash("region", file_hash(path), self._image_key(case)), case, uncut=uncut)

        def make() -> Arrays:
            return {"region": to_grid((self._on_grid(path, case).array > 0).astype(np.uint8), laid, nearest=True)}

        return self._kept(key, ("region",), make)["region"].view(bool)  # 0 and 1, so nothing is copied

    def stored_mask(self, case: Case) -> Tensor:
        """(*shape) int64 class indices, not resampled. ``KeyError`` when the mask is hidden."""
        path = Path(case.labels["mask"])
        return torch.from_numpy(self.coding.mask_to_index(self._on_grid(path, case).array[0], str(path)))

    def boxes(self, case: Case, column: str = "boxes") -> Boxes:
        """The boxes on the study's grid, those that lie outside it left out. ``KeyError`` when they
        are hidden.

        Args:
            column: as of ``stored_boxes``.
        """
        return boxes_to_grid(self.stored_boxes(case, column), self.image(case)[1])

    def stored_boxes(self, case: Case, column: str = "boxes") -> Boxes:
        """The boxes in the image's own pixels. ``KeyError`` when they are hidden.

        Args:
            column: of the manifest; one for each reader.
        """
        path, shape = Path(case.labels[column]), self.image(case)[1].shape
        if len(shape) != 2:
            raise ImageError(f"{path}: boxes of an image with {len(shape)} axes; detection works on 2-D images")
        return read_boxes(path, self.coding.boxes, shape)

    def stored_pair(self, case: Case) -> Tensor:
        """(C, *shape) float32 of the paired image, not resampled. ``KeyError`` when it is
        hidden."""
        path = Path(case.labels["paired"])
        picture = self._on_grid(path, case, image=True)
        return torch.from_numpy(self.coding.paired_to_share(picture.array, str(path)))

    def stored_region(self, case: Case) -> Tensor | None:
        """(*shape) bool, not resampled; None when every pixel counts."""
        if case.region is None:
            return None
        return torch.from_numpy(self._on_grid(case.region, case).array[0] > 0)

    def fingerprint(self, case: Case) -> str:
        """A hash of everything this view of a case shows; hidden labels have no part in it."""
        labels = {key: file_hash(value) if isinstance(value, Path) else value for key, value in case.labels.items()}
        region = None if case.region is None else file_hash(case.region)
        return content_hash(
            case.name, case.subject, case.site, self._image_key(case), labels, region, dict(case.attributes)
        )

    def _laid(self, key: str, case: Case, *, uncut: bool) -> tuple[str, Geometry]:
        """The name of an array on the study's grid, cut or not, and that grid."""
        cut = self.image(case)[1]
        laid = self.image(case, uncut=True)[1] if uncut else cut
        return key if laid == cut else content_hash("uncut", key), laid

    def _on_grid(self, path: Path, case: Case, *, image: bool = False) -> Picture:
        """A mask, region or (``image``) paired image, on its image's own grid."""
        picture = read_image([path], nan=self.preprocessing.nan) if image else read_mask(path)
        picture = aligned(picture, self.grid(case), path, f"its image '{case.name}'")
        if case.alteration is None:
            return picture
        moved = case.alteration.moved(picture.array, self.image(case)[1].stored_spacing, nearest=not image)
        return replace(picture, array=moved)

    def _image_key(self, case: Case) -> str:
        altered = [] if case.alteration is None else [case.alteration.keyed]
        mirrored = ["mirrored"] if self._is_mirrored(case) else []
        return content_hash("image", [file_hash(path) for path in case.image], self._settings, *altered, *mirrored)

    def _is_mirrored(self, case: Case) -> bool:
        mirror = self.preprocessing.mirror
        if mirror is None:
            return False
        value = case.attributes.get(mirror.attribute)
        if value is None or is_missing(value):
            raise ManifestError(
                f"{case.name}: preprocessing.mirror mirrors images by the column '{mirror.attribute}', which is empty "
                "here; give a manifest that says it of every image"
            )
        return value == mirror.value

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return self.preprocessing.keyed

    def _kept(self, key: str, names: tuple[str, ...], make: Callable[[], Arrays]) -> Arrays:
        return kept_arrays(self.memory, self.folder, key, names, make)


def _geometry(text: np.ndarray) -> Geometry:
    read = json.loads(bytes(text))
    return Geometry(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in read["geometry"].items()}
    )


def file_hash(path: Path | Series | str) -> str:
    """blake2b of a file's bytes; read again when a size or time changes.

    Of a folder (a DICOM series), and of an image of several files, a hash of the names and bytes of
    all.

    Raises:
        ImageError: a file that is not there any more, or that may not be read.
    """
    try:
        return _hash_of(path)
    except OSError as error:
        what = NOT_FETCHED if isinstance(path, Path) and is_broken_link(path) else f"cannot be read ({error.strerror})"
        raise ImageError(f"{path}: {what}; expected an image file; correct the path, or copy it again") from error


def _hash_of(path: Path | Series | str) -> str:
    if isinstance(path, Series):
        return content_hash([[file.name, file_hash(file)] for file in path.files])
    if Path(path).is_dir():
        return content_hash([[file.name, file_hash(file)] for file in sorted(Path(path).iterdir()) if file.is_file()])
    if further := companions(Path(path)):
        return content_hash([[file.name, _file_hash(str(file), *_state(file))] for file in (Path(path), *further)])
    return _file_hash(str(path), *_state(path))


def _state(path: Path | str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@cache
def _file_hash(path: str, size: int, time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()
