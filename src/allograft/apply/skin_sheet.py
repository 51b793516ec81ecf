"""A sheet of photographs with the eight patches in which skin tones are looked for (Bevan and
Atapour-Abarghouei 2022, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allograft.cohort.readers import read_image
from allograft.errors import SpecError
from allograft.transforms.hair import remove_hair
from allograft.transforms.skin_tone import PATCHES, SIDE, SIZE, SkinTone, resized
from allograft.tree import write_bytes

MOST, COLUMNS = 12, 3
"""Photographs on a sheet, and pairs side by side."""
CHOSEN, OTHER = (31, 214, 60), (230, 40, 40)
"""Colours of the frame of the chosen patch, and of the others."""
FRAME, GAP = 2, 6
"""Pixels of a frame, and between two images."""


def check_sheet(out: Path, skin: str) -> None:
    """Raise ``SpecError`` for a sheet that is no PNG file, or of a way that looks at no patch."""
    if out.suffix.lower() != ".png":
        raise SpecError(f"{out}: the sheet is written as PNG, found '{out.suffix}'; expected {out.stem or 'sheet'}.png")
    if skin != "patches":
        raise SpecError(f"sheet: skin is {skin}, which looks at no patches; expected skin: patches, or no sheet")


def write_sheet(tones: Mapping[str, SkinTone], out: Path) -> int:
    """Draw the first photographs whose patch is known, each as it is and, without hair, with its
    patches: the chosen one's frame is green.

    Args:
        tones: file -> its tone.
        out: a ``.png`` file; it shows patients.

    Returns:
        How many photographs are on the sheet.

    Raises:
        SpecError: no photograph has a patch.
    """
    from PIL import Image

    from allograft.report.overlay import png_of

    drawn = [(name, tone.patch) for name, tone in tones.items() if tone.patch is not None][:MOST]
    if not drawn:
        raise SpecError(f"{out}: no photograph has a patch to draw; the notes in the table say why")
    pairs = [pair(read_image([Path(name)]).array.transpose(1, 2, 0), patch) for name, patch in drawn]
    rows = [np.concatenate(_filled(pairs[start : start + COLUMNS]), 1) for start in range(0, len(pairs), COLUMNS)]
    write_bytes(out, png_of(Image.fromarray(np.concatenate(rows))))
    return len(pairs)


def pair(image: NDArray[np.uint8], chosen: int) -> NDArray[np.uint8]:
    """A photograph beside itself without hair, on which the patches are framed.

    Args:
        image: (H, W, 3).
        chosen: index into ``PATCHES``.

    Returns:
        (SIZE + GAP, 2 * (SIZE + GAP), 3), white at the lower and right ends.
    """
    left = resized(np.ascontiguousarray(image))
    right = np.array(remove_hair(left))
    for number, corner in sorted(enumerate(PATCHES), key=lambda each: each[0] == chosen):
        _frame(right, corner, CHOSEN if number == chosen else OTHER)
    made = np.full((SIZE + GAP, 2 * (SIZE + GAP), 3), 255, np.uint8)
    made[:SIZE, :SIZE], made[:SIZE, SIZE + GAP : -GAP] = left, right
    return made


def _frame(image: NDArray[np.uint8], corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """A frame just outside a patch, where the image has room."""
    (top, left), (bottom, right) = corner, (corner[0] + SIDE, corner[1] + SIDE)
    inside = image[top:bottom, left:right].copy()
    image[max(0, top - FRAME) : bottom + FRAME, max(0, left - FRAME) : right + FRAME] = colour
    image[top:bottom, left:right] = inside


def _filled(pairs: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """A row of the sheet, with white at its end."""
    return [*pairs, *[np.full_like(pairs[0], 255)] * (COLUMNS - len(pairs))]
