"""SimMIM: restore masked patches from those that are left (Xie et al. 2022), on the pool's images,
from scratch or on top of other weights (Ma et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.networks.tokens import TokenEncoder, token_encoder
from allograft.parts.patches import enlarged, permutations, pixels_of
from allograft.parts.pool import check_patches, chosen_pool, mean_of_last, pool_loader, show_pool, steps_of
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.train import train
from allograft.transforms.sample import Sample

MASK = "masked patches"
"""Attribute of a batch: (B, *grid) bool."""


@dataclass(frozen=True)
class SimMim:
    """Pre-train on images of the pool: replace most patches by one learned token, and have a linear
    layer on the encoder's last feature restore their pixels, L1 over masked pixels alone.

    The token replaces the patch's embedding, before positions are added: nothing of a
    masked patch reaches the network. Masked patches are larger than, and independent of, the
    network's own. The mask is drawn in the loader, one a sample.

    *Continual domain-adaptive pre-training* is this recipe on weights that are there: the study's
    ``start``, or ``first``, another pre-training, each on its own part of the pool. Where the
    network's windows differ from the start's (6 at 192 pixels, 7 at 224), their position tables are
    resampled when the weights are loaded; unresampled tables are refused.

    Optimizer, schedule, budget and augmentation are the study's. The paper: AdamW with a weight
    decay of 0.05, 100 epochs of which 10 warm up, cosine, learning rate 2e-4 for every 512 images
    in a batch, down to 1e-5, at 192 pixels. Its random crops of 0.67 to 1 of the image are left to
    the study's augmentation. The mean is over masked pixels and channels of a batch; the released
    code adds 1e-5 to the count.

    Args:
        patch: pixels of a masked patch along every axis, a multiple of the network's own.
        ratio: share of patches that are masked; ``ceil(ratio * N)`` are.
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
        first: a pre-training that this one continues.
    """

    patch: Annotated[int, Ge(1)] = 32
    ratio: Annotated[float, Gt(0), Le(1)] = 0.6
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="ma2022benchmarking",
        authors="Ma, D. and Hosseinzadeh Taher, M. R. and Pang, J. and Islam, N. U. and Haghighi, F. and Gotway, M. B. "
        "and Liang, J.",
        title="Benchmarking and Boosting Transformers for Medical Image Classification",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_2",
    )
    needs: ClassVar[Needs] = Needs(pool=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without tokens, a patch that is no multiple of its own,
        and images that cannot be cut into patches."""
        encoder = token_encoder(network, "simmim")
        if self.patch % encoder.token_size:
            raise SpecError(
                f"simmim: patch {self.patch} is no multiple of the network's own patches of {encoder.token_size} "
                f"pixels; choose a multiple of {encoder.token_size}"
            )
        chosen = chosen_pool(scenario.pool, self.pool, "simmim")
        check_patches(chosen, context, self.patch, "simmim", multiple=encoder.strides[-1])

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Xie et al., section 3, on the chosen images."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        pool = chosen_pool(scenario.pool, self.pool, "simmim")
        transform = Masked(Sample(context.settings.augmentation, context.settings.patch), self.patch, self.ratio)
        batches = pool_loader(pool, context, transform)
        steps = steps_of(context, self.epochs, batches.epoch)
        objective = MaskedRestoration(network, pool[0].case(0).image, self.patch).to(context.fabric.device)
        history = train(context.gradient_step(network, objective, steps=steps), batches, steps=steps, context=context)
        show_pool(
            pool,
            transform,
            lambda batch: objective.pictures(network, batch),
            context,
            "images of the pool: masked, restored, and as they are",
            network,
            objective,
        )
        reached = mean_of_last(history, batches.epoch)
        yield Stage("pretrained", seen=scenario.sites, facts={"steps": steps, **reached})
        return Carry(network)


