"""The manifest: CSV or Parquet, one row a case, checked row by row before anything is read."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allograft.cohort.alteration import Alteration
from allograft.cohort.cells import read_cells
from allograft.errors import ManifestError, nearest

if TYPE_CHECKING:
    from allograft.cohort.readers import Series

REQUIRED = ("image", "subject", "site")
LABEL_FILES = ("mask", "boxes", "paired")
LABELS = ("mask", "label", "boxes", "paired")
SPLITS = ("train", "val", "test")
KNOWN = (*REQUIRED, "split", *LABELS, "region")
READER = re.compile(r"boxes_(reader\w+)")
"""Columns with the boxes of further readers, ``boxes_reader2`` say; the first reader's are
``boxes``."""
MISSING = ("", "nan", "unknown")
"""What stands for no value of an attribute, in any case: pandas writes nan,
``allograft label skin-tone`` unknown."""


@dataclass(frozen=True)
class Case:
    """One row of a manifest.

    Args:
        name: the image's path as the manifest writes it; unique.
        subject: the patient.
        site: the hospital, scanner or laboratory.
        image: one file or DICOM series, or several that become channels.
        labels: "mask", "boxes", "paired", and "boxes_reader2" and the like of further readers ->
            ``Path``; "label" -> text. A hidden label is absent.
        region: a mask of the pixels that count.
        split: what the manifest itself says, or None.
        attributes: every other column that is not empty.
        alteration: a known change of image and labels, of a stream that transforms.
    """

    name: str
    subject: str
    site: str
    image: tuple[Path | Series, ...]
    labels: Mapping[str, Path | str] = field(default_factory=dict)
    region: Path | None = None
    split: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    alteration: Alteration | None = None

    @property
    def further_readers(self) -> dict[str, str]:
        """Further reader -> the column with the boxes that they drew of this image.

        >>> Case("a", "1", "s", (), {"boxes": Path("a.json"), "boxes_reader2": Path("b.json")}).further_readers
        {'reader2': 'boxes_reader2'}
        """
        return {matched[1]: column for column in self.labels if (matched := READER.fullmatch(column))}

    def unlabelled(self) -> Case:
        """The same case with every label absent."""
        return replace(self, labels={})

    def one_reader(self) -> Case:
        """The same case without the boxes of further readers, which are there to judge by."""
        hidden = self.further_readers.values()
        return replace(self, labels={key: value for key, value in self.labels.items() if key not in hidden})


def is_missing(value: str | None) -> bool:
    """Whether an attribute's text states no value; None = the case lacks the column, or its cell is
    empty.

    >>> [is_missing(value) for value in (None, "NaN", "unknown", "2")]
    [True, True, True, False]
    """
    return value is None or value.strip().lower() in MISSING


def read_manifest(path: Path | str, root: Path | None = None) -> tuple[Case, ...]:
    """Read and check a manifest.

    Args:
        path: a ``.csv`` or ``.parquet`` file.
        root: the folder that no path may leave; the manifest's own by default.

    Raises:
        ManifestError: a missing file or column, an empty cell, a duplicate row, a path outside
            ``root``, an unknown split, or a subject on two sides of a split, each with its row.
    """
    path = Path(path)
    rows = _rows(path)
    folder = path.parent.resolve()
    root = root.resolve() if root else folder
    columns = list(rows[0])
    for name in REQUIRED:
        if name not in columns:
            raise ManifestError(
                f"{path}: column '{name}' is missing; found {', '.join(columns)}. {nearest(name, columns, 'column')}"
            )
    for name in columns:
        if name not in KNOWN and name.lower() in KNOWN:
            raise ManifestError(
                f"{path}: column '{name}' would be an attribute of that name; rename it '{name.lower()}', or to "
                "another word"
            )
    cases: dict[tuple[Path | Series, ...], Case] = {}
    for number, row in enumerate(rows, 2):  # row 1 is the header
        case = _case(row, folder, root, f"{path}, row {number}")
        if case.image in cases:
            raise ManifestError(
                f"{path}, row {number}: image '{case.name}' is in an earlier row too; keep one row per case"
            )
        cases[case.image] = case
    _check_names(cases.values(), path)
    _check_sides(cases.values(), path)
    return tuple(cases.values())


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise ManifestError(
            f"{path}: no such manifest; expected a .csv or .parquet file with the columns {', '.join(REQUIRED)}"
        )
    if path.suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        try:
            rows = _csv_rows(path)
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}: not a CSV file in UTF-8 ({error}); save it again as CSV, UTF-8") from error
        except csv.Error as error:
            raise ManifestError(
                f"{path}: not a CSV file ({error}), as where a double quote is not closed, or where semicolons "
                "separate the columns; save it again as CSV with commas"
            ) from error
    if not rows:
        raise ManifestError(f"{path}: holds no rows; expected one row per case below the header")
    return rows


def _csv_rows(path: Path) -> list[dict[str, str]]:
    names, rows = read_cells(path)
    if len(set(names)) < len(names):
        raise ManifestError(f"{path}: a column name is in the header twice {', '.join(names)}; rename one")
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        raise ManifestError(
            f"{path}: its header is {names[0]!r}, one column; expected commas between columns; save it again as CSV "
            "with commas"
        )
    return [dict(zip(names, cells, strict=True)) for cells in rows]


def _parquet_rows(path: Path) -> list[dict[str, str]]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds
        raise ManifestError(f"{path}: not a Parquet file ({error}); write it again, or use CSV") from error
    return [{str(key): _text(value) for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _text(value: Any) -> str:
    """A Parquet cell as CSV would say it."""
    if value is None or (isinstance(value, float) and (value != value or value.is_integer())):
        return "" if value is None or value != value else str(int(value))
    return "" if str(value) in ("NaT", "<NA>") else str(value).strip()


def _case(row: Mapping[str, str], folder: Path, root: Path, where: str) -> Case:
    for name in REQUIRED:
        if not row.get(name):
            raise ManifestError(f"{where}: column '{name}' is empty; every case needs one")
    for name in ("subject", "site"):  # as pandas writes what it does not know
        if row[name].lower() == "nan":
            raise ManifestError(f"{where}: {name} is '{row[name]}', which is not a {name}; every case needs one")
        if not row[name].isprintable():
            raise ManifestError(
                f"{where}: {name} {row[name]!r} holds an invisible character, which makes it a different {name}; "
                "remove it"
            )
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ManifestError(f"{where}: split is '{split}'; expected train, val, test or empty")
    parts = [part.strip() for part in row["image"].split(";")]
    if not all(parts):
        raise ManifestError(f"{where}: image '{row['image']}' has an empty part; write channels as a.png;b.png")
    images = tuple(_inside(part, folder, root, f"{where}, image") for part in parts)
    return Case(
        name=row["image"],
        subject=row["subject"],
        site=row["site"],
        image=images,
        labels=_labels(row, folder, root, where),
        region=_inside(row["region"], folder, root, f"{where}, region") if row.get("region") else None,
        split=split,
        attributes={
            key: value for key, value in row.items() if key not in KNOWN and value and not READER.fullmatch(key)
        },
    )


def _labels(row: Mapping[str, str], folder: Path, root: Path, where: str) -> dict[str, Path | str]:
    labels: dict[str, Path | str] = {}
    readers = [name for name in row if READER.fullmatch(name)]
    for name in (*LABELS, *readers):
        if row.get(name):
            is_file = name in LABEL_FILES or name in readers
            labels[name] = _inside(row[name], folder, root, f"{where}, {name}") if is_file else row[name]
            if is_file and row[name] == row["image"]:
                raise ManifestError(f"{where}: '{row[name]}' is the image and its {name}; name the file of the {name}")
    if "boxes" not in labels and (further := [name for name in readers if name in labels]):
        raise ManifestError(
            f"{where}: column '{further[0]}' has a file and 'boxes' has none; the first reader's boxes belong "
            "in 'boxes'"
        )
    return labels


def _inside(text: str, folder: Path, root: Path, where: str) -> Path:
    try:
        path = (folder / text).resolve()
        kind = "a file" if path.is_file() or path.is_dir() else "neither file nor folder" if path.exists() else ""
    # RuntimeError: a link that leads to itself
    except (OSError, ValueError, RuntimeError) as error:
        found = getattr(error, "strerror", None) or type(error).__name__
        raise ManifestError(
            f"{where}: '{text[:80]}' is not a path ({found}); write a path relative to the manifest"
        ) from error
    if not path.is_relative_to(root):
        raise ManifestError(
            f"{where}: '{text}' leaves the data folder {root}; put the files below the manifest, or move the manifest "
            "up"
        )
    if kind != "a file":  # reading a pipe or a device would never end
        raise ManifestError(f"{where}: {kind or 'no file'} '{text}' in {folder}; fix the path or remove the row")
    return path


def _check_names(cases: Iterable[Case], path: Path) -> None:
    """Refuse one name in two spellings: an accent of its own and one that is part of its letter,
    capitals, blanks, and numbers such as 7, 7.0 and 007. Images of one patient would be on two
    sides."""
    seen: dict[tuple[str, ...], str] = {}
    for case in cases:
        for key, value in (
            (("subject", unicodedata.normalize("NFC", case.subject)), case.subject),
            (("subject", case.site, _folded(case.subject)), case.subject),
            (("site", _folded(case.site)), case.site),
        ):
            first = seen.setdefault(key, value)
            if first != value:
                raise ManifestError(
                    f"{path}: {key[0]} '{value}' is written in two ways that look alike, {first!a} and "
                    f"{value!a} (image '{case.name}'); use only one"
                )


def _folded(name: str) -> str:
    """What spellings of one name share.

    >>> _folded("P  01") == _folded("p 01"), _folded("007") == _folded("7.0"), _folded("A7") == _folded("A07")
    (True, True, False)
    """
    plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
    number = re.fullmatch(r"0*(\d+)(?:\.0+)?", plain)
    return number[1] if number else plain


def _check_sides(cases: Iterable[Case], path: Path) -> None:
    site_of: dict[str, str] = {}
    for case in cases:
        if case.split is None:
            continue
        side = site_of.setdefault(case.subject, case.split)
        if side != case.split:
            raise ManifestError(
                f"{path}: subject '{case.subject}' is on two sides, {side} and {case.split} (image '{case.name}'); "
                "give all images of a patient the same split"
            )
