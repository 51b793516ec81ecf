"""The main job, from a phantom to masks, by the commands that a user types."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.conftest import Answer, Command, write_study
from torch import nn

import allograft as package
from allograft import table
from allograft.context import Context
from allograft.phantoms.brain import write_brain
from allograft.phantoms.skin import write_skin
from allograft.recipe import Carry, Needs, Scenario, Stage
from allograft.step import GradientStep
from allograft.studies import run_study
from allograft.study import make_study, read_study
from allograft.tree import digest


@dataclass(frozen=True)
class Failing:
    """Fails while ``broken``."""

    broken: ClassVar[bool] = True
    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Nothing, or an error."""
        from allograft.predictor import Direct

        if Failing.broken:
            raise RuntimeError("the <b>machine</b> stopped")
        yield Stage("done", Direct(network))
        return Carry(network)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.METHODS, "failing", f"{__name__}:Failing")
    monkeypatch.setattr(
        table, "find", lambda kind, name, real=table.find: Failing if name == "failing" else real(kind, name)
    )
    monkeypatch.setattr("allograft.recipe.parse.find", table.find)
    monkeypatch.setattr(Failing, "broken", True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    write_brain(folder, sites={"a": "none", "b": "severe", "c": "none"}, subjects=4, size=32)
    write_study(folder)
    return folder


@pytest.fixture(scope="module")
def done(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished study that several tests look at."""
    out = tmp_path_factory.mktemp("done") / "out"
    run_study(read_study(cohort / "study.yaml"), out)
    return out


def command_of(answer: Answer, images: Any, out: Path) -> list[str]:
    """The predict command that the study printed, as a user completes it."""
    line = next(line.strip() for line in answer.out.splitlines() if line.strip().startswith("allograft predict"))
    words = shlex.split(
        line.replace("IMAGES", shlex.quote(str(images))).replace("-o predictions", f"-o {shlex.quote(str(out))}")
    )
    assert words[0] == "allograft"
    return words[1:]


def results(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_confounded_phantom_is_that_of_python(allograft: Command, tmp_path: Path) -> None:
    sites = ("--site", "a=none", "--site", "d=none")
    told = allograft(
        "phantom", "skin", tmp_path / "ours", "--subjects", 6, "--size", 32, *sites, "--confounding", "a=0.6"
    )
    assert told.code == 0, told.err
    write_skin(tmp_path / "theirs", sites={"a": "none", "d": "none"}, subjects=6, size=32, confounding={"a": 0.6})
    found = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (tmp_path / "ours", tmp_path / "theirs")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 26


def test_a_phantom_of_volumes_alone_needs_no_dims(allograft: Command, tmp_path: Path) -> None:
    told = allograft("phantom", "organs", tmp_path, "--subjects", 1, "--size", 32, "--site", "a=tube")
    assert (told.code, told.out.strip()) == (0, str(tmp_path / "manifest.csv")), told.err
    assert (tmp_path / "images/a-000.nii.gz").is_file()


def test_from_a_phantom_to_masks(allograft: Command, tmp_path: Path) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    told = allograft(
        "phantom", "brain", cohort, "--subjects", 4, "--size", 32, "--site", "a=none", "--site", "b=severe"
    )
    assert (told.code, told.out.strip()) == (0, str(cohort / "manifest.csv"))
    answer = allograft("study", write_study(cohort), "--out", out)
    assert answer.code == 0, answer.err
    for row in ("supervised", "supervised augmentation=strong", "target_supervised", "joint", "finetune scope=top"):
        assert any(row in line and "1 of 1" in line for line in answer.out.splitlines()), row
    assert f"report: {out / 'report.html'}" in answer.out
    assert "<html" in (out / "report.html").read_text()
    names = [
        "finetune-scope-top@b",
        "joint@b",
        "supervised-augmentation-strong@b",
        "supervised@b",
        "target_supervised@b",
    ]
    assert sorted(path.name for path in (out / "models").iterdir()) == names
    assert "Keep your model: " in answer.out  # two patients show nothing
    assert str(out / "models" / "supervised@b") in answer.out

    images = cohort / "images"
    Image.fromarray(np.random.default_rng(0).integers(0, 4000, (45, 51)).astype(np.uint16)).save(images / "odd.png")
    predicted = allograft(*command_of(answer, images, tmp_path / "folder"), "--overlay", "--probabilities")
    assert predicted.code == 0, predicted.err
    assert "9 predictions" in predicted.out
    assert "Research use only" in predicted.out
    for path in images.iterdir():
        mask = np.asarray(Image.open(tmp_path / "folder" / f"{path.stem}_mask.png"))
        assert mask.shape == np.asarray(Image.open(path)).shape
        assert set(np.unique(mask)) <= {0, 1, 2}
        shares = [
            np.asarray(Image.open(tmp_path / "folder" / f"{path.stem}_{name}.png")) / 65535
            for name in ("white", "grey")
        ]
        best = np.stack([1 - shares[0] - shares[1], *shares]).argmax(0)
        assert (best == mask).mean() > 0.999  # ties of rounding aside
        assert (
            len(Image.open(tmp_path / "folder" / f"{path.stem}_overlay.png").convert("RGB").getcolors(4096) or ()) > 2
        )
    rows = results(tmp_path / "folder")
    assert [row["image"] for row in rows] == sorted(path.name for path in images.iterdir())
    for row in rows:
        mask = np.asarray(Image.open(tmp_path / "folder" / f"{Path(row['image']).stem}_mask.png"))
        assert row["unit"] == "pixels"
        for value, name in enumerate(("white", "grey"), 1):
            assert float(row[name]) == (mask == value).sum()
            assert (f"no {name} found" in row["warnings"]) == (not (mask == value).any())

    bare = allograft(*command_of(answer, images / "a-000.png", tmp_path / "bare"))
    manifest = allograft(*command_of(answer, cohort / "manifest.csv", tmp_path / "manifest"))
    assert (bare.code, manifest.code) == (0, 0), manifest.err
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == ["a-000_mask.png", "results.csv"]
    same = [
        tmp_path / "folder" / "a-000_mask.png",
        tmp_path / "bare" / "a-000_mask.png",
        tmp_path / "manifest" / "images" / "a-000_mask.png",
    ]
    assert len({path.read_bytes() for path in same}) == 1
    assert len(results(tmp_path / "manifest")) == 8


@pytest.mark.parametrize("kind", ["slices", "volumes"])
def test_volumes_keep_affine_and_shape(kind: str, allograft: Command, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    write_brain(cohort, dims=3, sites={"a": "none", "b": "none"}, subjects=2, size=32)
    affine = np.array([[0.0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    volume = np.random.default_rng(0).integers(0, 3000, (9, 14, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "oblong.nii.gz")
    text = write_study(cohort).read_text()
    if kind == "slices":
        text += "slices: {axis: 2, neighbours: 1}\npreprocessing: {size: [16, 16, 16]}\n"
    else:
        text = text.replace("channels:", "spatial_dims: 3, channels:") + "preprocessing: {size: [8, 8, 8]}\n"
    (cohort / "study.yaml").write_text(
        text.replace("finetune: {scope: top}", "fourier: {beta: 0.2, donors: 2}").replace("subjects: 1", "cases: 1")
    )
    answer = allograft("study", cohort / "study.yaml", "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    predicted = allograft(
        *command_of(answer, tmp_path / "oblong.nii.gz", tmp_path / "p"), "--overlay", "--probabilities"
    )
    assert predicted.code == 0, predicted.err
    mask = nibabel.load(tmp_path / "p" / "oblong_mask.nii.gz")
    assert mask.shape == volume.shape
    assert np.allclose(mask.affine, affine)
    assert nibabel.load(tmp_path / "p" / "oblong_white.nii.gz").shape == volume.shape
    assert (tmp_path / "p" / "oblong_overlay.png").exists()
    (row,) = results(tmp_path / "p")
    assert row["unit"] == "mm3"
    assert float(row["grey"]) == pytest.approx((np.asarray(mask.dataobj) == 2).sum() * 2 * 1.5 * 3)


def test_rerun_trains_and_judges_nothing(
    done: Path, cohort: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (done / "records").iterdir()}
    monkeypatch.setattr(GradientStep, "__call__", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("allograft.run.judge.Judge.measure", lambda *_: pytest.fail("judged again"))
    answer = allograft("study", cohort / "study.yaml", "--out", done)
    assert answer.code == 0, answer.err
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (done / "records").iterdir()} == records
    assert "Keep your model: " in answer.out


def test_a_damaged_record_is_judged_anew_without_training(
    done: Path, cohort: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sorted((done / "records").iterdir())[0]
    before = json.loads(path.read_text())
    path.write_text(path.read_text()[:50])
    monkeypatch.setattr(GradientStep, "__call__", lambda *_: pytest.fail("trained again"))
    assert allograft("study", cohort / "study.yaml", "--out", done).code == 0
    after = json.loads(path.read_text())
    assert {key: after[key] for key in ("metrics", "cases", "data", "unit")} == {
        key: before[key] for key in ("metrics", "cases", "data", "unit")
    }


def test_a_site_more_leaves_what_is_there(cohort: Path, allograft: Command, tmp_path: Path) -> None:
    arguments = (
        "study",
        cohort / "study.yaml",
        "--out",
        tmp_path / "out",
        "--set",
        "recipes=[supervised]",
        "--set",
        "target_labels=none",
    )
    assert allograft(*arguments).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir()}
    assert allograft(*arguments, "--set", "target=[b, c]").code == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir()}
    assert {path: after[path] for path in before} == before
    assert {path.stem.split("-", 2)[2] for path in set(after) - set(before)} == {"c-test", "c-train_unlabelled.26550c"}


def test_set_overrides_and_version_and_methods(cohort: Path, allograft: Command, tmp_path: Path) -> None:
    answer = allograft(
        "study",
        cohort / "study.yaml",
        "-o",
        tmp_path / "o",
        "--set",
        "seeds=2",
        "--set",
        "recipes=[supervised]",
        "--set",
        "target_labels=none",
    )
    assert answer.code == 0, answer.err
    assert answer.out.count("2 of 2") == 2
    listed = allograft("methods").out.splitlines()
    assert [line.split()[0] for line in listed] == list(table.rows("method"))
    assert all(len(line.split()) > 3 for line in listed)


def test_the_version_is_all_that_it_says(allograft: Command) -> None:
    answer = allograft("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"{package.__version__}\n", "")


def test_train_leaves_a_model(cohort: Path, allograft: Command, tmp_path: Path) -> None:
    answer = allograft("train", cohort / "study.yaml", "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert not (tmp_path / "out" / "records").exists()
    card = json.loads((tmp_path / "out" / "model" / "card.json").read_text())
    assert card["recipe"]["finetune"]["scope"] == "top"
    assert card["stage"] == "tuned"
    predicted = allograft(*command_of(answer, cohort / "images" / "b-000.png", tmp_path / "p"))
    assert predicted.code == 0, predicted.err


def test_a_card_tells_what_the_model_saw(done: Path, cohort: Path) -> None:
    from allograft.cohort.prepared_images import file_hash

    card = json.loads((done / "models" / "finetune-scope-top@b" / "card.json").read_text())
    with open(done / "splits.csv", newline="") as file:
        splits = {row["subject"]: row["split"] for row in csv.DictReader(file)}
    hashes = {path.stem: file_hash(path) for path in (cohort / "images").iterdir()}
    seen = {name for name, one in hashes.items() if one in card["training_images"]}
    trained = {name for name in hashes if splits.get(name) == "train"}
    assert seen < trained
    assert {name for name in seen if name[0] == "a"} == {name for name in trained if name[0] == "a"}
    assert len([name for name in seen if name[0] == "b"]) == 1  # target_labels: {subjects: 1}
    assert not any(name in (done / "models" / "finetune-scope-top@b" / "card.json").read_text() for name in hashes)
    assert card["intended_use"].startswith("research use only")
    assert card["protocol"]["selection"].startswith("last")
    assert set(card["metrics"]) == {"a", "b"}


def test_a_unit_that_fails_is_shown_and_the_rest_stands(
    failing: None, cohort: Path, allograft: Command, tmp_path: Path
) -> None:
    arguments = (
        "study",
        cohort / "study.yaml",
        "-o",
        tmp_path / "out",
        "--set",
        "recipes=[failing]",
        "--set",
        "target_labels=none",
    )
    arguments += ("--set", "target=[b, c]")
    answer = allograft(*arguments)
    assert answer.code == 3
    lines = answer.out.splitlines()
    assert sum("failing" in line and "0 of 1" in line and "failed" in line for line in lines) >= 2
    assert sum(bool(re.match(r"\W*supervised .*1 of 1", line)) for line in lines) >= 4
    assert "failing -> b: RuntimeError: the <b>machine</b> stopped" in answer.out
    assert "error: 2 of 6 runs failed" in answer.err
    assert "Traceback" not in answer.err + answer.out
    assert "<b>machine</b>" not in (tmp_path / "out" / "report.html").read_text()
    frame = package.read_records(tmp_path / "out")
    assert sorted(frame[frame.status == "failed"].target) == ["b", "c"]
    assert not any("failing" in path.name for path in (tmp_path / "out" / "models").iterdir())

    Failing.broken = False
    answer = allograft(*arguments)
    assert answer.code == 0, answer.err
    assert sum("failing" in line and "1 of 1" in line for line in answer.out.splitlines()) >= 2
    assert (package.read_records(tmp_path / "out").status == "done").all()


# ---------------------------------------------------------- Python
def plain_study(cohort: Path) -> Any:
    return {
        "cohort": str(cohort / "manifest.csv"),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "source": ["a"],
        "target": ["b"],
        "recipes": ["supervised"],
        "test": {"fraction": 0.5},
        "seeds": 2,
        "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2},
    }


class Own(nn.Module):
    """A user's network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(image)
        return logits


@pytest.mark.parametrize("how", ["module", "factory"])
def test_a_users_own_network(how: str, cohort: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Own()
    before, state = digest(module), torch.get_rng_state()
    result = run_study(plain_study(cohort), tmp_path, network=module if how == "module" else Own)
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(module) == before
    assert result.failed == 0
    assert len(result.plan.units) == 4
    model = package.load(result.models["supervised", "b"], network=Own())
    (one,) = model.predict([cohort / "images" / "b-000.png"])
    mask = one.answer.mask
    assert mask is not None
    assert mask.shape == (32, 32)
    shares = torch.stack([one.answer.maps[name] for name in ("white", "grey")])
    assert torch.equal(mask, torch.cat([1 - shares.sum(0, keepdim=True), shares]).argmax(0))
    assert one.answer.values == {name: float((mask == value).sum()) for value, name in enumerate(("white", "grey"), 1)}
    again = run_study(make_study(plain_study(cohort)), tmp_path, network=module if how == "module" else Own)
    assert again.plan.units == result.plan.units


def test_records_as_a_table(done: Path) -> None:
    frame = package.read_records(done)
    assert (
        len(frame) == 20
        # five units, on the source's val and test, the target's test, and its training images
        # without
        # labels
    )
    assert set(zip(frame.site, frame.part, strict=True)) == {
        ("a", "val"),
        ("a", "test"),
        ("b", "test"),
        ("b", "train-unlabelled"),
    }
    assert frame["metrics/dice"][(frame.site == "a") | (frame.part == "test")].between(0, 1).all()
    assert frame["metrics/dice"][(frame.site == "b") & (frame.part == "train-unlabelled")].isna().all()
    assert {record["name"] for record in frame.recipe} == {"supervised", "target_supervised", "joint", "finetune"}


def test_public_names() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
