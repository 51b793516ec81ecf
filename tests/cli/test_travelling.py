"""A record of scores that leaves a hospital says nothing of its patients, files and sites; merged, it counts once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from tests.cli.conftest import Command, write_study
from tests.unit.cohort.test_dicom import dicom

from allograft import tree
from allograft.apply.evaluate import evaluate
from allograft.apply.site_table import FOLDER, interval, merge, site_table
from allograft.apply.travelling import read_site_record, site_record
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import AllograftError
from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.studies import run_study
from allograft.study import read_study

MARK = "XMARKX"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, and a hospital whose every text, tag and file name is marked."""
    folder = tmp_path_factory.mktemp("travel")
    write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    asked = read_study(
        write_study(folder), ["recipes=[{fourier: {beta: 0.1, donors: 1}}]", "target_labels=none", "baselines=false"]
    )
    run_study(asked, folder / "out", fabric=local_fabric(accelerator="cpu"), report=False)
    _hospital(folder / "hospital" / f"{MARK}-data")
    return folder


def _hospital(folder: Path) -> None:
    """Five cases of five patients at two sites as PNG with a text chunk, NIfTI with a description and DICOM."""
    write_brain(folder.parent / "plain", sites={"c": "medium"}, subjects=5, size=32, seed=7)
    images = sorted((folder.parent / "plain" / "images").iterdir())
    masks = sorted((folder.parent / "plain" / "masks").iterdir())
    (folder / f"{MARK}-files").mkdir(parents=True)
    rows = [f"image,mask,subject,site,{MARK}_column,timepoint"]
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        pixels, truth = read_image((image,)).array[0], read_mask(mask).array[0]
        name = f"{MARK}-files/{MARK}-{number}"
        if number < 2:
            file, label = f"{name}.png", f"{name}-{MARK}.png"
            note = PngImagePlugin.PngInfo()
            note.add_text("Comment", f"{MARK} Jane Doe")
            Image.fromarray(pixels.astype(np.uint16)).save(folder / file, pnginfo=note)
            Image.fromarray(truth.astype(np.uint8)).save(folder / label)
        elif number < 4:
            file, label = f"{name}.dcm", f"{name}-{MARK}.png"
            dicom(folder / file, pixels.astype(np.uint16))
            _mark(folder / file)
            Image.fromarray(truth.astype(np.uint8)).save(folder / label)
        else:
            file, label = f"{name}.nii.gz", f"{name}-{MARK}.nii.gz"
            for array, path in ((pixels.astype(np.uint16), file), (truth.astype(np.uint8), label)):
                made = nibabel.Nifti1Image(array, np.eye(4))
                made.header["descrip"] = made.header["db_name"] = made.header["intent_name"] = MARK.encode()
                made.header["aux_file"] = MARK.encode()
                nibabel.save(made, folder / path)
        patient, site = f"{MARK}-patient-{number}", f"{MARK}-site-{number % 2 if number < 3 else 1}"
        rows.append(f"{file},{label},{patient},{site},{MARK},{MARK}")
    (folder / f"{MARK}.csv").write_text("\n".join(rows) + "\n")


def _mark(path: Path) -> None:
    """Every tag that may hold text."""
    dataset = pydicom.dcmread(path)
    for keyword in pydicom.datadict.keyword_dict:
        tag, kind = pydicom.datadict.tag_for_keyword(keyword), pydicom.datadict.dictionary_VR(keyword)
        is_text = kind in ("LO", "SH", "PN", "LT", "ST", "UT") and pydicom.datadict.dictionary_VM(keyword)[0] == "1"
        if is_text and tag is not None and tag >> 16 not in (0, 2) and dataset.get(keyword) is None:
            setattr(dataset, keyword, MARK)
    dataset.PatientName = dataset.PatientID = dataset.InstitutionName = MARK
    dataset.save_as(path, enforce_file_format=True)


def model(place: Path) -> Path:
    return next(iter(sorted((place / "out" / "models").glob("fourier*@b"))))


def manifest(place: Path) -> Path:
    return place / "hospital" / f"{MARK}-data" / f"{MARK}.csv"


@pytest.fixture
def record(place: Path, tmp_path: Path) -> Path:
    found = evaluate(model(place), manifest(place), device="cpu")
    site_record(found, model(place), manifest(place)).write(tmp_path / "record.json")
    return tmp_path / "record.json"


def test_the_hospital_is_marked_in_all_of_its_texts(place: Path) -> None:
    """Else the test below proves nothing."""
    for path in (manifest(place).parent / f"{MARK}-files").iterdir():
        data = nibabel.load(path).header.binaryblock if path.suffix == ".gz" else path.read_bytes()
        assert MARK in path.name
        assert MARK.encode() in data or path.name.endswith(f"-{MARK}.png")
    tags = [
        element for element in pydicom.dcmread(next(manifest(place).parent.rglob("*.dcm"))) if element.value == MARK
    ]
    assert len(tags) > 500


