"""COCO: one JSON of images, annotations and categories, and a folder of images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, Unpack

from allograft.cohort.importers.boxes import TWICE, BoxFile
from allograft.cohort.importers.files import images_among, other_suffix
from allograft.cohort.importers.msd import read_json
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import (
    below,
    check_once,
    check_spelling,
    need_folder,
    need_site,
    stem,
    subject_of,
)
from allograft.errors import ManifestError


def import_coco(
    src: Path,
    out: Path,
    *,
    images: Path,
    site: str,
    subject: str | None = None,
    one_image_per_subject: bool = False,
    **options: Unpack[Options],
) -> Imported:
    """Take every image of the JSON that lies in ``images``, with its boxes in ``boxes/`` beside the
    manifest.

    x, y, width, height become x, y, x + width, y + height, cut to the image. An image without
    annotations has an empty list: it was looked at. Crowds, and annotations without a box or with
    one of no area, are left out and counted. ``subject``: where the patient is in ``file_name``
    without suffix, below ``images`` where that is an absolute path.
    """
    src, site, images = Path(src), need_site(site, src), need_folder(images)
    held = read_json(src, dict)
    listed = _images(held, src)
    rows, files = [], []
    unmatched: list[str] = []
    boxes_of, left_out = _boxes(held, listed, src, unmatched)
    for image in listed:
        name = below(image["file_name"], images)
        path = images / name
        if not os.path.isfile(path):
            unmatched.append(f"{name}: in the JSON but not in {images}{other_suffix(path)}")
            continue
        who = subject_of(stem(name), subject, one_image_per_subject=one_image_per_subject, source=src)
        boxes_of[image["id"]].check(path, _size(image), f"{src}, image {image['id']!r}")
        files.append(boxes_of[image["id"]].file(path, out))
        rows.append(Row(image=[path], boxes=files[-1][0], subject=who, site=site))
    if one_image_per_subject:
        check_once(Counter(row["subject"] for row in rows), src)
    known = {os.path.abspath(images / below(image["file_name"], images)) for image in listed}
    for path in images_among(images.rglob("*"), images, unmatched):
        if os.path.abspath(path) not in known:
            unmatched.append(f"{path.relative_to(images).as_posix()}: an image that the JSON does not name")
    notes = [f"classes: {', '.join(sorted({label for image in boxes_of.values() for label in image.labels}))}"]
    notes += [f"{what} left out: {count}" for what, count in left_out.items() if count]
    return write_manifest(out, rows, unmatched, files=files, notes=notes, **options)


def _boxes(
    held: dict[str, Any], listed: list[dict[str, Any]], src: Path, left: list[str]
) -> tuple[dict[Any, BoxFile], dict[str, int]]:
    """Boxes by image id, and what was left out how often; ``left`` gets a line for each annotation
    without a box."""
    categories = {str(entry.get("id")): str(entry.get("name", "")) for entry in _entries(held, "categories", src)}
    boxes_of = {entry["id"]: BoxFile() for entry in listed}
    check_spelling("category", categories.values(), src, "write '{}' as '{}' in the JSON")
    sizes = {entry["id"]: _size(entry) for entry in listed}
    left_out = dict.fromkeys(("crowds", "annotations without a box", "boxes without area", "boxes listed twice"), 0)
    for note in _entries(held, "annotations", src):
        where, image = f"{src}, annotation {note.get('id')}", note.get("image_id")
        if not isinstance(image, (int, str)) or image not in boxes_of or str(note.get("category_id")) not in categories:
            raise ManifestError(
                f"{where}: image {image!r}, category {note.get('category_id')!r}; expected ids that are listed, "
                "written alike; correct or remove it"
            )
        if note.get("iscrowd"):
            left_out["crowds"] += 1
            continue
        box = note.get("bbox")
        if box is None or box == []:
            left_out["annotations without a box"] += 1
            left.append(f"annotation {note.get('id')}: has no bbox, left out")
            continue
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(number, (int, float)) for number in box):
            raise ManifestError(f"{where}: bbox {str(box)[:80]}; expected [x, y, width, height]; correct or remove it")
        corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        why = boxes_of[image].add(corners, categories[str(note["category_id"])], sizes[image], where)
        if why:
            left_out["boxes listed twice" if TWICE in why else "boxes without area"] += 1
            left.append(why.removeprefix(f"{src}, "))
    if left and not any(entry.boxes for entry in boxes_of.values()):
        raise ManifestError(
            f"{src}: none of its annotations has a box of any area, for example {left[0]}; export them with boxes"
        )
    return boxes_of, left_out


def _entries(held: dict[str, Any], key: str, src: Path) -> list[dict[str, Any]]:
    entries = held.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ManifestError(
            f"{src}: '{key}' is no list of objects; expected a COCO file with images, annotations, categories; "
            "correct SRC"
        )
    return entries


def _images(held: dict[str, Any], src: Path) -> list[dict[str, Any]]:
    listed = _entries(held, "images", src)
    for image in listed:
        if (
            not isinstance(image.get("file_name"), str)
            or not image["file_name"]
            or not isinstance(image.get("id"), (int, str))
        ):
            raise ManifestError(f"{src}: image {str(image)[:80]}; expected an id and a file_name; correct it")
    if twice := [name for name, count in Counter(image["id"] for image in listed).items() if count > 1]:
        raise ManifestError(f"{src}: image id {twice[0]} is listed twice; keep one")
    return listed


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 else None
