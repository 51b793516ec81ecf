"""Mask values and class names become indices, and nothing is guessed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from allograft.cohort import Case, Coding
from allograft.cohort.coding import categories, coding_of
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


def test_classes_in_short_are_of_masks_where_there_are_any() -> None:
    masks = [Case("a", "1", "s", (), {"mask": Path("a.png")}), Case("b", "2", "s", ())]
    labels = [Case("a", "1", "s", (), {"label": "y"})]
    assert coding_of(None, masks) == coding_of(None, labels) == Coding(mask={"foreground": (1,)})
    assert coding_of(["y", "x"], masks) == Coding(mask={"y": (1,), "x": (2,)})
    assert coding_of({"y": [3, 4], "x": [1]}, masks) == Coding(mask={"y": (3, 4), "x": (1,)})
    assert coding_of(["y", "x"], labels) == Coding(label=("y", "x"))
    values = [
        Case(str(n), "1", "s", (), attributes={"sex": sex, "age": age})
        for n, (sex, age) in enumerate((("m", "3"), ("f", "4.5"), ("2", "1")))
    ]
    assert categories(values) == {"age": (), "sex": ("2", "f", "m")}


def test_a_pair_has_as_many_channels_as_the_study_and_its_range_is_its_own_or_that_given() -> None:
    values = np.stack([np.linspace(2, 6, 200), np.linspace(0, 50, 200)])[:, None]
    shares = Coding(paired=2).paired_to_share(values, "p.png")
    assert (shares.min(), shares.max()) == (0, 1)
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-6)
    np.testing.assert_allclose(shares[0, 0], np.linspace(0, 1, 200), atol=1e-6)
    given = Coding(paired=2, paired_range=(2.0, 4.0)).paired_to_share(values, "p.png")
    assert (given.min(), given[0].max()) == (-1, 2)
    for channels in (1, 3):
        with pytest.raises(ImageError, match=f"p.png: the paired image has 2 channels; expected {channels}"):
            Coding(paired=channels).paired_to_share(values, "p.png")


def test_a_class_whose_name_is_part_of_another_is_not_that_one() -> None:
    several = Coding(label=("b", "a", "ab"), several=True)
    assert [several.label_to_index(text, "x") for text in ("ab", "a|b")] == [[0, 0, 1], [1, 1, 0]]
