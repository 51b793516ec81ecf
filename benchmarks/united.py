"""A step of each ingredient of United beside the same updates written out in bare PyTorch, and the
k-means of deep clustering beside an epoch of its training (at most a twentieth was promised)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from ratio import compare, keep, ratios
from torch import Tensor

from allograft.batch import Batch
from allograft.methods.united import Ingredients, United
from allograft.networks import Network, build
from allograft.parts.adversary import AdversarialStep, ToldApart, adversary_of
from allograft.parts.deep_clusters import clusters_of
from allograft.parts.pretext_tasks import CLEAN, LABEL, MIX, PretextHead
from allograft.run.fabric import local_fabric
from allograft.step import GradientStep

BATCH, SIZE, IMAGES, CLUSTERS = 4, 24, 256, 64
UNET = {"in_channels": 1, "spatial_dims": 3, "channels": [8, 16, 32]}


def a_batch() -> Batch:
    clean = torch.rand(BATCH, 1, SIZE, SIZE, SIZE)
    attributes = {LABEL: torch.arange(BATCH), MIX: torch.rand(BATCH)}
    image = clean + 0.1 * torch.randn_like(clean)
    return Batch(image, torch.zeros(BATCH).long(), tuple("abcd"), attributes=attributes, views={CLEAN: clean})


def parts(ingredients: str) -> tuple[Network, PretextHead, Network]:
    """A network, a pretext's head and an adversary."""
    network = build({"build": {"unet": {**UNET, "outputs": {} if ingredients == "D" else {"paired": 1}}}})
    assert isinstance(network, Network)
    return network, PretextHead(32, 3, 10, [64], 0.0), adversary_of(network, 1)


def ours(ingredients: str, batch: Batch) -> Callable[[], object]:
    """A step of the recipe."""
    recipe = United(ingredients=ingredients)  # type: ignore[arg-type]
    (network, head, adversary), fabric = parts(ingredients), local_fabric(accelerator="cpu")
    objective = Ingredients(head, recipe)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()])
    step = GradientStep(network, objective, optimizer, fabric)
    if ingredients != "D+R+A":
        return lambda: step(batch)
    critic = GradientStep(adversary, ToldApart(recipe.gan), torch.optim.Adam(adversary.parameters()), fabric)
    both = AdversarialStep(step, critic, objective.learned, 1.0, recipe.gan)
    return lambda: both(batch)


def bare(ingredients: str, batch: Batch) -> Callable[[], object]:
    """The same written out."""
    network, head, adversary = parts(ingredients)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()])
    other = torch.optim.Adam(adversary.parameters())
    clean, image, label = batch.views[CLEAN], batch.image, batch.attributes[LABEL]

    def judged(second: Tensor) -> Tensor:
        return adversary(torch.cat([image, second], 1))["label"]

    def run() -> None:
        optimizer.zero_grad()
        features = network.encoder(image)
        loss = F.cross_entropy(head(features), label)
        restored = image
        if ingredients != "D":
            assert network.decoder is not None
            restored = network.heads["paired"](features, network.decoder(features))
            loss = loss + 100 * F.mse_loss(restored, clean)
        if ingredients == "D+R+A":
            loss = loss + F.softplus(-judged(restored)).mean()
        loss.backward()
        optimizer.step()
        if ingredients == "D+R+A":
            other.zero_grad()
            critic = F.softplus(-judged(clean)).mean() + F.softplus(judged(restored.detach())).mean()
            critic.backward()
            other.step()

    return run


def clustering() -> None:
    """k-means of the features of an epoch's images, in the time of the epoch's steps."""
    features, batch = torch.randn(IMAGES, 32), a_batch()
    step = ours("D", batch)

    def epoch() -> None:
        for _ in range(IMAGES // BATCH):
            step()

    found = ratios(lambda: clusters_of(features, CLUSTERS, 0), epoch, rounds=5)
    keep("united_clustering", {"images": IMAGES, "clusters": CLUSTERS}, share_of_an_epoch=(found, 0.05))


def main() -> None:
    batch = a_batch()
    for ingredients in ("D", "D+R", "D+R+A"):
        name = "united_" + ingredients.lower().replace("+", "")
        step, other = ours(ingredients, batch), bare(ingredients, batch)
        compare(f"{name}_to_bare_torch", step, other, limit=1.1, rounds=9)
        began = time.process_time()
        for _ in range(5):
            step()
        keep(f"{name}_speed", {"steps_per_second": round(5 / (time.process_time() - began), 2)})
    clustering()


if __name__ == "__main__":
    main()
