"""SISSI's pseudo-labels of an image, twenty views and their fusion, against twenty bare forward
passes of the same detector; and the time of cloning an image, which the loader's workers spend."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from ratio import compare, keep, seconds

from allograft.methods.sissi import Sissi
from allograft.networks import build
from allograft.parts.box_views import FLIPS, SCALES
from allograft.transforms.cloning import KERNELS, clone_detections

SIDE, DETECTIONS, CELLS = 160, 30, 30


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "outputs": {"boxes": 2}, "detections": DETECTIONS}
    network = build({"build": {"faster_rcnn": arguments}}).eval()
    image = torch.rand(1, 3, SIDE, SIDE)

    def bare() -> None:
        with torch.no_grad():
            for scale in SCALES:
                scaled = F.interpolate(image, (round(SIDE * scale),) * 2, mode="bilinear")
                for axes in FLIPS:
                    network(scaled.flip(axes) if axes else scaled)

    compare("sissi_pseudo_labels", lambda: Sissi().pseudo_label(network, image), bare, limit=1.2, rounds=5)

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (512, 512, 3)).astype(np.uint8)
    corner = rng.integers(0, 480, (CELLS, 2))
    boxes = np.concatenate([corner, corner + 24], 1)
    for name, (kernel, sigma) in KERNELS.items():
        times = [
            seconds(lambda k=kernel, s=sigma: clone_detections(picture, boxes, k, sigma=s), time.process_time)
            for _ in range(5)
        ]
        keep(f"sissi_clone_{name}", {"side": 512, "boxes": CELLS}, milliseconds=([1000 * t for t in times], None))


if __name__ == "__main__":
    main()
