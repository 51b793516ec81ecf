"""Which two stains an image was coloured with, and the same tissue in the stains of another:
Macenko and Vahadane normalisation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from allograft.errors import SpecError, nearest

Separation = Literal["macenko", "vahadane"]

FAINTEST = 1 / 255
"""Transmittance below which a channel counts as black."""

TISSUE = 0.15
"""Optical density (base 10, as Macenko et al. give it) that a pixel must exceed to count as
stained: the length of its three densities.

Common code asks it of each channel, which drops eosin that lets red pass, and then finds two kinds
of haematoxylin."""

ROBUST = 1.0
"""Percentile of the angles on either side at which Macenko et al. take the stains; 100 minus it is
the largest amount of a stain."""

SPARSITY = 0.1
"""Weight of the amounts' 1-norm in Vahadane et al. (lambda), for optical densities in base e."""

PIXELS = 2000
"""At most so many stained pixels, evenly spaced, are given to dictionary learning."""

START = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
"""Where dictionary learning starts: haematoxylin and eosin of Ruifrok and Johnston (2001)."""


def optical_density(image: Tensor) -> Tensor:
    """``-ln(max(rgb, 1/255))``: (3, H, W) in [0, 1] -> (H W, 3) float64, at least 0."""
    return -image.double().flatten(1).T.clamp(FAINTEST, 1).log()


def stained(density: Tensor) -> Tensor:
    """The rows of (N, 3) in base e that are longer than 0.15 in base 10."""
    return density[density.norm(dim=1) > TISSUE * np.log(10)]


def macenko_stains(density: Tensor) -> Tensor:
    """The extreme directions in the plane through the origin that fits best (Macenko et al. 2009,
    section 2).

    Stained pixels are projected onto the plane of their two largest singular vectors; the 1st and
    99th percentile of their angles there are the stains. Where we differ from common code: that
    subtracts the mean first, and its plane need not hold the pixels.

    Args:
        density: (N, 3) of stained pixels.

    Returns:
        (2, 3) rows of length 1, haematoxylin first: the one that absorbs the larger share of red.
    """
    _, vectors = torch.linalg.eigh(density.T @ density)
    plane = vectors[:, 1:].flip(1)  # (3, 2): the largest first
    plane = plane * torch.where(
        plane.sum(0) < 0, -1.0, 1.0
    )  # an eigenvector has no sign; densities lie where it is positive
    projected = density @ plane
    angles = torch.atan2(projected[:, 1], projected[:, 0])
    ends = torch.from_numpy(np.percentile(angles.numpy(), (ROBUST, 100 - ROBUST)))
    return _ordered(torch.stack([ends.cos(), ends.sin()], 1) @ plane.T)


def vahadane_stains(density: Tensor) -> Tensor:
    """Two non-negative atoms of which every pixel is a sparse non-negative mixture (Vahadane et al.
    2016, eq. 4).

    Minimises ``1/2 ||V - W H||^2 + lambda ||H||_1`` with W, H >= 0 and columns of W of length 1, by
    scikit-learn's dictionary learning in mini-batches, from the usual haematoxylin and eosin, so
    that the same pixels give the same stains.

    Args:
        density: (N, 3) of stained pixels.

    Returns:
        (2, 3) rows of length 1, haematoxylin first.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    start = np.array(START)
    learner = MiniBatchDictionaryLearning(
        2,
        alpha=SPARSITY,
        fit_algorithm="cd",
        positive_code=True,
        positive_dict=True,
        dict_init=start / np.linalg.norm(start, axis=1, keepdims=True),
        batch_size=256,
        max_iter=10,
        shuffle=True,
        random_state=0,
    )
    few = density[:: max(1, -(-len(density) // PIXELS))]
    with warnings.catch_warnings():
        # of the codes of single mini-batches, by 1e-7
        warnings.simplefilter("ignore", ConvergenceWarning)
        atoms = learner.fit(few.numpy()).components_
    return _ordered(torch.from_numpy(atoms).to(density))


def stain_amounts(density: Tensor, stains: Tensor, sparsity: float = 0.0) -> Tensor:
    """Non-negative amounts h that minimise ``1/2 |v - h S|^2 + sparsity (h1 + h2)`` for each pixel,
    in closed form for two stains.

    Args:
        density: (N, 3).
        stains: (2, 3), rows of length 1.

    Returns:
        (N, 2).
    """
    toward = density @ stains.T - sparsity  # (N, 2); what either stain alone would take
    both = torch.linalg.solve(stains @ stains.T, toward.T).T
    alone = toward.clamp_min(0)
    single = alone * (
        alone == alone.max(1, keepdim=True).values
    )  # rows of length 1: the larger inner product leaves the smaller rest
    return torch.where((both >= 0).all(1, keepdim=True), both, single)


@dataclass(frozen=True)
class Stains:
    """An image's stains.

    Args:
        vectors: (2, 3) optical density (base e) of one unit of haematoxylin and of eosin, rows of
            length 1.
        most: (2,) the 99th percentile of either amount.
    """

    vectors: Tensor
    most: Tensor


def find_stains(image: Tensor, method: Separation) -> Stains | None:
    """The stains of (3, H, W) in [0, 1]; None where fewer than 1 % of the pixels, or fewer than 16,
    are stained, or stains do not differ.

    Raises:
        SpecError: an unknown method.
    """
    if method not in ("macenko", "vahadane"):
        raise SpecError(nearest(method, ("macenko", "vahadane"), "stain separation"))
    density = optical_density(image)
    tissue = stained(density)
    if len(tissue) < max(16, len(density) // 100):
        return None
    vectors = macenko_stains(tissue) if method == "macenko" else vahadane_stains(tissue)
    if not bool(vectors.isfinite().all()) or float(vectors[0] @ vectors[1]) > 0.9999:
        return None
    most = torch.from_numpy(np.percentile(_amounts(density, vectors, method).numpy(), 100 - ROBUST, axis=0))
    return Stains(vectors, most) if bool((most > 1e-6).all()) else None


def restain(image: Tensor, own: Stains | None, reference: Stains, method: Separation) -> Tensor:
    """The same tissue in the stains of a reference: (3, H, W) in [0, 1] -> the same shape and type.

    ``exp(-(h * most_reference / most_own) @ S_reference)``, clipped to [0, 1] (Vahadane et al.
    2016, eq. 7 and 8; so does Macenko's code). An image without stains of its own (None) comes back
    unchanged.
    """
    if own is None:
        return image
    amounts = _amounts(optical_density(image), own.vectors, method) * (reference.most / own.most)
    return torch.exp(-(amounts @ reference.vectors)).clamp(0, 1).T.reshape(image.shape).to(image.dtype)


def _amounts(density: Tensor, vectors: Tensor, method: Separation) -> Tensor:
    return stain_amounts(density, vectors, SPARSITY if method == "vahadane" else 0.0)


def _ordered(vectors: Tensor) -> Tensor:
    """Rows of length 1 without negative densities, the one that absorbs the larger share of red
    first."""
    vectors = vectors.clamp_min(0)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    return vectors.flip(0) if vectors[1, 0] > vectors[0, 0] else vectors
