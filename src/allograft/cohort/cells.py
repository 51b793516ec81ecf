"""The cells of a CSV file, none of them lost: a row of another length and an open quote are
errors."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from allograft.errors import ManifestError


def read_cells(path: Path, mark: str = ",", *, one_line: bool = True) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file in UTF-8, cells without the spaces around them.

    Rows without any cell are left out, and empty cells behind the last column.

    Args:
        mark: what stands between two cells.
        one_line: refuse a cell with a line break: of a table of paths and names it is a quote that
            was not closed, and the rows in it would be lost.

    Raises:
        ManifestError: a row with more or fewer cells than the header, or a line break.
        UnicodeDecodeError, csv.Error: no such file.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=mark, strict=True)
        kept = (cells for cells in reader if any(cell.strip() for cell in cells))
        names = [name.strip() for name in next(kept, [])]
        rows = [[_plain(cell) for cell in cells] for cells in kept]
    for number, cells in enumerate(rows, 2):  # row 1 is the header
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        _check(f"{path}, row {number}", names, cells, mark, one_line=one_line)
    return names, rows


def _plain(cell: str) -> str:
    """A cell without the spaces around it, and without the formula by which Excel keeps leading
    zeros.

    >>> _plain(' ="007" ')
    '007'
    """
    cell = cell.strip()
    quoted = re.fullmatch(r'="([^"]*)"', cell)
    return quoted[1].strip() if quoted else cell


def _check(where: str, names: Sequence[str], cells: Sequence[str], mark: str, *, one_line: bool) -> None:
    if len(cells) > len(names):
        raise ManifestError(
            f"{where}: has more cells than the header, {len(cells)} and {len(names)}; the header is "
            f"{mark.join(names)[:80]!r}; put a cell that holds {mark!r} in double quotes, or remove what is above "
            "the names of the columns"
        )
    if len(cells) < len(names):
        raise ManifestError(
            f"{where}: has fewer cells than the header, {len(cells)} of {len(names)}; write nothing between two "
            f"{mark!r} where there is no value"
        )
    broken = next((cell for cell in cells if "\n" in cell or "\r" in cell), None) if one_line else None
    if broken is not None:
        raise ManifestError(
            f"{where}: a cell holds a line break, {broken[:40]!r}; expected one row per line; close the double quote "
            "before it"
        )
