"""How well a detector finds boxes that are partly wrong while it trains on them: the score after
each epoch, a curve fitted to the scores, and their figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from allograft.batch import Boxes
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.figure import Lines
from allograft.metrics.detection import detection_metrics, match
from allograft.networks import AnyNetwork
from allograft.predictor import Direct


def noisy_ap50(network: AnyNetwork, target: Sequence[Cohort], context: Context) -> float:
    """AP50 of the network against the target's training boxes, on the study's grid; 0 where there
    are none."""
    images = []
    for cohort in target:
        for index in range(len(cohort)):
            case = cohort.case(index)
            (detected,) = Direct(network)(context.fabric.to_device(case.unlabelled()))["boxes"]
            (truth,) = case.labels["boxes"]
            assert isinstance(detected, Boxes)
            assert isinstance(truth, Boxes)
            detected = detected.each(Tensor.cpu)
            assert detected.score is not None
            images.append(match(detected.xyxy, detected.label, detected.score, truth.xyxy, truth.label))
    value = detection_metrics(images)["ap50"]
    return value if value == value else 0.0


def fit_early_learning(ap50: Sequence[float]) -> tuple[float, float, float] | None:
    """a, b, c of a (1 - exp(-x^b / c)) (Liu et al. 2022): 0 <= a, b <= 1, c >= 0, by least squares
    weighted as the released code has it: sigma falls from 1 to 0.1; x are n points over [0, n].
    None for fewer than three epochs, and where the fit does not converge."""
    from scipy.optimize import curve_fit

    def curve(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return np.asarray(a * (1 - np.exp(-(x**b) / c)))

    count = len(ap50)
    if count < 3:
        return None
    try:
        fitted, _ = curve_fit(
            curve,
            np.linspace(0, count, count),
            np.asarray(ap50, dtype=np.float64),
            p0=(1, 1, 1),
            method="trf",
            sigma=np.geomspace(1, 0.1, count),
            absolute_sigma=True,
            bounds=([0, 0, 0], [1, 1, np.inf]),
            max_nfev=10_000,
        )
    except RuntimeError:  # SciPy's word for no convergence
        return None
    a, b, c = map(float, fitted)
    return a, b, c


def early_learning_figure(
    what: str, curve: Sequence[float], began: int | None, fitted: tuple[float, float, float] | None
) -> Lines:
    """Figure 7 of the paper of SISSI: the curve, where the correction starts, and what was
    fitted."""
    epochs = tuple(float(epoch) for epoch in range(1, len(curve) + 1))
    start = "correction never starts" if began is None else f"correction starts after epoch {began}"
    lines: dict[str, tuple[float | None, ...]] = {what: tuple(curve)}
    if fitted is not None:
        a, b, c = fitted
        lines["fitted"] = tuple(a * (1 - math.exp(-(epoch**b) / c)) for epoch in epochs)
    return Lines(f"early learning; {start}", epochs, lines, "epoch", what)
