"""What a method wants to show beside its scores: data for a plot, or small images, which the report
draws.

``Images`` alone holds images of patients (``shows_images``). Words of a figure name no patient. A
run that is resumed shows its figures again, so they are made without random numbers and train
nothing. ``Relabelled`` is no figure, and is kept with them for the report to compare.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allograft.errors import AllograftError, SpecError
from allograft.tree import plain

TILE = 112
"""Pixels that the longer side of an image in a figure has at most."""


@dataclass(frozen=True)
class Lines:
    """Curves over one axis.

    Args:
        title: a sentence fragment: "loss of the adaptation".
        x: (N,) positions.
        y: name of a curve -> (N,) values; None where there is none.
        x_axis, y_axis: what they are, with the unit.
        spread: name of a curve -> (N,) half the length of a whisker at each value, or None.
    """

    title: str
    x: tuple[float, ...]
    y: Mapping[str, tuple[float | None, ...]]
    x_axis: str
    y_axis: str
    spread: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    shows_images: ClassVar[bool] = False


@dataclass(frozen=True)
class Heatmap:
    """A table of numbers as colours.

    Args:
        title: a sentence fragment.
        rows, columns: names, top to bottom and left to right.
        values: (rows, columns); None is left blank.
        low, high: the ends of the colour scale; by default those of the values.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float | None = None
    high: float | None = None

    shows_images: ClassVar[bool] = False


@dataclass(frozen=True)
class Points:
    """Dots on a plane, such as an embedding of cases.

    Args:
        title: a sentence fragment.
        x, y: (N,) positions.
        group: (N,) names; each has a symbol of its own: "source", "target".
        colour: (N,) numbers on a scale, or class indices (int) with a colour each; empty for one
            colour a group.
        colour_axis: what the colour says.
    """

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    group: tuple[str, ...]
    colour: tuple[float | int, ...] = ()
    colour_axis: str = ""

    shows_images: ClassVar[bool] = False


@dataclass(frozen=True)
class Images:
    """Small images in rows, grey or in colours: examples of a cluster, say, or what a layer does
    over an image.

    They are patients' images: a page without images leaves the figure out.

    Args:
        title: a sentence fragment.
        rows: (rows, columns) PNG files in base64, as ``from_arrays`` makes them; rows may differ
            in length.
        names: (rows,) what is in each row; empty for none.
        captions: as ``rows``, a few words for each image; empty for none.
        subjects: as ``rows``, whose image each is, "" where it is nobody's; empty for none. The
            report writes ordinals in their place.
        note: sentences on how to read it.

    Raises:
        SpecError: names, captions or subjects that are not as many as the images.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    subjects: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    shows_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        lengths = [len(row) for row in self.rows]
        for key, words in (("captions", self.captions), ("subjects", self.subjects)):
            if words and (lengths_of_words := [len(row) for row in words]) != lengths:
                expected = f"expected {lengths}, one for each image, or none"
                raise SpecError(f"images '{self.title}': rows of {lengths_of_words} {key}; {expected}")
        if self.names and len(self.names) != len(lengths):
            expected = f"expected {len(lengths)}, one for each row, or none"
            raise SpecError(f"images '{self.title}': {len(self.names)} names; {expected}")

    @staticmethod
    def from_arrays(
        title: str,
        rows: Sequence[Sequence[NDArray[np.uint8]]],
        *,
        names: Sequence[str] = (),
        captions: Sequence[Sequence[str]] = (),
        subjects: Sequence[Sequence[str]] = (),
        note: str = "",
    ) -> Images:
        """Images (H, W) of greys, or (H, W, 3) of colours, shrunk to ``TILE``; ``allograft.grey``
        makes greys of other numbers.

        >>> Images.from_arrays("an edge", [[np.eye(8, dtype=np.uint8) * 255]], names=["diagonal"]).rows[0][0][:16]
        'iVBORw0KGgoAAAAN'
        """
        made = tuple(tuple(map(_png, row)) for row in rows)
        return Images(title, made, tuple(names), tuple(map(tuple, captions)), tuple(map(tuple, subjects)), note)


def _png(image: NDArray[np.uint8]) -> str:
    """A PNG of 64 greys, or of a palette of 64 colours, in base64."""
    from PIL import Image

    canvas, file = Image.fromarray(image, "L" if image.ndim == 2 else "RGB"), io.BytesIO()
    canvas.thumbnail((TILE, TILE))  # one that is smaller stays as it is
    if image.ndim == 2:
        canvas = canvas.point([level // 4 * 4 for level in range(256)])
    else:
        canvas = canvas.quantize(64, dither=Image.Dither.NONE)
    canvas.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Relabelled:
    """The boxes that a method trained on in the place of those it was given, by epoch.

    A report compares them with boxes that the method cannot see, those of further readers. It names
    cases, so nothing draws it.

    Args:
        cases: (N,) names.
        epochs: (E,) from 0, in order; the training ended with the boxes of the last one.
        xyxy: (E, N) of (boxes, 4), on the study's grid.
        label: (E, N) of (boxes,), from 1.
    """

    cases: tuple[str, ...]
    epochs: tuple[int, ...]
    xyxy: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]
    label: tuple[tuple[tuple[int, ...], ...], ...]


Figure = Lines | Heatmap | Points | Images
_KINDS: dict[str, type[Any]] = {
    "lines": Lines,
    "heatmap": Heatmap,
    "points": Points,
    "images": Images,
    "relabelled": Relabelled,
}


def to_json(figure: Figure | Relabelled) -> dict[str, Any]:
    """JSON values, with the kind.

    >>> from_json(to_json(Lines("loss", (0.0, 1.0), {"dice": (1.0, 0.5)}, "step", "loss"))).y
    {'dice': (1.0, 0.5)}
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(figure, cls))
    return {"kind": kind, **plain(figure)}


def from_json(tree: Mapping[str, Any]) -> Figure | Relabelled:
    """What ``to_json`` wrote. ``AllograftError`` for anything else."""
    try:
        cls = _KINDS[tree["kind"]]
        made: Figure | Relabelled = cls(**{f.name: _tuples(tree[f.name]) for f in fields(cls) if f.name in tree})
    except (KeyError, TypeError) as error:
        raise AllograftError(f"figure: expected what a unit keeps in figures.json, found {error}") from error
    return made


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return value


def thinned(values: Mapping[str, list[float]], title: str, most: int = 200) -> Lines:
    """Curves of many steps as means over at most ``most`` equal windows.

    >>> thinned({"dice": [4.0, 2.0, 1.0, 1.0]}, "loss", most=2)
    Lines(title='loss', x=(1.5, 3.5), y={'dice': (3.0, 1.0)}, x_axis='step', y_axis='loss', spread={})
    """
    steps = max(map(len, values.values()), default=0)
    width = max(1, -(-steps // most))
    starts = range(0, steps, width)

    def mean(part: list[float]) -> float | None:
        return sum(part) / len(part) if part else None

    x = tuple(start + (min(width, steps - start) + 1) / 2 for start in starts)
    y = {name: tuple(mean(each[start : start + width]) for start in starts) for name, each in values.items()}
    return Lines(title, x, y, "step", "loss")
