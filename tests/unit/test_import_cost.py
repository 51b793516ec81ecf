"""Help and lists answer at once, because nothing heavy is imported for them: modules are counted,
not seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "monai",
    "numpy",
    "pandas",
    "lightning_fabric",
    "scipy",
    "PIL",
    "nibabel",
    "yaml",
    "matplotlib",
    "timm",
}
SCRIPT = """
import sys
sys.argv = ["allograft", *sys.argv[1:]]
from allograft.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print("MODULES", code, *sys.modules)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["methods"], ["--version"], ["study", "--help"], ["predict", "--help"]], ids=" ".join
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    shown, _, told = done.stdout.rpartition("MODULES")
    code, *modules = told.split()
    assert code == "0"
    assert shown.strip()
    assert "allograft.cli" in modules
    assert sorted(HEAVY & set(modules)) == []


def test_the_bare_package_costs_nothing() -> None:
    script = "import sys, allograft; dir(allograft); print(allograft.__version__, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert sorted(HEAVY & set(done.stdout.split())) == []


PREDICT = """
import sys
import numpy as np
import torch
from PIL import Image
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
card = {"task": {"segmentation": {"classes": ["x"]}}, "preprocessing": {"size": [16, 16]}, "channels": 1}
save_predictor(Direct(network), "model", {**card, "sites": ["a"], "slices": None})
Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save("image.png")
"""
SLOW = {"monai", "torchvision", "timm", "torch._dynamo", "torch._inductor", "sympy", "pandas", "sklearn", "scipy"}
"""Each takes half a second or more to import; no prediction of a photograph by a U-Net needs one."""


def test_a_prediction_imports_torch_and_what_it_uses(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PREDICT], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    arguments = ["predict", "model", "image.png", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    code, *modules = done.stdout.rpartition("MODULES")[2].split()
    assert code == "0"
    assert (tmp_path / "out" / "image_mask.png").exists()
    assert {"torch", "allograft.networks.unet", "allograft.tasks.segmentation"} <= set(modules)
    assert sorted((SLOW | {"skimage", "cv2", "lightning_fabric", "nibabel", "pydicom"}) & set(modules)) == []
