"""Overlays: what agrees, what is missed and what is too much can be told apart, thin or thick, in
any range of numbers."""

from __future__ import annotations

import io
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from allograft.errors import SpecError
from allograft.grey import plane, window_of
from allograft.report import draw_overlay, slice_of
from allograft.report.disagreement import dissent, draw_dissent, mean_disagreement, votes
from allograft.report.overlay import AGREE, EXTRA, MISSED, class_colour, largest, slices_through


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _near(pixels: np.ndarray, colour: str, within: int = 60) -> np.ndarray:
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return np.abs(pixels - wanted).max(-1) < within


def _disc(size: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2).astype(int)


def test_thin_structures_are_coloured_whole() -> None:
    truth = np.zeros((300, 300), dtype=int)
    truth[100, 20:280] = 1
    pixels = _pixels(draw_overlay(np.full((300, 300), 7.0), truth, np.roll(truth, 3, axis=0)))
    assert _near(pixels, MISSED)[100, 20:280].all()
    assert _near(pixels, EXTRA)[103, 20:280].all()
    assert not _near(pixels, AGREE).any()
    assert (pixels[150] == pixels[150, :, :1]).all()  # the rest stays grey


def test_thick_structures_are_outlined_and_the_image_shows_through() -> None:
    truth = _disc(300, (150, 150), 80)
    image = np.random.default_rng(0).normal(size=(300, 300))
    pixels = _pixels(draw_overlay(image, truth, truth))
    tint = pixels[..., 1] - pixels[..., 0]  # how green
    assert tint[150, 72] > 120
    assert 0 < tint[130:170, 130:170].max() < 60
    assert pixels[130:170, 130:170].std() > 20


def test_each_pixel_is_of_the_class_that_was_found() -> None:
    truth = np.zeros((256, 256), dtype=int)
    found = truth.copy()
    truth[10:14, 10:200], found[10:14, 10:200] = 1, 2  # confused: too much of class 2
    pixels = _pixels(draw_overlay(np.zeros((256, 256)), truth, found))
    assert _near(pixels, EXTRA)[12, 100]
    assert not _near(pixels, MISSED).any()
    pixels = _pixels(draw_overlay(np.zeros((256, 256)), truth, found, classes=2))
    red, green, blue = pixels[12, 100]
    assert red > green > blue  # an orange, the second class
    assert not _near(pixels, class_colour(1)).any()


def test_each_of_several_classes_has_a_colour_of_its_own() -> None:
    truth = np.zeros((300, 300), dtype=int)
    truth[20:120, 20:120], truth[20:120, 160:260], truth[180:280, 20:120] = 1, 2, 3
    found = truth.copy()
    found[20:120, 70:120] = 0  # a half is missed
    found[180:280, 160:260] = 3  # and too much
    pixels = _pixels(draw_overlay(np.zeros((300, 300)), truth, found, classes=3))
    assert len({class_colour(index) for index in range(1, 8)}) == 7
    for index, (row, column) in {1: (60, 20), 2: (60, 160), 3: (230, 20)}.items():
        assert _near(pixels, class_colour(index))[row, column], index
    missed = _near(pixels, class_colour(1))[25:115, 75:115]
    assert 0.4 < missed.mean() < 0.6  # striped
    extra = pixels[190:270, 170:250].reshape(-1, 3)
    assert np.ptp(extra, axis=0).max() < 8
    assert extra.mean() > pixels[230, 20].mean() + 20  # filled, and lighter than what is true
    unlabelled = _pixels(draw_overlay(np.zeros((300, 300)), None, found, classes=3))
    assert (unlabelled == _pixels(draw_overlay(np.zeros((300, 300)), found, found, classes=3))).all()


def test_slices_open_at_the_largest_lesion() -> None:
    mask = np.zeros((9, 9, 20), dtype=int)
    mask[0:3, 0:3, 4] = 1  # many small ones in one slice
    mask[6:9, 6:9, 4] = mask[0:3, 6:9, 4] = mask[6:9, 0:3, 4] = 1
    mask[2:7, 2:7, 11] = mask[3:6, 3:6, 10] = mask[3:6, 3:6, 12] = 2  # one large one
    assert slice_of(mask, mask) == 4
    assert slices_through(mask, 5)[0] == 11
    assert largest(mask).sum() == 43
    assert not largest(mask * 0).any()


def test_without_truth_all_is_prediction_and_ignored_pixels_are_not_judged() -> None:
    found = np.zeros((256, 256), dtype=int)
    found[50:53, :] = 1
    assert _near(_pixels(draw_overlay(np.zeros((256, 256)), None, found)), EXTRA)[51].all()
    ignored = np.full((256, 256), -100)
    assert not _near(_pixels(draw_overlay(np.zeros((256, 256)), ignored, found)), EXTRA).any()


@pytest.mark.parametrize(
    ("shape", "size"),
    [((64, 96), (384, 256)), ((300, 400), (400, 300)), ((2048, 1024), (512, 1024)), ((10, 1000), (1024, 10))],
)
def test_size_is_bounded(shape: tuple[int, int], size: tuple[int, int]) -> None:
    empty = np.zeros(shape, dtype=int)
    assert Image.open(io.BytesIO(draw_overlay(empty, empty, empty))).size == size


def test_a_thin_vessel_survives_shrinking() -> None:
    truth = np.zeros((2048, 2048), dtype=int)
    truth[1000:1002] = 1
    pixels = _pixels(draw_overlay(np.zeros((2048, 2048)), truth, truth))
    assert (pixels[499:502].max(0)[:, 1] > 80).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_range_of_numbers_gives_the_same_picture(scale: float) -> None:
    image = np.random.default_rng(1).random((40, 50, 3))
    empty = np.zeros((40, 50), dtype=np.uint8)
    plain, scaled = (_pixels(draw_overlay(each, empty, empty)) for each in (image, image * scale - 3 * scale))
    assert np.abs(plain - scaled).max() <= 8


