"""SISSI: when the correction starts, what the boxes become, and what the images are made of."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.tiny import a_context, write_photographs, write_rows
from torch import nn

from allograft.batch import Batch, Boxes
from allograft.cohort import Cohort
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.sissi import (
    Sides,
    Sissi,
    _epochs,
    _head,
    clone_detections,
    early_learning_ended,
    fit_early_learning,
    fuse,
)
from allograft.networks import build
from allograft.networks.detector import DetectionHead
from allograft.parts.box_figures import boxes_of, relabelled
from allograft.parts.box_views import FLIPS, SCALES, unflipped, views
from allograft.recipe import Scenario
from allograft.tasks.detection import Detection
from allograft.transforms.cloning import MixedBatch, blurred, cloned

CONTRACT = {
    "arguments": {"start": "source-val", "patience": 1, "score": 0.0, "skip": 0.0},
    "options": {
        "start": "early-learning",
        "background": "none",
        "slowed": 0.000001,
        "keep": 0.6,
        "overlap": 0.9,
        "skip": 0.6,
        "fused_score": "released",
        "score": 0.6,
        "nms": 0.9,
        "most": 1,
        "keep_empty": True,
        "patience": 3,
    },
    "under": {
        "slowed": {"arguments": {"start": "early-learning"}},
        "fused_score": {"arguments": {"most": 2}},
        "keep_empty": {"arguments": {"score": 0.146}},  # one image of three reaches 0.149, the others 0.144
    },
    "own_settings": ("augmentation",),
    "processes": {"start": "early-learning"},  # no box is chosen by a rank that rounding can turn
    "processes_study": {
        "network": {"faster_rcnn": {"backbone": "tiny", "detections": 20}},
        "optimizer": {"sgd": {"lr": 0.001}},
    },
    "marks": (2, 5),  # of eight steps
    "study": {
        "cohort": "boxes.csv",
        "task": {"detection": {"classes": ["brain"]}},
        "network": {"faster_rcnn": {"backbone": "tiny", "detections": 20}},
        "budget": {"steps": 3, "adapt_steps": 8, "batch_size": 2, "steps_per_epoch": 2},
        "optimizer": {"sgd": {"lr": 2.0}},  # at which the loss on the held-out source rises again
        "clip": 1.0,
    },
}
SPEC = {"build": {"faster_rcnn": {"in_channels": 1, "outputs": {"boxes": 2}, "backbone": "tiny"}}}


def _boxes(*rows: list[float], score: list[float] | None = None) -> Boxes:
    label = torch.ones(len(rows), dtype=torch.int64)
    return Boxes(torch.tensor(rows).reshape(-1, 4), label, torch.tensor(score or [0.9] * len(rows)))


def test_fusion_of_one_view_is_that_view() -> None:
    found = _boxes([0.0, 0, 10, 10], [30.0, 20, 50, 40], score=[0.9, 0.5])
    for score in ("paper", "released"):
        fused = fuse([found], (64, 64), score=score)  # type: ignore[arg-type]
        torch.testing.assert_close(fused.xyxy, found.xyxy)
        torch.testing.assert_close(fused.score, found.score)
        assert fused.label.tolist() == [1, 1]


def test_fusion_is_the_mean_weighted_by_confidence() -> None:
    one, two = _boxes([0.0, 0, 10, 10], score=[0.9]), _boxes([2.0, 0, 12, 10], score=[0.3])
    fused = fuse([one, two, _boxes()], (64, 64))
    torch.testing.assert_close(fused.xyxy, torch.tensor([[0.5, 0, 10.5, 10]]))  # (0.9 * 0 + 0.3 * 2) / 1.2
    torch.testing.assert_close(fused.score, torch.tensor([0.6]))
    released = fuse([one, two, _boxes()], (64, 64), score="released")
    torch.testing.assert_close(released.xyxy, fused.xyxy)
    torch.testing.assert_close(released.score, torch.tensor([0.4]))  # two of three views
    assert len(fuse([one, two], (64, 64), skip=0.5)) == 1
    assert fuse([one, two], (64, 64), skip=0.5).xyxy.tolist() == [[0, 0, 10, 10]]
    assert len(fuse([one, _boxes([8.0, 0, 18, 10])], (64, 64))) == 2  # they overlap by 1/9
    assert len(fuse([_boxes(), _boxes()], (64, 64))) == 0
    assert len(fuse([one, two], (64, 64), overlap=0.7)) == 2  # they overlap by 80 of 120
    wide = _boxes([40.0, 3, 60, 20])
    torch.testing.assert_close(fuse([wide], (32, 64)).xyxy, wide.xyxy)


def test_boxes_mirrored_twice_are_themselves() -> None:
    boxes = torch.tensor([[1.0, 2, 5, 9], [0, 0, 3, 3]])
    for axes in FLIPS:
        assert torch.equal(unflipped(unflipped(boxes, axes, (20, 30)), axes, (20, 30)), boxes)
    assert unflipped(boxes[:1], (-2,), (20, 30)).tolist() == [[1, 11, 5, 18]]


def test_every_view_comes_back_to_the_image_and_flips_share_a_pass() -> None:
    network = build(SPEC).eval()
    head = network.heads["boxes"]
    assert isinstance(head, DetectionHead)
    image = torch.rand(1, 1, 12, 96)  # each side is rounded by itself
    seen: list[tuple[int, ...]] = []

    class Bright(torch.nn.Module):
        """A detector that finds the brightest block, in whatever view it lies."""

        multiple = 1

        def forward(self, view: torch.Tensor) -> dict[str, Any]:
            seen.append(tuple(view.shape))
            assert head.roi_heads.score_thresh == 0.01  # type: ignore[union-attr]
            return {"boxes": tuple(self.one(each[0]) for each in view)}

        def one(self, view: torch.Tensor) -> Boxes:
            rows, columns = (view > 2).any(1).nonzero()[:, 0], (view > 2).any(0).nonzero()[:, 0]
            ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            return _boxes([float(end) for end in ends])

    image[..., 3:9, 40:90] = 4
    found = views(Bright(), head, image, keep=0.01)  # type: ignore[arg-type]
    assert len(found) == len(SCALES) * len(FLIPS) == 20
    assert len(seen) == len(SCALES)
    assert {shape[0] for shape in seen} == {4}
    for boxes in found:
        assert boxes.xyxy[0].tolist() == pytest.approx([40, 3, 90, 9], abs=2.0)
    assert head.roi_heads.score_thresh == 0.05  # as it was


def test_a_curve_that_nothing_fits_has_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_convergence(*_: Any, **__: Any) -> None:
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr("scipy.optimize.curve_fit", no_convergence)
    assert fit_early_learning([0.4, 0.6, 0.61, 0.61]) is None
    assert not early_learning_ended([0.4, 0.6, 0.61, 0.61])


@pytest.mark.parametrize(("steps", "lengths"), [(8, [3, 3, 2]), (6, [3, 3]), (2, [2])])
def test_epochs_make_up_the_budget(steps: int, lengths: list[int]) -> None:
    context = a_context()
    budget = replace(context.settings.budget, adapt_steps=steps, steps_per_epoch=3)
    epochs = _epochs([], replace(context, settings=replace(context.settings, budget=budget)))
    assert [len(epoch) for epoch in epochs] == lengths
    assert [step for epoch in epochs for step in epoch] == list(range(steps))


def test_early_learning_needs_three_epochs_and_a_bend() -> None:
    assert not early_learning_ended([0.0, 0.5])
    assert not early_learning_ended([0.05, 0.1, 0.15, 0.2, 0.25])
    assert early_learning_ended([0.4, 0.6, 0.61, 0.61, 0.61])
    assert not early_learning_ended([0.0, 0.0, 0.0])


def test_the_least_loss_is_found_when_it_has_not_fallen_for_as_many_epochs_as_patience_says() -> None:
    recipe = Sissi(start="source-val", patience=2)
    curve = [0.9, 0.5, 0.7, 0.6, 0.8]
    assert [recipe._begins(curve[:epochs]) for epochs in range(1, 6)] == [False, False, False, True, True]
    assert not recipe._begins([0.9, 0.8, 0.7, 0.6])


def test_what_lies_outside_the_boxes_is_blurred_and_the_inside_keeps_its_edges() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    made = clone_detections(image, np.array([[30.0, 20, 50, 40]]), 21, sigma=0)
    smooth = blurred(image, 21, 0)
    outside = np.ones((60, 80), dtype=bool)
    outside[20:40, 30:50] = False
    np.testing.assert_array_equal(made[outside], smooth[outside])
    inside = (slice(22, 38), slice(32, 48))
    gradient = [np.diff(each[inside].astype(float), axis=0) for each in (image, made, smooth)]
    assert np.abs(gradient[1] - gradient[0]).mean() < 0.35 * np.abs(gradient[2] - gradient[0]).mean()


def test_cloning_nothing_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(clone_detections(image, np.zeros((0, 4)), 71), image)
    # without a blur the whole image cloned onto itself is itself, up to the solver's rounding
    itself = clone_detections(image, np.array([[0.0, 0, 50, 40]]), 1)
    assert np.abs(itself.astype(int) - image).max() <= 2


def test_a_box_at_the_border_stays_where_it_is() -> None:
    image = np.full((40, 50, 3), 20, dtype=np.uint8)
    image[0:12, 38:50] = 220
    made = clone_detections(image, torch.tensor([[34.0, 0, 50, 16]]), 71)[..., 0].astype(int)
    assert np.diff(made[5, 34:]).argmax() == 3  # from column 37 to 38
    assert np.diff(made[:16, 44]).argmin() == 11  # from row 11 to 12


@pytest.mark.parametrize(("kernel", "image", "words"), [(12, None, "odd"), (21, np.zeros((4, 4), np.uint8), "uint8")])
def test_what_opencv_would_refuse_is_named(kernel: int, image: np.ndarray | None, words: str) -> None:
    given = np.zeros((8, 8, 3), np.uint8) if image is None else image
    with pytest.raises(SpecError, match=words):
        clone_detections(given, np.zeros((0, 4)), kernel)


def test_only_the_targets_images_are_cloned_and_boxes_move_along() -> None:
    image = torch.zeros(1, 1, 48, 48)
    image[..., 10:20, 12:26] = 3
    image[..., 34:40, 34:40] = 3  # not in a box
    case = Batch(image, torch.tensor([0]), ("t",), {"boxes": (_boxes([8.0, 6, 30, 24]),)})
    rng = torch.Generator()
    source = MixedBatch("strong", frozenset({"other"}))(case, rng.manual_seed(4))
    target = MixedBatch("strong", frozenset({"t"}))(case, rng.manual_seed(4))
    assert source.image.max() == pytest.approx(3, abs=0.2)
    (boxes,) = target.labels["boxes"]
    assert isinstance(boxes, Boxes)
    x0, y0, x1, y1 = boxes.xyxy[0].round().int().tolist()
    within = torch.zeros(48, 48, dtype=torch.bool)
    within[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = True
    assert target.image[0, 0][within].max() > 1.5
    assert (source.image[0, 0] > 1.5)[~within].any()
    assert not (target.image[0, 0] > 1.5)[~within].any()


def test_an_image_without_a_box_is_blurred_whole() -> None:
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    made = cloned(image, _boxes(), "weak")
    assert made.shape == image.shape
    assert made.std() < 0.4 * image.std()


@pytest.mark.parametrize("rows", [[], [[4.0, 4, 20, 20]]], ids=["no box", "a box"])
def test_a_clone_has_the_range_of_its_image(rows: list[list[float]]) -> None:
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = cloned(3 * image - 7, _boxes(*rows), "weak")
    torch.testing.assert_close(moved, 3 * cloned(image, _boxes(*rows), "weak") - 7, rtol=0, atol=0.05)


def test_an_image_is_cloned_in_grey_or_in_colour_alone() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    box = _boxes([4.0, 4, 20, 20])
    assert not torch.equal(*cloned(image, box, "weak")[:2])
    for channels in (2, 4):
        with pytest.raises(SpecError, match=f"an image of {channels} channels; expected 1 or 3"):
            cloned(torch.rand(channels, 32, 32), box, "weak")


def noisy_photographs(folder: Path, count: int = 2, site: str = "b") -> Cohort:
    """Images with a box each."""
    manifest = write_photographs(folder, {site: count}, size=(32, 32))
    rows = []
    for name in (f"{site}{number}" for number in range(count)):
        (folder / f"{name}.json").write_text(json.dumps({"boxes": [[1, 1, 6, 6]], "labels": ["cell"]}))
        rows.append({"image": f"{name}.png", "boxes": f"{name}.json", "subject": name, "site": site})
    write_rows(manifest, rows)
    return Cohort.read(manifest, Detection(("cell",)).coding)


@pytest.mark.parametrize("keep_empty", [True, False])
def test_an_image_in_which_nothing_is_found_keeps_the_boxes_of_the_last_epoch(
    keep_empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target: Sequence[Cohort] = [noisy_photographs(tmp_path)]
    found = iter([_boxes([10.0, 10, 20, 20]), _boxes([3.0, 3, 9, 9]), _boxes(), _boxes([4.0, 4, 9, 9])])
    monkeypatch.setattr(Sissi, "pseudo_label", lambda *_: next(found))
    for epoch in range(2):
        target = Sissi(keep_empty=keep_empty)._corrected(None, target, epoch, a_context())  # type: ignore[arg-type]
    first, second = (boxes.xyxy.tolist() for boxes in boxes_of(target))
    assert first == ([[10, 10, 20, 20]] if keep_empty else [])
    assert second == [[4, 4, 9, 9]]


@pytest.mark.parametrize("keep_empty", [True, False])
def test_all_boxes_stay_where_the_correction_would_leave_none_in_any_image(
    keep_empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = [noisy_photographs(tmp_path)]
    monkeypatch.setattr(Sissi, "pseudo_label", lambda *_: _boxes())
    kept = Sissi(keep_empty=keep_empty)._corrected(None, target, 3, a_context())  # type: ignore[arg-type]
    assert kept is target
    assert [boxes.xyxy.tolist() for boxes in boxes_of(kept)] == [[[1, 1, 6, 6]]] * 2


def test_epochs_that_keep_all_boxes_are_counted_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three corrected epochs the first and the last detect nothing."""
    detected = iter([_boxes(), _boxes(), _boxes(), _boxes([4.0, 4, 9, 9]), _boxes(), _boxes()])
    monkeypatch.setattr(Sissi, "pseudo_label", lambda *_: next(detected))
    monkeypatch.setattr(Sissi, "_begins", lambda *_: True)
    monkeypatch.setattr(Sissi, "_batches", lambda *_: None)
    monkeypatch.setattr("allograft.methods.sissi._epochs", lambda *_: [range(1), range(1, 2), range(2, 3)])
    monkeypatch.setattr("allograft.methods.sissi.train_with_checkpoints", lambda *_, **__: iter(()))
    context = replace(a_context(), task=Detection(("cell",)))
    scenario = Scenario((), (noisy_photographs(tmp_path),), sites=("b",))
    (stage,) = Sissi().run(scenario, build(SPEC), context)
    assert stage.facts == {"start_epoch": 0, "noisy_boxes": 2, "corrected_boxes": 1, "kept_epochs": 2}
    title = context.meter.figures["change"].title
    assert "2 of 3 epochs detect nothing in any image and keep the boxes" in title


