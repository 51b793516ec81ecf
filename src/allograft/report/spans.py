"""Which values occur at each site, and how often: sizes and spacings along each axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from allograft.report.svg import Scale, number, shortened, svg, ticks, x_axis

WIDTH, GUTTER, RIGHT, ROW, RADIUS = 540, 150, 24, 26, 8.0
Rows = Mapping[str, Mapping[float, int]]
"""Name of a row -> value -> number of images."""


def spans(sites: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[float]]:
    """A row for each site and axis, axes that are alike in one row.

    Args:
        sites: site -> sizes as ``64 x 48`` -> number of images.

    Example:
        >>> spans({"a": {"64 x 64": 2, "32 x 32": 1}, "b": {"64 x 48": 1}})
        {'a': Counter({64.0: 2, 32.0: 1}), 'b, axis 1': Counter({64.0: 1}), 'b, axis 2': Counter({48.0: 1})}
    """
    rows: dict[str, Counter[float]] = {}
    for site, counts in sites.items():
        axes: list[Counter[float]] = []
        for words, count in counts.items():
            for axis, value in enumerate(map(float, words.split(" x "))):
                axes += [Counter() for _ in range(axis + 1 - len(axes))]
                axes[axis][value] += count
        groups: list[tuple[list[int], Counter[float]]] = []
        for axis, values in enumerate(axes, 1):
            same = next((names for names, other in groups if other == values), None)
            if same is None:
                groups.append(([axis], values))
            else:
                same.append(axis)
        for names, values in groups:
            suffix = f", axis {' and '.join(map(str, names))}" if len(groups) > 1 else ""
            rows[site + suffix] = values
    return rows


def span_plot(rows: Rows, axis: str) -> Markup:
    """One dot for each value of a row, as large as the share of its images; "" without values.

    Args:
        axis: what is shown, with the unit.
    """
    values = [value for counts in rows.values() for value in counts]
    if not values:
        return Markup("")
    marks = ticks(min(values), max(values), 5)
    scale = Scale(marks[0], marks[-1], GUTTER, WIDTH - RIGHT)
    bottom = 6 + ROW * len(rows)
    parts = [x_axis(marks, scale, 6, bottom, axis)]
    for row, (name, counts) in enumerate(rows.items()):
        parts.append(_row(name, counts, 6 + ROW * (row + 0.5), scale))
    return svg(WIDTH, bottom + 44, f"{axis} by site", parts)


def _row(name: str, counts: Mapping[float, int], y: float, scale: Scale) -> Markup:
    text = Markup('<text class="name" x="0" y="{}">{}<title>{}</title></text>')
    line = Markup('<line class="base" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
    dot = Markup('<circle class="dot" cx="{}" cy="{}" r="{:.1f}"><title>{}</title></circle>')
    total, order = sum(counts.values()), sorted(counts.items(), key=_by_count)
    parts: Sequence[Markup] = [
        text.format(y + 4, shortened(name, 22), name),
        line.format(scale.start, scale.end, y=y),
        *(
            dot.format(scale(value), y, 3 + (RADIUS - 3) * (count / total) ** 0.5, f"{number(value)}: {count} images")
            for value, count in order
        ),
    ]
    return Markup("").join(parts)


def _by_count(item: tuple[float, int]) -> tuple[int, float]:
    """Large dots first, so that small ones lie upon them."""
    return -item[1], item[0]
