"""What one does with a finished model: predictions that a kill leaves whole, adaptations without
more than was asked, devices."""

from __future__ import annotations

import csv
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.conftest import Command, write_study

from allograft import tree
from allograft.apply import load
from allograft.apply.evaluate import evaluate
from allograft.apply.model import Model
from allograft.apply.predictions import write_predictions
from allograft.phantoms.brain import write_brain
from allograft.run.fabric import find_device, local_fabric
from allograft.studies import train_model
from allograft.study import read_study


class Killed(BaseException):
    """Stands for ``kill -9``: nothing but the disk is left."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, a model trained on it, and another cohort."""
    folder = tmp_path_factory.mktemp("models")
    write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=6, size=32)
    write_brain(folder / "new", sites={"c": "medium"}, subjects=6, size=32, seed=7)
    study = read_study(write_study(folder), ["recipes=[supervised]"])
    train_model(study, folder, fabric=local_fabric(accelerator="cpu"))
    return folder


# ---------------------------------------------------------- predict
def listed(out: Path) -> list[str]:
    """The images in results.csv."""
    if not (out / "results.csv").exists():
        return []
    with open(out / "results.csv", newline="") as file:
        return [row["image"] for row in csv.DictReader(file, strict=True)]


def masked(out: Path) -> list[str]:
    """The images that have a mask."""
    return sorted(path.name.replace("_mask", "") for path in out.glob("*_mask.png") if not path.name.startswith("."))


