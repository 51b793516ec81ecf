"""A table of numbers as colours, as inline SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from allograft.figure import Heatmap
from allograft.report.drawn import NOTHING, RIGHT, WIDTH, Drawn, Hide
from allograft.report.svg import colour_at, colour_bar, ends_of, is_light, number, share_of, shortened, svg

MOST_CELLS, MOST_NUMBERS = 900, 150
"""More cells become a picture; fewer have their number in them."""


def draw_heatmap(figure: Heatmap, hide: Hide) -> Drawn:
    """A table of numbers as coloured cells; names of rows and columns that have no room are left
    out."""
    title = hide(figure.title)
    known = [value for row in figure.values for value in row if value is not None and math.isfinite(value)]
    ends = ends_of(known)
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
        parts.append(
            name.format(round(gutter - 7, 1), round(top + tall * (number_ + 0.5) + 4, 1), shortened(row, 21), row)
        )
    parts += [
        _column(words, gutter + wide * (n + 0.5), top, slanted)
        for n, words in list(enumerate(columns))[:: math.ceil(13 / wide)]
    ]
    return Drawn(title, svg(WIDTH, top + tall * len(figure.values) + 6, title, parts), (colour_bar(low, high, ""),))


def _column(words: str, x: float, top: float, slanted: bool) -> Markup:
    position = (
        Markup('text-anchor="start" transform="translate({} {}) rotate(-45)"')
        if slanted
        else Markup('text-anchor="middle" x="{}" y="{}"')
    )
    text = Markup('<text class="tick" {}>{}<title>{}</title></text>')
    return text.format(position.format(round(x, 1), round(top - 6, 1)), shortened(words, 18), words)


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
            x, y, colour = left + m * wide, top + n * tall, colour_at(share_of(value, *ends))
            where = " / ".join(names[at] for names, at in ((rows, n), (columns, m)) if at < len(names))
            parts.append(
                cell.format(
                    round(x + 0.5, 1),
                    round(y + 0.5, 1),
                    round(wide - 1, 1),
                    round(tall - 1, 1),
                    colour,
                    f"{where}: {number(value)}",
                )
            )
            if total <= MOST_NUMBERS and wide >= 7 * len(number(value)) and tall >= 14:
                ink = "#000" if is_light(colour) else "#fff"
                parts.append(text.format(round(x + wide / 2, 1), round(y + tall / 2 + 4, 1), ink, number(value)))
    return Markup("").join(parts)


def _raster(
    values: Sequence[Sequence[float | None]], box: tuple[float, float, float, float], ends: tuple[float, float]
) -> Markup:
    """Many cells as one picture; it holds numbers of the method, and no image of a patient."""
    from PIL import Image

    left, top, wide, tall = box
    most = max(map(len, values))
    pixels = np.zeros((len(values), most, 4), dtype=np.uint8)
    for n, row in enumerate(values):
        for m, value in enumerate(row):
            if value is not None and math.isfinite(value):
                colour = colour_at(round(share_of(value, *ends) * 63) / 63)
                pixels[n, m] = [*(int(colour[at : at + 2], 16) for at in (1, 3, 5)), 255]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    image = Markup(
        '<image class="raster" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" '
        'href="{}"/>'
    )
    return image.format(left, top, wide * most, tall * len(values), source)
