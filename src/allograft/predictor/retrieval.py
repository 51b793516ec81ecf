"""An image made of the images of a database, found by how similar they are to what is seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import ModelError, SpecError
from allograft.networks import AnyNetwork
from allograft.nn.retrieval import Negative, blended, nearest, normalised, weights_of
from allograft.predictor.direct import Prediction, evaluation_mode, padded_image
from allograft.predictor.mapped import Mapped

UNLIKE = "some of the nearest database images are unlike this one (negative similarity)"
QUERIES = 32
"""Images made at a time: each takes k images of the database into memory."""


def embed(network: AnyNetwork, image: Tensor) -> Tensor:
    """The last feature of a network's encoder averaged over space, (B, C, *spatial) -> (B, D), not
    normalised."""
    features = network.encoder(padded_image(image, network.multiple))  # type: ignore[operator]
    embedded: Tensor = features[-1].flatten(2).mean(2)
    return embedded


@dataclass(frozen=True)
class Retrieval:
    """Bands of an image, each made of the k most similar images of its database.

    Args:
        bands: one ``Database`` for each equal part of the image along its first axis.
    """

    bands: tuple[Database, ...]

    def __call__(self, batch: Batch) -> Prediction:
        """``paired`` (B, C, *spatial); ``score`` (B,): the similarity of the nearest image, the
        least over bands; ``spread`` (B,): the standard deviation over the neighbours, mean over
        pixels;
        ``neighbours``: names of cases, the nearest first, bands apart by ``|``."""
        made = [band.make(batch.image) for band in self.bands]
        return {
            "paired": torch.cat([synthesis.image for synthesis in made], 2),
            "score": torch.stack([synthesis.score for synthesis in made]).amin(0),
            "spread": torch.stack([synthesis.spread for synthesis in made]).mean(0),
            "neighbours": tuple(
                " | ".join(texts) for texts in zip(*(synthesis.names for synthesis in made), strict=True)
            ),
            "warnings": tuple(
                next(filter(None, texts), "") for texts in zip(*(synthesis.warnings for synthesis in made), strict=True)
            ),
        }

    def added(self, images: Tensor, names: tuple[str, ...], subjects: tuple[str, ...]) -> Retrieval:
        """With further cases in the database; nothing is trained.

        Args:
            images: (N, C, *spatial) of the modality that is made, nan = not known.
            names, subjects: N each.

        Raises:
            SpecError: a name that is there already, or images of another shape.
        """
        parts = images.chunk(len(self.bands), 2)
        return Retrieval(tuple(band.added(part, names, subjects) for band, part in zip(self.bands, parts, strict=True)))

    def removed(self, subject: str) -> Retrieval:
        """Without the cases of a subject. ``SpecError`` where there are none, or no others."""
        return Retrieval(tuple(band.removed(subject) for band in self.bands))

    def __len__(self) -> int:
        return len(self.bands[0].names)


@dataclass(frozen=True)
class Made:
    """What a database makes of B images."""

    image: Tensor
    score: Tensor
    spread: Tensor
    names: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Database:
    """Keys and images of cases, and the networks that put queries and keys into one space.

    The search is exact: FAISS's flat index where that is installed and the keys are on the CPU, a
    matrix product otherwise.

    Args:
        query, key: networks whose encoders embed either modality.
        keys: (N, D) of length 1.
        images: (N, C, *spatial).
        names, subjects: whose cases they are.
        k: neighbours; all of a database that has fewer left.
        negative: ``released`` or ``clamp``, see ``synthesise``.
    """

    query: Any
    key: Any
    keys: Tensor
    images: Mapped
    names: tuple[str, ...]
    subjects: tuple[str, ...]
    k: int
    negative: Negative
    contains_images: bool = True

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.images) == len(self.names) == len(self.subjects):
            found = f"{len(self.keys)} keys, {len(self.images)} images, {len(self.names)} names"
            raise ModelError(f"database: {found}, {len(self.subjects)} subjects; expected as many of each")
        if not len(self.keys):
            raise SpecError("database: holds no image; build it from at least one pair")

    def make(self, image: Tensor) -> Made:
        """(B, C, *spatial) of the modality that is seen."""
        with evaluation_mode(self.query):
            query = normalised(embed(self.query, image), "query")
        similarity, index = self.search(query, min(self.k, len(self.keys)))
        images, spreads = [], []
        for start in range(0, len(query), QUERIES):
            some, at = similarity[start : start + QUERIES], index[start : start + QUERIES].cpu()
            neighbours = self.images.rows(at.flatten()).unflatten(0, tuple(at.shape)).to(image.device).float()
            # where nothing is similar, no weight is left: the plain mean, with a warning
            alone = weights_of(some, self.negative).sum(1, keepdim=True) == 0
            some = torch.where(alone, torch.ones_like(some), some)
            images.append(blended(some, neighbours, self.negative))
            spreads.append(_spread(some, neighbours, images[-1], self.negative))
        names = tuple("; ".join(self.names[number] for number in row) for row in index.tolist())
        # a pixel that no neighbour knows
        warnings = tuple(UNLIKE if lowest < 0 else "" for lowest in similarity.amin(1).tolist())
        return Made(torch.cat(images).nan_to_num(0.0), similarity[:, 0], torch.cat(spreads), names, warnings)

    def search(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarity and index of the k nearest keys, both (B, k)."""
        if self.index is None or query.device.type != "cpu":
            return nearest(query, self.keys.to(query.device), k)
        similarity, index = self.index.search(query.contiguous().numpy(), k)
        return torch.from_numpy(similarity), torch.from_numpy(index)

    @cached_property
    def index(self) -> Any:
        """FAISS's flat index of the keys; None where it is not installed."""
        if find_spec("faiss") is None or self.keys.device.type != "cpu":
            return None
        import faiss

        index = faiss.IndexFlatIP(self.keys.shape[1])
        index.add(self.keys.contiguous().numpy())
        return index

    def added(self, images: Tensor, names: tuple[str, ...], subjects: tuple[str, ...]) -> Database:
        """With further cases."""
        if twice := sorted(set(names) & set(self.names)) or [name for name in names if names.count(name) > 1]:
            raise SpecError(
                f"index: '{twice[0]}' is in the database already; leave it out, or remove its subject first"
            )
        if images.shape[1:] != self.images.shape[1:]:
            found = "x".join(map(str, images.shape[1:]))
            raise SpecError(
                f"index: images are {found}, those of the database {'x'.join(map(str, self.images.shape[1:]))}; "
                "they must lie on one grid"
            )
        more = Mapped.of(images, like=self.images)
        return replace(
            self,
            keys=torch.cat([self.keys, keys_of(self.key, images).to(self.keys)]),
            images=self.images.joined(more),
            names=(*self.names, *names),
            subjects=(*self.subjects, *subjects),
        )

    def removed(self, subject: str) -> Database:
        """Without a subject's cases."""
        kept = [number for number, owner in enumerate(self.subjects) if owner != subject]
        if len(kept) == len(self.subjects):
            raise SpecError(f"index: subject '{subject}' has no case in the database; see `subjects` in card.json")
        if not kept:
            raise SpecError(f"index: without subject '{subject}' the database is empty; delete the model instead")
        index = torch.tensor(kept)
        return replace(
            self,
            keys=self.keys[index.to(self.keys.device)],
            images=self.images.only(index),
            names=tuple(self.names[owner] for owner in kept),
            subjects=tuple(self.subjects[owner] for owner in kept),
        )


def keys_of(network: AnyNetwork, images: Tensor, batch_size: int = 64) -> Tensor:
    """(N, C, *spatial) -> keys (N, D) of length 1, where the network is; nan is taken as 0."""
    device = next(network.parameters()).device
    with evaluation_mode(network):
        parts = [embed(network, part.to(device).nan_to_num(0.0)) for part in images.split(batch_size)]
    return normalised(torch.cat(parts), "image")


def _spread(similarity: Tensor, neighbours: Tensor, made: Tensor, negative: Negative) -> Tensor:
    """(B,): the weighted standard deviation of the neighbours in each pixel, mean over the
    pixels."""
    weight = weights_of(similarity, negative).abs()
    weight = (weight / weight.sum(1, keepdim=True)).reshape(*weight.shape, *[1] * (neighbours.ndim - 2))
    variance = (weight * (neighbours - made[:, None]).square().nan_to_num(0.0)).sum(1)
    return variance.sqrt().flatten(1).mean(1)
