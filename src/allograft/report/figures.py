"""What a recipe shows beside its scores (``allograft.figure``) as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from markupsafe import Markup

from allograft.figure import Figure, Heatmap, Images, Lines, Points
from allograft.report.drawn import NOTHING, RIGHT, WIDTH, Drawn, Hide
from allograft.report.heatmap import draw_heatmap
from allograft.report.svg import (
    Scale,
    colour_at,
    colour_bar,
    ends_of,
    number,
    share_of,
    svg,
    ticks,
    whiskers,
    x_axis,
    y_axis,
)
from allograft.report.tiles import draw_images

HEIGHT, LEFT, TOP = 280, 58, 24
COLOURS, DASHES = 8, ("", "7 3", "2 3", "9 3 2 3")
"""Curves take turns with the colours; those of the second turn are dashed."""
FILLS = ("", " hollow", " ringed")
"""So do classes, with a fill a turn: 24 looks. Their shape is free to say the group."""
MOST_POINTS, MOST_DOTS = 1000, 40
"""Of more points every k-th is drawn; short curves have dots to point at."""
SYMBOLS = ("circle", "square", "triangle", "diamond", "cross", "plus")


def draw_figure(figure: Figure, hide: Hide, ordinals: Mapping[str, str] = MappingProxyType({})) -> Drawn:
    """A figure; numbers that are none are gaps.

    Args:
        hide: takes names of patients out of its words.
        ordinals: subject -> what is written for the subject of an image; others are not named.

    Example:
        >>> drawn = draw_figure(Lines("loss", (1.0, 2.0), {"dice": (0.9, 0.4)}, "step", "loss"), str)
        >>> drawn.picture.count("<path"), drawn.legend
        (1, ())
    """
    match figure:
        case Lines():
            return _lines(figure, hide)
        case Heatmap():
            return draw_heatmap(figure, hide)
        case Points():
            return _points(figure, hide)
        case Images():
            return draw_images(figure, hide, ordinals)


def _lines(figure: Lines, hide: Hide) -> Drawn:
    title, curves = hide(figure.title), [(hide(name), _pairs(figure.x, y)) for name, y in figure.y.items()]
    known = [(x, y) for _, curve in curves for x, y in curve if y is not None]
    if not known:
        return Drawn(title, NOTHING)
    bars = [_bars(figure, name) for name in figure.y]
    heights = [*(y for _, y in known), *(end for each in bars for bar in each for end in bar[1:])]
    first, last = min(x for x, _ in known), max(x for x, _ in known)
    marks, levels = ticks(first, last, 5), ticks(min(heights), max(heights), 5)
    low, high = (first, last) if last > first else (marks[0], marks[-1])
    to_x, to_y = Scale(low, high, LEFT, WIDTH - RIGHT), Scale(levels[0], levels[-1], HEIGHT - 42, TOP)
    inside = [mark for mark in marks if low <= mark <= high]
    parts = [
        x_axis(inside, to_x, TOP, HEIGHT - 42, hide(figure.x_axis)),
        y_axis(levels, to_y, LEFT, WIDTH - RIGHT, hide(figure.y_axis)),
    ]
    parts += [whiskers(each, f"c{number % COLOURS}", to_x, to_y) for number, each in enumerate(bars)]
    parts += [_curve(name, curve, number, to_x, to_y) for number, (name, curve) in enumerate(curves)]
    legend = [_swatch(number, name) for number, (name, _) in enumerate(curves)] if len(curves) > 1 else []
    return Drawn(title, svg(WIDTH, HEIGHT, f"{title}: {', '.join(name for name, _ in curves)}", parts), tuple(legend))


def _pairs(x: Sequence[float], y: Sequence[float | None]) -> list[tuple[float, float | None]]:
    """Places with their values; None where the value is no number."""
    return [
        (a, b if b is not None and math.isfinite(b) else None) for a, b in zip(x, y, strict=False) if math.isfinite(a)
    ]


def _bars(figure: Lines, name: str) -> list[tuple[float, float, float]]:
    """(x, low, high) of a curve's whiskers."""
    every = zip(_pairs(figure.x, figure.y[name]), _pairs(figure.x, figure.spread.get(name, ())), strict=False)
    return [(x, y - half, y + half) for (x, y), (_, half) in every if y is not None and half is not None]


def _curve(name: str, curve: Sequence[tuple[float, float | None]], which: int, to_x: Scale, to_y: Scale) -> Markup:
    path, pen = [], "M"
    for x, y in curve:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{to_x(x):g} {to_y(y):g}")
        pen = "L"
    last = next((y for _, y in reversed(curve) if y is not None), None)
    label = name if last is None else f"{name}: {number(last)} at the end"
    shown = Markup('<path class="curve c{}"{} d="{}"><title>{}</title></path>').format(
        which % COLOURS, _dash(which), "".join(path), label
    )
    known = [(x, y) for x, y in curve if y is not None]
    if len(known) > MOST_DOTS:
        return shown
    dot = Markup('<circle class="at c{}" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>')
    return shown + Markup("").join(
        dot.format(which % COLOURS, to_x(x), to_y(y), f"{name}: {number(y)} at {number(x)}") for x, y in known
    )


