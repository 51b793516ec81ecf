"""MedMNIST: one ``.npz`` with ``train_images``, ``train_labels`` and the like for val and test."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Unpack

import numpy as np

from allograft.cohort.importers.rows import Imported, Options, Row, manifest_path, write_manifest
from allograft.cohort.importers.subjects import class_names, need_site
from allograft.cohort.manifest import SPLITS
from allograft.errors import ImageError, ManifestError

_NONE = "none"  # an image that several-label data give no class


def import_medmnist(
    src: Path,
    out: Path,
    *,
    site: str,
    classes: Mapping[str, str] | None = None,
    one_image_per_subject: bool = False,
    test: str = "test",
    **options: Unpack[Options],
) -> Imported:
    """Write each image as a PNG (a volume as ``.npy``) below OUT/SITE, and a row with its split and
    label.

    Labels are numbers unless ``classes`` names them ({"0": "normal"}); several labels (ChestMNIST)
    become ``a|b``, none of them ``none``. MedMNIST does not say who the patients are, so
    ``one_image_per_subject`` must be true. ``test`` names the part that is tested: "val" for a file
    without test images. ``options``: see ``Options``.
    """
    site = need_site(site, src)
    if not one_image_per_subject:
        mend = "if each image is of a different patient, as far as anybody knows, add --one-image-per-subject"
        raise ManifestError(f"{src}: MedMNIST does not say which patient an image is of; {mend}")
    if options.get("split"):
        raise ManifestError(f"{src}: says itself which image is for training and which for testing; leave split out")
    arrays = _arrays(Path(src))
    if test != "test" and (test not in arrays or "test" in arrays):
        raise ManifestError(
            f"{src}: holds {', '.join(arrays)}; --test {test} is for a file that holds {test} and no test; leave it out"
        )
    names = class_names(
        {label for _, labels in arrays.values() for row in _numbers(labels) for label in row}, classes, src
    )
    folder = manifest_path(out).parent / _slug(site)
    rows: list[Row] = []
    for split, (images, labels) in arrays.items():
        suffix = ".npy" if _is_volume(images) else ".png"
        part = "test" if split == test else split
        for i, row in enumerate(_numbers(labels)):
            label = "|".join(names[number] for number in row) if row else _NONE
            path = folder / split / f"{i:06d}{suffix}"
            rows.append(
                {"image": [path], "label": label, "subject": f"{site}-{split}-{i:06d}", "site": site, "split": part}
            )
    notes = [f"classes: {', '.join(dict.fromkeys(names.values()))}"]
    return write_manifest(out, rows, files=_files(folder, arrays), notes=notes, **options)


def _arrays(src: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> images (N, H, W[, 3 or D]) and labels (N, K)."""
    try:
        with np.load(src, allow_pickle=False) as held:
            if isinstance(held, np.ndarray):
                raise ValueError("one array")
            keys = {split: (f"{split}_images", f"{split}_labels") for split in SPLITS}
            arrays = {
                split: (held[a], held[b]) for split, (a, b) in keys.items() if a in held.files and b in held.files
            }
            found = ", ".join(held.files)
    except FileNotFoundError as error:
        raise ManifestError(f"{src}: no such file; expected an .npz of MedMNIST; correct SRC") from error
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, MemoryError) as error:
        raise ImageError(f"{src}: cannot be read as .npz ({error}); download it again") from error
    if not arrays:
        raise ManifestError(
            f"{src}: holds {found or 'nothing'}; expected train_images and train_labels, val_ or test_; correct SRC"
        )
    for split, (images, labels) in arrays.items():
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels) or labels.ndim > 2:
            wanted = "8-bit images (N, H, W), (N, H, W, 3) or (N, D, H, W) and as many labels"
            raise ManifestError(
                f"{src}: {split} holds {images.dtype} {images.shape} and labels {labels.shape}; expected {wanted}; "
                "correct SRC"
            )
    return arrays


def _numbers(labels: np.ndarray) -> list[list[str]]:
    """The classes of each image: (N,) or (N, 1) class numbers, (N, K) one 0 or 1 a class."""
    labels = labels.reshape(len(labels), -1)
    if labels.shape[1] == 1:
        return [[str(int(label))] for label in labels[:, 0]]
    return [[str(i) for i in np.flatnonzero(row)] for row in labels]


def _is_volume(images: np.ndarray) -> bool:
    return images.ndim == 4 and images.shape[-1] != 3


def _files(folder: Path, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[Path, bytes]]:
    from PIL import Image

    for split, (images, _) in arrays.items():
        for i, image in enumerate(images):
            buffer = io.BytesIO()
            if _is_volume(images):
                np.save(buffer, image[None], allow_pickle=False)
                yield folder / split / f"{i:06d}.npy", buffer.getvalue()
            else:
                Image.fromarray(image).save(buffer, "PNG")
                yield folder / split / f"{i:06d}.png", buffer.getvalue()


def _slug(site: str) -> str:
    return re.sub(r"[^\w-]+", "-", site).strip("-") or "site"
