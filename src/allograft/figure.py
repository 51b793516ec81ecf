"""What a method wants to show beside its scores: data for a plot, which the report draws. No image and no patient's name goes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from allograft.errors import AllograftError
from allograft.tree import plain


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


@dataclass(frozen=True)
class Points:
    """Dots on a plane, such as an embedding of cases.

    Args:
        title: a sentence fragment.
        x, y: (N,) positions.
        group: (N,) names; each has a symbol of its own: "source", "target".
        colour: (N,) numbers on a scale, or class indices (int) with a colour each; empty for one colour a group.
        colour_axis: what the colour says.
        numbers: (N,) which training image of its group each dot is, counted from 0 in the order in which the recipe was given them; a
            number names nobody. Where they are told, the report draws the images in the middle of each class of colour.
    """

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    group: tuple[str, ...]
    colour: tuple[float | int, ...] = ()
    colour_axis: str = ""
    numbers: tuple[int, ...] = ()


Figure = Lines | Heatmap | Points
_KINDS: dict[str, type[Any]] = {"lines": Lines, "heatmap": Heatmap, "points": Points}


def to_json(figure: Figure) -> dict[str, Any]:
    """JSON values, with the kind.

    >>> from_json(to_json(Lines("loss", (0.0, 1.0), {"dice": (1.0, 0.5)}, "step", "loss"))).y
    {'dice': (1.0, 0.5)}
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(figure, cls))
    return {"kind": kind, **plain(figure)}


def from_json(tree: Mapping[str, Any]) -> Figure:
    """What ``to_json`` wrote. ``AllograftError`` for anything else."""
    try:
        cls = _KINDS[tree["kind"]]
        made: Figure = cls(**{f.name: _tuples(tree[f.name]) for f in fields(cls) if f.name in tree})
    except (KeyError, TypeError) as error:
        raise AllograftError(f"figure: expected what a unit keeps in figures.json, found {error}") from error
    return made


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
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
