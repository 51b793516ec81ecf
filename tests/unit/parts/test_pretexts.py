"""What pre-trainings that restore images measure, show and refuse."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch import nn

from allograft.batch import Batch
from allograft.cohort import Slices
from allograft.errors import SpecError
from allograft.figure import Images
from allograft.grey import grey_of, window_of
from allograft.metrics.restoration import restoration_metrics
from allograft.networks import build
from allograft.nn.ssim import Ssim, multi_scale_ssim
from allograft.parts.pretexts import (
    RANGE,
    check_channels,
    check_pool,
    dropped,
    held_out,
    restoration_loss,
    restored_by,
    restored_stage,
    restorer,
    show_restored,
    validation_of,
    views_of,
    with_range,
)
from allograft.recipe import Scenario

SMALL = Ssim(3)


def dimmed(batch: Batch) -> torch.Tensor:
    image = batch.image * 0.8
    image[:, :, :2] += 30.0
    return image


def tilted(batch: Batch) -> torch.Tensor:
    """Brighter along the second axis, as the volumes are along the first."""
    return torch.arange(0.0, 130 * batch.image.shape[3], 130).view(1, 1, 1, -1, 1).expand_as(batch.image)


def test_one_subject_at_least_validates_and_one_trains(tmp_path: Path) -> None:
    pool = (read(write_photographs(tmp_path, {"a": 4})).unlabelled(),)
    for share, count in ((0.01, 1), (0.5, 2), (1.0, 3)):
        assert [sum(map(len, part)) for part in held_out(pool, share, 0)] == [4 - count, count]


def test_held_out_images_are_measured_about_their_middle_in_mm_by_the_range_of_the_whole(tmp_path: Path) -> None:
    cohorts = [read(write_volumes(tmp_path, [(9, 8, 7), (8, 9, 8)])).unlabelled()]
    context = a_context(patch=(6, 7, 5))
    batches = list(views_of(cohorts, context))
    assert [tuple(batch.image.shape) for batch in batches] == [(1, 1, 6, 7, 5)] * 2
    assert [batch.attributes[RANGE].item() for batch in batches] == [800 + 70 + 6, 700 + 80 + 7]
    middle = batches[0].image[0, 0] - batches[0].image[0, 0, 0, 0, 0]
    assert float(batches[0].image.mean()) == pytest.approx(435, abs=60)  # 100 i + 10 j + k, about (4, 3.5, 3)
    assert float(middle[-1, -1, -1]) == pytest.approx(564)
    rows = []
    for batch in batches:
        restored = tilted(batch)
        rows.append(
            {
                "validation_loss": float(restoration_loss(restored, batch.image, batch, SMALL)),
                "ms_ssim": float(multi_scale_ssim(restored, batch.image, batch.attributes[RANGE], SMALL)[0]),
                **restoration_metrics(restored[0], batch.image[0], [1, 2, 3]),
            }
        )
    means = validation_of(tilted, cohorts, context, SMALL)
    for key in ("validation_loss", "ms_ssim", "dice", "hausdorff", "hd95"):
        assert means[key] == pytest.approx((rows[0][key] + rows[1][key]) / 2)
    assert restoration_metrics(tilted(batches[0])[0], batches[0].image[0])["hausdorff"] != rows[0]["hausdorff"]
    stage = restored_stage(
        tilted, cohorts, context, SMALL, (90, 30), sites=("a",), loss=lambda batch: batch.image.mean()
    )
    assert stage.facts["validation_loss"] == pytest.approx(sum(float(b.image.mean()) for b in batches) / 2)
    assert (stage.facts["steps"], stage.facts["steps_per_epoch"], stage.seen) == (90, 30, ("a",))
    assert stage.facts["dice"] == means["dice"]


def test_an_image_without_structure_has_the_range_1() -> None:
    flat = Batch(torch.full((1, 1, 4, 4), 7.0), torch.zeros(1).long(), ("a",), attributes={"age": torch.ones(1)})
    made = with_range(flat, flat)
    assert (made.attributes[RANGE].item(), made.attributes["age"].item()) == (1.0, 1.0)


def test_the_rate_drops_at_its_share_or_as_the_study_says() -> None:
    def rates(**settings: Any) -> list[float]:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 2.0)
        schedule, seen = dropped(a_context(**settings), optimizer, 4, 0.5), []
        assert schedule is not None
        for _ in range(4):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule(torch.zeros(()))
        return seen

    assert rates() == pytest.approx([2.0, 2.0, 0.2, 0.2])
    assert rates(schedule={"step": {"at": (0.25,), "factor": 0.5}}) == pytest.approx([2.0, 1.0, 1.0, 1.0])


def test_a_restorer_gives_as_many_channels_as_the_images_have_and_restores_without_dropout(tmp_path: Path) -> None:
    folder = tmp_path / "rgb"
    manifest = write_photographs(folder, {"a": 2})
    for file in folder.glob("a?.png"):
        Image.open(file).convert("RGB").save(file)
    network = build({"build": {"unet": {"in_channels": 3, "outputs": {"mask": 2}, "channels": [2, 4], "dropout": 0.5}}})
    made = restorer(network, [read(manifest).unlabelled()], a_context())
    assert made.training
    image = torch.rand(1, 3, 15, 13)
    found = restored_by(made, image)
    assert found.shape == image.shape
    assert torch.equal(found, restored_by(made, image))
    assert made.training


def test_the_first_held_out_images_are_shown_before_and_after_in_the_greys_of_before(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 3, "b": 3}, per_subject=1)).unlabelled()
    context = a_context()
    show_restored(dimmed, [cohort.site("a"), cohort.site("b")], context)
    figure = context.meter.figures["restored"]
    assert isinstance(figure, Images)
    assert figure.names == ("image 1", "image 2", "image 3", "image 4")
    assert figure.captions == (("before", "after"),) * 4
    assert figure.subjects == tuple((name, name) for name in ("a0", "a1", "a2", "b0"))
    image = cohort.case(3).image
    for png, values in zip(figure.rows[3], (image, dimmed(cohort.case(3))), strict=True):
        expected = grey_of(values[0, 0].numpy(), window_of(image[0].numpy()))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))), expected // 4 * 4)


def test_only_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    one = read(write_photographs(tmp_path / "one", {"a": 1}, size=(16, 8))).unlabelled()
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4]}}})

    def check(cohort: Any, window: int, share: float = 0.0, **settings: Any) -> None:
        scenario = Scenario(pool=(cohort,))
        check_pool("reconstruction", scenario, network, a_context(**settings), share=share, settings=Ssim(window))

    check(one, 3)  # one subject, of whom nobody is held out
    check(one, 7, patch=(16, 8))  # as large as the image
    with pytest.raises(SpecError, match="the pool has one subject"):
        check(one, 3, share=0.5)
    with pytest.raises(SpecError, match="of 16x8 is smaller than the window of SSIM, 11 pixels"):
        check(one, 11)
    with pytest.raises(SpecError, match="a patch of 16x4 is smaller than the window of SSIM, 5 pixels"):
        check(one, 5, patch=(16, 4))
    scans = read(write_volumes(tmp_path / "scans", [(9, 3, 8)]), slices=Slices(1, 1)).unlabelled()
    check(scans, 7)  # slices of 9 x 8, of three channels
    assert check_channels("reconstruction", [scans]) == 3
    other = replace(one, cases=one.cases)
    with pytest.raises(SpecError, match=r"have 1 \('a0.png'\) and 3 \('v0.nii.gz'\) channels"):
        check_channels("reconstruction", [scans, other])
