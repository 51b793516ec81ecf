"""Overlap and surface metrics: values worked out by hand, empty masks, and what is refused."""

import math

import pytest
import torch

from allograft.errors import SpecError
from allograft.metrics.segmentation import (
    average_surface_distance,
    case_metrics,
    dice,
    hausdorff95,
    iou,
    surface_distances,
)


def _box(shape, *ranges):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(*each) for each in ranges)] = True
    return mask


def test_overlap_of_shifted_boxes():
    a, b = _box((6, 6), (0, 4), (0, 4)), _box((6, 6), (2, 6), (0, 4))
    assert dice(a, b) == 0.5
    assert iou(a, b) == pytest.approx(8 / 24)


def test_surface_leaves_the_inside_out_and_keeps_the_image_border():
    whole = torch.ones(4, 4, dtype=torch.bool)
    there, back = surface_distances(whole, _box((4, 4), (1, 3), (1, 3)), (1.0, 1.0))
    assert len(there) == 12, "the ring along the image's border, without the 2 x 2 inside"
    assert len(back) == 4, "a 2 x 2 box is all surface"
    assert sorted(there.tolist()) == pytest.approx([1.0] * 8 + [math.sqrt(2)] * 4)
    assert back.tolist() == [1.0] * 4, "to the ring, not to the solid square, which would be 0"


def test_the_erosion_is_a_cross_not_a_square():
    plus = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
    there, _ = surface_distances(plus, plus, (1.0, 1.0))
    assert len(there) == 4, "the centre has all four neighbours and is no surface"


def test_directed_distances_keep_their_order_and_use_each_axis_spacing():
    single = _box((1, 9), (0, 1), (0, 1))
    line = _box((1, 9), (0, 1), (2, 9))
    there, back = surface_distances(single, line, (5.0, 0.5))
    assert there.tolist() == [1.0]
    assert back.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert hausdorff95(single, line, (5.0, 0.5)) == pytest.approx(3.5 + 0.7 * 0.5), (
        "the larger direction, position .95 * 6 = 5.7"
    )
    assert average_surface_distance(single, line, (5.0, 0.5)) == pytest.approx((1.0 + 17.5) / 8), (
        "pooled, not averaged per direction"
    )
    column = hausdorff95(_box((9, 1), (0, 1)), _box((9, 1), (2, 3)), (5.0, 0.5))
    assert column == 10.0


def test_masks_without_a_surface():
    empty, full = torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    assert math.isnan(dice(empty, empty))
    assert math.isnan(iou(empty, empty))
    assert dice(empty, full) == iou(full, empty) == 0.0
    there, back = surface_distances(full, empty, (1, 1))
    assert there.tolist() == [math.inf] * 8
    assert back.tolist() == []
    for pair in [(empty, full), (full, empty), (empty, empty)]:
        assert math.isnan(hausdorff95(*pair, (1, 1)))
        assert math.isnan(average_surface_distance(*pair, (1, 1)))


def test_a_missed_class_leaves_no_mean_distance_and_an_absent_one_is_left_out():
    target, prediction = torch.zeros(2, 8, 8, dtype=torch.int64).unbind()
    target[0:2, 0:4], prediction[0:2, 2:6] = 1, 1  # half an overlap
    target[5:7, 5:7] = 2  # missed; the third class is nowhere
    scores = case_metrics(prediction, target, ["a", "b", "c"], (1.0, 1.0))
    assert list(scores)[:5] == ["dice/a", "iou/a", "hd95/a", "asd/a", "dice/b"]
    assert scores["dice/a"] == 0.5
    assert scores["dice/b"] == scores["iou/b"] == 0.0
    assert all(math.isnan(scores[f"{metric}/b"]) for metric in ("hd95", "asd"))
    assert all(math.isnan(scores[f"{metric}/c"]) for metric in ("dice", "iou", "hd95", "asd"))
    assert scores["dice"] == 0.25
    assert scores["iou"] == pytest.approx((4 / 12) / 2)
    assert scores["asd/a"] == pytest.approx((2 * (2 + 1)) * 2 / 16)
    assert math.isnan(scores["hd95"])
    assert math.isnan(scores["asd"])
    swapped = case_metrics(target, prediction, ["a", "b", "c"], (1.0, 1.0))
    assert math.isnan(swapped["hd95"]), "found where there is none"
    without = case_metrics(prediction, target.where(target < 2, 0), ["a", "b", "c"], (1.0, 1.0))
    assert without["hd95"] == without["hd95/a"] == scores["hd95/a"], "absent from both"


