"""POPAR: tell where shuffled patches come from, and restore what was shuffled or distorted (Pang et
al. 2022)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.networks.tokens import token_encoder
from allograft.parts.patches import from_patches, in_patches, permutations, pixels_of
from allograft.parts.pool import (
    check_patches,
    chosen_pool,
    mean_of_last,
    pool_loader,
    sample_shape,
    show_pool,
    steps_of,
)
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.train import train
from allograft.transforms.genesis import Genesis
from allograft.transforms.sample import Sample

ORDER = "patch order"
"""Attribute of a batch: (B, N) int64, the original patch at each position."""
CLEAN = "clean"
"""View of a batch: the images in true order, undistorted."""
Tasks = Literal["all", "order", "order_misplaced", "distorted"]
Reduction = Literal["paper", "released"]


@dataclass(frozen=True)
class Popar:
    """Pre-train on images of the pool, each with its patches in random order and clean, or in true
    order and distorted: one linear layer tells every position's original patch, another restores
    the clean image in true order.

    A patch is what the encoder's last feature has one vector for: 16 pixels of a vision
    transformer, 32 of Swin, so 196 of 224 pixels with the one and of 448 with the other, and 49 of
    224 with Swin (Table 1's 47 is a misprint). Positions are counted from 0 in row-major order, and
    the label of a position is the index of the original patch that is now there.

    Optimizer, schedule, budget and augmentation are the study's; the paper: SGD 0.1, 1000 epochs of
    ViT-B and 300 of Swin-B. Distortions are Models Genesis', pixels always shuffled, within a
    channel; in the released code pixels of all channels mix. Tuning: a linear head on the mean of
    the tokens, for either backbone; the paper's ViT head names no pooling.

    Args:
        order_weight: lambda; restoration has 1 - lambda.
        tasks: ``all``; ``order``: shuffled images and the order's loss alone (T_poc);
            ``order_misplaced``: shuffled images, both losses (T_poc + T_mpr); ``distorted``:
            distorted images and restoration alone (T_mgr).
        reduction: ``released``: both terms are means; ``paper``: sums over patches, and over the
            pixels of each, as printed, with which SGD at 0.1 does not train: a warning reports it.
        mix_channels: shuffled pixels may change their channel, as in the released code.
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
    """

    order_weight: Annotated[float, Ge(0), Le(1)] = 0.5
    tasks: Tasks = "all"
    reduction: Reduction = "released"
    mix_channels: bool = False
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()

    paper: ClassVar[Paper | None] = Paper(
        key="pang2022popar",
        authors="Pang, J. and Haghighi, F. and Ma, D. and Islam, N. U. and Hosseinzadeh Taher, M. R. and Gotway, M. B. "
        "and Liang, J.",
        title="POPAR: Patch Order Prediction and Appearance Recovery for Self-supervised Medical Image Analysis",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_8",
    )
    needs: ClassVar[Needs] = Needs(pool=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without tokens, and images that cannot be cut into its
        patches or are cut into one."""
        patch = token_encoder(network, "popar").strides[-1]
        pool = chosen_pool(scenario.pool, self.pool, "popar")
        check_patches(pool, context, patch, "popar", field="the network's patch_size")
        size = sample_shape(pool, context)[2:]
        if math.prod(side // patch for side in size) < 2:
            raise SpecError(
                f"popar: samples of {'x'.join(map(str, size))} are one patch of {patch} pixels, which has no order; "
                "raise preprocessing: size, or patch"
            )
        if self.reduction == "paper":
            warnings.warn(
                "popar: reduction 'paper' sums over patches and pixels, which SGD at the paper's 0.1 does not train; "
                "lower the learning rate, or use 'released'",
                stacklevel=2,
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Section 3 of the paper."""
        network.train()
        pool, patch = chosen_pool(scenario.pool, self.pool, "popar"), token_encoder(network, "popar").strides[-1]
        sample = Sample(context.settings.augmentation, context.settings.patch)
        transform = Distorted(sample, patch, Genesis(shuffle=1.0, mix_channels=self.mix_channels), self.shuffled_share)
        batches = pool_loader(pool, context, transform)
        steps = steps_of(context, self.epochs, batches.epoch)
        _, channels, *size = sample_shape(pool, context)
        count = math.prod(side // patch for side in size)
        objective = OrderAndAppearance(network, count, channels, len(size), self).to(context.fabric.device)
        history = train(context.gradient_step(network, objective, steps=steps), batches, steps=steps, context=context)
        show_pool(
            pool,
            transform,
            lambda batch: objective.pictures(network, batch),
            context,
            "images of the pool: shuffled or distorted, restored, and as they are",
            network,
            objective,
        )
        reached = mean_of_last(history, batches.epoch)
        yield Stage("pretrained", seen=scenario.sites, facts={"steps": steps, "patches": count, **reached})
        return Carry(network)

    @property
    def shuffled_share(self) -> float:
        """The share of images whose patches are shuffled; the others are distorted."""
        return {"all": 0.5, "order": 1.0, "order_misplaced": 1.0, "distorted": 0.0}[self.tasks]

    @property
    def weights(self) -> tuple[float, float]:
        """Of the order's loss, and of restoration."""
        alone = {"order": (1.0, 0.0), "distorted": (0.0, 1.0)}
        return alone.get(self.tasks, (self.order_weight, 1 - self.order_weight))


@dataclass(frozen=True)
class Distorted:
    """A sample in shuffled patches, or else distorted; its order is under ``ORDER``, the clean
    sample under ``CLEAN``.

    Args:
        shuffled: the chance that patches are shuffled.
    """

    sample: Transform
    patch: int
    genesis: Genesis
    shuffled: float = 0.5

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        clean = self.sample(case, rng)
        count = math.prod(side // self.patch for side in clean.image.shape[2:])
        if float(torch.rand((), generator=rng)) < self.shuffled:
            order = permutations(1, count, rng)
            image = permute_patches(clean.image, order, self.patch)
        else:
            order = torch.arange(count)[None]
            image = self.genesis(clean.image[0], rng)[None]
        views = {**clean.views, CLEAN: clean.image}
        return replace(clean, image=image, views=views, attributes={**clean.attributes, ORDER: order})


def permute_patches(image: Tensor, permutation: Tensor, patch: int) -> Tensor:
    """Position l of the result holds patch ``permutation[l]`` of the image, positions counted in
    row-major order.

    Args:
        image: (B, C, *spatial), whose sides are multiples of ``patch``.
        permutation: (N,) for all images, or (B, N).
        patch: pixels of a patch along every axis.

    Returns:
        (B, C, *spatial), a new tensor.

    Raises:
        SpecError: sides that are no multiple, or another number of patches.

    Example:
        >>> permute_patches(torch.arange(4.0).view(1, 1, 1, 4), torch.tensor([2, 0, 3, 1]), 1).tolist()
        [[[[2.0, 0.0, 3.0, 1.0]]]]
    """
    grid = [side // patch for side in image.shape[2:]]
    count = math.prod(grid)
    if any(side % patch for side in image.shape[2:]) or permutation.shape[-1] != count:
        raise SpecError(
            f"permute_patches: {permutation.shape[-1]} positions for images of {tuple(image.shape[2:])} in patches of "
            f"{patch}; expected sides that are multiples of the patch, and a position for each patch"
        )
    order = permutation.expand(len(image), count)
    patches = in_patches(image, patch)
    return from_patches(patches[torch.arange(len(image), device=image.device)[:, None], order], grid)


def popar_loss(
    order_logits: Tensor,
    permutation: Tensor,
    restored: Tensor,
    image: Tensor,
    weight: float,
    *,
    reduction: Reduction = "paper",
) -> Tensor:
    """The loss of section 3, weight * L_pop + (1 - weight) * L_ar.

    L_pop is the cross-entropy of each position's logits over original patches, L_ar the squared
    distance of the pixels. ``paper``: both are summed over an image's positions and pixels, and are
    means over images; ``released``: means over positions, and over pixels and channels.

    Args:
        order_logits: (B, N, N); row l are the logits of position l.
        permutation: (B, N) or (N,), the original patch at each position.
        restored, image: (B, C, *spatial); the image is clean and in true order.
        weight: lambda.

    Returns:
        ().
    """
    order, appearance = popar_terms(order_logits, permutation, restored, image, reduction)
    return weight * order + (1 - weight) * appearance


def popar_terms(
    order_logits: Tensor, permutation: Tensor, restored: Tensor, image: Tensor, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    """L_pop and L_ar, each (); see ``popar_loss``."""
    target = permutation.expand(len(image), -1)
    order, appearance = F.cross_entropy(order_logits.flatten(0, 1), target.flatten()), F.mse_loss(restored, image)
    if reduction == "released":
        return order, appearance
    return order * target.shape[1], appearance * image[0].numel()


class OrderAndAppearance(nn.Module):
    """The loss, and the two linear layers on the encoder's last feature that it owns.

    Args:
        network: with a ``TokenEncoder``.
        count: patches of an image.
        channels, dims: of the images.
        recipe: weights and reduction.
    """

    def __init__(self, network: AnyNetwork, count: int, channels: int, dims: int, recipe: Popar) -> None:
        super().__init__()
        encoder = token_encoder(network, "popar")
        self.recipe, self.patch, width = recipe, encoder.strides[-1], encoder.channels[-1]
        linear: Any = nn.Conv2d if dims == 2 else nn.Conv3d
        self.order = linear(width, count, 1)
        self.appearance = linear(width, channels * self.patch**dims, 1)

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Both terms, weighted; one of weight 0 is left out."""
        feature = self.feature(network, batch)
        logits, restored = self.order(feature).flatten(2).mT, pixels_of(self.appearance(feature), self.patch)
        terms = popar_terms(logits, batch.attributes[ORDER], restored, batch.views[CLEAN], self.recipe.reduction)
        named = zip(("order", "restoration"), terms, self.recipe.weights, strict=True)
        return {name: weight * term for name, term, weight in named if weight}

    def feature(self, network: AnyNetwork, batch: Batch) -> Tensor:
        """The encoder's last, (B, C, *grid)."""
        encoder = token_encoder(network, "popar")
        return encoder.encode(encoder.embed(batch.image))[-1]

    def pictures(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Images as they are given, restored, and as they are."""
        restored = pixels_of(self.appearance(self.feature(network, batch)), self.patch)
        true = torch.equal(batch.attributes[ORDER], batch.attributes[ORDER].sort(1).values)
        return {"distorted" if true else "shuffled": batch.image, "restored": restored, "true": batch.views[CLEAN]}
