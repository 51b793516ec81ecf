"""The plot of score against the number of labels, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from allograft.report.svg import Scale, number, svg, tick, ticks, y_axis
from allograft.results.analysis.label_curve import Curve, LabelCurve
from allograft.results.comparison import NOTHING

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BELOW = 760, 380, 58, 20, 26, 44
DODGE = 5.0
"""Pixels between the whiskers of two recipes at one budget."""
COLOURS, STEPS = 8, 40


def label_plot(label_curve: LabelCurve) -> tuple[Markup, tuple[Markup, ...]]:
    """Score against budget, on a logarithmic axis: a curve with whiskers for each recipe that
    competes, dashed where it uses no target label; dashed level lines for no adaptation and for the
    upper bounds; a fitted curve goes on, dotted, to the budget that it predicts.

    Returns:
        The picture and its legend; "" and () without a score.
    """
    curves = [one for one in label_curve.curves if one.points and not one.bound and one.title not in NOTHING]
    levels = _levels(label_curve)
    heights = [*(value for _, value in levels), *(end for one in curves for end in _heights(one))]
    if not heights:
        return Markup(""), ()
    last = max((one.fit.more for one in curves if one.fit is not None), default=0.0) + label_curve.amounts[-1]
    marks = ticks(min(heights), max(heights), 5)
    to_x = _Across(label_curve.amounts[0], last)
    to_y = Scale(marks[0], marks[-1], HEIGHT - BELOW, TOP)
    parts = [_x_axis(label_curve, to_x, last), y_axis(marks, to_y, LEFT, WIDTH - RIGHT, label_curve.metric)]
    middle = (len(curves) - 1) / 2
    parts += [_drawn(curve, number, to_x, to_y, (number - middle) * DODGE) for number, curve in enumerate(curves)]
    parts += [_level(name, value, to_y) for name, value in levels]
    legend = [_swatch(number, curve) for number, curve in enumerate(curves)]
    named = "; ".join(f"{name}, {value:.3f}" for name, value in levels)
    legend += [Markup("Level lines: {}.").format(named)] if named else []
    label = f"{label_curve.metric} at {label_curve.target} against the number of labelled {label_curve.unit}"
    return svg(WIDTH, HEIGHT, label, parts), tuple(legend)


class _Across:
    """From a number of labels to pixels, by its logarithm."""

    def __init__(self, low: float, high: float) -> None:
        room = 30.0
        self.scale = Scale(math.log(low), math.log(max(high, low * 1.5)), LEFT + room, WIDTH - RIGHT - room)

    def __call__(self, amount: float) -> float:
        return self.scale(math.log(amount))


def _levels(label_curve: LabelCurve) -> list[tuple[str, float]]:
    """No adaptation and the upper bounds, which no budget changes."""
    nothing = [] if label_curve.nothing is None else [("no adaptation", label_curve.nothing)]
    bounds = [curve for curve in label_curve.curves if curve.bound and curve.points]
    names = ["all labels"] if len(bounds) == 1 else [f"all labels, {curve.title}" for curve in bounds]
    return nothing + [(name, curve.points[0].score) for name, curve in zip(names, bounds, strict=True)]


def _heights(curve: Curve) -> list[float]:
    ends = [end for point in curve.points for end in (point.score, point.low, point.high) if end is not None]
    return ends if curve.fit is None else [*ends, curve.fit.curve(curve.points[-1].amount + curve.fit.more)]


def _x_axis(label_curve: LabelCurve, to_x: _Across, last: float) -> Markup:
    bottom = HEIGHT - BELOW
    line = Markup(
        '<line class="grid" x1="{x}" x2="{x}" y1="{}" y2="{}"/><text class="tick" text-anchor="middle" x="{x}" '
        'y="{}">{}</text>'
    )
    amounts = [*label_curve.amounts, *([last] if last > label_curve.amounts[-1] else [])]
    marks = [line.format(TOP, bottom, bottom + 17, tick(round(amount, 2)), x=to_x(amount)) for amount in amounts]
    name = f"labelled {label_curve.unit} of {label_curve.target}"
    end = Markup('<text class="axis" text-anchor="end" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT, HEIGHT - 6, name)
    return Markup("").join([*marks, end])


def _level(name: str, value: float, to_y: Scale) -> Markup:
    y = to_y(value)
    words = f"{name}, {value:.3f}"
    line = Markup(
        '<line class="reference" x1="{}" x2="{}" y1="{y}" y2="{y}"><title>{words}</title></line>'
        '<text class="tick" style="paint-order:stroke;stroke:var(--paper);stroke-width:4px" text-anchor="end" x="{}" '
        'y="{}">{words}</text>'
    )
    return line.format(LEFT, WIDTH - RIGHT, WIDTH - RIGHT, round(y + 14, 1), y=y, words=words)


def _drawn(curve: Curve, which: int, to_x: _Across, to_y: Scale, aside: float) -> Markup:
    kind = f"c{which % COLOURS}"
    places = [(round(to_x(point.amount) + aside, 1), point) for point in curve.points]
    parts = [_path(kind, [(x, to_y(point.score)) for x, point in places], curve.title, _dash(which, curve))]
    bar = Markup('<path class="whisker {}" d="M{x:g} {low:g}V{high:g}M{a:g} {low:g}H{b:g}M{a:g} {high:g}H{b:g}"/>')
    dot = Markup('<circle class="at {}" cx="{}" cy="{}" r="3.2"><title>{}</title></circle>')
    for x, point in places:
        if point.low is not None and point.high is not None:
            parts.append(bar.format(kind, x=x, low=to_y(point.low), high=to_y(point.high), a=x - 3, b=x + 3))
        words = f"{curve.title} at {point.amount:g}: {number(point.score)}"
        parts.append(dot.format(kind, x, to_y(point.score), words))
    if curve.fit is not None:
        parts.append(_fitted(curve, kind, to_x, to_y, aside))
    return Markup("").join(parts)


def _fitted(curve: Curve, kind: str, to_x: _Across, to_y: Scale, aside: float) -> Markup:
    """The fitted curve from the first budget to the one it predicts."""
    assert curve.fit is not None
    first, last = (math.log(end) for end in (curve.points[0].amount, curve.points[-1].amount + curve.fit.more))
    amounts = [math.exp(first + (last - first) * step / STEPS) for step in range(STEPS + 1)]
    places = [(round(to_x(amount) + aside, 1), to_y(curve.fit.curve(amount))) for amount in amounts]
    return _path(kind, places, f"{curve.title}, fitted", Markup(' stroke-dasharray="1.5 4" opacity="0.8"'))


def _path(kind: str, places: Sequence[tuple[float, float]], name: str, dash: Markup) -> Markup:
    path = "".join(f"{'M' if at == 0 else 'L'}{x:g} {y:g}" for at, (x, y) in enumerate(places))
    return Markup('<path class="curve {}"{} d="{}"><title>{}</title></path>').format(kind, dash, path, name)


def _dash(number: int, curve: Curve) -> Markup:
    """Dashed without target labels; of further rows in the same colour, dashed in another way."""
    turn = number // COLOURS
    dash = ("6 4", "6 4 1.5 4")[turn % 2] if not curve.uses_labels else ("", "11 3")[turn % 2]
    return Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")


def _swatch(number: int, curve: Curve) -> Markup:
    line = Markup(
        '<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true"><path class="curve c{}"{} d="M1 6H25"/></svg>{}'
    )
    name = curve.title if curve.uses_labels else f"{curve.title} (no target label)"
    return line.format(number % COLOURS, _dash(number, curve), name)
