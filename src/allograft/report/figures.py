"""What a recipe shows beside its scores (``allograft.figure``) as inline SVG: curves, tables of colours, dots on a plane."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from allograft.figure import Figure, Heatmap, Lines, Points
from allograft.report.svg import SCALE, Scale, colour_at, is_light, number, svg, ticks, whiskers, x_axis, y_axis

WIDTH, HEIGHT, LEFT, RIGHT, TOP = 460, 280, 58, 12, 24
COLOURS, DASHES = 8, ("", "7 3", "2 3", "9 3 2 3")
"""Curves take turns with the colours; those of the second turn are dashed."""
FILLS = ("", " hollow", " ringed")
"""So do classes, with a fill a turn: 24 looks. Their shape is free to say the group."""
MOST_POINTS, MOST_CELLS, MOST_NUMBERS, MOST_DOTS = 1000, 900, 150, 40
"""Of more points every k-th is drawn; more cells become a picture; fewer have their number in them; short curves have dots to point at."""
NOTHING = Markup('<p class="quiet">no values</p>')
SYMBOLS = ("circle", "square", "triangle", "diamond", "cross", "plus")
Hide = Callable[[str], str]


@dataclass(frozen=True)
class Drawn:
    """A figure as the page takes it.

    Args:
        title: a sentence fragment.
        picture: SVG, or words in its place.
        legend: what colours and symbols mean.
        note: what is not drawn, or "".
    """

    title: str
    picture: Markup
    legend: tuple[Markup, ...] = ()
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes it takes of the page, about."""
        return len(self.picture.encode()) + sum(len(one.encode()) for one in self.legend) + 400


def draw_figure(figure: Figure, hide: Hide) -> Drawn:
    """A figure; numbers that are none are gaps. ``hide`` takes names of patients out of its words.

    Example:
        >>> drawn = draw_figure(Lines("loss", (1.0, 2.0), {"dice": (0.9, 0.4)}, "step", "loss"), str)
        >>> drawn.picture.count("<path"), drawn.legend
        (1, ())
    """
    match figure:
        case Lines():
            return _lines(figure, hide)
        case Heatmap():
            return _heatmap(figure, hide)
        case Points():
            return _points(figure, hide)


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
    parts = [x_axis(inside, to_x, TOP, HEIGHT - 42, hide(figure.x_axis)), y_axis(levels, to_y, LEFT, WIDTH - RIGHT, hide(figure.y_axis))]
    parts += [whiskers(each, f"c{which % COLOURS}", to_x, to_y) for which, each in enumerate(bars)]
    parts += [_curve(name, curve, which, to_x, to_y) for which, (name, curve) in enumerate(curves)]
    legend = [_swatch(which, name) for which, (name, _) in enumerate(curves)] if len(curves) > 1 else []
    return Drawn(title, svg(WIDTH, HEIGHT, f"{title}: {', '.join(name for name, _ in curves)}", parts), tuple(legend))


def _pairs(x: Sequence[float], y: Sequence[float | None]) -> list[tuple[float, float | None]]:
    """Places with their values; None where the value is no number."""
    return [(a, b if b is not None and math.isfinite(b) else None) for a, b in zip(x, y, strict=False) if math.isfinite(a)]


def _bars(figure: Lines, name: str) -> list[tuple[float, float, float]]:
    """(x, low, high) of a curve's whiskers."""
    every = zip(_pairs(figure.x, figure.y[name]), _pairs(figure.x, figure.spread.get(name, ())), strict=False)
    return [(x, y - half, y + half) for (x, y), (_, half) in every if y is not None and half is not None]


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _curve(name: str, curve: Sequence[tuple[float, float | None]], which: int, to_x: Scale, to_y: Scale) -> Markup:
    path, pen = [], "M"
    for x, y in curve:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{to_x(x):g} {to_y(y):g}")
        pen = "L"
    last = next((y for _, y in reversed(curve) if y is not None), None)
    told = name if last is None else f"{name}: {number(last)} at the end"
    shown = Markup('<path class="curve c{}"{} d="{}"><title>{}</title></path>').format(which % COLOURS, _dash(which), "".join(path), told)
    known = [(x, y) for x, y in curve if y is not None]
    if len(known) > MOST_DOTS:
        return shown
    dot = Markup('<circle class="at c{}" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>')
    return shown + Markup("").join(dot.format(which % COLOURS, to_x(x), to_y(y), f"{name}: {number(y)} at {number(x)}") for x, y in known)


