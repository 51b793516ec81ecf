"""Boxes files: ``{"boxes": [[x0, y0, x1, y1], ...], "labels": [...]}`` in pixels, end exclusive,
one JSON an image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from allograft.cohort.importers.rows import manifest_path, relative
from allograft.errors import ManifestError

TWICE = "is listed twice"


@dataclass
class BoxFile:
    """The boxes of one image, as they are read."""

    boxes: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def add(self, box: Sequence[object], label: str, size: tuple[int, int] | None, where: str) -> str | None:
        """Add x0, y0, x1, y1, cut to the image's (width, height) where it is known.

        Returns:
            Why it was left out: it has no area in the image, or is there already; None where it
            was added.

        >>> some = BoxFile()
        >>> some.add([1, 2, 31, 9.5], "rbc", (30, 20), "a.json"); some.boxes
        [[1, 2, 30, 9.5]]
        """
        try:
            numbers = [float(str(number)) for number in box]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
            raise ManifestError(f"{where}: box {str(box)[:80]}; expected four finite numbers; correct or remove it")
        if size is not None:
            numbers = [
                min(max(number, 0.0), float(length)) for number, length in zip(numbers, (*size, *size), strict=True)
            ]
        x0, y0, x1, y1 = (int(number) if number.is_integer() else number for number in numbers)
        if not (x1 > x0 and y1 > y0):
            inside = "" if size is None else f" inside an image of {size[0]} x {size[1]} pixels"
            return f"{where}: box {str(box)[:80]} has no area{inside}, left out"
        if not label.strip():
            raise ManifestError(f"{where}: a box without a class; name it")
        if ([x0, y0, x1, y1], label.strip()) in zip(self.boxes, self.labels, strict=True):
            return f"{where}: box {str(box)[:80]} of '{label.strip()}' {TWICE}, left out"
        self.boxes.append([x0, y0, x1, y1])
        self.labels.append(label.strip())
        return None

    def check(self, image: Path, size: tuple[int, int] | None, where: str) -> None:
        """Refuse boxes that are not in the pixels of their image.

        Args:
            size: (width, height) as the file of boxes has it.

        Raises:
            ManifestError: the image has another size, or all boxes are shares of one.
        """
        if not self.boxes:
            return
        stored, shown = _sizes(image)
        if size is not None and shown is not None and size != shown:
            turned = f", and its EXIF tag shows it as {shown[0]} x {shown[1]}" if stored != shown else ""
            raise ManifestError(
                f"{where}: boxes of an image of {size[0]} x {size[1]} pixels, {image.name} has {stored[0]} x "
                f"{stored[1]}{turned}; expected the size of the image as it is shown; scale or turn the boxes, or use "
                "the images that they were drawn on, without the tag"
            )
        if shown is not None and (outside := [box for box in self.boxes if box[2] > shown[0] or box[3] > shown[1]]):
            raise ManifestError(
                f"{where}: box {outside[0]} leaves {image.name}, which has {shown[0]} x {shown[1]} pixels; expected "
                "boxes inside it; correct them, or use the images that they were drawn on"
            )
        if max(max(box) for box in self.boxes) <= 1 and (shown is None or min(shown) > 2):
            raise ManifestError(
                f"{where}: every number of its boxes is at most 1, such as {self.boxes[0]}, so that they may be shares "
                "of the image; expected pixels; multiply them by its width and height"
            )

    def file(self, image: Path, out: Path) -> tuple[Path, bytes]:
        """Where it goes, ``boxes/`` and the image's own path beside the manifest, and what it
        holds."""
        folder = manifest_path(out).parent
        path = folder / "boxes" / f"{relative(image, folder, 'image')}.json"
        return path, (json.dumps({"boxes": self.boxes, "labels": self.labels}) + "\n").encode()


def _sizes(image: Path) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Width and height as stored, and as an EXIF tag turns it, of what Pillow opens; None of other
    files, which are not looked at here."""
    from PIL import Image

    try:
        with Image.open(image) as stored:
            is_across = stored.getexif().get(274, 1) in (5, 6, 7, 8)
            return stored.size, stored.size[::-1] if is_across else stored.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # reading it will say what is wrong
        return (0, 0), None
