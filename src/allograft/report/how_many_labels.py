"""The section "How many labels?" of a study with several budgets: a plot of score against budget,
the best row at each, and what more labels are expected to bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from allograft.report import facts
from allograft.report.label_plot import label_plot
from allograft.results.analysis.label_curve import MORE, Curve, LabelCurve, Part, Point, label_curves
from allograft.results.analysis.sheet import Sheet
from allograft.results.comparison import NOTHING
from allograft.results.power_law import FEWEST, Fit

BEST_NOTE = (
    "The best row at a budget is the one with the highest mean test score. It is chosen after the fact, so its score "
    "is optimistic. The verdict at each budget follows the rules of its own report. Upper bounds compete in neither."
)
FIT_NOTE = (
    "The curve is score = a − b · n^(−c) by least squares. Its 95 % interval resamples test subjects and seeds; it "
    "assumes that the curve keeps this form beyond the largest budget, and that the next {unit} are like those "
    "labelled so far. It is not used to choose anything."
)
ONE_SEED = (
    "The study has one seed: the intervals do not cover how much depends on which {unit} are labelled, so they are too "
    "narrow."
)


@dataclass(frozen=True)
class LabelSection:
    """The section of one target, as the template takes it.

    Args:
        title: of the setting and the target.
        answers: sentences.
        plot: SVG.
        legend: what its colours mean.
        sheets: tables.
        notes: sentences below.
    """

    title: str
    answers: tuple[str, ...]
    plot: Markup
    legend: tuple[Markup, ...]
    sheets: tuple[Sheet, ...]
    notes: tuple[str, ...]


def label_sections(parts: Sequence[Part]) -> list[LabelSection]:
    """A section for each curve of a study's parts; [] where its budgets are one."""
    return [label_section(curve) for curve in label_curves(parts)]


def label_section(found: LabelCurve) -> LabelSection:
    """All that the page says of one curve."""
    plot, legend = label_plot(found)
    title = f"Target: {found.target}" + (f" ({found.part})" if found.part else "")
    fits = [curve for curve in found.curves if curve.fit is not None]
    sheets = [_best_sheet(found), *([_expected_sheet(found, fits)] if fits else [])]
    notes = [BEST_NOTE]
    notes += [FIT_NOTE.format(unit=found.unit)] if fits else []
    notes += [ONE_SEED.format(unit=found.unit)] if found.seeds == 1 else []
    return LabelSection(title, _answers(found), plot, legend, tuple(sheets), (*notes, *_checks(found)))


def signed(value: float) -> str:
    """``+0.012``, with a real minus sign; ``0.000`` has no sign.

    >>> signed(0.0123), signed(-0.02), signed(-0.0001)
    ('+0.012', '−0.020', '0.000')
    """
    text = f"{value:+.3f}".replace("-", "−")
    return text[1:] if text[1:] == "0.000" else text


def expected(fit: Fit, unit: str) -> str:
    """``4 more subjects: +0.012 (0.002 to 0.021)``; of a curve that is not identifiable the
    interval alone, and why."""
    amount = facts.counted(round(fit.more), unit.removesuffix("s"))
    head = amount.replace(" ", " more ", 1)
    if fit.low is None or fit.high is None:
        return f"{head}: no interval, because {fit.unclear}"
    low, high = (f"{value:.3f}".replace("-", "−").replace("−0.000", "0.000") for value in (fit.low, fit.high))
    if fit.unclear:
        return f"{head}: between {low} and {high}; the curve is not identifiable, because {fit.unclear}"
    return f"{head}: {signed(fit.gain)} ({low} to {high})"