def _dash(which: int) -> Markup:
    dash = DASHES[which // COLOURS % len(DASHES)]
    return Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")


def _swatch(which: int, name: str) -> Markup:
    line = Markup('<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true"><path class="curve c{}"{} d="M1 6H25"/></svg>{}')
    return line.format(which % COLOURS, _dash(which), name)


def _heatmap(figure: Heatmap, hide: Hide) -> Drawn:
    title = hide(figure.title)
    known = [value for row in figure.values for value in row if value is not None and math.isfinite(value)]
    ends = _ends(known)
    if ends is None:
        return Drawn(title, NOTHING)
    low, high = ends[0] if figure.low is None else figure.low, ends[1] if figure.high is None else figure.high
    rows, columns = [hide(name) for name in figure.rows], [hide(name) for name in figure.columns]
    count = max(len(columns), *(len(row) for row in figure.values))
    gutter = min(150.0, 12 + 6.6 * max(map(len, rows), default=0))
    wide = (WIDTH - gutter - RIGHT) / count
    tall = max(7.0, min(34.0, 300 / len(figure.values)))
    slanted = any(6.6 * len(name) > wide for name in columns)
    top = 8 + (min(90.0, 10 + 4.7 * max(map(len, columns), default=0)) if slanted else 16)
    parts = [_cells(figure.values, (gutter, top, wide, tall), (low, high), rows, columns)]
    every = math.ceil(13 / tall)
    name = Markup('<text class="tick" text-anchor="end" x="{}" y="{}">{}<title>{}</title></text>')
    for number_, row in list(enumerate(rows))[::every]:
        parts.append(name.format(round(gutter - 7, 1), round(top + tall * (number_ + 0.5) + 4, 1), _short(row, 21), row))
    parts += [_column(words, gutter + wide * (n + 0.5), top, slanted) for n, words in list(enumerate(columns))[:: math.ceil(13 / wide)]]
    return Drawn(title, svg(WIDTH, top + tall * len(figure.values) + 6, title, parts), (_bar(low, high, ""),))


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _column(words: str, x: float, top: float, slanted: bool) -> Markup:
    place = (
        Markup('text-anchor="start" transform="translate({} {}) rotate(-45)"') if slanted else Markup('text-anchor="middle" x="{}" y="{}"')
    )
    text = Markup('<text class="tick" {}>{}<title>{}</title></text>')
    return text.format(place.format(round(x, 1), round(top - 6, 1)), _short(words, 18), words)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _cells(
    values: Sequence[Sequence[float | None]],
    box: tuple[float, float, float, float],
    ends: tuple[float, float],
    rows: Sequence[str],
    columns: Sequence[str],
) -> Markup:
    """The coloured cells from (left, top), each (wide, tall)."""
    left, top, wide, tall = box
    total = sum(map(len, values))
    if total > MOST_CELLS:
        return _raster(values, box, ends)
    cell = Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>')
    text = Markup('<text class="in" text-anchor="middle" x="{}" y="{}" fill="{}">{}</text>')
    parts = []
    for n, row in enumerate(values):
        for m, value in enumerate(row):
            if value is None or not math.isfinite(value):
                continue
            x, y, colour = left + m * wide, top + n * tall, colour_at(_share(value, *ends))
            where = " / ".join(names[at] for names, at in ((rows, n), (columns, m)) if at < len(names))
            parts.append(
                cell.format(
                    round(x + 0.5, 1), round(y + 0.5, 1), round(wide - 1, 1), round(tall - 1, 1), colour, f"{where}: {number(value)}"
                )
            )
            if total <= MOST_NUMBERS and wide >= 7 * len(number(value)) and tall >= 14:
                ink = "#000" if is_light(colour) else "#fff"
                parts.append(text.format(round(x + wide / 2, 1), round(y + tall / 2 + 4, 1), ink, number(value)))
    return Markup("").join(parts)


def _raster(values: Sequence[Sequence[float | None]], box: tuple[float, float, float, float], ends: tuple[float, float]) -> Markup:
    """Many cells as one picture; it holds numbers of the method, and no image of a patient."""
    from PIL import Image

    left, top, wide, tall = box
    most = max(map(len, values))
    pixels = np.zeros((len(values), most, 4), dtype=np.uint8)
    for n, row in enumerate(values):
        for m, value in enumerate(row):
            if value is not None and math.isfinite(value):
                colour = colour_at(round(_share(value, *ends) * 63) / 63)
                pixels[n, m] = [*(int(colour[at : at + 2], 16) for at in (1, 3, 5)), 255]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    image = Markup('<image class="raster" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" href="{}"/>')
    return image.format(left, top, wide * most, tall * len(values), source)


def _bar(low: float, high: float, name: str) -> Markup:
    words = Markup(
        '<span class="ends">{}</span><i class="bar" style="background:linear-gradient(90deg,{})"></i><span class="ends">{}</span>'
    )
    return words.format(number(low), ",".join(SCALE), number(high)) + (Markup(" {}").format(name) if name else Markup(""))


def _points(figure: Points, hide: Hide) -> Drawn:
    title, axis = hide(figure.title), hide(figure.colour_axis)
    every = [n for n, (x, y) in enumerate(zip(figure.x, figure.y, strict=True)) if math.isfinite(x) and math.isfinite(y)]
    if not every:
        return Drawn(title, NOTHING)
    stride = math.ceil(len(every) / MOST_POINTS)
    kept = every[::stride]
    groups = {group: (which, hide(group)) for which, group in enumerate(dict.fromkeys(figure.group))}
    colours = figure.colour if len(figure.colour) == len(figure.x) else ()
    classes = bool(colours) and all(isinstance(value, int) for value in colours)
    ends = _ends([value for value in colours if math.isfinite(value)]) if colours and not classes else None
    right, up = ticks(*_span([figure.x[n] for n in every])), ticks(*_span([figure.y[n] for n in every]))
    to_x, to_y = Scale(right[0], right[-1], 10, WIDTH - 10), Scale(up[0], up[-1], WIDTH * 0.8 - 10, 10)
    parts = [Markup('<rect class="plane" x="0.5" y="0.5" width="{}" height="{}"/>').format(WIDTH - 1, round(WIDTH * 0.8) - 1)]
    for n in kept:
        (which, name), value = groups[figure.group[n]], colours[n] if colours else None
        kind, fill = _paint(which, value, classes, ends)
        told = name + ("" if value is None else f", {axis or 'colour'} {number(value)}")
        parts.append(_symbol(which, to_x(figure.x[n]), to_y(figure.y[n]), kind, fill, told))
    legend = [_key(which, name, grey=bool(colours)) for which, name in groups.values()]
    legend += [_chip(index, f"{axis} {index}".strip()) for index in sorted(set(colours))] if classes else []
    legend += [_bar(*ends, axis)] if ends else []
    note = f"one in {stride} of {len(every)} points is drawn" if stride > 1 else ""
    return Drawn(title, svg(WIDTH, WIDTH * 0.8, f"{title}: {', '.join(name for _, name in groups.values())}", parts), tuple(legend), note)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)


