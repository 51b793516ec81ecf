"""MixCL: contrast pixels by image and by label over data sets of different labels, and restore the
image (Li et al. 2022)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network, copied, reheaded, transfer
from allograft.parts.patch_pairs import PatchPairs, datasets_of
from allograft.parts.pool import (
    check_masks,
    check_several,
    chosen_pool,
    feature_shapes,
    mean_of_last,
    sample_shape,
    steps_of,
)
from allograft.parts.views import SECOND, UNDISTORTED, Views
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.train import train
from allograft.transforms.sample import Sample

PIXELS, CLASSES = "sampled pixels", "classes of sampled pixels"
"""Attributes of a batch: (B, N) int64, flat positions on the grid of the label loss, and their
classes; -100 = none."""
LEVEL = 1
"""The encoder's output whose projection the label loss reads: the second."""


@dataclass(frozen=True)
class MixCl:
    """Pre-train on a pool with masks: views of an image have the same projections in every pixel,
    pixels of one foreground label are alike and those of two labels are not, and the decoder
    restores the image.

    A step sees as many pairs of patches as the study's batch size, P1 and P2 from one image or from
    two images of one data set, 1 : 1. A data set is a cohort of the study; data sets may have
    different classes, so that pairs of background pixels, which may be of anything, do not count.
    Images without a mask take part in the other two terms. The encoder alone is kept.

    Corrected, as the paper's text has it: C_ij in the second sum of eq. 4, Z and Z' in eq. 5, Z1
    and Z2 in eq. 6. Kept: no centring in eq. 5, which Barlow Twins has, and the sum over positive
    pairs inside the logarithm of eq. 6, one fraction for all pairs. Eq. 3 is a squared norm; here
    its mean, and by ``reduction: sum`` the norm itself. Ours, where the paper gives none: lambda is
    Barlow Twins', 64 pixels a class, and the ranges of distortions. Correlations are taken image by
    image: the paper has one image a process. Of UNETR, layer l is the encoder's output l. The
    paper's sizes are in ``examples/mixcl_paper.yaml``.

    Args:
        label_weight, restoration_weight: alpha and beta of eq. 2.
        identity_weight: of the third term, 1 in eq. 2; a term of weight 0 is left out (table 2).
        balance: lambda of eq. 4.
        temperature: tau of eq. 6.
        pixels: r, sampled from each class, background included; all of a class that has fewer.
        mu, epsilon: of eq. 7, in pixels of the label loss's grid.
        centred: channels less their mean in eq. 5.
        positives: ``inside`` the logarithm, or ``outside``: supervised contrastive learning's form.
        reduction: of eq. 3, ``mean`` or ``sum`` over pixels; a mean over images.
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
    """

    label_weight: Annotated[float, Ge(0)] = 0.01
    restoration_weight: Annotated[float, Ge(0)] = 0.01
    balance: Annotated[float, Ge(0)] = 0.005
    temperature: Annotated[float, Gt(0)] = 0.1
    pixels: Annotated[int, Ge(1)] = 64
    mu: Annotated[float, Gt(0)] = 8.0
    epsilon: Annotated[float, Gt(0)] = 0.05
    centred: bool = False
    positives: Literal["inside", "outside"] = "inside"
    reduction: Literal["mean", "sum"] = "mean"
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()
    identity_weight: Annotated[float, Ge(0)] = 1.0

    paper: ClassVar[Paper | None] = Paper(
        key="li2022mixcl",
        authors="Li, J. and Quan, Q. and Zhou, S. K.",
        title="MixCL: Pixel label matters to contrastive learning in medical image segmentation",
        venue="arXiv",
        year=2022,
    )
    needs: ClassVar[Needs] = Needs(pool=True, pool_labels=True)

    def __post_init__(self) -> None:
        if not any(self.weights.values()):
            raise SpecError("mixcl: all three weights are 0; give one of the terms a weight")

    @property
    def weights(self) -> dict[str, float]:
        """Of each term of eq. 2."""
        weights = self.identity_weight, self.label_weight, self.restoration_weight
        return dict(zip(("identity", "label", "restoration"), weights, strict=True))

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without a decoder, a pool of one image, a data set
        without masks; warn of a class with fewer pixels than are to be sampled."""
        pool = chosen_pool(scenario.pool, self.pool, "mixcl")
        check_several(pool, "mixcl")
        reheaded(network, {"paired": sample_shape(pool, context)[1]})  # refuses a network that gives no image
        for numbers in datasets_of(pool):
            check_masks([pool[number] for number in numbers], self.pixels, "mixcl")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Eq. 2 on pairs of patches."""
        pool = chosen_pool(scenario.pool, self.pool, "mixcl")
        shape = sample_shape(pool, context)
        restoring = reheaded(network, {"paired": shape[1]})[0].to(context.fabric.device).train()
        levels = feature_shapes(restoring, shape)
        order = PatchPairs(pool, context.batch_size, context.loader_seeds("pool"), context.fabric.world_size)
        views = Views(Sample("none", context.settings.patch))
        sampled = Sampled(views, tuple(levels[LEVEL][2:]), len(pool[0].prepared.coding.mask), self)
        batches = context.loader(pool, "pool", order=order, transform=sampled)
        steps = steps_of(context, self.epochs, batches.epoch)
        objective = Mixed([level[1] for level in levels], len(shape) - 2, self).to(context.fabric.device)
        history = train(context.gradient_step(restoring, objective, steps=steps), batches, steps=steps, context=context)
        reached = mean_of_last(history, batches.epoch)
        facts = {"steps": steps, "datasets": len(order.datasets), **reached}
        yield Stage("pretrained", seen=scenario.sites, facts=facts)
        carried = copied(network)
        transfer(restoring.state_dict(), carried, parts=["encoder"])
        return Carry(carried)


