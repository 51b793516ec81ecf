"""The pictures of the images on which recipes disagree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from allograft.grey import plane, window_of
from allograft.report.disagreement import draw_dissent
from allograft.run.pictures import _heat


def test_slices_of_a_volume_are_as_bright_as_each_other() -> None:
    """Each is drawn in the window of the complete volume."""
    image = np.random.default_rng(0).random((1, 8, 9, 3)) * np.array([1.0, 10.0, 100.0])
    share = np.zeros((8, 9, 3))
    share[2:5, 3:6] = 0.4
    models: Any = SimpleNamespace(image=lambda name: image)
    made = _heat(models, "case", share, "most disputed", "S001")
    assert [one.place for one in made.slices] == [0, 1, 2]
    for one in made.slices:
        assert one.png == draw_dissent(plane(image, one.place), plane(share[None], one.place), window_of(image))
