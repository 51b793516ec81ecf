"""Boxes move as the pixels that they hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.transforms.augmentation import Draw, apply
from allograft.transforms.boxes import move_boxes
from allograft.transforms.sample import Sample

SHAPE = (40, 60)
BOX = [12.0, 20.0, 22.0, 28.0]
"""x0, y0, x1, y1 of a block of ones."""


def _block() -> Tensor:
    block = torch.zeros(1, *SHAPE)
    block[:, 20:28, 12:22] = 1
    return block


def _bounds(mask: Tensor) -> list[float]:
    rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return [float(value) for value in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


@pytest.mark.parametrize(
    ("draw", "size", "centre"),
    [
        (Draw(), (32, 24), (24.5, 17.5)),
        (Draw(flips=(True, False)), SHAPE, None),
        (Draw(flips=(False, True)), (30, 40), None),
        (Draw(angles=(90.0,)), (60, 60), None),
        (Draw(angles=(30.0,)), SHAPE, None),
        (Draw(angles=(-20.0,), log_scale=math.log(1.25), flips=(True, True)), (48, 48), (22.0, 20.0)),
        (Draw(log_scale=math.log(0.5)), SHAPE, None),
    ],
    ids=["crop", "rows mirrored", "columns mirrored", "quarter turn", "turned", "everything", "smaller"],
)
def test_a_box_stays_around_its_pixels(draw: Draw, size: tuple[int, int], centre: tuple[float, float] | None) -> None:
    image, _ = apply(_block(), {}, draw, torch.Generator(), size=size, centre=centre)
    boxes = Boxes(torch.tensor([BOX]), torch.tensor([1]))
    moved = move_boxes(boxes, draw, SHAPE, size=size, centre=centre)
    assert moved.xyxy[0].tolist() == pytest.approx(_bounds(image[0] > 0.5), abs=1.0)
    assert moved.label.tolist() == [1]


def test_anisotropic_pixels_turn_as_the_image_does() -> None:
    draw, spacing = Draw(angles=(90.0,)), (1.0, 2.0)
    image, _ = apply(_block(), {}, draw, torch.Generator(), spacing=spacing, size=(80, 80))
    moved = move_boxes(Boxes(torch.tensor([BOX]), torch.tensor([1])), draw, SHAPE, size=(80, 80), spacing=spacing)
    assert moved.xyxy[0].tolist() == pytest.approx(_bounds(image[0] > 0.5), abs=1.0)


def test_two_mirrorings_are_the_identity() -> None:
    boxes = Boxes(torch.tensor([BOX, [0.0, 0.0, 3.0, 5.0]]), torch.tensor([1, 2]), torch.tensor([0.25, 0.5]))
    draw = Draw(flips=(True, True))
    twice = move_boxes(move_boxes(boxes, draw, SHAPE, size=SHAPE), draw, SHAPE, size=SHAPE)
    torch.testing.assert_close(twice.xyxy, boxes.xyxy)
    assert twice.label.tolist() == [1, 2]
    assert twice.score is not None
    assert twice.score.tolist() == [0.25, 0.5]


def test_a_box_is_cut_at_the_crop_and_dropped_when_less_than_a_quarter_is_left() -> None:
    boxes = Boxes(torch.tensor([[0.0, 0, 8, 4], [6.1, 0, 8.1, 4], [30.0, 30, 40, 40]]), torch.tensor([1, 2, 3]))
    # columns 5 to 10 of rows 0 to 5: three of eight columns of the first box are left
    moved = move_boxes(boxes, Draw(), SHAPE, size=(6, 6), centre=(2.5, 7.5))
    assert moved.label.tolist() == [1, 2]
    torch.testing.assert_close(moved.xyxy, torch.tensor([[0.0, 0, 3, 4], [1.1, 0, 3.1, 4]]))
    assert move_boxes(boxes, Draw(), SHAPE, size=(6, 6), centre=(2.5, 9.5)).label.tolist() == [2]  # one of eight


def test_a_sample_takes_its_boxes_along() -> None:
    case = Batch(
        _block()[None],
        torch.tensor([0]),
        ("a",),
        {"boxes": (Boxes(torch.tensor([BOX]), torch.tensor([1])),)},
        spacing=torch.ones(1, 2),
    )
    made = Sample("strong")(case, torch.Generator().manual_seed(7))
    (boxes,) = made.labels["boxes"]
    assert isinstance(boxes, Boxes)
    assert boxes.xyxy[0].tolist() == pytest.approx(_bounds(made.image[0, 0] > 0.5), abs=1.5)
    hidden = Sample("strong", (36, 36))(Batch(case.image, case.site, ("a",), {"boxes": (None,)}), torch.Generator())
    assert hidden.labels["boxes"] == (None,)


@pytest.mark.parametrize("spacing", [None, [1.0, 3.0]])
def test_a_sample_moves_pixels_and_boxes_by_the_spacing_of_its_case(spacing: list[float] | None) -> None:
    boxes = Boxes(torch.tensor([BOX]), torch.tensor([1]))
    known = None if spacing is None else torch.tensor([spacing])
    case = Batch(_block()[None], torch.zeros(1), ("a",), {"boxes": (boxes,)}, spacing=known)
    drawn, rng = Draw(angles=(40.0,)), torch.Generator()
    made = Sample().drawn(case, drawn, rng)
    assert torch.equal(made.image[0], apply(case.image[0], {}, drawn, rng, spacing=spacing)[0])
    (moved,) = made.labels["boxes"]
    assert isinstance(moved, Boxes)
    assert torch.equal(moved.xyxy, move_boxes(boxes, drawn, SHAPE, size=SHAPE, spacing=spacing).xyxy)
