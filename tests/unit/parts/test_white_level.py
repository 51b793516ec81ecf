"""White, as the images of all cohorts have it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.parts.white_level import white_level


class Photographs:
    """A cohort of such brightest values; the darkest is a tenth, or what is told."""

    def __init__(self, *most: float, intensity: str = "unit", shape: tuple[int, ...] = (3, 4, 4), low: float = 0.0):
        self.most, self.shape, self.low = most, shape, low
        self.prepared = SimpleNamespace(preprocessing=SimpleNamespace(intensity=intensity))

    def __len__(self) -> int:
        return len(self.most)

    def unlabelled(self) -> Photographs:
        return self

    def case(self, index: int) -> Batch:
        image = torch.full((1, *self.shape), self.most[index])
        image.view(-1)[0] = self.low
        return Batch(image, torch.zeros(1).long(), (f"c{index}",))


def level(*cohorts: Any) -> float:
    return white_level(cohorts, "stain_aglr")


def test_one_bright_image_of_any_cohort_says_that_white_is_255() -> None:
    assert level(Photographs(0.4, 1.0), Photographs(0.9)) == 1
    assert level(Photographs(1.0), Photographs(0.2, 0.2, 1.5)) == 255
    assert level(Photographs(intensity="z-score"), Photographs(1.0)) == 1  # an empty cohort says nothing
    assert level(Photographs(*[0.5] * 8, 255.0)) == 1  # the first eight are looked at
    assert level(Photographs(*[0.5] * 7, 255.0)) == 255


def test_what_is_no_colour_of_eight_bits_is_refused_in_any_cohort() -> None:
    for cohort, said in (
        (Photographs(1.0, low=-0.1), r"image 'c0' has shape \(3, 4, 4\), values -0\.1 to 1; expected RGB"),
        (Photographs(1.0, 256.0), "image 'c1' has .* values 0 to 256"),
        (Photographs(1.0, shape=(1, 4, 4)), r"shape \(1, 4, 4\)"),
        (Photographs(1.0, shape=(3, 4, 4, 4)), r"shape \(3, 4, 4, 4\)"),
    ):
        with pytest.raises(SpecError, match=said):
            level(Photographs(1.0), cohort)
    with pytest.raises(SpecError, match=r"preprocessing\.intensity is 'z-score'"):
        level(Photographs(1.0, intensity="z-score"), Photographs(1.0))