def effects(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process is gone before its n-th change of the disk takes effect."""
    left = [number]

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return dying

    monkeypatch.setattr(os, "replace", before(os.replace))
    monkeypatch.setattr("allograft.apply.predictions.append_bytes", before(tree.append_bytes))


@pytest.mark.parametrize("earlier", [False, True], ids=["into an empty folder", "beside earlier predictions"])
def test_no_mask_is_without_its_row_however_the_process_ends(earlier: bool, place: Path, tmp_path: Path) -> None:
    model, images = place / "model", sorted((place / "new" / "images").iterdir())[:4]
    for number in range(40):
        out = tmp_path / str(number)
        if earlier:
            write_predictions(model, images[2:3], out, device="cpu")
        with pytest.MonkeyPatch.context() as patch:
            effects(patch, number)
            try:
                write_predictions(model, images[:2], out, device="cpu")
            except Killed:
                ended = False
            else:
                ended = True
        rows, masks = listed(out), masked(out)
        assert set(masks) <= set(rows)
        assert len(set(rows) - set(masks)) <= (
            0 if ended else 1
        )  # at most the one whose files were about to get their names
        if ended:
            break
    assert masks == sorted(image.name for image in (images[:3] if earlier else images[:2]))
    assert number > 4, "there was nothing to be killed at"


def test_an_image_that_cannot_be_read_leaves_the_earlier_ones_whole(
    place: Path, tmp_path: Path, allograft: Command
) -> None:
    good, bad = sorted((place / "new" / "images").iterdir())[:2], tmp_path / "z.png"
    bad.write_bytes(b"no image")
    answer = allograft("predict", place / "model", *good, bad, "-o", tmp_path / "out")
    assert answer.code == 3
    assert masked(tmp_path / "out") == [path.name for path in good]
    assert listed(tmp_path / "out") == [*(path.name for path in good), "z.png"]


def test_predicted_again_an_image_keeps_one_row(place: Path, tmp_path: Path) -> None:
    images = sorted((place / "new" / "images").iterdir())[:3]
    write_predictions(place / "model", images, tmp_path, device="cpu")
    first = (tmp_path / "results.csv").read_bytes()
    write_predictions(place / "model", images[1:2], tmp_path, device="cpu")
    assert (tmp_path / "results.csv").read_bytes() == first


def test_rows_of_other_columns_make_room(place: Path, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("image,label\nold.png,yes\n")
    images = sorted((place / "new" / "images").iterdir())[:1]
    write_predictions(place / "model", images, tmp_path, device="cpu")
    assert listed(tmp_path) == [images[0].name]


# ---------------------------------------------------------- adapt
QUICK = ("--set", "budget={adapt_steps: 2, batch_size: 2}", "--set", "test.fraction=0.4")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes whose ``run`` was started, inner ones included."""
    from allograft.context.unit import Unit

    names: list[str] = []
    real = Unit._run

    def noted(self: Unit, *arguments: Any) -> Any:
        names.append(type(self.recipe).__name__)
        return real(self, *arguments)

    monkeypatch.setattr(Unit, "_run", noted)
    return names


def test_adapt_trains_the_recipe_that_was_asked_for(
    place: Path, tmp_path: Path, allograft: Command, trained: list[str]
) -> None:
    answer = allograft(
        "adapt", place / "model", place / "new" / "manifest.csv", "--recipe", "finetune", "-o", tmp_path, *QUICK
    )
    assert answer.code == 0, answer.err
    assert sorted(trained) == ["Finetune", "Start"]
    assert {path.name for path in (tmp_path / "models").iterdir()} - {"before"} == {"start@c", "finetune-first-start@c"}
    assert "target_supervised" not in answer.out
    assert allograft("report", tmp_path).code == 0  # of the rows that were run


def test_adapt_compares_when_asked_to(place: Path, tmp_path: Path, allograft: Command, trained: list[str]) -> None:
    new = place / "new" / "manifest.csv"
    answer = allograft("adapt", place / "model", new, "--recipe", "finetune", "-o", tmp_path, "--compare", *QUICK)
    assert answer.code == 0, answer.err
    assert sorted(trained) == ["Finetune", "Start", "TargetSupervised"]
    names = {path.name for path in (tmp_path / "models").iterdir()} - {"before"}
    assert names == {"start@c", "finetune-first-start@c", "target_supervised@c"}


def test_adapt_plans_without_training(place: Path, tmp_path: Path, allograft: Command) -> None:
    new = place / "new" / "manifest.csv"
    answer = allograft("adapt", place / "model", new, "--recipe", "finetune", "-o", tmp_path, "--plan", *QUICK)
    assert answer.code == 0, answer.err
    assert "finetune first=start" in answer.out
    assert "to do" in answer.out
    assert not list(tmp_path.rglob("carry.safetensors")) + list(tmp_path.rglob("models"))


# ---------------------------------------------------------- devices
def test_every_function_that_computes_takes_a_device_and_finds_one_itself() -> None:
    for function in (load, evaluate, write_predictions):
        assert inspect.signature(function).parameters["device"].default == "auto", function


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")


ABSENT = "cuda:63"


@pytest.mark.parametrize(
    "command", ["predict", "evaluate", "compare", "index add", "index recall", "adapt", "train", "study"]
)
def test_a_device_that_is_not_there_is_one_line(command: str, place: Path, tmp_path: Path, allograft: Command) -> None:
    words: dict[str, tuple[object, ...]] = {
        "predict": (place / "model", place / "new" / "images", "-o", tmp_path),
        "evaluate": (place / "model", place / "new" / "manifest.csv"),
        "compare": (place / "model", place / "model", place / "new" / "manifest.csv", "-o", tmp_path),
        "index add": (place / "model", place / "new" / "manifest.csv"),
        "index recall": (place / "model", place / "new" / "manifest.csv"),
        "adapt": (place / "model", place / "new" / "manifest.csv", "--recipe", "finetune", "-o", tmp_path),
        "train": (place / "study.yaml", "-o", tmp_path, "--set", "recipes=[supervised]"),
        "study": (place / "study.yaml", "-o", tmp_path),
    }
    answer = allograft(*command.split(), *words[command], "--device", ABSENT)
    assert answer.code == 2
    assert answer.err.startswith(f"error: device: '{ABSENT}' cannot be used here (")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "16"), "precision: found '16', expected 32-true, bf16-mixed or 16-mixed"),
        (("--precision", "64-true"), "precision: found '64-true', expected 32-true, bf16-mixed or 16-mixed"),
        (("--precision", "16-mixed", "--device", "cpu"), "precision: 16-mixed needs a GPU"),
        (("--strategy", "fsdp2x"), "strategy fsdp2x, on cpu: cannot be used here ("),
        (("--devices", "0"), "devices 0, strategy auto, on cpu: cannot be used here ("),
    ],
)
def test_what_fabric_refuses_is_one_line(
    options: tuple[str, ...], said: str, place: Path, tmp_path: Path, allograft: Command
) -> None:
    answer = allograft("study", place / "study.yaml", "-o", tmp_path / "out", "--device", "cpu", *options)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------- precision
@pytest.mark.parametrize(
    ("precision", "computed"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)], ids=["32", "bf16"]
)
def test_a_model_computes_in_the_precision_that_is_asked_for(
    place: Path, precision: str, computed: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "_distance", lambda self, whole: None)  # in float32, as it was fitted
    images = sorted((place / "new" / "images").glob("*.png"))[:3]
    exact, model = load(place / "model", device="cpu"), load(place / "model", device="cpu", precision=precision)
    seen = []
    first = next(one for one in model.predictor.network.modules() if isinstance(one, torch.nn.Conv2d))  # type: ignore[attr-defined]
    first.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    found = [one.answer.mask for one in model.predict(images)]
    assert set(seen) == {computed}
    truth = [one.answer.mask for one in exact.predict(images)]
    agreed = torch.stack([(a == b).double().mean() for a, b in zip(found, truth, strict=True)]).mean()  # type: ignore[union-attr]
    assert agreed == 1 if precision == "32-true" else agreed > 0.97


def test_an_unknown_precision_is_refused_by_the_command(place: Path, tmp_path: Path, allograft: Command) -> None:
    image = next((place / "new").rglob("*.png"))
    answer = allograft("predict", place / "model", image, "-o", tmp_path / "out", "--precision", "bf16")
    assert answer.code == 2
    assert "precision: found 'bf16', expected 32-true, bf16-mixed" in answer.err
