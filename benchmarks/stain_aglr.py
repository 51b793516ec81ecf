"""What the model that Stain-AgLr keeps costs beside that of ``supervised`` (limit 1.02), and
seconds per 100 patches of each normaliser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from ratio import compare, keep, seconds

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget, Context, Settings
from allograft.methods.stain_aglr import StainAgLr
from allograft.methods.stain_normalisation import StainNormalised
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.phantoms.histology import CLASSES, SHIFTS, stain, tissue, write_histology
from allograft.predictor import Direct, load_predictor, save_predictor
from allograft.recipe import Scenario, title
from allograft.run.fabric import local_fabric
from allograft.seeds import Seeds
from allograft.tasks.classification import Classification
from allograft.transforms.stain_separation import find_stains

TASK = Classification(CLASSES)
PATCHES, SIZE = 8, 128  # the paper's TUPAC patches


def patches() -> Batch:
    """Phantom patches of another laboratory, values as an 8-bit file has them."""
    import numpy as np

    draws = [np.random.default_rng(number) for number in range(PATCHES)]
    images = [stain(tissue(rng, SIZE, CLASSES[number % 2]), SHIFTS["severe"], rng) for number, rng in enumerate(draws)]
    image = 255 * torch.from_numpy(np.stack(images)).float().movedim(-1, 1).contiguous()
    return Batch(image, torch.full((PATCHES,), -1), tuple(map(str, range(PATCHES))))


def trained(recipe: Any, folder: Path) -> Direct:
    """What a recipe keeps after two steps on phantom patches of the benchmark's size, saved and
    loaded as users have it."""
    manifest = folder / "cohort" / "manifest.csv"
    if not manifest.exists():
        write_histology(manifest.parent, sites={"a": "none"}, subjects=PATCHES, size=SIZE)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="none"))
    settings = Settings(budget=Budget(steps=2, batch_size=4))
    context = Context(
        local_fabric(accelerator="cpu"), Seeds(0), TASK, settings, None, checkpoint_seconds=60.0, progress=False
    )
    with Seeds(0).everything("network"):
        network = build({"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}}}})
    stage = next(recipe.run(Scenario(source=(cohort,), sites=cohort.sites), network, context))
    save_predictor(stage.predictor, folder / title(recipe), {})
    predictor, _ = load_predictor(folder / title(recipe))
    return predictor


def main() -> None:
    batch = patches()
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = (trained(recipe, Path(folder)) for recipe in (Supervised(), StainAgLr()))
    compare("stain_aglr_inference", lambda: ours(batch), lambda: plain(batch), limit=1.02, rounds=31)
    times = {"none": seconds(lambda: plain(batch)) * 100 / PATCHES}
    for method in ("macenko", "vahadane"):
        reference = find_stains(batch.image[0] / 255, method)  # type: ignore[arg-type]
        assert reference is not None
        predictor = StainNormalised(lambda given: given, method, reference.vectors, reference.most, 255.0)  # type: ignore[arg-type]
        predictor(batch[:1])
        times[method] = seconds(lambda predictor=predictor: predictor(batch)) * 100 / PATCHES  # type: ignore[misc]
    keep(
        "stain_normalisers",
        {f"seconds_per_100_{name}": round(value, 2) for name, value in times.items()} | {"pixels": SIZE},
    )


if __name__ == "__main__":
    main()
