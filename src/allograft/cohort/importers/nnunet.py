"""nnU-Net: ``imagesTr/CASE_0000.nii.gz`` (one file a channel) and ``labelsTr/CASE.nii.gz``."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Unpack

from allograft.cohort.importers.labels import mask_notes
from allograft.cohort.importers.msd import read_json
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import check_once, is_image, need_folder, need_site, stem, subject_of
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
    """Take the training cases, their channels in order of their numbers, and with ``unlabelled`` those of ``imagesTs``.

    ``subject``: where the patient is in a case's name, ``'{subject}_*'``, else ``one_image_per_subject``. A case that lacks a
    channel is left out and listed. Where ``dataset.json`` lists the training cases (``dataset``), its list counts.
    """
    src, site = need_folder(src), need_site(site, src)
    unmatched: list[str] = []
    described = read_json(src / "dataset.json", dict) if (src / "dataset.json").exists() else {}
    listed = _listed(described.get("dataset"), src, unmatched)
    found = _chosen(src, unmatched, listed, unlabelled=unlabelled)
    channels = sorted({number for files in found.values() for number in files})
    masks = {(folder, stem(path.name)): path for folder in ("labelsTr", "labelsTs") for path in _files(src / folder)}
    masks |= {("labelsTr", case): mask for case, (_, mask) in listed.items() if mask is not None}
    rows: list[Row] = []
    for (folder, case), files in found.items():
        if lacking := [number for number in channels if number not in files]:
            unmatched.append(f"{case}: lacks channel {lacking[0]}, left out")
            continue
        who = subject_of(case, subject, one_image_per_subject=one_image_per_subject, source=src)
        mask = masks.pop((folder, case), None)
        if mask is None and folder == "labelsTr":
            unmatched.append(f"{case}: no mask in {folder}; imported without")
        rows.append({"image": [files[number] for number in channels], "mask": mask, "subject": who, "site": site})
    unmatched += [f"{folder}/{path.name}: a mask without an image" for (folder, _), path in masks.items() if folder == "labelsTr"]
    if one_image_per_subject:
        check_once(Counter(row["subject"] for row in rows), src)
    return write_manifest(out, rows, unmatched, notes=mask_notes(described.get("labels"), src), **options)


Listed = dict[str, tuple[dict[str, Path], Path | None]]
"""Case -> channel number -> file, and its mask."""


def _listed(held: object, src: Path, unmatched: list[str]) -> Listed:
    """The cases that ``dataset.json`` of nnU-Net v2 names under ``dataset``; {} where it names none."""
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise ManifestError(f"{src / 'dataset.json'}: 'dataset' is a {type(held).__name__}; expected case -> images and label")
    found: Listed = {}
    for case, entry in held.items():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in [*images, label or ""]):
            raise ManifestError(f"{src / 'dataset.json'}: case {case}: {str(entry)[:80]}; expected images, a list, and label; correct it")
        paths = [src / one for one in images]
        if lost := [path for path in paths if not path.is_file()]:
            unmatched.append(f"{case}: {lost[0].name} is in dataset.json but not in the folder, left out")
            continue
        mask = src / label if label and (src / label).is_file() else None
        found[str(case)] = ({f"{number:04d}": path for number, path in enumerate(paths)}, mask)
    return found


def _chosen(src: Path, unmatched: list[str], listed: Listed, *, unlabelled: bool) -> dict[tuple[str, str], dict[str, Path]]:
    """(folder of its mask, case) -> channel number -> file."""
    training = {case: files for case, (files, _) in listed.items()} or _cases(src / "imagesTr", unmatched)
    found = {("labelsTr", case): files for case, files in training.items()}
    tests = {("labelsTs", case): files for case, files in _cases(src / "imagesTs", unmatched).items()}
    if not found and not tests:
        raise ManifestError(f"{src}: no file imagesTr/CASE_0000.*; expected a dataset folder of nnU-Net; correct SRC")
    if unlabelled:
        return found | tests
    unmatched += [f"imagesTs/{case}: a test image, left out (--unlabelled takes it)" for _, case in tests]
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and is_image(path)) if folder.is_dir() else []


def _cases(folder: Path, unmatched: list[str]) -> dict[str, dict[str, Path]]:
    """Case -> channel number -> file."""
    cases: dict[str, dict[str, Path]] = {}
    for path in _files(folder):
        found = re.fullmatch(r"(.+)_(\d{4})", stem(path.name))
        if found is None:
            unmatched.append(f"{folder.name}/{path.name}: no channel number such as _0000 in its name")
        elif found[2] in cases.setdefault(found[1], {}):
            raise ManifestError(f"{path}: {cases[found[1]][found[2]].name} is the same channel of the same case; remove one")
        else:
            cases[found[1]][found[2]] = path
    return cases
