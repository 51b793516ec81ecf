"""What Stain-AgLr's model costs beside a plain classifier's (limit 1.02), and seconds per 100 patches of each stain normaliser."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from ratio import compare, keep, seconds

from allograft.batch import Batch
from allograft.methods.stain_normalisation import StainNormalised
from allograft.networks import build
from allograft.phantoms.histology import CLASSES, SHIFTS, stain, tissue
from allograft.predictor import Direct, load_predictor, save_predictor
from allograft.predictor.direct import quiet
from allograft.transforms.stain_separation import find_stains

PATCHES, SIZE = 8, 128  # the paper's TUPAC patches


def patches() -> Batch:
    """Phantom patches of another laboratory, values as an 8-bit file has them."""
    import numpy as np

    draws = [np.random.default_rng(number) for number in range(PATCHES)]
    images = [stain(tissue(rng, SIZE, CLASSES[number % 2]), SHIFTS["severe"], rng) for number, rng in enumerate(draws)]
    image = 255 * torch.from_numpy(np.stack(images)).float().movedim(-1, 1).contiguous()
    return Batch(image, torch.full((PATCHES,), -1), tuple(map(str, range(PATCHES))))


def main() -> None:
    spec = {"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}}}}
    plain, trained, batch = build(spec), build(spec), patches()
    with tempfile.TemporaryDirectory() as folder:
        save_predictor(Direct(trained), Path(folder) / "model", {})
        ours, _ = load_predictor(Path(folder) / "model")

    def theirs() -> object:
        with quiet(plain):
            return plain(batch.image)

    compare("stain_aglr_inference", lambda: ours(batch), theirs, limit=1.02, rounds=11)
    times = {"none": seconds(lambda: Direct(plain)(batch)) * 100 / PATCHES}
    for method in ("macenko", "vahadane"):
        reference = find_stains(batch.image[0] / 255, method)  # type: ignore[arg-type]
        assert reference is not None
        predictor = StainNormalised(lambda given: given, method, reference.vectors, reference.most, 255.0)  # type: ignore[arg-type]
        predictor(batch[:1])
        times[method] = seconds(lambda predictor=predictor: predictor(batch)) * 100 / PATCHES  # type: ignore[misc]
    keep("stain_normalisers", {f"seconds_per_100_{name}": round(value, 2) for name, value in times.items()} | {"pixels": SIZE})


if __name__ == "__main__":
    main()
