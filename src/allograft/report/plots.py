"""The plots of a report's scores as inline SVG, written by hand: they take the page's fonts and
colours, and are the same to the byte."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from allograft.report.svg import Scale, svg, ticks, x_axis, y_axis

WIDTH, GUTTER, RIGHT = 860, 220, 24
ROW, RADIUS, LANES = 46, 4.0, (0, 1, -1, 2, -2)
MOST_DOTS = 200
"""Of more subjects every k-th in the order of their scores is drawn."""
FEWEST, HALF, GRID = 8, 19.0, 64
"""Subjects below which no outline is drawn; half its height at most, in pixels; places at which it
is computed."""


@dataclass(frozen=True)
class Strip:
    """A row of dots.

    Args:
        title: its name.
        dots: label -> value.
        mark: where the short line stands: the score of the table.
        chosen: drawn in the accent colour.
    """

    title: str
    dots: Mapping[str, float]
    mark: float | None
    chosen: bool = False


@dataclass(frozen=True)
class Point:
    """A dot with a name at (cost, score)."""

    title: str
    x: float
    y: float
    chosen: bool = False


def strip_plot(
    strips: Sequence[Strip], axis: str, reference: float | None, *, rows: str = "recipe", at: str = "no adaptation"
) -> Markup:
    """One dot a subject before the outline of their density, one row a recipe; a line at the score,
    a dashed one at ``reference``.

    Args:
        rows: what a row stands for.
        at: what the dashed line stands for.
    """
    values = [
        *(value for strip in strips for value in strip.dots.values()),
        *(s.mark for s in strips if s.mark is not None),
    ]
    if not values:
        return Markup("")
    values += [] if reference is None else [reference]
    marks = ticks(min(values), max(values))
    scale = Scale(marks[0], marks[-1], GUTTER, WIDTH - RIGHT)
    bottom = 8 + ROW * len(strips)
    middles = [8 + ROW * (number + 0.5) for number in range(len(strips))]
    parts = [x_axis(marks, scale, 8, bottom, axis)]
    parts += [_violin(strip, scale, y) for strip, y in zip(strips, middles, strict=True)]
    if reference is not None:
        x = scale(reference)
        parts.append(
            Markup('<line class="reference" x1="{0}" x2="{0}" y1="8" y2="{1}"><title>{2}</title></line>').format(
                x, bottom, at
            )
        )
    parts += [_strip(strip, scale, y) for strip, y in zip(strips, middles, strict=True)]
    return svg(WIDTH, bottom + 46, f"{axis} of each test subject, by {rows}", parts)


def scatter(points: Sequence[Point], x_axis_name: str, y_axis_name: str) -> Markup:
    """Cost to the right, score upwards; names stand beside their dots where there is room."""
    if not points:
        return Markup("")
    across = ticks(0.0, max(point.x for point in points) or 1.0)
    up = ticks(min(point.y for point in points), max(point.y for point in points), 5)
    top, bottom, left = 28, 320, 64
    to_x, to_y = Scale(across[0], across[-1], left, WIDTH - RIGHT), Scale(up[0], up[-1], bottom, top)
    parts = [x_axis(across, to_x, top, bottom, x_axis_name), y_axis(up, to_y, left, WIDTH - RIGHT, y_axis_name)]
    places = [(to_x(point.x), to_y(point.y)) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point, (x, y) in zip(points, places, strict=True):
        kind = "dot chosen" if point.chosen else "dot"
        tip = f"{point.title}: {point.y:.3f}, {point.x:,.1f}"
        parts.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="5"><title>{}</title></circle>').format(kind, x, y, tip)
        )
        parts.append(_name(point, x, y, taken, (left, top - 8, WIDTH - 2, bottom - 2)))
    return svg(WIDTH, bottom + 46, f"{y_axis_name} against {x_axis_name}, by recipe", parts)


def _strip(strip: Strip, scale: Scale, y: float) -> Markup:
    kind = " chosen" if strip.chosen else ""
    shown = textwrap.wrap(strip.title, 32)
    words = [*shown[:1], shown[1] + "…"] if len(shown) > 2 else shown
    lines = [(word, y + 4 + 15 * (number - (len(words) - 1) / 2)) for number, word in enumerate(words)]
    parts = [
        Markup('<text class="name{}" x="0" y="{}">{}<title>{}</title></text>').format(kind, at, word, strip.title)
        for word, at in lines
    ]
    parts.append(Markup('<line class="base" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(scale.start, scale.end, y=y))
    if not strip.dots:
        parts.append(Markup('<text class="tick" x="{}" y="{}">no score</text>').format(scale.start + 6, y - 5))
    dot = Markup('<circle class="dot{}" cx="{}" cy="{}" r="{:g}"><title>{}</title></circle>')
    parts += [dot.format(kind, x, round(y + rise, 1), RADIUS, tip) for x, rise, tip in _swarm(strip.dots, scale)]
    if strip.mark is not None:
        x = scale(strip.mark)
        tip = f"score of the table: {strip.mark:.3f}"
        parts.append(
            Markup('<line class="mean{}" x1="{x}" x2="{x}" y1="{}" y2="{}"><title>{}</title></line>').format(
                kind, y - 15, y + 15, tip, x=x
            )
        )
    return Markup("").join(parts)


def density(values: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """A Gaussian kernel density of scores between the lowest and the highest of them, scaled to a
    highest value of 1.

    The bandwidth is Silverman's rule of thumb (1986, eq. 3.31): 0.9 min(sd, interquartile range /
    1.34) n^(-1/5). Nothing is drawn where no subject lies beyond; fewer than eight subjects, or all
    at one value, have no density.

    Returns:
        (64,) places and (64,) heights, or None.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < FEWEST or x.max() <= x.min():
        return None
    low, high = np.percentile(x, (25, 75))
    # more than half of them may be equal
    spread = min(x.std(ddof=1), (high - low) / 1.34) or x.std(ddof=1)
    width = 0.9 * spread * len(x) ** -0.2
    grid = np.linspace(x.min(), x.max(), GRID)
    heights = sum(np.exp(-0.5 * ((grid - value) / width) ** 2) for value in np.sort(x))
    return grid.tolist(), (heights / np.max(heights)).tolist()