@dataclass(frozen=True)
class Masked:
    """A sample with a mask of its patches, under ``MASK``."""

    sample: Transform
    patch: int
    ratio: float

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        sample = self.sample(case, rng)
        grid = [side // self.patch for side in sample.image.shape[2:]]
        return replace(sample, attributes={**sample.attributes, MASK: random_mask(grid, self.ratio, rng)})


def random_mask(
    grid: Sequence[int],
    ratio: float,
    generator: torch.Generator | None,
    *,
    batch: int = 1,
    permutation: Tensor | None = None,
) -> Tensor:
    """Masks of patches: True for the first ``ceil(ratio * N)`` of a permutation of the N patches.

    Args:
        grid: patches along each axis.
        ratio: share that is masked.
        generator: draws the permutations of all images at once; None where they are given.
        batch: how many images.
        permutation: (N,) or (B, N) patch indices, in row-major order of the grid.

    Returns:
        (B, *grid) bool.

    Example:
        >>> random_mask((1, 4), 0.6, None, permutation=torch.tensor([3, 0, 1, 2])).tolist()
        [[[True, True, False, True]]]
    """
    size = math.prod(grid)
    if permutation is None:
        if generator is None:
            raise SpecError("random_mask: neither a generator nor a permutation was given; pass one of them")
        permutation = permutations(batch, size, generator)
    rows = permutation.reshape(-1, size)
    masked = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
    return masked.scatter_(1, rows[:, : math.ceil(ratio * size)], True).view(len(rows), *grid)


def masked_l1(restored: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over masked pixels and channels; 0 where nothing is masked.

    Args:
        restored, image: (B, C, *spatial).
        mask: (B, *grid) bool, of patches or of pixels; spatial is a multiple of the grid.

    Returns:
        ().

    Example:
        >>> mask = torch.tensor([[[True, False]]])
        >>> float(masked_l1(torch.ones(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), mask))
        1.0
    """
    factors = [side / cells for side, cells in zip(image.shape[2:], mask.shape[1:], strict=True)]
    if len(set(factors)) != 1 or not factors[0].is_integer():
        raise SpecError(
            f"masked_l1: a mask of {tuple(mask.shape[1:])} does not divide images of {tuple(image.shape[2:])} into "
            "cubes; give one of the image's size over a whole number"
        )
    weight = enlarged(mask, int(factors[0]))[:, None].to(image.dtype)
    count = (weight.sum() * image.shape[1]).clamp_min(1)
    return ((restored - image).abs() * weight).sum() / count


class MaskedRestoration(nn.Module):
    """The loss, and what it owns: the mask token, and the linear layer from a feature to pixels.

    Args:
        network: with a ``TokenEncoder``.
        image: one of the images, for its channels and dimensions.
        patch: pixels of a masked patch.
    """

    def __init__(self, network: AnyNetwork, image: Tensor, patch: int) -> None:
        super().__init__()
        encoder = token_encoder(network, "simmim")
        self.patch, self.stride = patch, encoder.strides[-1]
        dims, channels = image.ndim - 2, image.shape[1]
        self.token = nn.Parameter(torch.zeros(encoder.token_channels))
        nn.init.trunc_normal_(self.token, std=0.02)
        linear: Any = nn.Conv2d if dims == 2 else nn.Conv3d
        self.decode = linear(encoder.channels[-1], channels * self.stride**dims, 1)

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """L1 over the masked pixels of a batch."""
        restored = self.restored(token_encoder(network, "simmim"), batch)
        return {"restoration": masked_l1(restored, batch.image, batch.attributes[MASK])}

    def restored(self, encoder: TokenEncoder, batch: Batch) -> Tensor:
        """(B, C, *spatial), of images whose masked patches are hidden."""
        tokens = masked_tokens(encoder.embed(batch.image), self.token, batch.attributes[MASK])
        return pixels_of(self.decode(encoder.encode(tokens)[-1]), self.stride)

    def pictures(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Images with masked patches blank, with these restored, and as they are."""
        restored = self.restored(token_encoder(network, "simmim"), batch)
        hidden = enlarged(batch.attributes[MASK], self.patch)[:, None]
        blank = batch.image.amin()
        return {
            "masked": torch.where(hidden, blank, batch.image),
            "restored": torch.where(hidden, restored, batch.image),
            "true": batch.image,
        }


def masked_tokens(tokens: Tensor, token: Tensor, mask: Tensor) -> Tensor:
    """``token`` (C,) in the place of the tokens of masked patches: (B, *grid, C), (B, *coarser
    grid) bool -> (B, *grid, C)."""
    hidden = enlarged(mask, tokens.shape[1] // mask.shape[1])
    return torch.where(hidden[..., None], token.to(tokens), tokens)
