"""When a model that knows how far an image is from its training images gives no answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from allograft.errors import ModelError, SpecError
from allograft.predictor.deployment import DISTANCE, LEAST, Deployment
from allograft.predictor.direct import Predictor

LEVEL = 0.95
"""The share of images like the held-out ones that a threshold lets through, where nobody asks for
another."""


@dataclass(frozen=True)
class Abstention:
    """No answer for images whose score is above a threshold.

    Args:
        level: the share of images like the training images that are to be answered.
        threshold: the largest score that is answered.
        coverage: of held-out cases answered, each by the threshold of the others.
        cases: how many held-out cases there are.
        column: which fact of a prediction is the score.
    """

    level: float
    threshold: float
    coverage: float
    cases: int
    column: str = "score"

    @staticmethod
    def from_predictor(predictor: Predictor, level: float, deployment: Deployment | None = None) -> Abstention:
        """The threshold that held-out cases give: by the predictor's own ``reference_scores`` where
        it has some, otherwise by the distances that its folder keeps.

        Raises:
            SpecError: a level that is no share.
            ModelError: a model without scores, or with too few to tell that level.
        """
        scores, column = _held_out(predictor, deployment)
        if len(scores):
            return Abstention.from_scores(scores, level, column)
        _check_level(level)
        raise ModelError(
            "--abstain: this model has no scores of held-out cases to compare an image with; use a model that has "
            "them, such as odex or a model from a study with validation cases, or leave --abstain out"
        )

    @staticmethod
    def by_default(predictor: Predictor, deployment: Deployment | None) -> Abstention | None:
        """The same at ``LEVEL``, or at n / (n + 1) where the n held-out cases can tell no more;
        None for fewer than ``LEAST``."""
        scores, column = _held_out(predictor, deployment)
        if len(scores) < LEAST:
            return None
        return Abstention.from_scores(scores, min(LEVEL, int(100 * len(scores) / (len(scores) + 1)) / 100), column)

    @staticmethod
    def from_scores(scores: Tensor, level: float, column: str = "score") -> Abstention:
        """The same, from (n,) scores of held-out cases."""
        _check_level(level)
        scores = scores.double().cpu()
        threshold = conformal_threshold(scores, level)
        if math.isinf(threshold):
            needed = math.ceil(round(level / (1 - level), 9))
            raise ModelError(
                f"--abstain: {len(scores)} held-out cases are too few for {level}, which needs {needed}; ask for "
                f"{len(scores) / (len(scores) + 1):.2f} or less"
            )
        kept = [
            float(score) <= conformal_threshold(torch.cat([scores[:index], scores[index + 1 :]]), level)
            for index, score in enumerate(scores)
        ]
        return Abstention(level, threshold, sum(kept) / len(kept), len(kept), column)

    def __str__(self) -> str:
        named = "a score" if self.column == "score" else f"an {self.column}"
        return (
            f"abstaining above {named} of {self.threshold:.3g}: coverage {self.coverage:.3f} of {self.cases} held-out "
            f"cases, each by the threshold of the others, for the {self.level} requested"
        )


def _held_out(predictor: Predictor, deployment: Deployment | None) -> tuple[Tensor, str]:
    """(n,) scores of held-out cases, and the fact of a prediction that is one: the predictor's own,
    or the distances that its folder keeps."""
    scores = getattr(predictor, "reference_scores", None)
    if isinstance(scores, Tensor):
        return scores, "score"
    return (torch.zeros(0) if deployment is None else deployment.held_out), DISTANCE


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise SpecError(f"--abstain: found {level}; expected a share above 0 and below 1, for example 0.95")


def conformal_threshold(scores: Tensor, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores, infinite where that is more than n: a new
    score from the same distribution lies at or below it with probability at least ``level`` (Vovk
    et al. 2005).

    >>> conformal_threshold(torch.tensor([3.0, 1.0, 2.0]), 0.5), conformal_threshold(torch.tensor([1.0]), 0.95)
    (2.0, inf)
    """
    rank = math.ceil(round((len(scores) + 1) * level, 9))
    return math.inf if rank > len(scores) else float(scores.sort().values[rank - 1])
