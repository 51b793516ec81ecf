"""What every importer ends with: rows of absolute paths become a manifest that ``read_manifest``
accepts, or nothing is written."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from allograft.cohort.cells import read_cells
from allograft.cohort.manifest import KNOWN, LABELS, SPLITS, read_manifest
from allograft.cohort.readers.files import suffix_of
from allograft.errors import ManifestError, OutputError, nearest
from allograft.tree import write_bytes

Row = dict[str, Any]
_FIRST = ("image", *LABELS, "region", "subject", "site", "split")
_SHOWN = 20


class Options(TypedDict, total=False):
    """What all importers take.

    ``append``: add the rows to a manifest that exists. ``split``: train, val or test, for rows
    whose source names none. ``subject_prefix``: put before each subject, where two hospitals count
    their patients alike. ``shared_subjects``: a subject at two sites is one patient; without it
    that is refused.
    """

    append: bool
    split: str | None
    subject_prefix: str
    shared_subjects: bool


@dataclass(frozen=True)
class Imported:
    """What an import did; ``str`` of it is what the command line prints.

    Args:
        manifest: the file written.
        rows: how many rows this import added.
        examples: five of them, in words.
        unmatched: files and entries that found no partner, each with what it lacks.
        notes: what else to know, such as the class numbers.
    """

    manifest: Path
    rows: int
    examples: tuple[str, ...]
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.manifest}: {self.rows} rows written, for example",
            *(f"  {example}" for example in self.examples),
            *self.notes,
        ]
        if self.unmatched:
            lines += [f"{len(self.unmatched)} unmatched:", *(f"  {example}" for example in self.unmatched[:_SHOWN])]
            lines += [f"  and {len(self.unmatched) - _SHOWN} more"] if len(self.unmatched) > _SHOWN else []
        else:
            lines.append("nothing is unmatched")
        return "\n".join(_printable(line) for line in lines)


def write_manifest(
    out: Path,
    rows: Sequence[Row],
    unmatched: Sequence[str] = (),
    *,
    files: Iterable[tuple[Path, bytes]] = (),
    notes: Sequence[str] = (),
    **options: Unpack[Options],
) -> Imported:
    """Write rows and the files that come with them (boxes, PNGs), all or nothing.

    Args:
        out: a folder, which gets a ``manifest.csv``, or a path that ends in ``.csv``.
        rows: column -> text, ``Path`` or, for ``image``, a list of paths.
        files: what to write beside; a file that is there with other bytes is refused.
    """
    manifest = manifest_path(out)
    if not rows:
        found = "; ".join(unmatched[:5]) or "no image matched"
        raise ManifestError(
            _printable(f"{manifest}: nothing to import; {found}. Correct SRC, the pattern or the columns")
        )
    before = manifest.read_bytes() if manifest.exists() else None
    old, new = _old_rows(manifest, options), _new_rows(manifest, rows, options)
    if not options.get("shared_subjects"):
        _check_sites([*old, *new])
    made: list[Path] = []
    try:
        for path, content in files:
            if _write_new(path, content):
                made.append(path)
        write_bytes(manifest, _table([*old, *new]))
        read_manifest(manifest)
    except BaseException:
        _undo(manifest, before, made)
        raise
    chosen = [new[i * (len(new) - 1) // 4] for i in range(5)] if len(new) > 5 else new
    return Imported(manifest, len(new), tuple(map(_example, chosen)), tuple(unmatched), (*notes, *_not_taken(rows)))


def _not_taken(rows: Sequence[Row]) -> list[str]:
    """Files beside the images that are images by another suffix and in no row: how many in each
    folder."""
    cells = [cell for row in rows for value in row.values() for cell in (value if isinstance(value, list) else [value])]
    taken = {os.path.abspath(cell) for cell in cells if isinstance(cell, Path)}
    images = {cell for row in rows for cell in row["image"] if isinstance(cell, Path) and not cell.is_dir()}
    suffixes = {suffix_of(cell) for cell in images}
    left: dict[tuple[str, str], int] = {}
    for folder in sorted({cell.parent for cell in images}):
        for path in folder.iterdir():
            suffix = suffix_of(path)
            if (
                suffix
                and suffix not in suffixes
                and os.path.abspath(path) not in taken
                and not path.name.startswith(".")
            ):
                left[folder.name, suffix] = left.get((folder.name, suffix), 0) + 1
    return [f"{folder}: {count} files ending in {suffix} not taken" for (folder, suffix), count in sorted(left.items())]


def _undo(manifest: Path, before: bytes | None, made: Sequence[Path]) -> None:
    for path in made:
        with suppress(OSError):
            path.unlink()
    if before is not None:
        write_bytes(manifest, before)
    else:
        with suppress(OSError):
            manifest.unlink()


def manifest_path(out: Path) -> Path:
    """``out`` itself when it is a CSV, else the ``manifest.csv`` in it.

    >>> manifest_path(Path("data")).as_posix()
    'data/manifest.csv'
    """
    out = Path(out)
    if out.suffix.lower() in (".csv", ".parquet") and not out.is_dir():
        if out.suffix.lower() == ".parquet":
            raise OutputError(f"{out}: imports write CSV; name a .csv file or a folder")
        return out
    return out / "manifest.csv"


def relative(path: Path, folder: Path, what: str = "file") -> str:
    """The path as a manifest in ``folder`` writes it; refused when it lies outside, through a link
    too."""
    if not path.resolve().is_relative_to(folder.resolve()):
        mend = "write the manifest to a folder that holds them all (OUT)"
        raise ManifestError(
            _printable(f"{what} {path} lies outside the manifest's folder {folder}, and files are not copied; {mend}")
        )
    lexical = Path(os.path.abspath(path))
    base = Path(os.path.abspath(folder))
    return (
        lexical.relative_to(base) if lexical.is_relative_to(base) else path.resolve().relative_to(folder.resolve())
    ).as_posix()


def _cells(row: Row, manifest: Path) -> dict[str, str]:
    """Text for a CSV that reads back as the same text."""
    cells = {}
    for key, value in row.items():
        images = value if isinstance(value, (list, tuple)) else [value]
        parts = [
            relative(image, manifest.parent, key) if isinstance(image, Path) else "" if image is None else str(image)
            for image in images
        ]
        for part in parts:
            if not part.isprintable() or part != part.strip() or (key == "image" and ";" in part):
                found = f"{key} {part!r} has a semicolon, a control character, or a blank at an end"
                raise ManifestError(f"{manifest}: {found}, which a manifest cannot hold; rename it")
        cells[key] = ";".join(parts)
    for key in ("subject", "site"):
        if not cells.get(key):
            raise ManifestError(f"{manifest}: {cells.get('image') or 'a row'} has no {key}; every row needs one")
    return cells


def _old_rows(manifest: Path, options: Options) -> list[dict[str, str]]:
    if not manifest.exists():
        return []
    if not options.get("append"):
        raise OutputError(f"{manifest}: exists; add to it with append (--append), delete it, or choose another OUT")
    read_manifest(manifest)  # its errors name the row
    names, rows = read_cells(manifest)
    return [dict(zip(names, cells, strict=True)) for cells in rows]


def _new_rows(manifest: Path, rows: Sequence[Row], options: Options) -> list[dict[str, str]]:
    split, prefix = options.get("split"), options.get("subject_prefix", "")
    if split and split not in SPLITS:
        raise ManifestError(nearest(split, SPLITS, "split"))
    return [
        _cells(row | {"split": row.get("split") or split, "subject": prefix + str(row["subject"])}, manifest)
        for row in rows
    ]


def _check_sites(rows: Iterable[Mapping[str, str]]) -> None:
    sites: dict[str, str] = {}
    for row in rows:
        site = sites.setdefault(row["subject"].strip(), row["site"].strip())
        if site != row["site"].strip():
            found = f"subject '{row['subject']}' is at two sites, '{site}' and '{row['site']}'"
            mend = "different patients: give one site a --subject-prefix; the same patient: --shared-subjects"
            raise ManifestError(f"{found} (image {row['image']}); {mend}")


def _write_new(path: Path, content: bytes) -> bool:
    """Whether the file is new; one that is there with the same bytes, from an import cut short, is
    kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(content)
        return True
    except FileExistsError as error:
        if path.is_file() and path.read_bytes() == content:
            return False
        raise OutputError(f"{path}: exists with other content; delete it, or choose another OUT") from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another OUT"
        ) from error


def _table(rows: Sequence[Mapping[str, str]]) -> bytes:
    held = {key for row in rows for key, value in row.items() if value}
    columns = dict.fromkeys(
        [*(key for key in _FIRST if key in held), *(key for row in rows for key in row if key in held)]
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _example(cells: Mapping[str, str]) -> str:
    labels = [f"{key} {cells[key]}" for key in (*LABELS, "region") if cells.get(key)]
    others = [
        f"{key} {value}"
        for key, value in cells.items()
        if value and (key not in KNOWN or key in ("subject", "site", "split"))
    ]
    return f"{cells['image']} <- {', '.join([*(labels or ['no label']), *others])}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
