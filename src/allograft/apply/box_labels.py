"""Boxes from image processing alone: weak labels to train on, never to judge by."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from allograft.cohort.readers import SUFFIXES, VOLUMES, read_image
from allograft.errors import ManifestError, SpecError, nearest
from allograft.tree import write_bytes

Method = Literal["hough", "watershed", "edges"]
PHOTOGRAPHS = tuple(suffix for suffix in SUFFIXES if suffix not in VOLUMES)
Grey = NDArray[np.uint8]
Box = tuple[int, int, int, int]


def find_boxes(grey: Grey, method: Method, radius: tuple[float, float]) -> list[Box]:
    """Boxes around round things in an image.

    ``hough``: circles whose edges vote for a centre (circle Hough transform). ``watershed``: Otsu's
    threshold, parted at the ridges between the peaks of the distance to the outside. ``edges``:
    what Canny's edges enclose.

    Args:
        grey: (H, W) uint8.
        radius: least and largest radius in pixels.

    Returns:
        x0, y0, x1, y1 of each, end exclusive, inside the image.
    """
    if method == "hough":
        circles = _circles(grey, radius)
    else:
        circles = _regions(_parted(grey, radius[0]) if method == "watershed" else _enclosed(grey), radius)
    height, width = grey.shape
    inside = [(max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in circles]
    return sorted(box for box in inside if box[0] < box[2] and box[1] < box[3])


def _circles(grey: Grey, radius: tuple[float, float]) -> list[Box]:
    import cv2

    low, high = radius
    smooth = cv2.medianBlur(grey, 5)
    found = cv2.HoughCircles(
        smooth,
        cv2.HOUGH_GRADIENT,
        dp=1,
        minDist=2 * low,
        param1=80,
        param2=12,
        minRadius=round(low),
        maxRadius=round(high),
    )
    circles = [] if found is None else np.asarray(found).reshape(-1, 3).tolist()
    return [(round(x - r), round(y - r), round(x + r), round(y + r)) for x, y, r in circles]


def _parted(grey: Grey, least: float) -> NDArray[np.int_]:
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    mask = grey <= threshold_otsu(grey) if grey.min() < grey.max() else np.zeros(grey.shape, bool)
    mask = mask if mask.mean() <= 0.5 else ~mask  # things cover less than half of the image
    depth = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(depth, min_distance=max(1, round(least)), labels=ndimage.label(mask)[0])
    markers = np.zeros(grey.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-depth, markers, mask=mask))


def _enclosed(grey: Grey) -> NDArray[np.int_]:
    from scipy import ndimage
    from skimage.feature import canny

    closed = ndimage.binary_closing(canny(grey, sigma=1.5), iterations=2)
    return np.asarray(ndimage.label(ndimage.binary_opening(ndimage.binary_fill_holes(closed), iterations=2))[0])


def _regions(labels: NDArray[np.int_], radius: tuple[float, float]) -> list[Box]:
    """The boxes of those regions whose area is that of a disc of such a radius."""
    from skimage.measure import regionprops

    low, high = (np.pi * length**2 for length in radius)
    boxes = [region.bbox for region in regionprops(labels) if low <= region.area <= high]
    return [(x0, y0, x1, y1) for y0, x0, y1, x1 in boxes]


def label_boxes(
    images: Iterable[Path],
    out: Path,
    *,
    method: Method,
    radius: tuple[float, float],
    pixel_size: float = 1.0,
    name: str = "cell",
) -> dict[str, int]:
    """Write ``OUT/boxes/NAME.json`` for each image, as a manifest's column ``boxes`` names them,
    and ``OUT/boxes.csv``: image, boxes, how many.

    Args:
        images: files and folders; of a folder all photographs below it, in order.
        radius: least and largest radius of a thing, in pixels or in the unit of ``pixel_size``.
        pixel_size: length of a pixel's side, in micrometres say.
        name: the class of the boxes.

    Returns:
        Image -> how many boxes it has.

    Raises:
        SpecError: an unknown method, or radii that are no range.
        ManifestError: no image, or two whose boxes would have one name.
    """
    if method not in get_args(Method):
        raise SpecError(f"label boxes: {nearest(method, get_args(Method), 'method')}")
    if not 0 < radius[0] < radius[1]:
        found = f"radii from {radius[0]:g} to {radius[1]:g}"
        raise SpecError(f"label boxes: {found}; expected two numbers above 0, the least first")
    if not 0 < pixel_size < float("inf"):
        raise SpecError(f"label boxes: a pixel of {pixel_size:g}; expected a length above 0")
    pixels = radius[0] / pixel_size, radius[1] / pixel_size
    rows, counts = list[dict[str, object]](), dict[str, int]()
    for path in _photographs(images):
        image = read_image([path]).array
        grey = image[0] if len(image) == 1 else image[:3].astype(np.float64).mean(0)
        low, high = float(grey.min()), float(grey.max())
        boxes = find_boxes(np.rint(255 * (grey - low) / max(high - low, 1e-9)).astype(np.uint8), method, pixels)
        file = f"boxes/{path.stem}.json"
        if any(row["boxes"] == file for row in rows):
            raise ManifestError(f"{path}: another image is called {path.stem} too; rename one, or label them apart")
        tree = {"boxes": [list(box) for box in boxes], "labels": [name] * len(boxes)}
        write_bytes(out / file, (json.dumps(tree) + "\n").encode())
        rows.append({"image": str(path), "boxes": file, "count": len(boxes)})
        counts[str(path)] = len(boxes)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", "boxes", "count"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(out / "boxes.csv", text.getvalue().encode())
    return counts


def _photographs(images: Iterable[Path]) -> Sequence[Path]:
    photographs: list[Path] = []
    for path in images:
        below = sorted(p for p in path.rglob("*") if p.name.lower().endswith(PHOTOGRAPHS)) if path.is_dir() else [path]
        photographs += [p for p in below if not p.name.startswith(".")]
    if not photographs:
        endings = ", ".join(PHOTOGRAPHS)
        raise ManifestError(f"label boxes: no image among what was given; expected files ending in {endings}")
    return photographs
