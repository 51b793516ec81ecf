"""AP and AR against pycocotools, on planted boxes with ties, empty images, crowds and several
classes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from allograft.metrics.detection import THRESHOLDS, Matches, box_overlap, detection_metrics, match

Found = tuple[Tensor, Tensor, Tensor]
True_ = tuple[Tensor, Tensor]


def _boxes(rng: torch.Generator, count: int) -> Tensor:
    low = torch.randint(0, 80, (count, 2), generator=rng).float()
    return torch.cat([low, low + torch.randint(4, 30, (count, 2), generator=rng).float()], 1)


def _image(rng: torch.Generator, classes: int, kind: str) -> tuple[Found, True_]:
    truth = _boxes(rng, 0 if kind == "no truth" else int(torch.randint(1, 12, (), generator=rng)))
    true_label = torch.randint(1, classes + 1, (len(truth),), generator=rng)
    near = truth + torch.randint(-2, 3, truth.shape, generator=rng)
    near[:, 2:] = near[:, 2:].maximum(near[:, :2] + 1)
    more = _boxes(rng, 6)
    xyxy = torch.cat([near, truth[:2], more]) if kind != "nothing found" else near[:0]
    label = torch.cat([true_label, true_label[:2], torch.randint(1, classes + 1, (6,), generator=rng)])[: len(xyxy)]
    score = torch.rand(len(xyxy), generator=rng)
    if kind == "ties":
        score = (score * 4).round() / 4
    return (xyxy, label, score), (truth, true_label)


def _coco(images: list[tuple[Found, True_]], most: int, crowds: Sequence[Tensor] = ()) -> dict[str, float]:
    """Of pycocotools, with these boxes of the first image and class as crowds."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    def wide(box: Tensor) -> list[float]:
        x0, y0, x1, y1 = box.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    truths, found = [], []
    for image, ((xyxy, label, score), (truth, true_label)) in enumerate(images, 1):
        for box, name in zip(truth, true_label.tolist(), strict=True):
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            entry: dict[str, Any] = {"id": len(truths) + 1, "image_id": image, "category_id": name, "bbox": wide(box)}
            truths.append({**entry, "area": area, "iscrowd": 0})
        for box in crowds if image == 1 else ():
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            entry = {"id": len(truths) + 1, "image_id": image, "category_id": 1, "bbox": wide(box)}
            truths.append({**entry, "area": area, "iscrowd": 1})
        found += [
            {"image_id": image, "category_id": name, "bbox": wide(box), "score": value}
            for box, name, value in zip(xyxy, label.tolist(), score.double().tolist(), strict=True)
        ]
    names = sorted({entry["category_id"] for entry in truths})
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = coco.COCO()
        truth_set.dataset = {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "categories": [{"id": name} for name in names],
            "annotations": truths,
        }
        truth_set.createIndex()
        judged = COCOeval(truth_set, truth_set.loadRes(found), "bbox")
        judged.params.maxDets = [1, 2, most]
        judged.evaluate()
        judged.accumulate()
    precision = torch.from_numpy(judged.eval["precision"][:, :, :, 0, 2])  # (T, R, K)
    recall = torch.from_numpy(judged.eval["recall"][:, :, 0, 2])  # (T, K)
    at = {"ap50": precision[0], "ap75": precision[THRESHOLDS.index(0.75)], "ap": precision, "ar": recall}
    return {name: float(values[values > -1].mean()) for name, values in at.items()}


def _ours(images: list[tuple[Found, True_]], most: int) -> dict[str, float]:
    return detection_metrics([match(*found, *truth, most=most) for found, truth in images])


@pytest.mark.parametrize("kind", ["plain", "ties", "no truth", "nothing found"])
@pytest.mark.parametrize(("classes", "most"), [(1, 300), (3, 300), (1, 5), (2, 3)])
def test_equal_to_pycocotools(kind: str, classes: int, most: int) -> None:
    rng = torch.Generator().manual_seed(classes * 100 + most)
    images = [_image(rng, classes, "plain") for _ in range(5)] + [_image(rng, classes, kind) for _ in range(4)]
    assert _ours(images, most) == pytest.approx(_coco(images, most), abs=1e-9)


def test_a_crowd_is_no_true_box_and_what_is_found_in_it_is_false() -> None:
    """An import leaves crowds out. pycocotools does not count them either, nor what is found in
    them."""
    rng = torch.Generator().manual_seed(7)
    images = [_image(rng, 2, kind) for kind in ("plain", "ties", "no truth")]
    crowd = torch.tensor([200.0, 200, 300, 300])  # no box drawn reaches it
    without = _ours(images, 300)
    assert without == pytest.approx(_coco(images, 300, [crowd]), abs=1e-9)
    (xyxy, label, score), truth = images[0]
    more = (torch.tensor([[210.0, 210, 230, 230]]), label.new_ones(1), score.new_ones(1))
    images[0] = (tuple(torch.cat(pair) for pair in zip(more, (xyxy, label, score), strict=True)), truth)  # type: ignore[assignment]
    touched = _ours(images, 300)
    assert touched == pytest.approx(_coco(images, 300), abs=1e-9)
    assert without == pytest.approx(_coco(images, 300, [crowd]), abs=1e-9)
    assert touched["ap50"] < without["ap50"]
    assert touched["ar"] == without["ar"]


def test_worked_by_hand() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]])
    found = torch.tensor([[0.0, 0, 10, 10], [50.0, 0, 60, 10], [20.0, 0, 30, 8]])  # right, wrong, overlap 0.8
    one = torch.ones(3, dtype=torch.int64)
    made = detection_metrics([match(found, one, torch.tensor([0.9, 0.8, 0.7]), truth, one[:2])])
    # precision 1 up to recall 1/2 (51 of 101 levels), then 2/3 for the 50 others, up to a threshold of 0.8
    low = (51 + 50 * 2 / 3) / 101
    assert made["ap50"] == pytest.approx(low)
    assert made["ap"] == pytest.approx((7 * low + 3 * 51 / 101) / 10)
    assert made["ar"] == pytest.approx((7 * 1.0 + 3 * 0.5) / 10)


def test_an_image_without_boxes_counts_its_false_ones() -> None:
    box, label, score = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([1]), torch.tensor([0.9])
    right = match(box, label, score - 0.5, box, label)
    nothing = match(box, label, score, box[:0], label[:0])
    assert detection_metrics([right])["ap50"] == 1.0
    assert detection_metrics([right, nothing])["ap50"] == 0.5
    assert all(value != value for value in detection_metrics([nothing]).values())


def test_overlap_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[2.0, 1, 6, 3], [0, 0, 4, 2], [4, 0, 5, 1]])
    assert box_overlap(a, b)[0].tolist() == pytest.approx([2 / 14, 1.0, 0.0])


def test_what_is_pooled_does_not_depend_on_the_order_of_images() -> None:
    rng = torch.Generator().manual_seed(1)
    images: list[Matches] = [match(*found, *truth) for found, truth in (_image(rng, 2, "plain") for _ in range(6))]
    assert detection_metrics(images) == pytest.approx(detection_metrics(images[::-1]))
