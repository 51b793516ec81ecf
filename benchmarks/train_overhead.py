"""``train()`` against a bare PyTorch loop: same network, same data, same loss, same optimizer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from ratio import compare

from allograft.context import Context, Journal
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.seeds import Seeds
from allograft.study.reading import make_study
from allograft.study.world import World
from allograft.train import train

STEPS = 80


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_brain(Path(folder) / "cohort", sites={"a": "none", "b": "none"}, subjects=8, size=96)
        study = make_study(
            {
                "cohort": str(manifest),
                "task": {"segmentation": {"classes": ["white", "grey"]}},
                "network": {"unet": {"channels": [16, 32, 64, 128]}},
                "source": ["a"],
                "target": ["b"],
                "recipes": [],
                "augmentation": "none",
                "patch": [64, 64],
            }
        )
        session = Session(study, Path(folder) / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, print)
        world: World = session.prepare()
        measure(session.context(0), world, Path(folder))


def measure(context: Context, world: World, folder: Path) -> None:
    """Both loops draw the same batches from the same loader; what differs is all that ``train``
    adds."""
    source = world.scenario("b", 0, 0).source
    task = world.study.made_task
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}}}, "surgery": []}
    count = 0

    def fresh() -> torch.nn.Module:
        with Seeds(0).everything("network"):
            return build(spec)

    def ours() -> None:
        nonlocal count
        count += 1
        from dataclasses import replace

        inner = replace(context, journal=Journal(folder / f"journal-{count}"))
        step = inner.gradient_step(fresh())
        train(step, inner.loader(source, "source"), steps=STEPS, context=inner)

    def bare() -> None:
        network = fresh()
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        batches = context.loader(source, "source")(0)
        for _ in range(STEPS):
            batch = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loss = sum(task.loss(network(batch.image), batch).values())
            loss.backward()
            optimizer.step()
            float(loss)

    compare("train_overhead", ours, bare, limit=1.05)


if __name__ == "__main__":
    main()
