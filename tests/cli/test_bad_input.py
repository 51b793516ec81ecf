"""A user's mistake ends with exit code 2 and a line that says where, what and the mend; nothing is
half-written."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tests.cli.conftest import Command, write_study

from allograft.phantoms.brain import write_brain


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "cohort"
    write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    write_study(folder)
    return folder


@pytest.fixture
def cohort(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "cohort")
    return tmp_path / "cohort"


def rows(change: Callable[[list[dict[str, str]]], Any]) -> Callable[[Path], None]:
    """Change the manifest's rows."""

    def mend(cohort: Path) -> None:
        with open(cohort / "manifest.csv", newline="") as file:
            table = list(csv.DictReader(file))
        table = change(table) or table
        with open(cohort / "manifest.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)

    return mend


def cell(number: int, **values: str) -> Callable[[Path], None]:
    return rows(lambda table: [{**row, **values} if i == number else row for i, row in enumerate(table)])


def study(old: str, new: str) -> Callable[[Path], None]:
    def mend(cohort: Path) -> None:
        text = (cohort / "study.yaml").read_text()
        assert old in text
        (cohort / "study.yaml").write_text(text.replace(old, new))

    return mend


def nan_tiff(cohort: Path) -> None:
    pixels = np.ones((32, 32), np.float32)
    pixels[3, 4:6] = np.nan
    tifffile.imwrite(cohort / "nan.tif", pixels)
    cell(0, image="nan.tif")(cohort)


def nan_nifti(cohort: Path) -> None:
    pixels = np.full((32, 32, 1), np.inf, np.float32)
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), cohort / "inf.nii.gz")
    cell(0, image="inf.nii.gz")(cohort)