def _dash(number: int) -> Markup:
    dash = DASHES[number // COLOURS % len(DASHES)]
    return Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")


def _swatch(number: int, name: str) -> Markup:
    line = Markup(
        '<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true"><path class="curve c{}"{} d="M1 6H25"/></svg>{}'
    )
    return line.format(number % COLOURS, _dash(number), name)


def _points(figure: Points, hide: Hide) -> Drawn:
    title, axis = hide(figure.title), hide(figure.colour_axis)
    every = [
        n for n, (x, y) in enumerate(zip(figure.x, figure.y, strict=True)) if math.isfinite(x) and math.isfinite(y)
    ]
    if not every:
        return Drawn(title, NOTHING)
    stride = math.ceil(len(every) / MOST_POINTS)
    kept = every[::stride]
    groups = {group: (which, hide(group)) for which, group in enumerate(dict.fromkeys(figure.group))}
    colours = figure.colour if len(figure.colour) == len(figure.x) else ()
    classes = bool(colours) and all(isinstance(value, int) for value in colours)
    ends = ends_of([value for value in colours if math.isfinite(value)]) if colours and not classes else None
    right, up = ticks(*_span([figure.x[n] for n in every])), ticks(*_span([figure.y[n] for n in every]))
    to_x, to_y = Scale(right[0], right[-1], 10, WIDTH - 10), Scale(up[0], up[-1], WIDTH * 0.8 - 10, 10)
    parts = [
        Markup('<rect class="plane" x="0.5" y="0.5" width="{}" height="{}"/>').format(WIDTH - 1, round(WIDTH * 0.8) - 1)
    ]
    for n in kept:
        (which, name), value = groups[figure.group[n]], colours[n] if colours else None
        kind, fill = _paint(which, value, classes, ends)
        label = name + ("" if value is None else f", {axis or 'colour'} {number(value)}")
        parts.append(_symbol(which, to_x(figure.x[n]), to_y(figure.y[n]), kind, fill, label))
    legend = [_key(which, name, grey=bool(colours)) for which, name in groups.values()]
    legend += [_chip(index, f"{axis} {index}".strip()) for index in sorted(set(colours))] if classes else []
    legend += [colour_bar(*ends, axis)] if ends else []
    note = f"one in {stride} of {len(every)} points is drawn" if stride > 1 else ""
    return Drawn(
        title,
        svg(WIDTH, WIDTH * 0.8, f"{title}: {', '.join(name for _, name in groups.values())}", parts),
        tuple(legend),
        note,
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)


def _paint(group: int, value: float | int | None, classes: bool, ends: tuple[float, float] | None) -> tuple[str, str]:
    """A class of the page's colours, and a colour of the scale where there is one."""
    if value is None:
        return f"c{group % COLOURS}", ""
    if classes:
        return _look(int(value)), ""
    return ("none", "") if ends is None or not math.isfinite(value) else ("", colour_at(share_of(value, *ends)))


def _look(index: int) -> str:
    """The page's classes of a class index.

    >>> _look(3), _look(11), _look(19)
    ('c3', 'c3 hollow', 'c3 ringed')
    """
    return f"c{index % COLOURS}{FILLS[index // COLOURS % len(FILLS)]}"


def _symbol(group: int, x: float, y: float, kind: str, fill: str, label: str) -> Markup:
    shape = SYMBOLS[group % len(SYMBOLS)]
    path = {
        "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        "square": "M-3.5-3.5h7v7h-7z",
        "triangle": "M0-4.6L4.4 3.4H-4.4z",
        "diamond": "M0-5L5 0L0 5L-5 0z",
        "cross": "M-4-2.4L-2.4-4L0-1.6L2.4-4L4-2.4L1.6 0L4 2.4L2.4 4L0 1.6L-2.4 4L-4 2.4L-1.6 0z",
        "plus": "M-1.3-4.6h2.6v3.3h3.3v2.6h-3.3v3.3h-2.6v-3.3h-3.3v-2.6h3.3z",
    }[shape]
    colour = Markup(' style="fill:{}"').format(fill) if fill else Markup("")
    mark = Markup('<path class="point {}"{} transform="translate({} {})" d="{}"><title>{}</title></path>')
    return mark.format(kind, colour, x, y, path, label)


def _key(group: int, name: str, *, grey: bool) -> Markup:
    kind = "none" if grey else f"c{group % COLOURS}"
    picture = Markup('<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{}</svg>{}')
    return picture.format(_symbol(group, 0, 0, kind, "", name), name)


def _chip(index: float, name: str) -> Markup:
    picture = Markup('<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{}</svg>{}')
    return picture.format(
        Markup('<rect class="point {}" x="-6" y="-6" width="12" height="12" rx="3"/>').format(_look(int(index))), name
    )
