"""Several models as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import ModelError
from allograft.predictor.direct import Prediction, Predictor


@dataclass(frozen=True)
class Ensemble:
    """The mean of the members' probabilities (Lakshminarayanan et al. 2017, section 2.4), given
    back as logits; images that members make are averaged as they are.

    Scores, spreads and choices of single members are in scales of their own and are left out; their
    warnings are kept.

    Args:
        members: predictors of one task and preprocessing.
        numbers: for each member, the number that it gives to each site of the ensemble; -1 where it
            does not know the site.
        is_multilabel: whether ``label`` is a sigmoid per class, and not one softmax.
        contains_images: whether a member keeps images of patients.
    """

    members: tuple[Predictor, ...]
    numbers: tuple[tuple[int, ...], ...]
    is_multilabel: bool = False
    contains_images: bool = False

    @property
    def sees_whole_cases(self) -> bool:
        """Whether a member does."""
        return any(getattr(member, "sees_whole_cases", False) for member in self.members)

    def __call__(self, batch: Batch) -> Prediction:
        outputs = [
            member(replace(batch, site=renumbered(batch.site, numbers)))
            for member, numbers in zip(self.members, self.numbers, strict=True)
        ]
        mean: dict[str, Tensor | tuple[str, ...]] = {
            key: self._mean(key, [_tensor(output, key) for output in outputs])
            for key in ("mask", "label", "paired")
            if key in outputs[0]
        }
        if any("warnings" in output for output in outputs):
            mean["warnings"] = _joined_warnings(outputs, len(batch))
        return mean

    def _mean(self, key: str, values: Sequence[Tensor]) -> Tensor:
        if key == "paired":
            return torch.stack(list(values)).mean(0)
        return mean_of_sigmoids(values) if key == "label" and self.is_multilabel else mean_of_softmaxes(values)


def mean_of_softmaxes(logits: Sequence[Tensor]) -> Tensor:
    """Log-probabilities whose softmax is the mean of the members' softmaxes: each (B, K, ...) ->
    (B, K, ...).

    >>> sure, unsure = torch.tensor([[0.0, 100.0]]), torch.tensor([[0.0, 0.0]])
    >>> mean_of_softmaxes([sure, unsure]).softmax(1).round(decimals=3).tolist()
    [[0.25, 0.75]]
    """
    every = torch.stack([each.float().log_softmax(1) for each in logits])
    return every.logsumexp(0) - torch.log(torch.tensor(float(len(logits))))


def mean_of_sigmoids(logits: Sequence[Tensor]) -> Tensor:
    """Logits whose sigmoid is the mean of the members' sigmoids: each (B, K) -> (B, K).

    >>> mean_of_sigmoids([torch.tensor([[100.0]]), torch.tensor([[0.0]])]).sigmoid().round(decimals=3).tolist()
    [[0.75]]
    """
    every = torch.stack([each.float() for each in logits])
    yes, no = torch.nn.functional.logsigmoid(every), torch.nn.functional.logsigmoid(-every)
    return yes.logsumexp(0) - no.logsumexp(0)


def renumbered(site: Tensor, numbers: Sequence[int]) -> Tensor:
    """The ensemble's sites (B,) as a member numbers them; -1 stays -1.

    >>> renumbered(torch.tensor([1, 0, -1]), (-1, 0)).tolist()
    [0, -1, -1]
    """
    table = torch.tensor([*numbers, -1], device=site.device, dtype=site.dtype)
    return table[site]  # -1 takes the last


def _tensor(output: Prediction, key: str) -> Tensor:
    value = output.get(key)
    if not isinstance(value, Tensor):
        raise ModelError(f"ensemble: a member gives no '{key}', the first one does; make the ensemble again")
    return value


def _joined_warnings(outputs: Sequence[Mapping[str, object]], count: int) -> tuple[str, ...]:
    """The members' warnings for each image, each text once."""
    every: list[list[str]] = [[] for _ in range(count)]
    for output in outputs:
        warnings = output.get("warnings", ())
        assert isinstance(warnings, tuple)
        for texts, text in zip(every, warnings, strict=False):
            if text and text not in texts:
                texts.append(text)
    return tuple("; ".join(texts) for texts in every)
