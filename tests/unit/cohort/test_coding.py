"""Mask values and class names become indices, and nothing is guessed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allograft.cohort import Coding
from allograft.errors import ImageError, ManifestError


def index(values: list[int], **classes: tuple[int, ...]) -> list[int]:
    return Coding(mask=classes).mask_to_index(np.array([values]), "m.png")[0].tolist()


def test_values_become_indices_in_the_order_of_the_classes() -> None:
    assert index([0, 4, 7, 9, 7], b=(7, 9), a=(4,)) == [0, 2, 1, 1, 1]


def test_one_class_may_be_stored_as_255() -> None:
    assert index([0, 255], vessel=(1,)) == [0, 1]
    assert index([0, 1], vessel=(1,)) == [0, 1]
    assert index([255, 255], vessel=(1,)) == [1, 1]
    assert index([0, 0], vessel=(1,)) == [0, 0]
    with pytest.raises(ImageError, match="mask value 255 stands for no class"):
        index([0, 1, 255], vessel=(1,))
    with pytest.raises(ImageError, match="mask value 255"):
        index([0, 255], a=(1,), b=(2,))


@pytest.mark.parametrize(
    ("values", "told"), [([0, 3, 5], r"mask value 3 .*\(2 such values\).*1 = a, 2 = b"), ([-1, 1], "mask value -1")]
)
def test_an_unknown_value_names_the_file_and_the_mend(values: list[int], told: str) -> None:
    with pytest.raises(ImageError, match=told) as error:
        index(values, a=(1,), b=(2,))
    assert str(error.value).startswith("m.png: ")
    assert "classes: {NAME:" in str(error.value)


def test_labels() -> None:
    assert Coding(label=("cat", "dog")).label_to_index("dog", "x") == 1
    assert Coding(label=("a", "b", "c"), several=True).label_to_index("c | a", "x") == [1.0, 0.0, 1.0]
    with pytest.raises(ManifestError, match="x: unknown class 'dgo'; did you mean 'dog'"):
        Coding(label=("cat", "dog")).label_to_index("dgo", "x")


def test_attributes() -> None:
    coding = Coding(attributes={"sex": ("f", "m"), "age": ()})
    assert [coding.attribute("sex", text) for text in ("m", "f", None)] == [1, 0, -100]
    assert coding.attribute("age", "30.5") == 30.5
    assert math.isnan(coding.attribute("age", None))