def test_one_image_of_each_side_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sissi, "_begins", lambda self, curve: len(curve) == 1)
    scenario = Scenario(
        (noisy_photographs(tmp_path / "a", 1, "a"),), (noisy_photographs(tmp_path / "b", 1),), sites=("a", "b")
    )
    budget = Budget(adapt_steps=2, batch_size=2)
    context = replace(a_context(budget=budget, optimizer={"sgd": {"lr": 1e-3}}), task=Detection(("cell",)))
    recipe = Sissi(score=0.0, skip=0.0, most=3)
    recipe.check(scenario, build(SPEC), context)
    (stage,) = recipe.run(scenario, build(SPEC), context)
    assert stage.facts == {"start_epoch": 1, "noisy_boxes": 1, "corrected_boxes": 3, "kept_epochs": 0}


def test_images_are_cloned_in_the_loaders_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def marked(image: torch.Tensor, boxes: Boxes, background: str) -> torch.Tensor:
        return torch.full_like(image, 1e5 + os.getpid())

    monkeypatch.setattr("allograft.transforms.cloning.cloned", marked)
    sides = noisy_photographs(tmp_path / "a", 1, "a"), noisy_photographs(tmp_path / "b", 1)
    batches = Sissi()._batches(sides[:1], sides[1:], 0, True, replace(a_context(), workers=1))
    batch = next(batches(0))
    marks = {name: float(image.max()) for name, image in zip(batch.cases, batch.image, strict=True)}
    assert marks["b0.png"] > 9e4  # no image has such a value
    assert abs(marks["b0.png"] - 1e5 - os.getpid()) > 0.5
    assert marks["a0.png"] < 9e4