# ------------------------------------------------------------------ which pixels
@dataclass(frozen=True)
class Sampled:
    """Views of a case, and the pixels that its label loss reads, by ``boundary_weights`` on that
    loss's grid, to which labels come by nearest neighbour."""

    views: Views
    grid: tuple[int, ...]
    classes: int
    recipe: MixCl

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        seen = self.views(case, rng)
        count = self.recipe.pixels
        indices = torch.full((self.classes + 1, count), -100)
        classes = torch.full((self.classes + 1, count), -100)
        if isinstance(mask := seen.labels.get("mask"), Tensor):
            coarse = F.interpolate(mask.float(), size=self.grid, mode="nearest-exact")[0, 0].long()
            weights = boundary_weights(coarse, self.recipe.mu, self.recipe.epsilon).flatten()
            for number in range(self.classes + 1):
                own = weights * (coarse.flatten() == number)
                if taken := min(count, int((own > 0).sum())):
                    indices[number, :taken] = torch.multinomial(own, taken, generator=rng)
                    classes[number, :taken] = number
        more = {PIXELS: indices.view(1, -1), CLASSES: classes.view(1, -1)}
        return replace(seen, labels={}, attributes={**seen.attributes, **more})


def boundary_weights(mask: Tensor, mu: float = 8, epsilon: float = 0.05) -> Tensor:
    """Weight sqrt(D) exp(-D / mu) / 2 + epsilon (eq. 7), D the distance to the nearest pixel of
    another label, in pixels; it peaks at D = mu / 2, not at the boundary.

    Args:
        mask: (*spatial) int64; every value is a label of its own. -100 = not labelled: weight 0.

    Returns:
        (*spatial) float64; ``epsilon`` throughout a mask of one label, which has no boundary.

    Example:
        >>> boundary_weights(torch.tensor([0, 0, 1])).round(decimals=3).tolist()
        [0.601, 0.491, 0.491]
    """
    from scipy.ndimage import distance_transform_edt

    weights = torch.zeros(mask.shape, dtype=torch.float64)
    labels = mask.unique().tolist()
    for label in labels:
        own = mask == label
        distance = torch.from_numpy(distance_transform_edt(own.numpy())) if len(labels) > 1 else weights
        curve = distance.sqrt() * torch.exp(-distance / mu) / 2 + epsilon
        weights[own] = curve[own] if label != -100 else 0.0
    return weights


# ------------------------------------------------------------------ what is minimised
def identity_loss(z: Tensor, z_prime: Tensor, balance: float, *, centred: bool = False) -> Tensor:
    """Sum of (1 - C_ii)^2 over i + balance * sum of C_ij^2 over i != j (eq. 4); C_ij correlates
    channel i of one view and channel j of the other over pixels (eq. 5): (M, C) twice -> ().

    Example:
        >>> z = torch.eye(3)[:, :2]
        >>> float(identity_loss(z, z, 0.005))
        0.0
    """
    if centred:
        z, z_prime = z - z.mean(0), z_prime - z_prime.mean(0)
    squared = (F.normalize(z, dim=0).T @ F.normalize(z_prime, dim=0)).float()
    on = (1 - squared.diagonal()).square().sum()
    return on + balance * (squared.square().sum() - squared.diagonal().square().sum())


