"""A table of the user's own: any CSV whose columns say where the image is, who it is of, and what
it shows."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from allograft.cohort.cells import read_cells
from allograft.cohort.importers.files import other_suffix
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import below, check_once, class_names, need_site, need_subject, stem
from allograft.cohort.manifest import KNOWN
from allograft.errors import ManifestError, nearest

_NAME = re.compile(r"\{([^{}]*)\}")
MISSING = ("na", "nan", "n/a", "none", "null", "#n/a", "<na>")


def import_table(
    src: Path,
    out: Path,
    *,
    image: str | Sequence[str],
    subject: str | None = None,
    site: str | None = None,
    site_name: str | None = None,
    label: str | None = None,
    mask: str | None = None,
    paired: str | None = None,
    region: str | None = None,
    boxes: str | None = None,
    split_column: str | None = None,
    attributes: Sequence[str] = (),
    classes: Mapping[str, str] | None = None,
    missing: Sequence[str] | None = None,
    one_image_per_subject: bool = False,
    **options: Unpack[Options],
) -> Imported:
    """Take every row of a CSV (comma, semicolon or tab) whose image exists.

    All but ``site_name``, ``attributes`` and ``classes`` are names of columns; those of files may
    be patterns of columns instead, ``'images/{id}.png'``. Paths are relative to the table.
    ``site_name``: the one site of a table without such a column. Only the columns named are taken
    over, ``attributes`` under their own names, because a table may hold what must not travel with
    the images. ``classes``: label as stored -> class name. Of the columns that are no paths, empty
    cells and NA, NaN, N/A, #N/A, <NA>, none and null in any case are no value; ``missing`` lists
    other words in their place, as they are written, and words that ``classes`` names are labels.
    The result says
    which words were taken as missing, and how often.
    """
    src = Path(src)
    rows = _read(src)
    images = [image] if isinstance(image, str) else list(image)
    files = _given(mask=mask, paired=paired, region=region, boxes=boxes)
    texts = _given(subject=subject, site=site, label=label, split=split_column)
    _check_columns(
        src,
        tuple(rows[0]),
        (*texts.values(), *(name for column in (*images, *files.values()) for name in _names(column))),
        attributes,
    )
    fixed = {} if site else {"site": need_site(site_name, src, "--site COLUMN, or --site-name A for all rows")}
    if subject is None:
        need_subject(
            src, one_image_per_subject=one_image_per_subject, how="name the column of the patient: --subject patient_id"
        )
    texts |= {name: name for name in attributes}
    absent = _absent(missing, classes or {})
    names = class_names({row[label] for row in rows if not absent("label", row[label])}, classes, src) if label else {}
    unmatched: list[str] = []
    taken: Counter[tuple[str, str]] = Counter()
    result = []
    for row in _found(src, rows, images, texts, files, unmatched):
        lost = {key: row[key] for key in texts if absent(key, row[key])}
        taken.update((texts[key], word) for key, word in lost.items() if word)
        if word := lost.get("subject") or lost.get("site"):
            found = f"'{word}' in the column of the {'subject' if lost.get('subject') else 'site'} was taken as missing"
            raise ManifestError(
                f"{src}: {found}, and every row needs one; keep it with your own list of such words: --missing ''"
            )
        named = {"label": names.get(row["label"])} if label else {}
        result.append(row | fixed | named | dict.fromkeys(lost, ""))
    if one_image_per_subject:
        check_once(Counter(made["subject"] for made in result), src)
    notes = [f"classes: {', '.join(dict.fromkeys(names.values()))}"] if names else []
    return write_manifest(out, result, unmatched, notes=[*notes, *_taken_note(taken)], **options)


def _given(**columns: str | None) -> dict[str, str]:
    return {key: column for key, column in columns.items() if column}


def _absent(missing: Sequence[str] | None, classes: Mapping[str, str]) -> Callable[[str, str], bool]:
    """Whether a cell, of a column of the manifest, states no value."""

    def absent(key: str, word: str) -> bool:
        if not word or (key == "label" and word in classes):
            return not word
        return word.lower() in MISSING if missing is None else word in missing

    return absent


def _taken_note(taken: Mapping[tuple[str, str], int]) -> list[str]:
    if not taken:
        return []
    words = ", ".join(
        f"{column} '{word}' {number} time{'s' * (number > 1)}" for (column, word), number in sorted(taken.items())
    )
    return [
        f"taken as missing: {words}; keep a class with --class WORD=NAME, any word with your own list of such words: "
        "--missing ''"
    ]


def _found(
    src: Path,
    rows: Sequence[Mapping[str, str]],
    images: Sequence[str],
    texts: Mapping[str, str],
    files: Mapping[str, str],
    unmatched: list[str],
) -> Iterator[Row]:
    """The rows whose image exists."""
    for number, row in enumerate(rows, 2):
        paths = [_path(column, row, src, number) for column in images]
        if not all(path and os.path.exists(path) for path in paths):
            absent = next((path for path in paths if path and not os.path.exists(path)), None)
            unmatched.append(
                f"row {number}: no image "
                f"{', '.join(_filled(column, row) for column in images)}{other_suffix(absent) if absent else ''}"
            )
            continue
        made: Row = {"subject": stem(below(_filled(images[0], row), src.parent)), "image": paths} | {
            key: row[column] for key, column in texts.items()
        }
        for key, column in files.items():
            made[key] = _path(column, row, src, number)
            if made[key] is not None and not os.path.exists(made[key]):
                unmatched.append(f"row {number}: no {key} {_filled(column, row)}; imported without")
                made[key] = None
        yield made


def _check_columns(src: Path, columns: Sequence[str], wanted: Sequence[str], attributes: Sequence[str]) -> None:
    for name in (*wanted, *attributes):
        if name not in columns:
            raise ManifestError(f"{src}: {nearest(name, columns, 'column')}")
    if reserved := [name for name in attributes if name in KNOWN]:
        raise ManifestError(
            f"{src}: attribute '{reserved[0]}' is a column of manifests with a meaning; name it by its own option"
        )


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            head = file.readline()
        # names may hold the other marks: "age, years"
        mark = max((",", ";", "\t"), key=lambda delimiter: len(next(csv.reader([head], delimiter=delimiter), [])))
        names, stored = read_cells(path, mark, one_line=False)  # a report in a cell may have lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{path}: cannot be read as CSV in UTF-8 ({error}); correct SRC, or save the table again as CSV"
        ) from error
    if not stored:
        raise ManifestError(f"{path}: holds no rows below its header; correct SRC")
    twice = sorted(name for name, count in Counter(filter(None, names)).items() if count > 1)
    if twice:
        raise ManifestError(f"{path}: column '{twice[0]}' is in the header twice; rename one")
    return [{name: cell for name, cell in zip(names, cells, strict=True) if name} for cells in stored]


def _names(spec: str) -> list[str]:
    """The columns that a specification names: itself, or those in braces."""
    return _NAME.findall(spec) or [spec]


def _filled(spec: str, row: Mapping[str, str]) -> str:
    return _NAME.sub(lambda matched: row[matched[1]], spec) if "{" in spec else row[spec]


def _path(spec: str, row: Mapping[str, str], src: Path, number: int) -> Path | None:
    if any(not row[name] for name in _names(spec)):
        return None
    text = _filled(spec, row)
    if not text.isprintable():
        raise ManifestError(f"{src}, row {number}: {text!r} is no path; fix it")
    return src.parent / text