def _violin(strip: Strip, scale: Scale, y: float) -> Markup:
    found = density(list(strip.dots.values()))
    if found is None:
        return Markup("")
    kind = " chosen" if strip.chosen else ""
    upper = [f"{scale(at):g},{y - HALF * height:.1f}" for at, height in zip(*found, strict=True)]
    lower = [f"{scale(at):g},{y + HALF * height:.1f}" for at, height in zip(*found, strict=True)]
    return Markup('<polygon class="violin{}" points="{}"/>').format(kind, " ".join([*upper, *reversed(lower)]))


def _swarm(dots: Mapping[str, float], scale: Scale) -> list[tuple[float, float, str]]:
    """(x, distance from the middle, tip) of each dot, those that would overlap side by side."""
    ranked = sorted(dots.items(), key=lambda item: (item[1], item[0]))
    ranked = ranked[:: math.ceil(len(ranked) / MOST_DOTS) or 1]
    last = dict.fromkeys(LANES, -math.inf)
    placed = []
    for label, value in ranked:
        x = scale(value)
        lane = next(
            (lane for lane in LANES if x - last[lane] >= 2 * RADIUS + 0.5), min(LANES, key=lambda lane: last[lane])
        )
        last[lane] = x
        placed.append((x, lane * (2 * RADIUS), f"{label}: {value:.3f}"))
    return placed


Box = tuple[float, float, float, float]


def _name(point: Point, x: float, y: float, taken: list[Box], bounds: Box) -> Markup:
    """The name beside its dot, or nothing where all places are taken: the dot has a tip, and the
    table has the name."""
    words = textwrap.shorten(point.title, 40, placeholder="…") if len(point.title) > 40 else point.title
    width = 7.0 * len(words)
    for dx, dy in (
        (10, 4),
        (-10 - width, 4),
        (10, -9),
        (10, 17),
        (-10 - width, -9),
        (-10 - width, 17),
        (-width / 2, -12),
        (-width / 2, 22),
    ):
        box = (x + dx, y + dy - 11, x + dx + width, y + dy + 3)
        inside = box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            kind = "label chosen" if point.chosen else "label"
            return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
                kind, round(x + dx, 1), round(y + dy, 1), words
            )
    return Markup("")
