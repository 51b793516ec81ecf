"""The plots of a report as inline SVG, written by hand: they take the page's fonts and colours, and are the same to the byte."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, GUTTER, RIGHT = 860, 220, 24
ROW, RADIUS, LANES = 46, 4.0, (0, 1, -1, 2, -2)
MOST_DOTS = 200
"""Of more subjects every k-th in the order of their scores is drawn."""


@dataclass(frozen=True)
class Strip:
    """A row of dots.

    Args:
        title: its name.
        dots: label -> value.
        mark: where the short line stands: the score of the table.
        recommended: drawn in the accent colour.
    """

    title: str
    dots: Mapping[str, float]
    mark: float | None
    recommended: bool = False


@dataclass(frozen=True)
class Point:
    """A dot with a name at (cost, score)."""

    title: str
    x: float
    y: float
    recommended: bool = False


@dataclass(frozen=True)
class Scale:
    """A straight line from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At most about ``count`` round numbers whose ends enclose [low, high].

    >>> ticks(0.41, 0.83)
    [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    """
    if not high > low:
        low, high = (low - 0.05, low + 0.05) if abs(low) <= 1 else (low * 0.95 - 1e-9, low * 1.05 + 1e-9)
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def strip_plot(strips: Sequence[Strip], axis: str, reference: float | None) -> Markup:
    """One dot a subject, one row a recipe; a short line at the score, a dashed one through all rows at ``reference``."""
    values = [*(value for strip in strips for value in strip.dots.values()), *(s.mark for s in strips if s.mark is not None)]
    if not values:
        return Markup("")
    marks = ticks(min(values), max(values))
    scale = Scale(marks[0], marks[-1], GUTTER, WIDTH - RIGHT)
    bottom = 8 + ROW * len(strips)
    parts = [_x_axis(marks, scale, 8, bottom, axis)]
    if reference is not None:
        x = scale(reference)
        parts.append(Markup('<line class="reference" x1="{0}" x2="{0}" y1="8" y2="{1}"><title>do nothing</title></line>').format(x, bottom))
    parts += [_strip(strip, scale, 8 + ROW * (number + 0.5)) for number, strip in enumerate(strips)]
    return _svg(bottom + 46, f"{axis} of each test subject, by recipe", parts)


def scatter(points: Sequence[Point], x_axis: str, y_axis: str) -> Markup:
    """Cost to the right, score upwards; names stand beside their dots where there is room."""
    if not points:
        return Markup("")
    across = ticks(0.0, max(point.x for point in points) or 1.0)
    up = ticks(min(point.y for point in points), max(point.y for point in points), 5)
    top, bottom, left = 28, 320, 64
    to_x, to_y = Scale(across[0], across[-1], left, WIDTH - RIGHT), Scale(up[0], up[-1], bottom, top)
    parts = [_x_axis(across, to_x, top, bottom, x_axis), Markup('<text class="axis" x="8" y="14">{}</text>').format(y_axis)]
    for mark in up:
        y = to_y(mark)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(left, WIDTH - RIGHT, y=y))
        parts.append(Markup('<text class="tick" text-anchor="end" x="{}" y="{}">{:g}</text>').format(left - 8, y + 4, mark))
    places = [(to_x(point.x), to_y(point.y)) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point, (x, y) in zip(points, places, strict=True):
        kind = "dot recommended" if point.recommended else "dot"
        tip = f"{point.title}: {point.y:.3f}, {point.x:,.1f}"
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="5"><title>{}</title></circle>').format(kind, x, y, tip))
        parts.append(_name(point, x, y, taken, (left, top - 8, WIDTH - 2, bottom - 2)))
    return _svg(bottom + 46, f"{y_axis} against {x_axis}, by recipe", parts)


def _svg(height: float, title: str, parts: Sequence[Markup]) -> Markup:
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(WIDTH, round(height), title, body)


def _x_axis(marks: Sequence[float], scale: Scale, top: float, bottom: float, name: str) -> Markup:
    line = Markup('<line class="grid" x1="{x}" x2="{x}" y1="{}" y2="{}"/><text class="tick" text-anchor="middle" x="{x}" y="{}">{}</text>')
    parts = [line.format(top, bottom, bottom + 18, f"{mark:,.10g}", x=scale(mark)) for mark in marks]
    end = Markup('<text class="axis" text-anchor="end" x="{}" y="{}">{}</text>').format(scale.end, bottom + 38, name)
    return Markup("").join([*parts, end])


def _strip(strip: Strip, scale: Scale, y: float) -> Markup:
    kind = " recommended" if strip.recommended else ""
    shown = textwrap.wrap(strip.title, 32)
    words = [*shown[:1], shown[1] + "…"] if len(shown) > 2 else shown
    lines = [(word, y + 4 + 15 * (number - (len(words) - 1) / 2)) for number, word in enumerate(words)]
    parts = [
        Markup('<text class="name{}" x="0" y="{}">{}<title>{}</title></text>').format(kind, at, word, strip.title) for word, at in lines
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
            Markup('<line class="mean{}" x1="{x}" x2="{x}" y1="{}" y2="{}"><title>{}</title></line>').format(kind, y - 15, y + 15, tip, x=x)
        )
    return Markup("").join(parts)


def _swarm(dots: Mapping[str, float], scale: Scale) -> list[tuple[float, float, str]]:
    """(x, distance from the middle, tip) of each dot, those that would overlap side by side."""
    ranked = sorted(dots.items(), key=lambda item: (item[1], item[0]))
    ranked = ranked[:: math.ceil(len(ranked) / MOST_DOTS) or 1]
    last = dict.fromkeys(LANES, -math.inf)
    placed = []
    for label, value in ranked:
        x = scale(value)
        lane = next((lane for lane in LANES if x - last[lane] >= 2 * RADIUS + 0.5), min(LANES, key=lambda lane: last[lane]))
        last[lane] = x
        placed.append((x, lane * (2 * RADIUS), f"{label}: {value:.3f}"))
    return placed


Box = tuple[float, float, float, float]


def _name(point: Point, x: float, y: float, taken: list[Box], bounds: Box) -> Markup:
    """The name beside its dot, or nothing where all places are taken: the dot has a tip, and the table has the name."""
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
            kind = "label recommended" if point.recommended else "label"
            return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, round(x + dx, 1), round(y + dy, 1), words)
    return Markup("")
