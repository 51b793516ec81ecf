"""A step of each pretext against plain reconstruction by the same network in bare PyTorch and
MONAI, and the memory of ``contrastive`` against twice ``reconstruction``.

Above 1: two views (contrastive), a critic (adversarial), noise and a time step (diffusion). Below
1: MONAI's SSIM convolves with a dense window, ours with one axis after another.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.losses import SSIMLoss
from ratio import compare, keep

from allograft.context import Context, Journal
from allograft.networks import build, reheaded
from allograft.phantoms.brain import write_brain
from allograft.recipe import parse_recipe, total_needs
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.seeds import Seeds
from allograft.study.keys import Question
from allograft.study.reading import make_study

STEPS, BATCH, SIZE = 10, 2, 48
NETWORKS = {
    "reconstruction": {"dynunet": {"spatial_dims": 3, "channels": [16, 32, 64]}},
    "contrastive": {"dynunet": {"spatial_dims": 3, "channels": [16, 32, 64]}},
    "adversarial": {"dynunet": {"spatial_dims": 3, "channels": [16, 32, 64]}},
    "denoising_diffusion": {"diffusion_unet": {"channels": [16, 16, 32], "head_channels": 32, "norm_groups": 16}},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_brain(Path(folder) / "cohort", sites={"a": "none"}, subjects=8, size=SIZE, dims=3)
        for name, network in NETWORKS.items():
            study = make_study(
                {
                    "cohort": str(manifest),
                    "task": {"segmentation": {"classes": ["white", "grey"]}},
                    "network": network,
                    "target": ["a"],
                    "pool": ["a"],
                    "target_labels": "all",
                    "recipes": [name],
                    "augmentation": "none",
                    "budget": {"steps": STEPS, "steps_per_epoch": STEPS // 2, "batch_size": BATCH},
                }
            )
            session = Session(study, Path(folder) / name, None, local_fabric(accelerator="cpu"), 0, 60.0, print)
            world = session.prepare()
            measure(name, session.context(0), world.scenario(Question("a", ("a",)), 0, 0), Path(folder))


def measure(name: str, context: Context, scenario: Any, folder: Path) -> None:
    """Training steps alone: nothing is held out, so nothing is validated."""
    recipe = parse_recipe({name: {"held_out": 0}})
    narrowed = scenario.narrowed(total_needs(recipe))
    ((network, arguments),) = NETWORKS[name].items()
    spec = {"build": {network: {"in_channels": 1, "outputs": {}, **arguments}}}
    count = 0

    def fresh() -> torch.nn.Module:
        with Seeds(0).everything("network"):
            return build(spec)

    def ours() -> None:
        nonlocal count
        count += 1
        inner = replace(context, journal=Journal(folder / f"journal-{name}-{count}"))
        list(recipe.run(narrowed, fresh(), inner))

    def bare() -> None:
        restorer, _ = reheaded(fresh(), {"paired": 1})
        restorer.train()
        optimizer = torch.optim.Adam(restorer.parameters(), 1e-3)
        loss_of = SSIMLoss(3, data_range=6.0)
        batches = context.loader(narrowed.pool, "pool")(0)
        for _ in range(STEPS):
            image = next(batches).image
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(restorer(image)["paired"], image)
            loss.backward()
            optimizer.step()
            float(loss)

    if name == "reconstruction":
        restorer = reheaded(fresh(), {"paired": 1})[0].train()
        step = context.gradient_step(
            restorer, lambda network, batch: {"square": network(batch.image)["paired"].square().mean()}
        )
        keep(
            "pretext_idle",
            {"share_of_waiting_for_2_workers": round(idle_share(context, narrowed, step), 4), "limit": 0.1},
        )
    compare(f"pretext_{name}", ours, bare, limit=None, rounds=3)
    keep(
        f"pretext_{name}_saved", {"megabytes_for_backward": round(saved(recipe, narrowed, fresh(), context, folder), 1)}
    )


def idle_share(context: Context, scenario: Any, step: Any) -> float:
    """The share of the time of steps that is spent waiting for two loader workers."""
    batches = replace(context, workers=2).loader(scenario.pool, "idle")(0)
    next(batches)
    waited = worked = 0.0
    for _ in range(STEPS):
        began = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        step(batch)
        waited, worked = waited + loaded - began, worked + time.perf_counter() - loaded
    return waited / (waited + worked)


def saved(recipe: Any, scenario: Any, network: torch.nn.Module, context: Context, folder: Path) -> float:
    """Megabytes that autograd keeps for the backward pass of a step, the most of two steps."""
    sizes: list[dict[int, int]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if sizes:
            sizes[-1][tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    sizes.append({})
    inner = replace(context, journal=Journal(folder / f"saved-{type(recipe).__name__}"))
    budget = replace(inner.settings.budget, steps=1, steps_per_epoch=1)
    inner = replace(inner, settings=replace(inner.settings, budget=budget))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        list(recipe.run(scenario, network, inner))
    return sum(sizes[-1].values()) / 2**20


if __name__ == "__main__":
    main()
