"""``predict`` on photographs of 384 x 384 by the default U-Net: the share that is not the network,
``bf16-mixed`` against single precision, the class of each pixel against ``argmax``, and the start of
the command against importing torch; and the memory that a volume of 160^3 takes in windows of 96^3,
against that of the whole.

The start is that of whole processes: ``allograft predict`` with one image, and ``import torch``.
Memory is that of a process of its own, above what it held before.
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
from allograft.batch import Batch
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
from allograft.predictor.direct import evaluation_mode
from allograft.predictor.whole import windowed_prediction
from allograft.tasks.segmentation import most_probable

SIDE, IMAGES, STARTS = 384, 4, 5
VOLUME, WINDOW = 160, 96
LIMITS = {"beside_the_network": 1.35, "bf16": 0.75, "classes": 0.5, "start": 2.0, "windows": 0.7}


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
    classes_of_pixels()
    windows_memory()


def classes_of_pixels() -> None:
    """The class of each pixel of a prediction, beside ``argmax``."""
    logits = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    ours, theirs = (lambda: most_probable(logits)), (lambda: logits.argmax(0))
    compare("predict_class_of_each_pixel", ours, theirs, limit=LIMITS["classes"], rounds=101)


def windows_memory() -> None:
    """What a volume takes in windows, beside the whole."""
    windows, whole = (memory_alone(how) for how in ("windows", "whole"))
    keep(
        "predict_windows_memory",
        {"windows_mb": windows, "whole_mb": whole},
        ratio=([windows / whole], LIMITS["windows"]),
    )


def memory_of_a_volume(how: str) -> float:
    """Peak memory in MB of predicting a volume by the default U-Net, above what was held before."""
    import monai.inferers.utils  # noqa: F401  # not to be counted

    torch.manual_seed(0)
    predictor = Direct(build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "spatial_dims": 3}}}))
    batch = Batch(torch.randn(1, 1, *(VOLUME,) * 3), torch.zeros(1).long(), ("volume",))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    windowed_prediction(predictor, batch, (WINDOW,) * 3) if how == "windows" else predictor(batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000


def memory_alone(how: str) -> float:
    """The same in a process of its own."""
    done = subprocess.run([sys.executable, __file__, how], check=True, capture_output=True, text=True)
    return round(float(done.stdout.split()[-1]), 1)


def has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16; elsewhere it is emulated, and slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


if __name__ == "__main__":
    print(memory_of_a_volume(sys.argv[1])) if sys.argv[1:] else main()
