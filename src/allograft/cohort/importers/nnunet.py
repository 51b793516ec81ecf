"""nnU-Net: ``imagesTr/CASE_0000.nii.gz`` (one file a channel) and ``labelsTr/CASE.nii.gz``."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Unpack

from allograft.cohort.importers.files import images_among
from allograft.cohort.importers.labels import check_channels, count_notes, mask_notes
from allograft.cohort.importers.msd import read_json
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import check_once, need_folder, need_site, stem, subject_of
from allograft.errors import ManifestError


def import_nnunet(
    src: Path,
    out: Path,
    *,
    site: str,
    subject: str | None = None,
    one_image_per_subject: bool = False,
    unlabelled: bool = False,
    **options: Unpack[Options],
) -> Imported:
    """Take the training cases, their channels in order of their numbers, and with ``unlabelled``
    those of ``imagesTs``.

    ``subject``: where the patient stands in a case's name, ``'{subject}_*'``, else
    ``one_image_per_subject``. A case that lacks a channel is left out and listed. Where
    ``dataset.json`` lists its files under ``dataset``, these are taken, whatever their names.
    """
    src, site = need_folder(src), need_site(site, src)
    unmatched: list[str] = []
    described = read_json(src / "dataset.json", dict) if (src / "dataset.json").exists() else {}
    images_of, masks = (
        _listed(described, src, unmatched) if "dataset" in described else _named(src, unmatched, unlabelled=unlabelled)
    )
    channels = sorted({number for files in images_of.values() for number in files})
    check_channels(described, len(channels), src)
    unmatched += count_notes(described, sum(folder == "labelsTr" for folder, _ in images_of))
    rows: list[Row] = []
    for (folder, case), files in images_of.items():
        if lacking := [number for number in channels if number not in files]:
            unmatched.append(f"{case}: lacks channel {lacking[0]}, left out")
            continue
        who = subject_of(case, subject, one_image_per_subject=one_image_per_subject, source=src)
        mask = masks.pop((folder, case), None)
        if mask is None and folder == "labelsTr":
            unmatched.append(f"{case}: no mask; imported without")
        rows.append({"image": [files[number] for number in channels], "mask": mask, "subject": who, "site": site})
    unmatched += [
        f"{folder}/{path.name}: a mask without an image" for (folder, _), path in masks.items() if folder == "labelsTr"
    ]
    if one_image_per_subject:
        check_once(Counter(row["subject"] for row in rows), src)
    return write_manifest(out, rows, unmatched, notes=mask_notes(described.get("labels"), src), **options)


Found = dict[tuple[str, str], dict[str, Path]]
"""(folder of its mask, case) -> channel number -> file."""


def _named(src: Path, unmatched: list[str], *, unlabelled: bool) -> tuple[Found, dict[tuple[str, str], Path]]:
    """Images and masks by the names of files."""
    images_of = {("labelsTr", case): files for case, files in _cases(src / "imagesTr", unmatched).items()}
    tests = {("labelsTs", case): files for case, files in _cases(src / "imagesTs", unmatched).items()}
    if not images_of and not tests:
        seen = f"; found {'; '.join(unmatched[:3])}" if unmatched else ""
        raise ManifestError(
            f"{src}: no image imagesTr/CASE_0000.*; expected a dataset folder of nnU-Net{seen}; correct SRC"
        )
    if not unlabelled:
        unmatched += [f"imagesTs/{case}: a test image, left out (--unlabelled takes it)" for _, case in tests]
    folders = {name: _files(src / name, unmatched) for name in ("labelsTr", "labelsTs")}
    masks = {(folder, stem(path.name)): path for folder, paths in folders.items() for path in paths}
    return images_of | (tests if unlabelled else {}), masks


def _listed(described: dict[str, Any], src: Path, unmatched: list[str]) -> tuple[Found, dict[tuple[str, str], Path]]:
    """Images and masks by the key ``dataset`` of version 2:
    ``{CASE: {"images": [...], "label": ...}}``, paths below ``src``."""
    held, wanted = described["dataset"], "expected {CASE: {'images': [..], 'label': ..}}; correct it"
    if not isinstance(held, dict):
        raise ManifestError(f"{src / 'dataset.json'}: 'dataset' is a {type(held).__name__}; {wanted}")
    listed: Found = {}
    masks = {}
    for case, entry in held.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        mask = entry.get("label") if isinstance(entry, dict) else None
        if (
            not isinstance(images, list)
            or not images
            or not all(isinstance(name, str) and name for name in (*images, mask or "-"))
        ):
            raise ManifestError(f"{src / 'dataset.json'}: case '{case}' is {str(entry)[:80]}; {wanted}")
        if lacking := [name for name in images if not os.path.exists(src / name)]:
            unmatched.append(f"{case}: no image {lacking[0]}, left out")
            continue
        listed["labelsTr", case] = {f"{number:04d}": src / name for number, name in enumerate(images)}
        if mask and os.path.exists(src / mask):
            masks["labelsTr", case] = src / mask
    return listed, masks


def _files(folder: Path, unmatched: list[str]) -> list[Path]:
    return images_among(folder.iterdir(), folder, unmatched) if folder.is_dir() else []


def _cases(folder: Path, unmatched: list[str]) -> dict[str, dict[str, Path]]:
    """Case -> channel number -> file."""
    cases: dict[str, dict[str, Path]] = {}
    for path in _files(folder, unmatched):
        matched = re.fullmatch(r"(.+)_(\d{4})", stem(path.name))
        if matched is None:
            unmatched.append(f"{folder.name}/{path.name}: no channel number such as _0000 in its name")
        elif matched[2] in cases.setdefault(matched[1], {}):
            raise ManifestError(
                f"{path}: {cases[matched[1]][matched[2]].name} is the same channel of the same case; remove one"
            )
        else:
            cases[matched[1]][matched[2]] = path
    return cases