def test_a_record_has_nothing_of_texts_tags_and_file_names(
    place: Path, allograft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifest(place).parent)
    record = tmp_path / "r.json"
    done = allograft("evaluate", model(place), f"{MARK}.csv", "--record", record, "--device", "cpu")
    assert done.code == 0, done.err
    assert MARK in done.out  # on the hospital's own screen
    data = record.read_bytes()
    assert MARK.lower().encode() not in data.lower()
    for word in ("Jane", "patient", ".png", ".dcm", ".nii", "/tmp", str(Path.home()), "column", "timepoint"):
        assert word.encode() not in data
    cases = json.loads(data)["cases"]
    assert [(case["case"], case["subject"], case["site"]) for case in cases] == [
        *((1, 1, 1), (2, 2, 2), (3, 3, 1), (4, 4, 2), (5, 5, 2))
    ]
    assert all("dice" in case for case in cases)


def test_every_text_in_a_record_is_a_name_of_the_program_or_a_class(record: Path) -> None:
    def texts(thing: Any) -> list[str]:
        if isinstance(thing, dict):
            return [*thing, *(text for value in thing.values() for text in texts(value))]
        return (
            [text for one in thing for text in texts(one)]
            if isinstance(thing, list)
            else [thing] * isinstance(thing, str)
        )

    own = r"(dice|iou|hd95|asd)(/(white|grey))?|[0-9a-f]{16,}|adapted|[a-z_]+|\d+\.\d+\.\d+\S*|"
    assert [text for text in texts(json.loads(record.read_text())) if not re.fullmatch(own, text)] == []


def test_the_name_of_a_reader_becomes_a_number(tmp_path: Path) -> None:
    from allograft.apply.evaluate import Evaluation

    for name in ("i.png", "b.csv", "c.csv"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "m.csv").write_text(f"image,boxes,boxes_reader{MARK},subject,site\ni.png,b.csv,c.csv,1,a\n")
    tree.write_json(
        tmp_path / "card.json",
        {"format": 1, "unit": "u", "stage": "s", "checksum": "c", "task": {"detection": {"classes": ["nucleus"]}}},
    )
    row = {"case": "i.png", "subject": "1", "site": "a", "f1": 1.0, f"truths/reader{MARK}": [1.0]}
    made = site_record(Evaluation({}, (row,), 0), tmp_path, tmp_path / "m.csv")
    assert made.cases == ({"case": 1, "subject": 1, "site": 1, "f1": 1.0, "truths/reader-2": [1.0]},)


@pytest.mark.parametrize("extra", [{f"dice/{MARK}": 1.0}, {"dice": MARK}, {"dice": [MARK]}])
def test_a_metric_that_would_carry_text_is_refused(extra: dict[str, Any], place: Path) -> None:
    from dataclasses import replace

    found = evaluate(model(place), manifest(place), device="cpu")
    found = replace(found, cases=({**found.cases[0], **extra}, *found.cases[1:]))
    with pytest.raises(AllograftError, match="--record: the metric 'dice' is") as caught:
        site_record(found, model(place), manifest(place))
    assert MARK not in str(caught.value)


