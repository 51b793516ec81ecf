"""``predict`` on photographs of 384 x 384 by the default U-Net: the share that is not the network,
``bf16-mixed`` against single precision, and the start of the command against importing torch.

The start is that of whole processes: ``allograft predict`` with one image, and ``import torch``.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from ratio import compare, keep

from allograft.apply import load
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
from allograft.predictor.direct import evaluation_mode

SIDE, IMAGES, STARTS = 384, 4, 5
LIMITS = {"beside_the_network": 1.35, "bf16": 0.9, "start": 2.5}


def write_model(folder: Path) -> Path:
    """The default U-Net, untrained."""
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}}}})
    card = {"task": {"segmentation": {"classes": ["x", "y"]}}, "preprocessing": {"size": [SIDE, SIDE]}, "channels": 1}
    save_predictor(Direct(network), folder / "model", {**card, "sites": ["a"], "slices": None})
    return folder / "model"


def processor_seconds(*command: str) -> float:
    """Of a process, to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder)
        files = [folder / f"{number}.png" for number in range(IMAGES)]
        for number, file in enumerate(files):
            values = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE))
            Image.fromarray(values.astype(np.uint8)).save(file)
        exact, half = load(model, device="cpu"), load(model, device="cpu", precision="bf16-mixed")
        network = exact.predictor.network  # type: ignore[attr-defined]
        image = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

        def whole() -> None:
            for _ in exact.predictions(files):
                pass

        def bare() -> None:
            with evaluation_mode(network):
                for _ in files:
                    network(image)

        def rounded() -> None:
            for _ in half.predictions(files):
                pass

        compare("predict_beside_the_network", whole, bare, limit=LIMITS["beside_the_network"])
        compare("predict_bf16", rounded, whole, limit=LIMITS["bf16"] if has_bf16() else None)
        command = ("-m", "allograft", "predict", str(model), str(files[0]), "-o", str(folder / "out"))
        pairs = [(processor_seconds(*command), processor_seconds("-c", "import torch")) for _ in range(STARTS)]
        seconds = statistics.median(start for start, _ in pairs)
        ratios = [start / alone for start, alone in pairs]
        keep("predict_start", {"processor_seconds": round(seconds, 2)}, ratio_to_torch=(ratios, LIMITS["start"]))


def has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16; elsewhere it is emulated, and slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


if __name__ == "__main__":
    main()