def test_the_head_of_the_boxes_is_meant_whatever_others_there_are() -> None:
    network: Any = build(SPEC)
    network.heads = nn.ModuleDict({"another": nn.Identity(), **network.heads})
    assert _head(network) is network.heads["boxes"]


def test_bad_input_is_refused_before_anything_is_trained() -> None:
    context = a_context()
    unet = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    with pytest.raises(SpecError, match="faster_rcnn"):
        Sissi().check(None, unet, context)  # type: ignore[arg-type]
    odd = replace(context, settings=replace(context.settings, budget=replace(context.settings.budget, batch_size=3)))
    with pytest.raises(SpecError, match="must be even"):
        Sissi().check(None, build(SPEC), odd)  # type: ignore[arg-type]


def test_the_boxes_of_the_last_epoch_are_kept_and_of_many_epochs_some() -> None:
    cohort: Any = SimpleNamespace(cases=(SimpleNamespace(name="a.png"), SimpleNamespace(name="b.png")))
    three, none = _boxes([0.0, 0, 1 / 3, 2], [1.0, 1, 2, 2], [3.0, 3, 5, 5]), _boxes()
    by_epoch = {epoch: [three, none] for epoch in range(4, 9)}
    whole = relabelled([cohort], by_epoch)
    assert whole.cases == ("a.png", "b.png")
    assert whole.epochs == (4, 5, 6, 7, 8)
    assert whole.xyxy[0] == (((0, 0, 0.33, 2), (1, 1, 2, 2), (3, 3, 5, 5)), ())
    assert whole.label[0] == ((1, 1, 1), ())
    assert relabelled([cohort], by_epoch, most=15).epochs == whole.epochs
    assert relabelled([cohort], by_epoch, most=14).epochs == (4, 6, 8)
    assert relabelled([cohort], by_epoch, most=1).epochs == (8,)


def test_each_epoch_corrects_what_the_last_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def corrected(self: Sissi, network: Any, target: Any, epoch: int, context: Any) -> list[str]:
        seen.append(target)
        return [f"after {epoch}"]

    monkeypatch.setattr(Sissi, "_corrected", corrected)
    monkeypatch.setattr(Sissi, "_begins", lambda *_: True)
    monkeypatch.setattr(Sissi, "_batches", lambda *_: None)
    monkeypatch.setattr(Sissi, "_sides", lambda *_: Sides((), (), ("noisy",)))  # type: ignore[arg-type]
    monkeypatch.setattr("allograft.methods.sissi._epochs", lambda *_: [range(1), range(1, 2)])
    monkeypatch.setattr(Sissi, "_show_boxes", lambda *_: None)
    monkeypatch.setattr("allograft.methods.sissi._facts", lambda *_: {})
    monkeypatch.setattr("allograft.methods.sissi.train_with_checkpoints", lambda *_, **__: iter(()))
    list(Sissi().run(Scenario(), build(SPEC), a_context()))  # type: ignore[arg-type]
    assert seen == [("noisy",), ["after 0"]]
