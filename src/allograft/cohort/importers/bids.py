"""BIDS: ``sub-01/[ses-1/]anat/sub-01_[ses-1_]..._T1w.nii.gz``, and masks below ``derivatives`` by a
pattern."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from allograft.cohort.importers.files import images_among
from allograft.cohort.importers.patterns import Partners
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import need_folder, need_site
from allograft.cohort.manifest import KNOWN
from allograft.errors import ManifestError, nearest

_FILE = re.compile(r"(?P<name>(?:[A-Za-z0-9]+-[A-Za-z0-9]+_)+)(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?")


def import_bids(
    src: Path,
    out: Path,
    *,
    suffix: str | Sequence[str] = "T1w",
    mask: str | None = None,
    site: str | None = None,
    site_column: str | None = None,
    **options: Unpack[Options],
) -> Imported:
    """Take every anatomical image with the suffix, one row each; several suffixes are channels of
    one image.

    ``mask``: a pattern below ``src`` with ``{subject}``, ``{session}``, any other entity such as
    ``{run}``, or ``{name}``, the image's name without suffix:
    ``derivatives/manual/sub-{subject}/anat/{name}_mask.nii.gz``. The session becomes ``timepoint``,
    every other entity a column of its own, such as ``run`` and ``echo``. The site is ``site``, or
    listed in ``site_column`` of ``participants.tsv``.
    """
    src = need_folder(src)
    first, *channels = [suffix] if isinstance(suffix, str) else list(suffix)
    sites = _sites(src, site_column) if site_column else None
    site = None if sites is not None else need_site(site, src)
    unmatched: list[str] = []
    images = list(_images(src, unmatched))
    by_name = {(str(path.parent), values["name"], ending): path for path, values, ending in images}
    chosen = _with_suffix(images, first, src, unmatched)
    names = tuple(dict.fromkeys(name for _, values in chosen for name in values))
    masks = Partners.of(mask, src, names) if mask else None
    rows: list[Row] = []
    for path, values in chosen:
        files = [path, *(by_name.get((str(path.parent), values["name"], ending)) for ending in channels)]
        if None in files:
            unmatched.append(f"{path.name}: no {channels[files.index(None) - 1]} next to it, left out")
            continue
        where = site if sites is None else sites.get(values["subject"])
        entities = {key: value for key, value in values.items() if key not in ("session", "name", *KNOWN)}
        rows.append(
            entities | {"image": files, "subject": values["subject"], "site": where, "timepoint": values.get("session")}
        )
        if masks is not None:
            rows[-1]["mask"] = masks.find(values, path)
            unmatched += [] if rows[-1]["mask"] else [f"{path.relative_to(src).as_posix()}: no mask"]
    unmatched += [
        f"{path.relative_to(src).as_posix()}: a mask without an image" for path in (masks.left if masks else [])
    ]
    return write_manifest(out, rows, unmatched, **options)


def _images(src: Path, unmatched: list[str]) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Path, entities and suffix of every anatomical image."""
    folders = sorted(path for path in (*src.glob("sub-*/anat"), *src.glob("sub-*/ses-*/anat")) if path.is_dir())
    files = [path for folder in folders for path in folder.iterdir()]
    for path in images_among(files, src, unmatched):
        name = path.relative_to(src).as_posix()
        parts = _FILE.fullmatch(path.name)
        values = dict(pair.split("-") for pair in parts["name"].rstrip("_").split("_")) if parts else {}
        home = path.relative_to(src).parts
        visit = home[1].removeprefix("ses-") if home[1].startswith("ses-") else None
        if parts is None or values.pop("sub", None) != home[0].removeprefix("sub-") or values.get("ses") != visit:
            unmatched.append(
                f"{name}: not named as BIDS asks, sub-LABEL[_ses-LABEL]_..._SUFFIX.nii.gz in the folder of its subject "
                "and session"
            )
            continue
        values |= {"subject": path.relative_to(src).parts[0].removeprefix("sub-"), "name": parts["name"].rstrip("_")}
        session = values.pop("ses", None)
        yield path, values | ({"session": session} if session else {}), parts["suffix"]


def _with_suffix(
    images: Sequence[tuple[Path, dict[str, str], str]], suffix: str, src: Path, unmatched: Sequence[str]
) -> list[tuple[Path, dict[str, str]]]:
    chosen = [(path, values) for path, values, ending in images if ending == suffix]
    if not chosen:
        endings = ", ".join(sorted({ending for _, _, ending in images})) or "no anatomical image"
        endings = "; ".join([endings, *unmatched[:3]])
        raise ManifestError(
            f"{src}: no image with the suffix '{suffix}'; found {endings}; name one that is there: --suffix T2w"
        )
    return chosen


def _sites(src: Path, column: str) -> Mapping[str, str]:
    """Participant label -> site."""
    path = src / "participants.tsv"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows, names = list(reader), Counter(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error}); expected a table with participant_id and {column}; or name the site"
        ) from error
    if twice := [name for name in ("participant_id", column) if names[name] > 1]:
        raise ManifestError(f"{path}: column '{twice[0]}' is in the header twice; rename one")
    for wanted in ("participant_id", column):
        if rows and wanted not in rows[0]:
            raise ManifestError(f"{path}: {nearest(wanted, filter(None, rows[0]), 'column')}")
    site_of: dict[str, str] = {}
    for row in rows:
        name, site = (row["participant_id"] or "").strip().removeprefix("sub-"), (row[column] or "").strip()
        if site_of.setdefault(name, site) != site:
            raise ManifestError(
                f"{path}: sub-{name} is listed twice, at {column} '{site_of[name]}' and '{site}'; expected one site "
                "per participant; correct it"
            )
    return {name: "" if site.lower() == "n/a" else site for name, site in site_of.items()}  # as BIDS writes no value
