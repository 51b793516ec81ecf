"""Batches: hidden labels are absent, or carry the value that no loss counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.unit.tiny import case

from allograft.batch import Batch, Boxes, collate
from allograft.errors import SpecError

BOXES = Boxes(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1]))


def test_one_label_per_kind_and_its_ignore_value() -> None:
    full = case(
        "a",
        labels={
            "mask": torch.ones(1, 1, 2, 2).long(),
            "label": torch.tensor([3]),
            "several": torch.tensor([[1.0, 0.0]]),
            "boxes": (BOXES,),
        },
    )
    both = collate([case("b"), full, case("c")])
    assert both.cases == ("b", "a", "c")
    assert both.labels["mask"][:, 0, 0, 0].tolist() == [-100, 1, -100]
    assert both.labels["mask"].dtype == torch.int64
    assert both.labels["label"].tolist() == [-100, 3, -100]
    assert both.labels["several"].isnan().tolist() == [[True, True], [False, False], [True, True]]
    assert both.labels["boxes"] == (None, BOXES, None)


def test_what_nobody_has_is_absent() -> None:
    both = collate([case("a"), case("b")])
    assert (both.labels, both.attributes, both.region, both.spacing, both.extent) == ({}, {}, None, None, None)


def test_a_case_without_a_region_counts_whole() -> None:
    region = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    both = collate([case("a", region=region), case("b")])
    assert both.region.flatten(1).sum(1).tolist() == [0, 4]


def test_spacing_is_joined_or_dropped() -> None:
    mm = torch.tensor([[1.0, 2.0]])
    assert collate([case("a", spacing=mm), case("b", spacing=2 * mm)]).spacing.tolist() == [[1, 2], [2, 4]]
    assert collate([case("a", spacing=mm), case("b")]).spacing is None


def test_attributes_are_joined() -> None:
    both = collate([case("a", attributes={"age": torch.tensor([30.0])}), case("b")])
    assert both.attributes["age"][0] == 30
    assert both.attributes["age"][1].isnan()


@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 2, 2, 2)])
def test_sizes_that_differ_are_refused_with_the_mend(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"\(1, 2, 2\).*cannot share a batch.*size") as error:
        collate([case("a"), replace(case("b"), image=torch.zeros(shape))])
    assert str(shape[1:]) in str(error.value)


def test_slicing_cuts_everything() -> None:
    cases = [
        case(
            name,
            value,
            labels={"mask": torch.full((1, 1, 2, 2), int(value)), "boxes": (BOXES if value == 2 else None,)},
            attributes={"age": torch.tensor([value])},
            spacing=torch.tensor([[value, 1.0]]),
        )
        for name, value in (("a", 0.0), ("b", 1.0), ("c", 2.0))
    ]
    part = collate(cases)[1:3]
    assert (len(part), part.cases) == (2, ("b", "c"))
    assert part.image[:, 0, 0, 0].tolist() == [1, 2]
    assert part.labels["mask"][:, 0, 0, 0].tolist() == [1, 2]
    assert part.labels["boxes"] == (None, BOXES)
    assert part.attributes["age"].tolist() == [1, 2]
    assert part.spacing[:, 0].tolist() == [1, 2]


def test_to_moves_every_tensor() -> None:
    batch = case(
        "a", labels={"boxes": (BOXES, None), "label": torch.tensor([1])}, attributes={"age": torch.tensor([1.0])}
    )
    moved = batch.to("meta")
    assert moved.image.is_meta
    assert moved.site.is_meta
    assert moved.labels["label"].is_meta
    assert moved.labels["boxes"][0].xyxy.is_meta
    assert moved.labels["boxes"][1] is None
    assert moved.attributes["age"].is_meta
    assert not batch.image.is_meta


def test_unlabelled_has_no_labels_and_keeps_the_rest() -> None:
    batch = case("a", labels={"label": torch.tensor([1])}, attributes={"age": torch.tensor([1.0])})
    assert batch.unlabelled() == replace(batch, labels={})
    assert isinstance(batch.unlabelled(), Batch)
