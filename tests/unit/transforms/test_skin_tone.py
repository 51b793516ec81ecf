"""Skin tone: the angle, the types, which patch is taken, and when there is no answer."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allograft.errors import SpecError
from allograft.transforms.skin_tone import (
    COVERED,
    PATCHES,
    SIDE,
    THRESHOLDS,
    SkinTone,
    calibrate_thresholds,
    estimate_skin_tone,
    fitzpatrick_type,
    remove_hair,
    typology_angle,
)

LIGHT, BROWN, DARK, LESION = (235, 200, 175), (140, 105, 80), (110, 75, 50), (70, 40, 35)


def plain(colour: tuple[int, ...], size: tuple[int, int] = (256, 256)) -> np.ndarray:
    return np.full((*size, 3), colour, dtype=np.uint8)


@given(st.floats(0, 100), st.floats(0.1, 60))
def test_the_angle_is_that_of_the_equation_in_every_kind(lightness: float, b: float) -> None:
    expected = math.degrees(math.atan((lightness - 50) / b))
    assert typology_angle(lightness, b) == pytest.approx(expected)
    assert typology_angle(np.array([lightness]), np.array([b])) == pytest.approx([expected])
    found = typology_angle(torch.tensor([lightness], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    assert found.tolist() == pytest.approx([expected])


def test_the_angle_where_b_is_not_positive() -> None:
    assert typology_angle(70.0, -20.0) == pytest.approx(-45)  # the plain arctangent turns the sign
    assert [typology_angle(light, 0.0) for light in (80.0, 50.0, 20.0)] == [90, 0, -90]
    assert typology_angle(torch.tensor([80.0, 50.0, 20.0]), torch.tensor([0.0, -0.0, -0.0])).tolist() == [90, 0, -90]


def test_types_at_the_limits() -> None:
    angles = [90, 55.01, 55, 41.01, 41, 28.01, 28, 19.01, 19, 10.01, 10, -90]
    expected = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert [fitzpatrick_type(angle) for angle in angles] == expected
    assert fitzpatrick_type(np.array(angles)).tolist() == expected
    assert fitzpatrick_type(torch.tensor(angles, dtype=torch.float64)).tolist() == expected
    assert type(fitzpatrick_type(np.float64(3.0))) is int


@pytest.mark.parametrize("thresholds", [(1, 2, 3, 4, 5), (5, 4, 3, 2)])
def test_bad_thresholds_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(SpecError, match="five angles"):
        fitzpatrick_type(0.0, thresholds)


def test_an_angle_that_is_none_has_no_type() -> None:
    with pytest.raises(SpecError, match="nan"):
        fitzpatrick_type(float("nan"))


@pytest.mark.parametrize("which", range(8))
def test_the_one_healthy_patch_is_found(which: int) -> None:
    """A lesion over all borders but one patch."""
    image = plain(LESION)
    row, column = PATCHES[which]
    image[row : row + SIDE, column : column + SIDE] = LIGHT
    alone = estimate_skin_tone(plain(LIGHT))
    assert estimate_skin_tone(image) == SkinTone(pytest.approx(alone.angle), alone.type, which)  # type: ignore[arg-type]


def test_kinyanjuis_eight_categories_joined_to_six_are_the_papers() -> None:
    """Table 1 of Kinyanjui et al. (2019): very light, light 2 and 1, intermediate 2 and 1, tanned
    2, tanned 1, dark."""
    upper = {
        "very light": 90,
        "light 2": 55,
        "light 1": 48,
        "intermediate 2": 41,
        "intermediate 1": 34.5,
        "tan 2": 28,
        "tan 1": 19,
        "dark": 10,
    }
    types = [1, 2, 2, 3, 3, 4, 5, 6]
    for name in ("kinyanjui", "default"):
        assert [fitzpatrick_type(angle, THRESHOLDS[name]) for angle in upper.values()] == types


def test_a_lesion_over_all_borders_is_taken_for_skin_with_a_note() -> None:
    """The answer is defined, and the darkest type."""
    image = plain(LESION)
    image[100:110, 100:110] = LIGHT  # healthy skin where no patch lies
    assert estimate_skin_tone(image) == estimate_skin_tone(plain(LESION))
    found = estimate_skin_tone(image)
    assert (found.type, found.note) == (6, COVERED)
    image[90:166, 90:166] = LIGHT
    assert estimate_skin_tone(image).note == COVERED
    assert estimate_skin_tone(image, strict=False).note == ""


@pytest.mark.parametrize(("darker", "note"), [(0, COVERED), (3, COVERED), (20, "")])
def test_a_lesion_that_is_darker_than_dark_skin_leaves_it_without_a_note(darker: int, note: str) -> None:
    image = plain(LESION)  # as skin of type 6
    image[60:200, 60:200] = [value - darker for value in LESION]
    assert (estimate_skin_tone(image).type, estimate_skin_tone(image).note) == (6, note)


def test_lighter_types_have_no_note() -> None:
    assert {estimate_skin_tone(plain(colour)).note for colour in (LIGHT, (200, 150, 115))} == {""}


def test_a_lesion_inside_the_borders_changes_nothing() -> None:
    image = plain(LIGHT)
    image[60:200, 60:200] = LESION
    assert estimate_skin_tone(image) == estimate_skin_tone(plain(LIGHT))


def test_hairs_do_not_change_the_type() -> None:
    image = plain(LIGHT)
    image[:, 120:256:12] = (30, 20, 15)
    assert estimate_skin_tone(image).type == estimate_skin_tone(plain(LIGHT)).type
    assert np.abs(remove_hair(image).astype(int) - plain(LIGHT)).max() <= 1  # OpenCV rounds


def test_hair_removal_leaves_other_pixels_and_its_input() -> None:
    image = plain(LIGHT, (64, 80))
    image[:, 40] = 20
    before = image.copy()
    clean = remove_hair(torch.from_numpy(image))
    assert isinstance(clean, torch.Tensor)
    assert (image == before).all()
    assert (np.delete(clean.numpy(), 40, 1) == np.delete(image, 40, 1)).all()


@pytest.mark.parametrize("size", [(512, 512), (300, 450), (100, 80)])
def test_other_sizes_are_resized_first(size: tuple[int, int]) -> None:
    assert estimate_skin_tone(plain(DARK, size)) == estimate_skin_tone(plain(DARK))


def burnt_out() -> np.ndarray:
    """Every patch is burnt out in three fifths of its pixels; the rest is skin, so that b > 0."""
    image = plain(LIGHT)
    for row, column in PATCHES:
        image[row : row + 12, column : column + SIDE] = 255
    return image


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (plain((128, 128, 128)), "grey"),
        (plain((255, 255, 255)), "grey"),
        (plain((0, 0, 0)), "grey"),
        (plain((40, 60, 140)), "bluish"),
        (burnt_out(), "fewer than half"),
        (plain(LIGHT, (19, 400)), "smaller than a patch"),
    ],
    ids=["grey", "white", "black", "blue", "invalid", "small"],
)
def test_no_answer_when_strict_and_always_one_when_not(image: np.ndarray, why: str) -> None:
    strict, loose = estimate_skin_tone(image), estimate_skin_tone(image, strict=False)
    assert strict.type is None
    assert why in strict.note
    assert loose.type in range(1, 7)
    assert loose.note == ""
    assert (strict.angle, strict.patch) == (loose.angle, loose.patch)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((256, 256), np.uint8),
        np.zeros((256, 256, 1), np.uint8),
        np.zeros((256, 256, 3)),
        np.zeros((3, 256, 256), np.uint8),
    ],
)
def test_what_is_no_colour_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(SpecError, match="uint8"):
        estimate_skin_tone(image)
    with pytest.raises(SpecError, match="uint8"):
        remove_hair(image)


def test_unknown_arguments_name_the_nearest() -> None:
    with pytest.raises(SpecError, match="kinyanjui"):
        estimate_skin_tone(plain(LIGHT), thresholds="kinyanju")
    with pytest.raises(SpecError, match="patches"):
        estimate_skin_tone(plain(LIGHT), skin="patch")  # type: ignore[arg-type]


def test_thresholds_decide_the_type_and_not_the_angle() -> None:
    one, other = (estimate_skin_tone(plain(BROWN), thresholds=kind) for kind in ("default", (55, 41, 28, 10, -30)))
    assert one.angle == other.angle
    assert one.type == 6
    assert other.type == 5


def test_skin_pixels_by_colour_leave_the_background_out() -> None:
    image = plain((30, 60, 160))  # every border patch is blue
    image[60:200, 60:200] = LIGHT
    assert estimate_skin_tone(image).type is None
    found = estimate_skin_tone(image, skin="ycbcr")
    assert found.type == estimate_skin_tone(plain(LIGHT)).type
    assert found.patch is None
    nothing = estimate_skin_tone(plain((30, 60, 160)), skin="ycbcr")
    assert (nothing.type, nothing.note) == (None, "no pixel has the colour of skin")
    assert estimate_skin_tone(plain((30, 60, 160)), skin="ycbcr", strict=False).type in range(1, 7)


def test_calibration_is_the_best_of_all_thresholds() -> None:
    """Against every choice of five limits between the angles."""
    rng = np.random.default_rng(3)
    angles = rng.uniform(-40, 80, 7).round(1)
    types = np.clip(np.round(4 - angles / 25 + rng.normal(0, 1.2, 7)), 1, 6).astype(int)
    places = [100.0, *((np.sort(angles)[1:] + np.sort(angles)[:-1]) / 2), -100.0]

    def error(limits: tuple[float, ...]) -> int:
        return int(np.abs(fitzpatrick_type(angles, limits) - types).sum())

    best = min(
        error(tuple(sorted(limits, reverse=True))) for limits in itertools.combinations_with_replacement(places, 5)
    )
    assert error(calibrate_thresholds(angles.tolist(), types.tolist())) == best


def test_calibration_finds_the_thresholds_that_made_the_types() -> None:
    angles = np.linspace(-30, 80, 56)
    found = calibrate_thresholds(angles.tolist(), fitzpatrick_type(angles).tolist())
    assert found == pytest.approx((55, 41, 28, 19, 10), abs=2)


def test_calibration_refuses_nonsense() -> None:
    for angles, types in ([], []), ([1.0], [1, 2]), ([1.0], [7]):
        with pytest.raises(SpecError, match="types"):
            calibrate_thresholds(angles, types)
