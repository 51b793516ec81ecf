"""What tests of pre-trainings share: a pool of a few images, a small transformer, and a run to its
end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.unit.tiny import a_context, write_photographs

from allograft.cohort import Cohort
from allograft.context import Budget, Context, Settings
from allograft.networks import AnyNetwork, build
from allograft.recipe import Carry, Scenario
from allograft.seeds import Seeds


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(**changes: Any) -> AnyNetwork:
    arguments = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, **changes}
    with Seeds(0).everything():
        return build({"build": {"vit": {"in_channels": 1, "outputs": {}, **arguments}}})


def pool_of(folder: Path, **sites: int) -> Scenario:
    cohort = Cohort.read(write_photographs(folder, sites)).unlabelled()
    return Scenario(pool=tuple(cohort.site(site) for site in sites), sites=tuple(sites))


def finished(recipe: Any, scenario: Scenario, network: AnyNetwork, context: Context) -> tuple[list[Any], Carry]:
    stages, running = [], context.run(recipe, scenario, network)
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            return stages, end.value


def a_pretraining(folder: Path, steps: int = 4) -> Context:
    return replace(a_context(folder), task=None, settings=Settings(Budget(steps=steps, batch_size=2)))