def _answers(found: LabelCurve) -> tuple[str, ...]:
    said = []
    last = found.best(found.amounts[-1])
    if last is not None:
        curve, point = last
        said.append(
            f"At {_amount(found, point.amount)} {_named(curve)} has the highest {found.metric}: {point.score:.3f}."
        )
        leading = curve if curve.fit is not None else _leading(found)
        if leading is not None and leading.fit is not None:
            said.append(f"{leading.title}, {expected(leading.fit, found.unit)}.")
    if found.lacking:
        need = f"A fitted learning curve needs {FEWEST} budgets"
        said.append(
            f"{need}; this study has {len(found.amounts)} so far: add {found.lacking} to target_labels to see what "
            f"{MORE} more {found.unit} are expected to bring."
        )
    return tuple(said)


def _leading(label_curve: LabelCurve) -> Curve | None:
    """Of the rows with a fit the one with the highest score at its largest budget."""
    return max(
        (curve for curve in label_curve.curves if curve.fit), key=lambda curve: curve.points[-1].score, default=None
    )


def _named(curve: Curve) -> str:
    return "no adaptation" if curve.title in NOTHING else curve.title


def _amount(curve: LabelCurve, amount: float) -> str:
    """``4 subjects``; of fractions, the mean number, ``2.5 subjects``."""
    return f"{amount:g} {curve.unit.removesuffix('s') if amount == 1 else curve.unit}"


def _best_sheet(curve: LabelCurve) -> Sheet:
    columns = ("target labels", "best row by mean", curve.metric, "95 % over subjects", "vs. no adaptation", "verdict")
    rows = [row for amount in curve.amounts if (row := _best_row(curve, amount))]
    return Sheet("The best row at each budget", columns, tuple(rows))


def _best_row(label_curve: LabelCurve, amount: float) -> tuple[str, ...] | None:
    best = label_curve.best(amount)
    if best is None:
        return None
    curve, point = best
    chosen = label_curve.verdicts.get(amount, "")
    verdict = "keep your model" if chosen in NOTHING else f"change to {chosen}" if chosen else "none yet"
    return (_amount(label_curve, amount), _named(curve), f"{point.score:.3f}", _interval(point), _gain(point), verdict)


def _interval(point: Point) -> str:
    return "" if point.low is None or point.high is None else f"{point.low:.3f} to {point.high:.3f}"


def _gain(point: Point) -> str:
    gain = point.gain
    if gain is None:
        return ""
    interval = "" if gain.low is None or gain.high is None else f" ({signed(gain.low)} to {signed(gain.high)})"
    return signed(gain.difference) + interval


def _expected_sheet(label_curve: LabelCurve, curves: Sequence[Curve]) -> Sheet:
    rows = []
    for curve in curves:
        fit = curve.fit
        assert fit is not None
        limits = None if fit.low is None or fit.high is None else f"{signed(fit.low)} to {signed(fit.high)}"
        ceiling = "" if fit.unclear or fit.ceiling is None else f"{fit.curve.ceiling:.3f} ({_limits(fit.ceiling)})"
        rate = "" if fit.unclear else f"{fit.curve.rate:.2f}"
        gain = "not identifiable" if fit.unclear else signed(fit.gain)
        rows.append((curve.title, gain, limits or "none", ceiling, rate))
    columns = ("recipe", f"expected of {MORE} more {label_curve.unit}", "95 % interval", "ceiling a", "rate c")
    why = tuple(
        f"{curve.title}: not identifiable, because {curve.fit.unclear}."
        for curve in curves
        if curve.fit is not None and curve.fit.unclear
    )
    return Sheet("What more labels are expected to bring", columns, tuple(rows), why)


def _limits(ends: tuple[float, float]) -> str:
    return " to ".join(f"{value:.3f}".replace("-", "−") for value in ends)


def _checks(curve: LabelCurve) -> tuple[str, ...]:
    nested = (
        f"Budgets are not nested: {curve.nested}. A difference between budgets then "
        "also reflects which subjects are labelled, not only how many."
        if curve.nested
        else "Budgets are nested: for each seed the subjects labelled at one budget are among those of the next."
    )
    shared = curve.units - curve.distinct
    return (
        nested,
        f"Training shared between budgets: {curve.units} units at {len(curve.amounts)} budgets, {curve.distinct} of "
        f"them distinct, so {shared} were not trained again.",
    )