def test_merged_scores_are_those_of_the_evaluation(
    place: Path, record: Path, tmp_path: Path, allograft: Command
) -> None:
    import csv

    out = _copy(place, tmp_path)
    done = allograft("merge", out, record)
    assert done.code == 0, done.err
    assert "site 1 (" in done.out
    row = next(line for line in done.out.splitlines() if "fourier" in line)
    assert row.lstrip(" │┃|").startswith("fourier")  # the model, then what it learned from
    found = evaluate(model(place), manifest(place), device="cpu")
    with open(out / "sites.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "dice"]
    merged = {row["site"][:6]: row for row in rows if row["record"]}
    for number, site in enumerate((f"{MARK}-site-0", f"{MARK}-site-1"), 1):
        assert float(merged[f"site {number}"]["mean"]) == found.metrics[site]["dice"]
        assert merged[f"site {number}"]["model"] == "fourier-beta-0.1-donors-1@b"
    own = {(row["model"], row["site"]): float(row["mean"]) for row in rows if not row["record"]}
    card = json.loads((model(place) / "card.json").read_text())
    assert {site: own["fourier-beta-0.1-donors-1@b", site] for site in ("a", "b")} == {
        site: metrics[0]["dice"] for site, metrics in card["metrics"].items()
    }


def test_an_interval_is_over_subjects_and_not_over_cases() -> None:
    from allograft.results.intervals import score_limits
    from allograft.tasks.segmentation import Segmentation

    task = Segmentation(classes=("white",))
    cases = [{"case": n, "subject": s, "dice": d} for n, (s, d) in enumerate([(1, 0.5), (1, 0.7), (2, 0.9)])]
    low, high = score_limits([0.6, 0.9])
    assert interval(task, cases, "dice") == (float(low), float(high))
    assert interval(task, cases[:2], "dice") is None


def test_the_same_record_twice_is_refused(place: Path, record: Path, tmp_path: Path) -> None:
    out = _copy(place, tmp_path)
    merge(out, [record])
    before = sorted(path.name for path in (out / FOLDER).iterdir()), (out / "sites.csv").read_bytes()
    (tmp_path / "renamed.json").write_text(json.dumps(json.loads(record.read_text())))  # other bytes, same content
    for files in ([record], [tmp_path / "renamed.json"]):
        with pytest.raises(AllograftError, match=r"this record is in .* already"):
            merge(out, files)
    with pytest.raises(AllograftError, match=r"this record is in .* already"):
        merge(_copy(place, tmp_path / "other"), [record, record])
    assert (sorted(path.name for path in (out / FOLDER).iterdir()), (out / "sites.csv").read_bytes()) == before


def _changed(record: Path, **changes: Any) -> Path:
    """Another record, with a checksum of its own."""
    content = json.loads(record.read_text()) | changes
    content.pop("checksum")
    path = record.with_name("changed.json")
    tree.write_json(path, {**content, "checksum": tree.content_hash(content)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "0123456789abcdef"}, "is of unit 01234567, stage 'adapted', which .* does not hold; expected one of"),
        ({"stage": "other"}, "stage 'other', which .* does not hold"),
        ({"model": "0" * 32}, "with weights of checksum 0+; .* evaluate that folder"),
        ({"schema": 2, "allograft": "9.9"}, "schema 2, written by Allograft 9.9; expected schema 1"),
        ({"unlabelled": 3}, "fourier-beta-0.1-donors-1@b was evaluated on the same cases before"),
        ({"sites": ["north\n"]}, "not a record of 'allograft evaluate'"),
        ({"sites": []}, "not a record of 'allograft evaluate'"),
        ({"more": 1}, "not a record of 'allograft evaluate'"),
    ],
)
def test_a_record_that_the_table_cannot_take_is_refused(
    changes: dict[str, Any], message: str, place: Path, record: Path, tmp_path: Path
) -> None:
    out = _copy(place, tmp_path)
    merge(out, [record])
    with pytest.raises(AllograftError, match=message):
        merge(out, [_changed(record, **changes)])


def test_a_record_that_was_touched_is_refused(place: Path, record: Path, tmp_path: Path) -> None:
    record.write_text(re.sub(r'"dice": 0\.\d', '"dice": 0.9', record.read_text(), count=1))
    with pytest.raises(AllograftError, match="does not match its checksum"):
        read_site_record(record)
    out = _copy(place, tmp_path)
    for text in ("", "[]", "{}", "[" * 100_000, '"' + MARK):
        record.write_text(text)
        with pytest.raises(AllograftError, match="not a record of"):
            merge(out, [record])


def test_two_tolerances_do_not_meet_in_one_table(place: Path, record: Path, tmp_path: Path) -> None:
    out = _copy(place, tmp_path)
    merge(out, [_changed(record, surface_dice=1.0)])
    with pytest.raises(AllograftError, match=r"tolerance of 2.0 mm, and the table one of 1.0 mm"):
        merge(out, [_changed(record, surface_dice=2.0, data="0" * 32)])


def test_a_site_of_a_known_name_keeps_its_own_column(place: Path, record: Path, tmp_path: Path) -> None:
    out = _copy(place, tmp_path)
    merge(out, [_changed(record, sites=["b", "north"])])
    names = site_table(out).sites
    assert names[:2] == ("a", "b")
    assert names[3] == "north"
    assert re.fullmatch(r"b \([0-9a-f]{6}\)", names[2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--site", "north"], "--site: found 1 names, and the manifest has 2 sites"),
        (["--site", "n", "--site", "n"], "--site: a name is given twice"),
        (["--site", "n", "--site", "x" * 61], "--site: 'x+' is no name"),
    ],
)
def test_names_of_sites_that_do_not_fit_are_refused_first(
    words: list[str], message: str, place: Path, allograft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allograft.apply.evaluate.evaluate", lambda *_, **__: pytest.fail("evaluated first"))
    done = allograft("evaluate", model(place), manifest(place), "--record", tmp_path / "r.json", *words)
    assert done.code == 2
    assert re.search(message, done.err)
    assert not (tmp_path / "r.json").exists()


def test_masks_and_old_cards_have_no_record(place: Path, allograft: Command, tmp_path: Path) -> None:
    done = allograft("evaluate", manifest(place).parent, manifest(place), "--record", tmp_path / "r.json")
    assert (done.code, "a record says which model it is of" in done.err) == (2, True)
    card = json.loads((model(place) / "card.json").read_text())
    tree.write_json(tmp_path / "card.json", {key: value for key, value in card.items() if key != "unit"})
    done = allograft("evaluate", tmp_path, manifest(place), "--record", tmp_path / "r.json")
    assert (done.code, "names no unit" in done.err) == (2, True)


def _copy(place: Path, folder: Path) -> Path:
    """The study's folder, for a merge of its own."""
    import shutil

    shutil.copytree(place / "out", folder / "out")
    return folder / "out"
