"""What the plots of a report share: axes, round numbers and colour scales, as inline SVG with the
page's fonts and colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

SCALE = ("#46327e", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Viridis without its darkest end: equal steps look equal, light is more, and both ends can be told
from a dark and from a light page."""


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
        low, high = min(low, high), max(low, high)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def number(value: float) -> str:
    """Three digits, with a real minus sign.

    >>> number(-0.01234), number(12000.0)
    ('−0.0123', '12,000')
    """
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−")


def colour_at(share: float, colours: Sequence[str] = SCALE) -> str:
    """The colour at ``share`` of a scale, in straight lines between its colours; what lies outside
    [0, 1] is drawn at the nearer end.

    >>> colour_at(0.0), colour_at(9.0)
    ('#46327e', '#fde725')
    """
    position = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    index = min(int(position), len(colours) - 2)
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours[index : index + 2]]
    return "#" + "".join(f"{round(a + (position - index) * (b - a)):02x}" for a, b in zip(*ends, strict=True))


def is_light(colour: str) -> bool:
    """Whether black is easier to read on a colour than white: its relative luminance (WCAG 2) is
    above 0.18."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18


def svg(width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    """The picture; ``label`` is read aloud in its place."""
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        round(width), round(height), label, body
    )


def x_axis(marks: Sequence[float], scale: Scale, top: float, bottom: float, name: str) -> Markup:
    """Upright lines with their numbers below, and the name of the axis at its end."""
    line = Markup(
        '<line class="grid" x1="{x}" x2="{x}" y1="{}" y2="{}"/><text class="tick" text-anchor="middle" x="{x}" '
        'y="{}">{}</text>'
    )
    parts = [line.format(top, bottom, bottom + 18, tick(mark), x=scale(mark)) for mark in marks]
    end = Markup('<text class="axis" text-anchor="end" x="{}" y="{}">{}</text>').format(scale.end, bottom + 36, name)
    return Markup("").join([*parts, end])


def y_axis(marks: Sequence[float], scale: Scale, left: float, right: float, name: str) -> Markup:
    """Level lines with their numbers to the left, and the name of the axis above."""
    line = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="tick" text-anchor="end" x="{}" '
        'y="{}">{}</text>'
    )
    parts = [
        line.format(left, right, left - 8, round(y + 4, 1), tick(mark), y=y) for mark in marks for y in (scale(mark),)
    ]
    return Markup("").join([*parts, Markup('<text class="axis" x="0" y="12">{}</text>').format(name)])


def whiskers(ends: Sequence[tuple[float, float, float]], kind: str, to_x: Scale, to_y: Scale) -> Markup:
    """Upright bars with caps, from (x, low, high); ``kind`` is the page's class of their colour."""
    bar = Markup('<path class="whisker {}" d="M{x:g} {low:g}V{high:g}M{a:g} {low:g}H{b:g}M{a:g} {high:g}H{b:g}"/>')
    places = [(to_x(x), to_y(low), to_y(high)) for x, low, high in ends]
    return Markup("").join(bar.format(kind, x=x, low=low, high=high, a=x - 4, b=x + 4) for x, low, high in places)


def tick(mark: float) -> str:
    """A number at an axis.

    >>> tick(1000.0), tick(-0.5), tick(2e-7)
    ('1,000', '−0.5', '2e−07')
    """
    text = f"{mark:,.10g}" if mark == 0 or 1e-4 <= abs(mark) < 1e7 else f"{mark:.3g}"
    return text.replace("-", "−")


def shortened(words: str, most: int) -> str:
    """Words of at most so many letters, the last an ellipsis where some are left out."""
    return words if len(words) <= most else words[: most - 1] + "…"


def ends_of(values: Sequence[float]) -> tuple[float, float] | None:
    """The lowest and the highest; None where there is none."""
    return (min(values), max(values)) if values else None


def share_of(value: float, low: float, high: float) -> float:
    """How far along the scale from low to high a value lies; the middle where both are one."""
    return (value - low) / (high - low) if high > low else 0.5


def colour_bar(low: float, high: float, name: str) -> Markup:
    """The legend of a scale of colours: its ends, and what it says."""
    words = Markup(
        '<span class="ends">{}</span><i class="bar" style="background:linear-gradient(90deg,{})"></i><span '
        'class="ends">{}</span>'
    )
    return words.format(number(low), ",".join(SCALE), number(high)) + (
        Markup(" {}").format(name) if name else Markup("")
    )
