"""What a person sees of an image: the plane, what is black and what is white, and how bright a
colour is."""

from __future__ import annotations

import numpy as np

from allograft.grey import grey_of, plane, window_of


def test_the_window_leaves_out_a_hundredth_at_either_end_and_what_is_no_number() -> None:
    values = np.array([*range(101), np.nan, np.inf, -np.inf])
    assert window_of(values) == (1.0, 99.0)
    assert window_of(values.reshape(8, 13)) == (1.0, 99.0)
    rare = np.zeros(1000)
    rare[7] = 5.0
    assert window_of(rare) == (0.0, 5.0)
    assert window_of(np.array([np.nan])) == (0.0, 0.0)


def test_a_given_window_is_black_and_white_and_the_images_own_otherwise() -> None:
    image = np.arange(101.0)[None]
    assert grey_of(image)[0, [0, 1, 50, 99, 100]].tolist() == [0, 0, 4 * 32, 252, 252]
    assert grey_of(image, (50.0, 200.0))[0, [0, 50, 100]].tolist() == [0, 0, 4 * 21]
    odd = np.array([[np.nan, np.inf, -np.inf, 1.0]])
    assert grey_of(odd, (0.0, 1.0)).tolist() == [[0, 252, 0, 252]]


def test_green_is_brighter_than_red_and_red_than_blue() -> None:
    colours = np.eye(3)[None]
    assert grey_of(colours, (0.0, 1.0)).tolist() == [[4 * 19, 4 * 37, 4 * 7]]


def test_the_first_axis_of_a_volume_points_right_and_the_second_up() -> None:
    volume = np.arange(2 * 3 * 4).reshape(1, 2, 3, 4)
    shown = plane(volume, 3)
    assert shown.shape == (3, 2)
    for x in range(2):
        for y in range(3):
            assert shown[2 - y, x] == volume[0, x, y, 3]
    photograph = np.arange(3 * 2 * 5).reshape(3, 2, 5)
    assert np.array_equal(plane(photograph)[1, 4], photograph[:, 1, 4])
    assert np.array_equal(plane(photograph[1:2]), photograph[1])