def label_loss(
    z1: Tensor,
    labels1: Tensor,
    z2: Tensor,
    labels2: Tensor,
    temperature: float,
    *,
    positives: Literal["inside", "outside"] = "inside",
) -> Tensor:
    """Minus log of the share of positive pairs in exp(cos / tau) over all pairs that count (eq. 6).

    A pair of one foreground label is positive, of two labels negative; two background pixels do not
    count, nor does a pixel without a label. ``outside``: the mean over positive pairs of -log of
    their share in the row of their first pixel. 0 where no pair is positive.

    Args:
        z1, z2: (M, C), (N, C); any length, they are normalised.
        labels1, labels2: (M,), (N,) int64; 0 = background, below 0 = not labelled.
        temperature: tau.

    Example:
        >>> z = torch.eye(2)
        >>> round(float(label_loss(z, torch.tensor([1, 0]), z, torch.tensor([1, 0]), 1.0)), 4)
        0.5514
    """
    same = labels1[:, None] == labels2
    known = (labels1[:, None] >= 0) & (labels2 >= 0)
    positive = same & known & (labels1[:, None] > 0)
    counts = known & (positive | ~same)
    logits = (F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T).float() / temperature
    if not positive.any():
        return logits.sum() * 0
    every = logits.masked_fill(~counts, -torch.inf)
    if positives == "outside":
        rows = positive.any(1)
        return (every[rows].logsumexp(1, keepdim=True) - logits[rows])[positive[rows]].mean()
    return every.flatten().logsumexp(0) - logits[positive].logsumexp(0)


class Mixed(nn.Module):
    """The loss of eq. 2, and the projectors that it owns: one a level of the encoder, three 1 x 1
    convolutions of c, c and 2c channels with group normalisation (one group) and ReLU between them.

    Args:
        channels: of each level.
        dims: of the images.
        recipe: weights.
    """

    def __init__(self, channels: Sequence[int], dims: int, recipe: MixCl) -> None:
        super().__init__()
        self.recipe = recipe
        self.projectors = nn.ModuleList(projector(count, dims) for count in channels)

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Terms, weighted; P1 and P2 alternate in the batch."""
        assert isinstance(network, Network)
        assert network.decoder is not None
        ours, pairs = self.recipe, len(batch) // 2
        images = torch.cat([batch.image, batch.views[SECOND][::2]])
        features = network.encoder(images)
        projected = [layer(feature).flatten(2).mT for layer, feature in zip(self.projectors, features, strict=True)]
        restored = network.heads["paired"](features, network.decoder(features))
        clean = torch.cat([batch.views[UNDISTORTED], batch.views[UNDISTORTED][::2]])
        identity = [
            identity_loss(level[2 * n], level[2 * pairs + n], ours.balance, centred=ours.centred)
            for level in projected
            for n in range(pairs)
        ]
        z, indices, classes = projected[LEVEL], batch.attributes[PIXELS], batch.attributes[CLASSES]
        taken = [z[n][indices[n].clamp_min(0)] for n in range(2 * pairs)]
        label = [
            label_loss(taken[n], classes[n], taken[n + 1], classes[n + 1], ours.temperature, positives=ours.positives)
            for n in range(0, 2 * pairs, 2)
        ]
        missed = (restored - clean).square().flatten(1)
        terms = {
            "identity": torch.stack(identity).sum() / pairs,
            "label": torch.stack(label).mean(),
            "restoration": getattr(missed, ours.reduction)(1).mean(),
        }
        return {name: weight * terms[name] for name, weight in ours.weights.items() if weight}


def projector(channels: int, dims: int) -> nn.Sequential:
    """Convolutions of c, c and 2c channels."""
    linear: Any = nn.Conv2d if dims == 2 else nn.Conv3d
    middle = [
        layer for _ in range(2) for layer in (linear(channels, channels, 1), nn.GroupNorm(1, channels), nn.ReLU())
    ]
    return nn.Sequential(*middle, linear(channels, 2 * channels, 1))