def saved(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda cohort: Image.fromarray(array).save(cohort / name)


def truncated(cohort: Path) -> None:
    path = cohort / "images" / "b-001.png"
    path.write_bytes(path.read_bytes()[:300])


def link(cohort: Path) -> None:
    shutil.copy(cohort / "images" / "a-000.png", cohort.parent / "secret.png")
    (cohort / "link.png").symlink_to(cohort.parent / "secret.png")
    cell(0, image="link.png")(cohort)


def outside(cohort: Path) -> None:
    shutil.copy(cohort / "images" / "a-000.png", cohort.parent / "secret.png")
    cell(0, image="../secret.png")(cohort)


def several(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def mend(cohort: Path) -> None:
        for change in changes:
            change(cohort)

    return mend


BAD: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    # name: what is broken, and what the message must say (file, row or key; what was found; the
    # mend)
    "missing image": (
        lambda c: (c / "images" / "a-001.png").unlink(),
        ["manifest.csv, row 3", "images/a-001.png", "fix the path"],
    ),
    "missing mask": (lambda c: (c / "masks" / "a-001.png").unlink(), ["row 3, mask", "masks/a-001.png"]),
    "truncated image": (truncated, ["b-001.png", "300 bytes", "export it again"]),
    "an image that is none": (lambda c: (c / "images" / "a-000.png").write_text("hello"), ["a-000.png", "5 bytes"]),
    "NaN pixels in a TIFF": (nan_tiff, ["nan.tif", "2 of 1024 pixels are NaN", "preprocessing: {nan: 0}"]),
    "infinite pixels in a NIfTI": (nan_nifti, ["inf.nii.gz", "1024 of 1024 pixels are NaN or infinite"]),
    "images of one, two and three channels": (
        several(
            saved("rgb.png", np.ones((32, 32, 3), np.uint8)),
            cell(2, image="rgb.png"),
            cell(3, image="images/a-000.png;images/a-001.png"),
        ),
        ["has 2 channels", "only 1 becomes many", "convert the image"],
    ),
    "mask of another shape": (
        saved("masks/a-002.png", np.ones((32, 31), np.uint8)),
        ["masks/a-002.png", "(32, 31)", "images/a-002.png", "(32, 32)", "export it again"],
    ),
    "unknown class value": (
        saved("masks/b-000.png", np.full((32, 32), 7, np.uint8)),
        ["masks/b-000.png", "mask value 7", "1 = white", "NAME"],
    ),
    "missing column": (
        rows(lambda table: [{k: v for k, v in row.items() if k != "subject"} for row in table]),
        ["manifest.csv", "column 'subject' is missing", "image, mask, site"],
    ),
    "duplicate row": (
        rows(lambda table: table.append(table[0])),
        ["manifest.csv, row 10", "images/a-000.png", "one row per case"],
    ),
    "empty subject": (cell(2, subject=""), ["manifest.csv, row 4", "'subject' is empty"]),
    "subject on two sides": (
        rows(
            lambda table: [
                {**row, "subject": "s" if i < 2 else row["subject"], "split": ("train", "test")[i % 2]}
                for i, row in enumerate(table)
            ]
        ),
        ["manifest.csv", "subject 's' is on two sides, train and test", "same split"],
    ),
    "unknown split": (
        rows(lambda table: [{**row, "split": "dev"} for row in table]),
        ["manifest.csv, row 2", "'dev'", "train, val, test"],
    ),
    "unknown site": (study("target: [b]", "target: [bb]"), ["target", "unknown site 'bb'", "did you mean 'b'"]),
    "no case after a filter": (
        several(
            rows(lambda table: [{**row, "age": "3"} for row in table]),
            study("seeds: 1", "where: {target: {age: '4'}}\nseeds: 1"),
        ),
        ["target", "no case of site 'b' is left", "loosen"],
    ),
    "unknown column in a filter": (
        several(
            rows(lambda table: [{**row, "age": "3"} for row in table]),
            study("seeds: 1", "where: {target: {aeg: '4'}}\nseeds: 1"),
        ),
        ["unknown column 'aeg'", "did you mean 'age'"],
    ),
    "unknown key": (study("seeds: 1", "seed: 1"), ["study.seed", "did you mean 'seeds'"]),
    "unknown inner key": (
        study("adapt_steps", "adaptsteps"),
        ["study.budget.adaptsteps", "did you mean 'adapt_steps'"],
    ),
    "key written twice": (
        study("seeds: 1", "seeds: 1\nseeds: 2"),
        ["study.yaml", "'seeds' is written twice", "remove one"],
    ),
    "unknown recipe": (study("finetune", "fintune"), ["unknown recipe 'fintune'", "did you mean 'finetune'"]),
    "unknown parameter": (study("scope", "scpoe"), ["finetune.scpoe", "did you mean 'scope'"]),
    "unknown value": (study("top", "tpo"), ["finetune.scope", "did you mean top?", "tpo"]),
    "wrong type": (study("seeds: 1", "seeds: no"), ["study.seeds", "expected a whole number", '"no"']),
    "octal": (study("seeds: 1", "seeds: 010"), ["study.seeds", '"010"']),
    "a tag": (study("[a]", "!!python/object/apply:os.system [echo]"), ["study.yaml", "not plain YAML", "os.system"]),
    "an alias": (
        study("source: [a]\ntarget: [b]", "source: &x [a]\ntarget: *x"),
        ["study.yaml", "aliases", "write the value out"],
    ),
    "unknown network": (study("unet", "unett"), ["unknown network 'unett'", "did you mean 'unet'"]),
    "unknown argument of the network": (
        study("num_res_units", "res_units"),
        ["network.unet.res_units", "'num_res_units'"],
    ),
    "unknown optimizer": (
        study("seeds: 1", "seeds: 1\noptimizer: {adma: {}}"),
        ["unknown optimizer 'adma'", "did you mean 'adam'"],
    ),
    "unknown argument of the optimizer": (
        study("seeds: 1", "seeds: 1\noptimizer: {adam: {rate: 1}}"),
        ["optimizer.adam.rate", "known: amsgrad"],
    ),
    "weights that are not there": (
        study("seeds: 1", "seeds: 1\nstart: nowhere.safetensors"),
        ["nowhere.safetensors", "no such weights"],
    ),
    "needs that are not met": (
        study("{subjects: 1}", "none"),
        ["recipe 'finetune scope=top' needs labelled target cases", "target_labels: {subjects: n}"],
    ),
    "octl from a model": (
        study("finetune: {scope: top}", "octl: {first: start}"),
        ["recipe 'octl' continues the optimizer of 'first', and 'start' leaves none", "source: [SITE]", "drop octl"],
    ),
    "source-free from scratch": (study("source: [a]", "source: []"), ["source", "start: "]),
    "path that leaves the data folder": (
        outside,
        ["manifest.csv, row 2", "'../secret.png' leaves the data folder", "below the manifest"],
    ),
    "link that leaves the data folder": (link, ["manifest.csv, row 2", "'link.png' leaves the data folder"]),
    "empty manifest": (lambda c: (c / "manifest.csv").write_text(""), ["manifest.csv", "holds no rows"]),
    "manifest without rows": (
        lambda c: (c / "manifest.csv").write_text("image,mask,subject,site\n"),
        ["manifest.csv", "holds no rows"],
    ),
    "no manifest": (
        lambda c: (c / "manifest.csv").unlink(),
        ["cohort", "no manifest 'manifest.csv'", "ALLOGRAFT_DATA"],
    ),
    "no study": (lambda c: (c / "study.yaml").unlink(), ["study.yaml", "no such study file"]),
    "budget larger than the site": (
        study("{subjects: 1}", "{subjects: 5}"),
        ["target_labels", "5 subjects", "site 'b' has 2", "ask for fewer"],
    ),
    "more folds than subjects": (study("{fraction: 0.5}", "{folds: 9}"), ["site 'b' has 4 subjects", "at least 9"]),
    "slices of photographs": (
        study("seeds: 1", "seeds: 1\nslices: {axis: 2}"),
        ["slices", "2 axes", "slices from the study"],
    ),
    "size with too few numbers": (
        study("seeds: 1", "seeds: 1\npreprocessing: {size: [32]}"),
        ["size (32,) has 1 numbers", "2 axes"],
    ),
    "spacing of photographs": (
        study("seeds: 1", "seeds: 1\npreprocessing: {spacing: [1.0, 1.0]}"),
        ["no voxel size", "remove spacing"],
    ),
    "source without masks": (
        rows(lambda table: [{**row, "mask": ""} for row in table]),
        ["source 'a'", "no training case has a 'mask'"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_study_is_refused_before_anything_is_kept(
    name: str, cohort: Path, allograft: Command, tmp_path: Path
) -> None:
    damage, told = BAD[name]
    damage(cohort)
    answer = allograft("study", cohort / "study.yaml", "--out", tmp_path / "out")
    assert answer.code == 2, answer
    assert [line.split(":")[0] for line in answer.err.splitlines() if line.startswith("error")] == ["error"]
    for words in told:
        assert words in answer.err
    assert "Traceback" not in answer.err + answer.out
    kept = {path.name for path in (tmp_path / "out").rglob("*")}
    assert not kept & {"splits.csv", "records", "models", "units", "report.html"}
    assert not [name for name in kept if name.endswith(".part")]


def test_the_sound_cohort_is_not_refused(cohort: Path, allograft: Command, tmp_path: Path) -> None:
    """Else every test above would pass for another reason."""
    answer = allograft("study", cohort / "study.yaml", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert (tmp_path / "out" / "splits.csv").exists()


def test_an_image_without_foreground_is_counted_not_refused(cohort: Path, allograft: Command, tmp_path: Path) -> None:
    for number in range(4):
        saved(f"masks/b-00{number}.png", np.zeros((32, 32), np.uint8))(cohort)
    answer = allograft("study", cohort / "study.yaml", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "warning: 4 of 8 images have no foreground" in answer.err
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("command", ["study", "train"])
def test_a_file_where_the_output_folder_should_be(
    command: str, cohort: Path, allograft: Command, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        answer = allograft(command, cohort / "study.yaml", "--out", out)
        assert answer.code == 2
        assert f"error: {out}: cannot be written" in answer.err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_written(
    cohort: Path, allograft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.touch

    def refused(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.startswith(".probe"):
            raise PermissionError(13, "Permission denied")
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", refused)  # root may write anywhere
    answer = allograft("study", cohort / "study.yaml", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "out: cannot be written (Permission denied); choose another --out" in answer.err


@pytest.mark.parametrize("override", ["budget.steps", "budget.stepps=3", "seeds=two", "recipes=[nothing]"])
def test_a_wrong_override(override: str, cohort: Path, allograft: Command, tmp_path: Path) -> None:
    answer = allograft("study", cohort / "study.yaml", "--out", tmp_path / "out", "--set", override)
    assert answer.code == 2
    assert override.split("=")[0].split(".")[-1] in answer.err
    assert not (tmp_path / "out").exists()


def test_train_wants_one_recipe(cohort: Path, allograft: Command, tmp_path: Path) -> None:
    answer = allograft("train", cohort / "study.yaml", "-o", tmp_path / "out", "--set", "recipes=[supervised, fourier]")
    assert answer.code == 2
    assert "train runs one recipe, the study lists supervised, fourier" in answer.err


def test_unknown_commands_and_options(allograft: Command) -> None:
    for arguments in (["studdy"], ["study"], ["phantom", "brain", "x", "--site", "a"], ["phantom", "brian", "x"]):
        answer = allograft(*arguments)
        assert answer.code == 2, arguments
        assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("skin", "a", "--confounding a: expected NAME=VALUE"),
        ("skin", "a=", "--confounding a=: found '', expected a number"),
        ("skin", "a=much", "--confounding a=much: found 'much', expected a number"),
        ("skin", "a=2", "confounding of site 'a' is 2.0; expected a correlation from -1 to 1"),
        ("skin", "a=nan", "expected a correlation from -1 to 1"),
        ("skin", "x=0.5", "confounding: no site 'x'"),
        ("brain", "a=0.5", "the brain phantom has none; leave it out, or choose skin"),
    ],
)
def test_a_wrong_confounding(name: str, given: str, told: str, allograft: Command, tmp_path: Path) -> None:
    answer = allograft("phantom", name, tmp_path / "out", "--confounding", given)
    assert (answer.code, told in answer.err) == (2, True), answer.err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------- predict
class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("shape", ["file", "folder", "both"])
def test_a_pickle_offered_as_a_model(
    shape: str, sound: Path, allograft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    if shape == "file":
        model.write_bytes(pickle.dumps(Bomb()))
    else:
        model.mkdir()
        (model / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
        if shape == "both":
            (model / "card.json").write_text('{"format": 1, "predictor": {"kind": "direct", "fields": {}}}')
        else:
            torch.save({"x": torch.ones(1)}, model / "model.pt")
    answer = allograft("predict", model, sound / "images", "-o", tmp_path / "out")
    assert answer.code == 2
    assert "model" in answer.err
    assert "safetensors" in answer.err
    assert not (tmp_path / "unpickled").exists()
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def model(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from allograft.studies import train_model
    from allograft.study import read_study

    return train_model(
        read_study(sound / "study.yaml", ["recipes=[supervised]", "budget.steps=1"]), tmp_path_factory.mktemp("out")
    )


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda f: f / "absent.png", ["absent.png", "no such file"]),
        (lambda f: f.mkdir() or f, ["holds no image"]),
        (
            lambda f: f.mkdir() or Image.new("RGB", (8, 8)).save(f / "rgb.png") or f,
            ["rgb.png", "has 3 channels", "trained on 1", "convert"],
        ),
        (lambda f: f.mkdir() or ((f / "cut.png").write_bytes(b"\x89PNG") and f), ["cut.png", "4 bytes"]),
        (
            lambda f: f.mkdir() or ((f / "notes.txt").write_text("x") and f / "notes.txt"),
            ["notes.txt", "unknown suffix"],
        ),
        (
            lambda f: f.mkdir() or ((f / "m.csv").write_text("image,subject,site\nx.png,1,a\n") and f / "m.csv"),
            ["m.csv, row 2", "x.png"],
        ),
    ],
)
def test_images_that_cannot_be_predicted(
    prepare: Any, told: list[str], model: Path, allograft: Command, tmp_path: Path
) -> None:
    answer = allograft("predict", model, prepare(tmp_path / "in"), "-o", tmp_path / "out")
    assert answer.code == 2
    for words in told:
        assert words in answer.err
    assert not (tmp_path / "out").exists()


def test_one_unreadable_image_leaves_the_predictions_of_the_others(
    model: Path, sound: Path, allograft: Command, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in (0, 1, 3):
        shutil.copy(sound / "images" / f"a-00{number}.png", tmp_path / "in" / f"{number}.png")
    for name in ("2.png", "4.png"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / "1.png").read_bytes()[:60])
    answer = allograft("predict", model, tmp_path / "in", "-o", tmp_path / "out")
    assert answer.code == 3
    assert "2 of 5 images failed" in answer.err
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == [f"{number}.png" for number in range(5)]
    failed = [name for name, row in rows.items() if row["warnings"].startswith("failed: ")]
    assert failed == ["2.png", "4.png"]
    assert all(rows[name]["unit"] == "" for name in failed)
    masks = sorted(path.name for path in (tmp_path / "out").glob("*_mask.png"))
    assert masks == ["0_mask.png", "1_mask.png", "3_mask.png"]


def test_a_folder_of_unreadable_images_is_listed(model: Path, allograft: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.png").write_bytes(b"\x89PNG")
    answer = allograft("predict", model, tmp_path / "in", "-o", tmp_path / "out")
    assert answer.code == 3
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a.png", "b.png"]


def test_an_end_in_the_middle_of_predict_leaves_a_row_for_each_mask(
    model: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allograft.apply import predictions

    written: list[Path] = []

    def write(one: Any, path: Path, **more: Any) -> dict[Path, Path]:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return {}

    monkeypatch.setattr(predictions, "written_hidden", write)
    with pytest.raises(KeyboardInterrupt):
        predictions.write_predictions(model, [sound / "images"], tmp_path / "out")
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_predictions_never_leave_the_output_folder(
    model: Path, sound: Path, allograft: Command, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "data" / "cohort")
    cohort = tmp_path / "data" / "cohort"
    names = [
        cohort / "images" / "a-000.png",
        "images/../../cohort/images/a-001.png",
    ]  # both inside the manifest's folder
    (cohort / "m.csv").write_text("image,subject,site\n" + "".join(f"{name},{i},a\n" for i, name in enumerate(names)))
    before = sorted(tmp_path.rglob("*"))
    answer = allograft("predict", model, cohort / "m.csv", "-o", tmp_path / "deep" / "out")
    assert answer.code == 0, answer.err
    assert all(
        (tmp_path / "deep" / "out") in (path, *path.parents) or path == tmp_path / "deep"
        for path in set(tmp_path.rglob("*")) - set(before)
    )
    assert len(list((tmp_path / "deep" / "out").rglob("*_mask.png"))) == 2


def test_two_images_that_would_write_one_file(model: Path, sound: Path, allograft: Command, tmp_path: Path) -> None:
    shutil.copy(sound / "images" / "a-000.png", tmp_path / "a-000.png")
    answer = allograft("predict", model, sound / "images" / "a-000.png", tmp_path / "a-000.png", "-o", tmp_path / "out")
    assert answer.code == 2
    assert "would write the same files" in answer.err


def test_predict_into_a_file(model: Path, sound: Path, allograft: Command, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    answer = allograft("predict", model, sound / "images" / "a-000.png", "-o", tmp_path / "out")
    assert answer.code == 2
    assert "out: cannot be written" in answer.err
    assert (tmp_path / "out").read_text() == "mine"
