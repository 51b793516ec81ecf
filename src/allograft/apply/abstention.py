"""When a model that scores how far an image is from its training images gives no answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from allograft.errors import ModelError, SpecError
from allograft.predictor.direct import Predictor


@dataclass(frozen=True)
class Abstention:
    """No answer for images whose score is above a threshold.

    Args:
        level: the share of images like the training images that are to be answered.
        threshold: the largest score that is answered.
        coverage: of held-out cases answered, each by the threshold of the others.
        cases: how many held-out cases there are.
    """

    level: float
    threshold: float
    coverage: float
    cases: int

    @staticmethod
    def from_predictor(predictor: Predictor, level: float) -> Abstention:
        """The threshold that the predictor's ``reference_scores``, of held-out cases, give.

        Raises:
            SpecError: a level that is no share.
            ModelError: a predictor without scores, or with too few to tell that level.
        """
        if not 0 < level < 1:
            raise SpecError(f"--abstain: found {level}; expected a share above 0 and below 1, for example 0.95")
        scores = getattr(predictor, "reference_scores", None)
        if not isinstance(scores, Tensor):
            raise ModelError(
                "--abstain: this model has no scores of held-out cases to compare an image with; use a model that has, "
                "such as odex, or leave --abstain out"
            )
        scores = scores.double().cpu()
        threshold = conformal_threshold(scores, level)
        if math.isinf(threshold):
            needed = math.ceil(round(level / (1 - level), 9))
            raise ModelError(
                f"--abstain: {len(scores)} held-out cases are too few for {level}, which needs {needed}; ask for "
                f"{len(scores) / (len(scores) + 1):.2f} or less"
            )
        kept = [
            float(score) <= conformal_threshold(torch.cat([scores[:place], scores[place + 1 :]]), level)
            for place, score in enumerate(scores)
        ]
        return Abstention(level, threshold, sum(kept) / len(kept), len(kept))

    def __str__(self) -> str:
        return (
            f"abstaining above a score of {self.threshold:.3g}: coverage {self.coverage:.3f} of {self.cases} held-out "
            f"cases, each by the threshold of the others, for the {self.level} requested"
        )


def conformal_threshold(scores: Tensor, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores, infinite where that is more than n: a new
    score from the same distribution lies at or below it with probability at least ``level`` (Vovk
    et al. 2005).

    >>> conformal_threshold(torch.tensor([3.0, 1.0, 2.0]), 0.5), conformal_threshold(torch.tensor([1.0]), 0.95)
    (2.0, inf)
    """
    place = math.ceil(round((len(scores) + 1) * level, 9))
    return math.inf if place > len(scores) else float(scores.sort().values[place - 1])
