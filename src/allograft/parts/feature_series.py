"""How a network's features of source and target move in a training: the same images at several
moments of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.figure import Points
from allograft.networks import AnyNetwork, Network
from allograft.parts.features import images_in_order
from allograft.parts.paired_batches import require_encoder
from allograft.predictor import evaluation_mode
from allograft.predictor.direct import padded_image
from allograft.recipe import Scenario, Stage
from allograft.train import History

MOMENTS = 3
"""Equal parts of a training; features are shown before the first and after each."""
MOST, FEWEST = 100, 10
"""Images of a group that are shown at most, and of all groups at least."""
CELLS = 4
"""Along each axis, to whose means a feature is brought, whatever the image's size."""


class Training(Protocol):
    """``train_with_checkpoints`` of a step and its batches, over some of its steps."""

    def __call__(self, *, steps: range, total: int) -> Generator[Stage, None, History]:
        """Yield the models along the way."""


def groups_of(scenario: Scenario) -> dict[str, tuple[Cohort, ...]]:
    """The training images of the source, those of the target with labels, and those without."""
    groups = {
        "source": scenario.source,
        "target, labelled": tuple(cohort for cohort in scenario.target if cohort.has_labels),
        "target, unlabelled": tuple(cohort for cohort in scenario.target if not cohort.has_labels),
    }
    return {name: few for name, cohorts in groups.items() if (few := _few(cohorts))}


def _few(cohorts: Sequence[Cohort]) -> tuple[Cohort, ...]:
    """At most ``MOST`` images, as many cases of a cohort as of another; of a scan in slices all
    slices of fewer scans."""
    kept = []
    for cohort in cohorts:
        each = max(1, len(cohort) // max(1, len(cohort.cases)))
        kept.append(cohort.of(cohort.subjects[: max(1, MOST // len(cohorts) // each)]))
    return tuple(cohort for cohort in kept if len(cohort))


def train_with_features(
    training: Training, network: AnyNetwork, scenario: Scenario, steps: int, context: Context
) -> Generator[Stage, None, None]:
    """A training in ``MOMENTS`` parts, with a t-SNE of the encoder's last feature before the first
    and after each (Goodman et al. 2022, fig. 1).

    The target's images without labels stand for the paper's test images, which no recipe sees.
    """
    require_encoder(network, "show_features")
    assert isinstance(network, Network)
    series = Series(network, groups_of(scenario), context)
    series.show(0, steps)
    edges = [steps * part // MOMENTS for part in range(MOMENTS + 1)]
    for start, stop in pairwise(edges):
        yield from training(steps=range(start, stop), total=steps)
        series.show(stop, steps)


@dataclass(frozen=True)
class Series:
    """The figures of one training.

    Args:
        network: the live one.
        groups: name -> images.
        context: where they are shown.
    """

    network: Network
    groups: Mapping[str, Sequence[Cohort]]
    context: Context

    def show(self, step: int, steps: int) -> None:
        """Keep a figure of this moment; none of fewer than ``FEWEST`` images."""
        names = [name for name, cohorts in self.groups.items() for cohort in cohorts for _ in range(len(cohort))]
        if len(names) < FEWEST:
            return
        # kept, because a run that goes on after a stop is past this moment
        x, y = self.context.once(f"features-{step}", self.points).tolist()
        title = f"t-SNE of the encoder's last feature after {step} of {steps} steps"
        self.context.show(f"features-{step}", Points(title, tuple(x), tuple(y), tuple(names)))

    def points(self) -> Tensor:
        """(2, N): the images of all groups on a plane."""
        from sklearn.manifold import TSNE

        with evaluation_mode(self.network):
            features = torch.cat(
                [
                    self._last(image.to(self.context.fabric.device)).float().cpu()
                    for cohorts in self.groups.values()
                    for image in images_in_order(cohorts, self.context.batch_size)
                ]
            )
        near = min(30.0, (len(features) - 1) / 3)
        made = TSNE(perplexity=near, init="pca", random_state=0).fit_transform(features.numpy())
        return torch.from_numpy(made).T.double().contiguous()

    def _last(self, image: Tensor) -> Tensor:
        """(B, D)."""
        features = self.network.encoder(padded_image(image, self.network.multiple))
        last: Tensor = features if isinstance(features, Tensor) else features[-1]
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[last.ndim - 3]
        return pool(last, CELLS).flatten(1)
