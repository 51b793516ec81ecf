"""Medical Segmentation Decathlon: a folder with ``dataset.json``, ``imagesTr``, ``labelsTr`` and
``imagesTs``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from allograft.cohort.importers.files import images_among, other_suffix
from allograft.cohort.importers.labels import check_channels, count_notes, mask_notes
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import check_once, need_folder, need_site, stem, subject_of
from allograft.errors import ManifestError


def import_msd(
    src: Path,
    out: Path,
    *,
    site: str,
    subject: str | None = None,
    one_image_per_subject: bool = False,
    unlabelled: bool = False,
    **options: Unpack[Options],
) -> Imported:
    """Take the training cases with their masks, and with ``unlabelled`` the test cases, which have
    none.

    ``subject``: where the patient stands in a file's name, ``'{subject}_*'``, else
    ``one_image_per_subject``.
    """
    src, site = need_folder(src), need_site(site, src)
    described = read_json(src / "dataset.json", dict)
    entries = [(_images(entry, src), _text(entry, "label", src)) for entry in _list(described, "training", src)]
    tests = [
        _images(entry if isinstance(entry, dict) else {"image": entry}, src)
        for entry in _list(described, "test", src, optional=True)
    ]
    if unlabelled:
        entries += [(entry, "") for entry in tests]
    rows: list[Row] = []
    unmatched = (
        []
        if unlabelled
        else [f"{entry[0]}: a test image without a mask, left out (--unlabelled takes it)" for entry in tests]
    )
    unmatched += count_notes(described, len(entries) - (len(tests) if unlabelled else 0))
    first = next((images for images, _ in entries if all(os.path.isfile(src / entry) for entry in images)), None)
    if first is not None and (count := _channel_count([src / entry for entry in first])) is not None:
        check_channels(described, count, src)
    for images, mask in entries:
        image, paths = images[0], [src / entry for entry in images]
        if absent := [entry for entry in images if not os.path.exists(src / entry)]:
            unmatched.append(f"{absent[0]}: in dataset.json but not in the folder{other_suffix(src / absent[0])}")
            continue
        who = subject_of(stem(paths[0].name), subject, one_image_per_subject=one_image_per_subject, source=src)
        row: Row = {"image": paths, "subject": who, "site": site}
        if mask and os.path.exists(src / mask):
            row["mask"] = src / mask
        elif mask:
            unmatched.append(f"{image}: its mask {mask} is missing{other_suffix(src / mask)}; imported without")
        rows.append(row)
    if one_image_per_subject:
        check_once(Counter(row["subject"] for row in rows), src)
    named = {os.path.abspath(src / entry) for images in (*tests, *(each for each, _ in entries)) for entry in images}
    unmatched += _unlisted(described, src, named)
    return write_manifest(out, rows, unmatched, notes=mask_notes(described.get("labels"), src), **options)


def _channel_count(paths: Sequence[Path]) -> int | None:
    """How many channels a case has, by its files or the fourth axis of its one file; None where the
    header cannot be read, which reading the image says."""
    import nibabel

    if len(paths) > 1:
        return len(paths)
    try:
        image: Any = nibabel.load(paths[0])
        return int(image.shape[3]) if len(image.shape) > 3 else 1
    except (OSError, ValueError, AttributeError, nibabel.filebasedimages.ImageFileError):
        return None


def _unlisted(described: dict[str, Any], src: Path, named: set[str]) -> list[str]:
    """Cases of other lists, such as MONAI's ``validation``, and images of the folders that no list
    names."""
    lines = [
        f"dataset.json lists {len(held)} cases under '{key}', left out; move them to 'training' to take them"
        for key, held in described.items()
        if key not in ("training", "test") and isinstance(held, list) and held and isinstance(held[0], dict)
    ]
    for folder in ("imagesTr", "imagesTs"):
        present = images_among((src / folder).iterdir(), src / folder, lines) if (src / folder).is_dir() else []
        lines += [
            f"{folder}/{path.name}: an image that dataset.json does not name under 'training' or 'test'"
            for path in present
            if os.path.abspath(path) not in named
        ]
    return lines


def read_json(path: Path, kind: type) -> Any:
    """A JSON file whose outermost value is a ``kind``."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            held = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON ({error}); correct SRC, or export it again") from error
    if not isinstance(held, kind):
        raise ManifestError(f"{path}: holds a {type(held).__name__}; expected a {kind.__name__}; correct SRC")
    return held


def _list(described: dict[str, Any], key: str, src: Path, *, optional: bool = False) -> list[Any]:
    held = described.get(key, [] if optional else None)
    if not isinstance(held, list):
        raise ManifestError(
            f"{src / 'dataset.json'}: '{key}' is a {type(held).__name__}; expected a list of cases; correct SRC"
        )
    return held


def _images(entry: object, src: Path) -> list[str]:
    """The files of a case: one, or as MONAI's lists have it one per channel,
    ``"image": ["a.nii.gz", "b.nii.gz"]``."""
    held = entry.get("image") if isinstance(entry, dict) else None
    if isinstance(held, list) and held and all(isinstance(name, str) and name for name in held):
        return held
    return [_text(entry, "image", src)]


def _text(entry: object, key: str, src: Path) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str) or not entry[key]:
        raise ManifestError(
            f"{src / 'dataset.json'}: a case {str(entry)[:80]}; expected {{'image': .., 'label': ..}}; correct it"
        )
    return str(entry[key])
