"""Several models as one: the mean of their probabilities, and members that do not belong together."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.conftest import Command
from tests.cli.conftest import allograft as allograft
from tests.unit.tiny import case, write_photographs
from torch import Tensor, nn

from allograft import load
from allograft.apply.compare import compare
from allograft.apply.ensemble import make_ensemble
from allograft.apply.evaluate import evaluate
from allograft.batch import Batch
from allograft.errors import ModelError, OutputError
from allograft.methods.fourier import FourierPredictor
from allograft.networks import build
from allograft.predictor import Direct, Prediction, Weights, save_predictor
from allograft.predictor.card import read_card
from allograft.predictor.ensemble import Ensemble
from allograft.predictor.folder import starting_network
from allograft.predictor.whole import sees_whole_images

TASK = {"segmentation": {"classes": ["vessel"]}}
CARD: dict[str, Any] = {
    "task": TASK,
    "preprocessing": {"intensity": "zscore", "orientation": None},
    "channels": 1,
    "slices": None,
    "sites": ["a"],
    "training_images": [],
}


def saved(folder: Path, seed: int, **card: Any) -> Path:
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}}
    torch.manual_seed(seed)
    save_predictor(Direct(build(spec)), folder, {**CARD, "seed": seed, **card})
    return folder


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    return [saved(tmp_path / f"m{seed}", seed) for seed in range(3)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "cohort", {"b": 3})


def test_the_probabilities_are_the_mean_of_the_members(members: list[Path], manifest: Path, tmp_path: Path) -> None:
    made = make_ensemble(members, tmp_path / "both")
    image = manifest.parent / "b0.png"
    each = [load(model, device="cpu").predict([image])[0].answer.maps["vessel"].double() for model in members]
    found = load(made, device="cpu").predict([image])[0].answer
    # a loop over pixels in float64
    for y, x in np.ndindex(*each[0].shape):
        assert float(found.maps["vessel"][y, x]) == pytest.approx(sum(float(one[y, x]) for one in each) / 3, abs=1e-6)
    assert found.mask is not None
    assert torch.equal(found.mask, (torch.stack(each).mean(0) > 0.5).long())


@dataclass(frozen=True)
class Says:
    """Gives fixed logits, and which number it knows each site by."""

    logits: Tensor
    warning: str = ""

    def __call__(self, batch: Batch) -> Prediction:
        said = tuple(f"{self.warning}{number}" if self.warning else "" for number in batch.site.tolist())
        return {"label": self.logits, "warnings": said, "score": torch.zeros(len(batch))}


def test_a_sigmoid_per_class_is_averaged_class_by_class() -> None:
    batch = replace(case("a"), image=torch.zeros(1, 1, 4, 4))
    logits = [torch.tensor([[2.0, -30.0, 0.3]]), torch.tensor([[-1.0, 40.0, 0.3]])]
    members = tuple(map(Says, logits))
    several = Ensemble(members, ((0,), (0,)), is_multilabel=True)(batch)["label"]
    one = Ensemble(members, ((0,), (0,)))(batch)["label"]
    assert isinstance(several, Tensor)
    assert isinstance(one, Tensor)
    torch.testing.assert_close(several.sigmoid(), torch.stack(logits).sigmoid().mean(0))
    torch.testing.assert_close(one.exp(), torch.stack(logits).softmax(2).mean(0))
    assert not torch.allclose(one.softmax(1), several.sigmoid())


def test_one_model_twice_is_that_model_and_only_warnings_are_kept() -> None:
    batch = replace(case("a"), image=torch.zeros(1, 1, 4, 4))
    alone = Says(torch.tensor([[2.0, -1.0]]), "far ")
    both = Ensemble((alone, alone), ((0,), (0,)))(batch)
    assert isinstance(both["label"], Tensor)
    torch.testing.assert_close(both["label"].softmax(1), alone.logits.softmax(1))
    assert (both["warnings"], "score" in both) == (("far 0",), False)


def test_each_member_numbers_sites_as_it_was_trained() -> None:
    batch = replace(case("a"), image=torch.zeros(1, 1, 4, 4), site=torch.tensor([1]))
    members = (Says(torch.zeros(1, 2), "x"), Says(torch.zeros(1, 2), "y"))
    assert Ensemble(members, ((0, -1), (-1, 0)))(batch)["warnings"] == ("x-1; y0",)


def test_sites_of_all_members_are_those_of_the_ensemble(tmp_path: Path) -> None:
    models = [saved(tmp_path / "x", 0, sites=["a", "b"]), saved(tmp_path / "y", 1, sites=["b", "c"])]
    made = load(make_ensemble(models, tmp_path / "both"), device="cpu")
    assert made.card["sites"] == ["a", "b", "c"]
    assert isinstance(made.predictor, Ensemble)
    assert made.predictor.numbers == ((0, 1, -1), (-1, 0, 1))


def test_images_of_patients_carry_over(members: list[Path], tmp_path: Path) -> None:
    assert not read_card(make_ensemble(members, tmp_path / "clean"))["contains_images"]
    inner = load(members[1]).predictor
    assert isinstance(inner, Direct)
    save_predictor(
        FourierPredictor(inner, torch.rand(1, 1, 4, 4), 0.3, contains_images=True), tmp_path / "donors", CARD
    )
    assert read_card(tmp_path / "donors")["contains_images"]
    made = make_ensemble([members[0], tmp_path / "donors"], tmp_path / "both")
    assert read_card(made)["contains_images"]
    card = json.loads((members[1] / "card.json").read_text())
    (members[1] / "card.json").write_text(json.dumps({**card, "contains_images": True}))
    assert read_card(make_ensemble(members[:2], tmp_path / "said"))["contains_images"]


def test_an_ensemble_sees_what_its_members_see() -> None:
    @dataclass(frozen=True)
    class WholeCases:
        sees_whole_cases: bool = True

        def __call__(self, batch: Batch) -> Prediction:
            return {}

    plain, whole = Says(torch.zeros(1, 2)), WholeCases()
    assert Ensemble((plain, whole), ((0,), (0,))).sees_whole_cases
    assert sees_whole_images(Ensemble((plain, whole), ((0,), (0,))))
    assert not Ensemble((plain, plain), ((0,), (0,))).sees_whole_cases


def test_commands_take_the_folder(
    members: list[Path], manifest: Path, tmp_path: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = allograft("ensemble", *members, "-o", "both")
    assert (answer.code, answer.out) == (0, "allograft predict both IMAGES -o predictions\n"), answer.err
    assert allograft("predict", "both", manifest, "-o", "out", "--device", "cpu").code == 0
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert len(rows) == 3
    masks = {np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "out").glob("*_mask.png")}
    assert len(masks) == 3
    assert 0 <= float(evaluate(tmp_path / "both", manifest, device="cpu").metrics["b"]["dice"] or 0) <= 1
    table = compare(tmp_path / "both", tmp_path / "out" / "results.csv", manifest, names=("a", "b"), device="cpu")
    assert table.overall.found is not None
    assert table.overall.found.difference == 0


def test_a_training_image_of_any_member_is_refused(members: list[Path], manifest: Path, tmp_path: Path) -> None:
    from allograft.cohort.prepared_images import file_hash

    known = saved(tmp_path / "known", 7, training_images=[file_hash(manifest.parent / "b1.png")])
    made = make_ensemble([members[0], known], tmp_path / "both")
    with pytest.raises(ModelError, match="was trained on 1 of these images"):
        evaluate(made, manifest, device="cpu")


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"task": {"segmentation": {"classes": ["lesion"]}}}, r"task: found .*lesion.*expected .*vessel"),
        ({"task": {"segmentation": {"classes": {"vessel": [255]}}}}, r"task: found .*255"),
        ({"preprocessing": {"intensity": "none", "orientation": None}}, "preprocessing: found"),
        ({"channels": 3}, "channels: found 3, expected 1"),
        ({"slices": {"axis": 2}}, "slices: found"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_members_that_differ_are_refused_by_name(
    card: dict[str, Any], said: str, members: list[Path], tmp_path: Path
) -> None:
    other = saved(tmp_path / "other", 9, **card)
    with pytest.raises(ModelError, match=f"^{other}: {said}"):
        make_ensemble([members[0], other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_what_is_no_ensemble_is_refused(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found 1 model, expected at least two"):
        make_ensemble(members[:1], tmp_path / "both")
    with pytest.raises(ModelError, match=f"^{members[0]}: holds the same model as {members[0]}"):
        make_ensemble([members[0], members[0]], tmp_path / "both")
    with pytest.raises(OutputError, match="is not empty"):
        make_ensemble(members, members[0])
    with pytest.raises(ModelError, match="no model folder"):
        make_ensemble([members[0], tmp_path / "nothing"], tmp_path / "both")
    save_predictor(Weights(build({"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8]}}})),
                   tmp_path / "weights", CARD)  # fmt: skip
    with pytest.raises(ModelError, match="holds pre-trained weights only"):
        make_ensemble([members[0], tmp_path / "weights"], tmp_path / "both")
    boxes = saved(tmp_path / "boxes", 1, task={"detection": {"classes": ["lesion"]}})
    with pytest.raises(ModelError, match="finds boxes"):
        make_ensemble([boxes, members[0]], tmp_path / "both")
    with pytest.raises(ModelError, match="start from the folder of one of its members"):
        starting_network(make_ensemble(members, tmp_path / "both"))


class Pooled(nn.Module):
    """The user's own: a classifier of two findings."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image).mean((2, 3))  # type: ignore[no-any-return]


def test_own_classifiers_of_several_labels_are_averaged_by_sigmoids(tmp_path: Path, manifest: Path) -> None:
    task, spec = {"multilabel": {"classes": ["x", "y"]}}, {"build": {"custom": {"class": "own", "key": "label"}}}
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(tmp_path / f"l{seed}")
        save_predictor(Direct(build(spec, Pooled())), models[-1], {**CARD, "task": task})
    made = load(make_ensemble(models, tmp_path / "both", network=Pooled()), network=Pooled(), device="cpu")
    image = manifest.parent / "b0.png"
    each = [load(one, network=Pooled(), device="cpu").predict([image])[0].answer.values for one in models]
    found = made.predict([image])[0].answer.values
    for name in ("x", "y"):
        assert found[name] == pytest.approx((float(each[0][name]) + float(each[1][name])) / 2, abs=1e-6)