def test_pixels_that_are_no_numbers_and_flat_images_are_drawn() -> None:
    image = np.full((20, 20), np.nan)
    empty = np.zeros((20, 20), dtype=int)
    assert draw_overlay(image, empty, empty)
    image[0, 0], image[1, 1] = np.inf, 3.0
    assert draw_overlay(image, empty, empty)


def test_same_bytes_twice() -> None:
    image, mask = np.random.default_rng(2).random((60, 60)), _disc(60, (30, 30), 12)
    assert draw_overlay(image, mask, np.roll(mask, 3)) == draw_overlay(image, mask, np.roll(mask, 3))


@pytest.mark.parametrize(
    ("image", "truth", "found"),
    [((4, 5), (5, 4), (4, 5)), ((4, 5), None, (5, 4)), ((4, 5, 2), None, (4, 5)), ((4,), None, (4,))],
)
def test_shapes_that_do_not_fit_are_named(
    image: tuple[int, ...], truth: tuple[int, ...] | None, found: tuple[int, ...]
) -> None:
    with pytest.raises(SpecError, match="overlay: image"):
        draw_overlay(np.zeros(image), None if truth is None else np.zeros(truth), np.zeros(found))


def test_slice_and_plane_of_a_volume() -> None:
    mask = np.zeros((6, 4, 9), dtype=int)
    mask[5, 3, 7] = 2
    mask[:, :, 2] = -100  # does not count
    assert slice_of(mask[None], mask) == 7
    assert slice_of(mask[None], mask * 0) == 4
    shown = plane(mask[None], 7)
    assert shown.shape == (4, 6)
    assert shown[0, 5] == 2  # the end of the second axis is up, that of the first is right
    assert plane(np.zeros((3, 4, 5))).shape == (4, 5, 3)
    assert plane(np.zeros((2, 4, 5))).shape == (4, 5)
    with pytest.raises(SpecError, match="shape"):
        plane(np.zeros((4, 5)))
    with pytest.raises(SpecError, match="slices"):
        slice_of(np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 5)))


def test_slices_go_through_all_that_is_marked_and_the_best_come_first() -> None:
    mask = np.zeros((4, 4, 60), dtype=int)
    mask[1, 1, 10:51] = 1
    mask[:, :, 33] = 1
    order = slices_through(mask, 9)
    assert order[0] == 33 == slice_of(mask, mask)
    # the place of 35 is taken by the fullest
    assert sorted(order) == [10, 15, 20, 25, 30, 33, 40, 45, 50]
    assert order[1] == 10  # the farthest from it
    assert slices_through(mask, 1) == [33]
    assert slices_through(np.zeros((4, 4, 7), dtype=int), 9) == [3]
    assert len(slices_through(mask[..., 30:36], 9)) == 6


def test_one_window_makes_slices_of_a_volume_alike() -> None:
    volume = np.random.default_rng(3).random((20, 20, 2)) + np.array([0.0, 5.0])
    window, empty = window_of(volume), np.zeros((20, 20), dtype=int)
    dark, light = (_pixels(draw_overlay(volume[..., index], None, empty, window)).mean() for index in (0, 1))
    assert light > dark + 100
    alone = [_pixels(draw_overlay(volume[..., index], None, empty)).mean() for index in (0, 1)]
    assert abs(alone[0] - alone[1]) < 20
    assert window_of(np.full((3, 3), np.nan)) == (0.0, 0.0)


def _pairs_differ(masks: list[np.ndarray]) -> float:
    """From the definition: pairs one by one, over the pixels that any mask marks."""
    marked = np.any([mask > 0 for mask in masks], axis=0)
    return float(np.mean([np.mean((one != other)[marked]) for one, other in combinations(masks, 2)]))


def test_disagreement_is_the_mean_over_pairs_and_its_map_the_share_against_the_majority() -> None:
    rng = np.random.default_rng(4)
    masks = [rng.integers(0, 3, (7, 5)) * (rng.random((7, 5)) > 0.4) for _ in range(5)]
    counts = votes(masks)
    assert counts.sum(0).min() == counts.sum(0).max() == 5
    assert mean_disagreement(counts) == pytest.approx(_pairs_differ(masks), abs=1e-12)
    shares = dissent(counts)
    for row, column in np.ndindex(7, 5):
        found = Counter(int(mask[row, column]) for mask in masks)
        assert shares[row, column] == pytest.approx(1 - max(found.values()) / 5)
    assert mean_disagreement(votes([masks[0]] * 3)) == 0
    assert mean_disagreement(votes([masks[0] * 0] * 3)) == 0
    with pytest.raises(SpecError, match="one grid"):
        votes(masks[:1])


def test_heat_glows_where_recipes_disagree_and_nowhere_else() -> None:
    share = np.zeros((256, 256))
    share[:100], share[100:128] = 0.5, 0.25
    pixels = _pixels(draw_dissent(np.full((256, 256), 1.0), share))
    assert (pixels[200] == pixels[200, :, :1]).all()  # grey
    hot, warm = pixels[50, 50], pixels[110, 50]
    assert hot.sum() > warm.sum() > pixels[200, 50].sum()
    assert warm[0] > warm[2] + 40
    # the scale ends at a half
    assert (_pixels(draw_dissent(np.zeros((256, 256)), share * 2))[50] == pixels[50]).all()
    assert draw_dissent(np.eye(256), share) == draw_dissent(np.eye(256), share)
    with pytest.raises(SpecError, match="disagreement"):
        draw_dissent(np.zeros((4, 5)), np.zeros((5, 4)))
