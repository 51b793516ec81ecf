"""The plots of a report's scores as inline SVG, written by hand: they take the page's fonts and
colours, and are the same to the byte."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from allograft.report.svg import Scale, svg, ticks, x_axis

WIDTH, GUTTER, RIGHT = 860, 220, 24
WIDER, BETWEEN, SHARE = 1112, 56, 0.62
"""Of a plot with costs: its width, the room before them, and the share of the plots that scores
have."""
ROW, RADIUS, LANES = 38, 4.0, (0, 1, -1, 2, -2)
MOST_DOTS = 200
"""Of more subjects every k-th in the order of their scores is drawn."""
FEWEST, HALF, GRID = 8, 16.0, 64
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
class Costs:
    """What the rows cost, beside their dots.

    Args:
        alone, given: seconds of each row, with all that it is built on and given the source model;
            None where they are not known.
    """

    alone: Sequence[float | None]
    given: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        """All that are there."""
        return [seconds for seconds in (*self.alone, *self.given) if seconds is not None]


def strip_plot(
    strips: Sequence[Strip],
    axis: str,
    reference: float | None,
    *,
    rows: str = "recipe",
    at: str = "no adaptation",
    costs: Costs | None = None,
) -> Markup:
    """One dot a subject before the outline of their density, one row a recipe; a line at the score,
    a dashed one at ``reference``.

    Args:
        rows: what a row stands for.
        at: what the dashed line stands for.
        costs: drawn to the right, in the same rows: a dot for the seconds given the source model, a
            ring for those with its training.
    """
    values = [
        *(value for strip in strips for value in strip.dots.values()),
        *(s.mark for s in strips if s.mark is not None),
    ]
    if not values:
        return Markup("")
    values += [] if reference is None else [reference]
    width = WIDER if costs is not None and costs.known else WIDTH
    end = WIDTH - RIGHT if width == WIDTH else GUTTER + (WIDER - RIGHT - GUTTER - BETWEEN) * SHARE
    marks = ticks(min(values), max(values))
    scale = Scale(marks[0], marks[-1], GUTTER, end)
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
    if costs is not None and costs.known:
        parts.append(_costs(strips, costs, middles, (end + BETWEEN, WIDER - RIGHT, bottom)))
    return svg(width, bottom + 46, f"{axis} of each test subject, by {rows}", parts)


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that a span of time is told in, and its name.

    >>> time_unit(90.0), time_unit(5000.0), time_unit(40000.0)
    ((1.0, 'seconds'), (60.0, 'minutes'), (3600.0, 'hours'))
    """
    return (1.0, "seconds") if seconds < 600 else (60.0, "minutes") if seconds < 7200 else (3600.0, "hours")


def _costs(strips: Sequence[Strip], costs: Costs, middles: Sequence[float], box: tuple[float, float, float]) -> Markup:
    """The cost of each row, in (left, right, bottom)."""
    left, right, bottom = box
    unit, name = time_unit(max(costs.known))
    marks = ticks(0.0, max(costs.known) / unit or 1.0, 4)
    scale = Scale(marks[0], marks[-1], left, right)
    parts = [x_axis(marks, scale, 8, bottom, f"training, {name}")]
    dot = Markup('<circle class="{}" cx="{}" cy="{}" r="{:g}"><title>{}</title></circle>')
    line = Markup('<line class="{}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
    for strip, alone, given, y in zip(strips, costs.alone, costs.given, middles, strict=True):
        parts.append(line.format("base", left, right, y=y))
        if alone is None or given is None:
            continue
        chosen = " chosen" if strip.chosen else ""
        near, far = scale(given / unit), scale(alone / unit)
        if alone > given:
            tip = f"{strip.title}: {alone / unit:,.1f} {name} with the training of the source model"
            parts += [line.format("link", near, far, y=y), dot.format(f"ring{chosen}", far, y, 4.5, tip)]
        parts.append(dot.format(f"dot{chosen}", near, y, 5, f"{strip.title}: {given / unit:,.1f} {name}"))
    return Markup("").join(parts)


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
    outline = density(list(strip.dots.values()))
    if outline is None:
        return Markup("")
    kind = " chosen" if strip.chosen else ""
    upper = [f"{scale(at):g},{y - HALF * height:.1f}" for at, height in zip(*outline, strict=True)]
    lower = [f"{scale(at):g},{y + HALF * height:.1f}" for at, height in zip(*outline, strict=True)]
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
