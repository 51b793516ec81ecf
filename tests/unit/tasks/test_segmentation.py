"""The loss against MONAI and torch, and what must not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from PIL import Image
from tests.unit.tiny import VESSEL, read, write_photographs, write_rows

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.tasks.segmentation import (
    Segmentation,
    cross_entropy,
    dice_loss,
    mean_over_subjects,
    most_probable,
    squared_dice_loss,
)


def drawn(dims: int = 2, classes: int = 3, cases: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(dims)
    shape = (cases, *(5, 6, 4)[:dims])
    logits = torch.randn(cases, classes, *shape[1:], generator=rng, dtype=torch.float64)
    return logits, torch.randint(0, classes, shape, generator=rng)


def a_batch(mask: torch.Tensor, region: torch.Tensor | None = None) -> Batch:
    cases = tuple(map(str, range(len(mask))))
    return Batch(
        torch.zeros(len(mask), 1, *mask.shape[1:]),
        torch.zeros(len(mask)),
        cases,
        {"mask": mask[:, None]},
        region=region,
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 3])
def test_full_masks_equal_monai_and_torch(dims: int, classes: int) -> None:
    logits, mask = drawn(dims, classes)
    everywhere = torch.ones_like(mask, dtype=torch.bool)
    options: Any = {
        "include_background": False,
        "to_onehot_y": True,
        "softmax": True,
        "smooth_nr": 1e-5,
        "smooth_dr": 1e-5,
    }
    reference = DiceLoss(reduction="none", **options)(logits, mask[:, None]).flatten(1).mean(1)
    torch.testing.assert_close(dice_loss(logits, mask, everywhere), reference)
    expected = torch.stack([F.cross_entropy(logits[i : i + 1], mask[i : i + 1]) for i in range(len(mask))])
    torch.testing.assert_close(cross_entropy(logits, mask, everywhere), expected)
    terms = Segmentation(tuple("abc"[: classes - 1])).loss({"mask": logits}, a_batch(mask))
    torch.testing.assert_close(terms["dice"], reference.mean())
    torch.testing.assert_close(terms["cross_entropy"], expected.mean())
    squared = Segmentation(tuple("abc"[: classes - 1])).loss({"mask": logits}, a_batch(mask), dice=squared_dice_loss)
    torch.testing.assert_close(squared["dice"], squared_dice_loss(logits, mask, everywhere).mean())
    assert not torch.allclose(squared["dice"], terms["dice"])


@pytest.mark.parametrize("by", ["ignore", "region"])
def test_what_does_not_count_has_no_gradient_and_no_say(by: str) -> None:
    logits, mask = drawn()
    counts = torch.rand(mask.shape, generator=torch.Generator().manual_seed(5)) < 0.6
    batch = a_batch(mask.where(counts, -100)) if by == "ignore" else a_batch(mask, counts[:, None])
    logits.requires_grad_()
    terms = VESSEL.loss({"mask": logits}, batch)
    sum(terms.values()).backward()
    outside = ~counts[:, None].expand_as(logits)
    assert (logits.grad[outside] == 0).all()
    assert (logits.grad[~outside] != 0).all()
    # the same as an image that holds only the pixels that count
    for i in range(2):
        kept = counts[i]
        alone = VESSEL.loss({"mask": logits[i][:, kept][None].detach()}, a_batch(mask[i][kept][None]))
        single = VESSEL.loss({"mask": logits[i : i + 1].detach()}, batch[i : i + 1])
        torch.testing.assert_close(single, alone)


def test_an_unlabelled_case_contributes_nothing() -> None:
    logits, mask = drawn(cases=3)
    mixed = mask.clone()
    mixed[1] = -100
    logits.requires_grad_()
    terms = VESSEL.loss({"mask": logits}, a_batch(mixed))
    torch.testing.assert_close(terms, VESSEL.loss({"mask": logits[[0, 2]]}, a_batch(mask[[0, 2]])))
    sum(terms.values()).backward()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[0] != 0).any()


def test_nothing_labelled_is_a_loss_of_zero() -> None:
    logits, mask = drawn()
    logits.requires_grad_()
    terms = VESSEL.loss({"mask": logits}, a_batch(torch.full_like(mask, -100)))
    sum(terms.values()).backward()
    assert [value.item() for value in terms.values()] == [0, 0]
    assert (logits.grad == 0).all()


def test_classes() -> None:
    task = Segmentation({"b": (7, 9), "a": (1,)})
    assert (task.names, task.outputs) == (("b", "a"), {"mask": 3})
    assert task.coding.mask_to_index(np.array([[9, 1, 0]]), "m").tolist() == [[1, 2, 0]]
    assert Segmentation(("x", "y")).coding.mask == {"x": (1,), "y": (2,)}
    with pytest.raises(SpecError, match="classes is empty"):
        Segmentation(())


def test_a_subject_counts_once_however_many_images() -> None:
    cases = [
        {"case": "1", "subject": "s", "dice": 1.0, "hd95": 2.0},
        {"case": "2", "subject": "s", "dice": 0.5, "hd95": None},
        {"case": "3", "subject": "t", "dice": 0.0, "hd95": None},
    ]
    assert mean_over_subjects(cases) == {"dice": 0.375, "hd95": 2.0, "undefined/hd95": 2}
    assert mean_over_subjects(cases[2:]) == {"dice": 0.0, "hd95": None, "undefined/hd95": 1}
    assert mean_over_subjects([]) == {}


def test_measured_on_the_images_own_grid_inside_the_region(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, {"a": 1}, (24, 16)).parent
    truth = np.asarray(Image.open(folder / "a0-mask.png"))
    region = np.zeros_like(truth)
    region[:, 8:] = 255
    Image.fromarray(region).save(folder / "region.png")
    row = {"image": "a0.png", "mask": "a0-mask.png", "subject": "a0", "site": "a"}
    cohort = read(write_rows(folder / "m.csv", [row]))
    sized = replace(cohort.prepared, preprocessing=replace(cohort.prepared.preprocessing, size=(12, 8)), memory={})
    cohort = replace(cohort, prepared=sized)
    # half the size; foreground everywhere in the left half, outside the region
    wrong = np.zeros((12, 8))
    wrong[:, :4] = 1
    prediction = {"mask": torch.tensor(np.stack([5 - 10 * wrong, -5 + 10 * wrong]))[None]}
    assert VESSEL.probabilities(prediction, cohort.whole(0)).shape == (2, 24, 16)
    found = VESSEL.measure(prediction, cohort.whole(0))
    both = truth[:, :8].sum()
    assert found["dice"] == pytest.approx(2 * both / (24 * 8 + truth.sum()))
    inside = read(write_rows(folder / "r.csv", [{**row, "region": "region.png"}]))
    inside = replace(inside, prepared=replace(sized, memory={}))
    within = VESSEL.measure(prediction, inside.whole(0))
    assert within["dice"] == 0
    assert within["hd95"] is None


@pytest.mark.parametrize("shape", [(2, 9, 7), (5, 4, 6, 3)])
def test_the_most_probable_class_is_the_first_of_equal_ones_as_by_argmax(shape: tuple[int, ...]) -> None:
    coarse = torch.randint(3, shape, generator=torch.Generator().manual_seed(0)).float()  # many are equal
    coarse[0, 0, 0] = float("nan")
    for values in (coarse, coarse.transpose(1, 2)):
        assert torch.equal(most_probable(values), values.argmax(0))
        assert most_probable(values).dtype == torch.int64