@pytest.mark.parametrize("what", ["missed", "added", "off", "swapped names", "all missed", "nothing there"])
def test_missing_a_class_never_looks_nearer(what):
    """Truth: two boxes of 6 x 6 pixels of 0.5 x 2 mm, on 20 x 30 pixels: the diagonal is (100 +
    3600) ** 0.5 mm."""
    truth = torch.zeros(20, 30, dtype=torch.int64)
    truth[2:8, 2:8], truth[12:18, 20:26] = 1, 2
    off = truth.where(truth != 2, 0)
    off[12:18, 19:25] = 2
    found = {
        "missed": truth.where(truth != 2, 0),
        "added": truth.clone(),
        "off": off,
        "swapped names": (3 - truth) * (truth > 0),
        "all missed": truth * 0,
        "nothing there": off,
    }[what]
    if what == "added":
        found[0, 0] = 3
    reference = truth * 0 if what == "nothing there" else truth
    told = case_metrics(found, reference, ["a", "b", "c"], (0.5, 2.0), missed="diagonal")
    assert {key: told[key] for key in told if "_diagonal" not in key} == pytest.approx(
        case_metrics(found, reference, ["a", "b", "c"], (0.5, 2.0)), nan_ok=True
    )
    diagonal = 3700**0.5
    # by hand: the surface of a box moved by a pixel of 2 mm is 2 mm away along two of its sides
    expected = {
        "missed": (math.nan, diagonal / 2),
        "added": (math.nan, diagonal / 3),
        "off": (1.0, 1.0),
        "all missed": (math.nan, diagonal),
        "nothing there": (math.nan, diagonal),
    }
    if what == "swapped names":
        assert told["hd95"] == told["hd95_diagonal"] > 30
    else:
        assert (told["hd95"], told["hd95_diagonal"]) == pytest.approx(expected[what], nan_ok=True)
    assert math.isnan(told["hd95_diagonal/c"]) == (what != "added")


def test_case_metrics_of_nothing_are_nan():
    empty = torch.zeros(4, 4, dtype=torch.int64)
    assert all(math.isnan(value) for value in case_metrics(empty, empty, ["a"], (1, 1)).values())


def test_voxels_outside_the_region_or_not_annotated_are_background_in_both():
    target = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]])
    prediction = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1]])
    region = torch.tensor([[True, True, True, False]] * 2)
    inside = case_metrics(prediction, target, ["a"], (1, 1), region)
    assert inside["dice"] == 1.0
    assert inside["hd95"] == 0.0
    assert case_metrics(prediction, target, ["a"], (1, 1))["dice"] == 0.8
    assert case_metrics(prediction, target.masked_fill(~region, -100), ["a"], (1, 1)) == inside
    target[0, 0] = -100
    assert case_metrics(prediction, target, ["a"], (1, 1), region)["dice"] == 1.0, "both reasons together"


def test_a_wide_empty_margin_changes_nothing():
    a, b = _box((5, 6, 7), (0, 3), (1, 4), (2, 6)), _box((5, 6, 7), (1, 5), (1, 5), (3, 7))
    wide = [torch.nn.functional.pad(mask, (9, 4, 0, 7, 3, 3)) for mask in (a, b)]
    for near, far in zip(surface_distances(a, b, (3, 1, 0.5)), surface_distances(*wide, (3, 1, 0.5)), strict=True):
        assert torch.equal(near, far)


def test_wrong_input_is_named():
    mask, labels = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.int64)
    with pytest.raises(SpecError, match=r"\(3, 3\).*\(3, 4\)"):
        dice(mask, torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(SpecError, match=r"torch\.int64"):
        iou(labels, mask)
    with pytest.raises(SpecError, match="2 positive numbers"):
        hausdorff95(mask, mask, (1.0, 1.0, 1.0))
    with pytest.raises(SpecError, match="2 positive numbers"):
        hausdorff95(mask, mask, (1.0, 0.0))
    with pytest.raises(SpecError, match="prediction holds 2"):
        case_metrics(labels + 2, labels, ["a"], (1, 1))
    with pytest.raises(SpecError, match="prediction holds -100"):
        case_metrics(labels - 100, labels, ["a"], (1, 1))
    with pytest.raises(SpecError, match="argmax"):
        case_metrics(labels.float(), labels, ["a"], (1, 1))
    with pytest.raises(SpecError, match="different shapes"):
        case_metrics(labels, labels, ["a"], (1, 1), torch.ones(2, 3, dtype=torch.bool))
