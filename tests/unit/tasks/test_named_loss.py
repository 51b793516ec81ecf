"""A loss by name: against the library itself, what does not count, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import monai.losses
import pytest
import torch
import torch.nn.functional as F
from tests.unit.tiny import write_brains

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.reading import make_study
from allograft.table import find, rows
from allograft.tasks import Task
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.named_loss import check_loss, is_pixelwise, made_loss, with_loss
from allograft.tasks.segmentation import Segmentation

MASKS, LABELS = Segmentation(("white", "grey")), Classification(("x", "y", "z"))
FOCAL = {"monai.DiceFocalLoss": {"gamma": 1.5}}
PAGE = Path(__file__).parents[3] / "docs" / "howto" / "your-own-network.md"


def masks(size: tuple[int, ...] = (6, 5), region: torch.Tensor | None = None) -> tuple[dict[str, torch.Tensor], Batch]:
    """Logits of three images, and their truth."""
    rng = torch.Generator().manual_seed(len(size))
    logits = torch.randn((3, 3, *size), generator=rng)
    mask = torch.randint(3, (3, 1, *size), generator=rng)
    batch = Batch(torch.zeros(3, 1, *size), torch.zeros(3), ("a", "b", "c"), {"mask": mask}, region=region)
    return {"mask": logits}, batch


def labels(*truth: int) -> tuple[dict[str, torch.Tensor], Batch]:
    logits = torch.randn((len(truth), 3), generator=torch.Generator().manual_seed(3))
    cases = tuple(map(str, range(len(truth))))
    batch = Batch(torch.zeros(len(truth), 1, 2, 2), torch.zeros(len(truth)), cases, {"label": torch.tensor(truth)})
    return {"label": logits}, batch


def value(task: Task, request: Any, given: tuple[dict[str, torch.Tensor], Batch]) -> torch.Tensor:
    (term,) = with_loss(task, request).loss(*given).values()
    return term


@pytest.mark.parametrize("size", [(6, 5), (4, 5, 3)])
def test_masks_cost_what_monai_says_of_each_image(size: tuple[int, ...]) -> None:
    output, batch = masks(size)
    theirs = monai.losses.DiceFocalLoss(to_onehot_y=True, softmax=True, gamma=1.5)
    each = [theirs(output["mask"][i : i + 1], batch.labels["mask"][i : i + 1]) for i in range(3)]
    torch.testing.assert_close(value(MASKS, FOCAL, (output, batch)), torch.stack(each).mean())


def test_cross_entropy_by_name_is_the_task_s_own_term() -> None:
    given = masks()
    own = MASKS.loss(*given)["cross_entropy"]
    torch.testing.assert_close(value(MASKS, {"torch.CrossEntropyLoss": None}, given), own)
    of_labels = labels(0, 2, -100, 1)
    torch.testing.assert_close(
        value(LABELS, {"torch.CrossEntropyLoss": None}, of_labels), LABELS.loss(*of_labels)["cross_entropy"]
    )


def test_weights_of_classes_reach_the_loss() -> None:
    output, batch = labels(0, 2, 1)
    wanted = F.cross_entropy(output["label"], batch.labels["label"], weight=torch.tensor([1.0, 2.0, 3.0]))
    given = {"torch.CrossEntropyLoss": {"weight": [1.0, 2.0, 3.0]}}
    torch.testing.assert_close(value(LABELS, given, (output, batch)), wanted)
    assert made_loss("monai.DiceCELoss", {"weight": [1.0, 2.0, 3.0]})  # which takes tensors alone


@pytest.mark.parametrize("name", ["monai.DiceFocalLoss", "monai.TverskyLoss", "torch.CrossEntropyLoss"])
def test_what_lies_outside_the_region_or_is_not_labelled_does_not_count(name: str) -> None:
    region = torch.ones(3, 1, 6, 5, dtype=torch.bool)
    region[:, :, :2] = False
    output, batch = masks(region=region)
    batch.labels["mask"][2, 0, 5] = -100
    expected = value(MASKS, {name: None}, (output, batch))
    changed = output["mask"].clone()
    changed[:, :, :2] = 7.0 * torch.randn(3, 3, 2, 5)
    changed[2, :, 5] += torch.tensor([9.0, 0.0, 0.0])[:, None]
    torch.testing.assert_close(value(MASKS, {name: None}, ({"mask": changed}, batch)), expected)
    inside = {"mask": output["mask"][:2, :, 2:]}
    cut = Batch(batch.image[:2, :, 2:], batch.site[:2], ("a", "b"), {"mask": batch.labels["mask"][:2, :, 2:]})
    two = Batch(batch.image[:2], batch.site[:2], ("a", "b"), {"mask": batch.labels["mask"][:2]}, region=region[:2])
    torch.testing.assert_close(
        value(MASKS, {name: None}, ({"mask": output["mask"][:2]}, two)), value(MASKS, {name: None}, (inside, cut))
    )


def test_an_unlabelled_image_does_not_count() -> None:
    output, batch = masks()
    all_three = torch.stack([value(MASKS, FOCAL, ({"mask": output["mask"][i : i + 1]}, one(batch, i))) for i in (0, 2)])
    batch.labels["mask"][1] = -100
    torch.testing.assert_close(value(MASKS, FOCAL, (output, batch)), all_three.mean())
    batch.labels["mask"][:] = -100
    assert value(MASKS, FOCAL, (output, batch)) == 0
    assert value(LABELS, {"monai.FocalLoss": None}, labels(-100, -100)) == 0


def one(batch: Batch, index: int) -> Batch:
    mask = batch.labels["mask"]
    assert isinstance(mask, torch.Tensor)
    kept = slice(index, index + 1)
    return Batch(batch.image[kept], batch.site[kept], batch.cases[kept], {"mask": mask[kept].clone()})


def test_a_loss_of_neighbours_is_told_from_one_of_pixels() -> None:
    assert is_pixelwise(made_loss("monai.DiceCELoss", {}), 3)
    for name in ("HausdorffDTLoss", "SoftDiceclDiceLoss", "BoundaryLoss"):
        assert not is_pixelwise(made_loss(f"monai.{name}", {}), 3), name
    region = torch.ones(3, 1, 6, 5, dtype=torch.bool)
    region[1, 0, 0] = False
    with pytest.raises(SpecError, match="HausdorffDTLoss compares neighbouring pixels, and in 'b' some do not count"):
        value(MASKS, {"monai.HausdorffDTLoss": None}, masks(region=region))
    assert value(MASKS, {"monai.HausdorffDTLoss": None}, masks()) > 0
    with pytest.raises(SpecError, match=r"the manifest has regions .*or leave the column region out"):
        check_loss(MASKS, {"monai.HausdorffDTLoss": None}, dims=2, has_region=True)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"monai.DiceFocaLoss": {}}, "unknown loss 'monai.DiceFocaLoss'; did you mean 'monai.DiceFocalLoss'"),
        ({"DiceFocalLoss": {}}, "found 'DiceFocalLoss'; expected monai.CLASS or torch.CLASS"),
        ({"torch.Linear": {}}, "unknown loss"),
        ({"monai.DiceFocalLoss": {"gama": 2}}, "unknown argument 'gama'; did you mean 'gamma'"),
        ({"monai.DiceFocalLoss": {"sigmoid": True}}, "sigmoid is true; it is set by the task to false: leave it out"),
        ({"monai.DiceLoss": {"batch": True}}, "batch is true"),
        ({"torch.CrossEntropyLoss": {"reduction": "sum"}}, 'reduction is "sum"'),
        ({"monai.DiceLoss": {"weight": "heavy"}}, "loss: monai.DiceLoss: "),
        ({"monai.PerceptualLoss": {"spatial_dims": 2}}, "weights that it downloads"),
        ({"monai.SSIMLoss": {"spatial_dims": 2}}, "monai.SSIMLoss: .*choose another loss"),
        ({"torch.NLLLoss": {}}, "falls from -10 to -1000 as a right answer gets surer"),
        ({"torch.MSELoss": {}}, "for a right answer and .* for a wrong one"),
        ({"torch.CrossEntropyLoss": {"weight": [1.0, 2.0]}}, "torch.CrossEntropyLoss: "),
        ({"torch.CrossEntropyLoss": {"weight": [0.0, 0.0, 0.0]}}, "not finite"),
        ({"monai.DiceLoss": {}, "monai.FocalLoss": {}}, "expected one"),
    ],
)
def test_what_cannot_be_minimised_is_refused(request_: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        check_loss(MASKS, request_)
    assert str(refused.value).startswith("loss: ")


def test_lists_of_numbers_reach_arguments_that_are_tensors() -> None:
    distances = [[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]]
    check_loss(MASKS, {"monai.GeneralizedWassersteinDiceLoss": {"dist_matrix": distances}}, dims=3)


def test_tasks_with_a_loss_of_their_own_and_weights_of_terms_are_refused() -> None:
    with pytest.raises(SpecError, match="task multilabel has a loss of its own"):
        check_loss(Multilabel(("x",)), FOCAL)
    with pytest.raises(SpecError, match=r"task.weights names \(dice\)"):
        check_loss(Segmentation(("vessel",), weights={"dice": 2.0}), FOCAL)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brains(tmp_path_factory.mktemp("cohort") / "brains", (32, 32))


def session(manifest: Path, out: Path, **changes: Any) -> Session:
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [4, 8]}},
        "source": ["a"],
        "target": ["b"],
        "pool": ["a"],
        "recipes": [{"finetune": {"first": "reconstruction"}}],
        "target_labels": {"subjects": 1},
        "baselines": False,
        "seeds": 1,
        "budget": {"steps": 1, "adapt_steps": 1, "batch_size": 2},
        **changes,
    }
    return Session(make_study(tree), out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)


def test_another_loss_is_another_unit_but_for_what_sees_no_labels(manifest: Path, tmp_path: Path) -> None:
    nodes = {}
    for name, loss in {"own": {}, "focal": FOCAL, "sharper": {"monai.DiceFocalLoss": {"gamma": 3.0}}}.items():
        one = session(manifest, tmp_path, loss=loss)
        row = one.plan(one.prepare()).rows[-1]
        nodes[name] = [node.key for node in row.nodes]
    pretrained, tuned = (set(keys) for keys in zip(*nodes.values(), strict=True))
    assert len(pretrained) == 1
    assert len(tuned) == 3


def test_the_page_names_the_recipes_that_refuse_a_loss() -> None:
    own = {name for name in rows("method") if getattr(find("method", name), "own_loss", "")}
    sentence = re.search(r"it adds them to yours\. (.*?) are defined by a loss of their", PAGE.read_text(), flags=re.S)
    assert sentence
    assert set(re.findall(r"`(\w+)`", sentence.group(1))) == own


def test_a_study_that_names_no_loss_has_the_units_that_it_had_before(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[tuple[object, ...]] = []
    monkeypatch.setattr("allograft.context.context.content_hash", lambda *parts: hashed.append(parts) or "draws")
    for loss in ({}, FOCAL):
        study = session(manifest, tmp_path, loss=loss)
        study.context(0).key("draws", study.study.recipes[0])
    assert ["'loss'" in str(parts) for parts in hashed] == [False, True]