def _paint(group: int, value: float | int | None, classes: bool, ends: tuple[float, float] | None) -> tuple[str, str]:
    """A class of the page's colours, and a colour of the scale where there is one."""
    if value is None:
        return f"c{group % COLOURS}", ""
    if classes:
        return _look(int(value)), ""
    return ("none", "") if ends is None or not math.isfinite(value) else ("", colour_at(_share(value, *ends)))


def _look(index: int) -> str:
    """The page's classes of a class index.

    >>> _look(3), _look(11), _look(19)
    ('c3', 'c3 hollow', 'c3 ringed')
    """
    return f"c{index % COLOURS}{FILLS[index // COLOURS % len(FILLS)]}"


def _symbol(group: int, x: float, y: float, kind: str, fill: str, told: str) -> Markup:
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
    return mark.format(kind, colour, x, y, path, told)


def _key(group: int, name: str, *, grey: bool) -> Markup:
    kind = "none" if grey else f"c{group % COLOURS}"
    picture = Markup('<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{}</svg>{}')
    return picture.format(_symbol(group, 0, 0, kind, "", name), name)


def _chip(index: float, name: str) -> Markup:
    picture = Markup('<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{}</svg>{}')
    return picture.format(Markup('<rect class="point {}" x="-6" y="-6" width="12" height="12" rx="3"/>').format(_look(int(index))), name)
