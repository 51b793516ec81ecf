"""DICOM measurement reports, read by pydicom alone: values, references, and who made them; whose
they are, and what cannot have one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import generate_uid
from tests.cli.conftest import Command
from tests.cli.conftest import allograft as allograft
from tests.unit.apply.test_dicom_segmentation import (
    ALGORITHM,
    CARD,
    EMPTY,
    SEGMENTS,
    model,  # noqa: F401 - a fixture
    predicted,
    scan,
)
from tests.unit.cohort.test_dicom import OBLIQUE, SECRETS, dicom, values

from allograft.apply import dicom_report
from allograft.apply.dicom_codes import Concept, NamedClass, plain_classes
from allograft.apply.dicom_segmentation import write_segmentation
from allograft.apply.model import Predicted
from allograft.cohort.readers import read_image
from allograft.errors import ImageError
from allograft.metrics.mahalanobis import TiedGaussian
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
from allograft.predictor.abstention import Abstention
from allograft.predictor.deployment import Deployment, write_deployment
from allograft.predictor.folder import load_predictor
from allograft.tasks import Answer

RULE = Abstention(0.9, 12.5, 0.9, 20, "ood_distance")


def items(dataset: Any) -> Iterator[Any]:
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from items(item)


def code(sequence: Any) -> tuple[str, str, str]:
    return sequence[0].CodingSchemeDesignator, sequence[0].CodeValue, sequence[0].CodeMeaning


def groups(path: Path) -> list[dict[str, Any]]:
    """Each measurement group: concept name -> what its item holds, of several the list."""
    report = pydicom.dcmread(path)
    made = []
    for item in items(report):
        if item.ValueType == "CONTAINER" and code(item.ConceptNameCodeSequence)[1] == "125007":
            group: dict[str, Any] = {"template": item.ContentTemplateSequence[0].TemplateIdentifier}
            for part in item.ContentSequence:
                name = code(part.ConceptNameCodeSequence)[2]
                held: Any
                if part.ValueType == "NUM":
                    number = part.MeasuredValueSequence[0]
                    held = float(number.NumericValue), number.MeasurementUnitsCodeSequence[0].CodeValue
                elif part.ValueType == "CODE":
                    held = code(part.ConceptCodeSequence)
                elif part.ValueType == "IMAGE":
                    held = part.ReferencedSOPSequence[0]
                else:
                    held = part.get("TextValue") or part.get("UID")
                group.setdefault(name, []).append(held)
            made.append(group)
    return made


def listed(path: Path) -> set[str]:
    """The instances that a report says it is about."""
    return {
        str(reference.ReferencedSOPInstanceUID)
        for study in pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }


def sized(one: Predicted) -> Predicted:
    """The same with the volumes of its mask."""
    assert one.answer.mask is not None
    voxel, unit = one.grid.voxel
    counts = [float((one.answer.mask == number).sum()) for number in (1, 2)]
    volumes = {"white": counts[0] * voxel, "grey": counts[1] * voxel}
    return replace(one, answer=replace(one.answer, values=volumes, unit=unit))


def written(folder: Path, one: Predicted, **more: Any) -> tuple[Path, Path]:
    write_segmentation(folder / "seg.dcm", one, SEGMENTS, ALGORITHM)
    given = {"segments": SEGMENTS, "segmentation": folder / "seg.dcm", **more}
    dicom_report.write_report(folder / "sr.dcm", one, ALGORITHM, **given)
    return folder / "seg.dcm", folder / "sr.dcm"


@pytest.mark.parametrize(
    "directions", [(1, 0, 0, 0, 1, 0), OBLIQUE, (0, 1, 0, 0, 0, -1)], ids=["axial", "oblique", "sagittal"]
)
def test_each_segment_has_its_volume_and_its_references(tmp_path: Path, directions: tuple[float, ...]) -> None:
    pytest.importorskip("highdicom")
    segmentation, report = written(tmp_path, sized(predicted(scan(tmp_path / "ct", directions))))
    series = [pydicom.dcmread(path) for path in (tmp_path / "ct").iterdir()]
    segments, document = pydicom.dcmread(segmentation), pydicom.dcmread(report)
    frames = segments.pixel_array
    numbers = [
        int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for group in segments.PerFrameFunctionalGroupsSequence
    ]
    voxel = 0.5 * 0.75 * 2.5  # of the source's headers
    for number, (group, name) in enumerate(zip(groups(report), ("white", "grey"), strict=True), 1):
        count = sum(int(frame.sum()) for frame, owner in zip(frames, numbers, strict=True) if owner == number)
        assert count == {"white": 12, "grey": 1}[name]
        ((volume, unit),) = group["Volume"]
        assert (volume, unit) == (pytest.approx(count * voxel, rel=1e-6), "mm3")
        (reference,) = group["Referenced Segment"]
        assert reference.ReferencedSOPInstanceUID == segments.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == segments.SOPClassUID
        assert reference.ReferencedSegmentNumber == number
        assert group["Source Series for Segmentation"] == [series[0].SeriesInstanceUID]
        assert group["Finding"] == [("99ALLOGRAFT", f"CLASS{number}", name)]
        assert group["Tracking Identifier"] == [name]
        assert (group["Algorithm Name"], group["Algorithm Version"]) == (["finetune@b"], ["abc123"])
        assert group["template"] == "1411"
    assert listed(report) == {str(each.SOPInstanceUID) for each in [*series, segments]}
    assert segments.FrameOfReferenceUID == series[0].FrameOfReferenceUID
    assert (document.PatientID, document.StudyInstanceUID) == (series[0].PatientID, series[0].StudyInstanceUID)
    assert document.SeriesInstanceUID not in {series[0].SeriesInstanceUID, segments.SeriesInstanceUID}
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.SeriesDescription == "Research use only, not a medical device"
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_highdicom_reads_the_same(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    segmentation, report = written(tmp_path, sized(predicted(scan(tmp_path / "ct"))))
    content = highdicom.sr.srread(report).content
    white, grey = content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value for group in (white, grey)] == pytest.approx([11.25, 0.9375])
    uid = pydicom.dcmread(segmentation).SOPInstanceUID
    assert grey.referenced_segment.referenced_sop_instance_uid == uid


def test_a_plane_has_a_frame_for_each_class(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    file = scan(tmp_path / "ct", OBLIQUE) / "3.dcm"
    grid = read_image([file]).grid
    mask = torch.zeros(grid.shape, dtype=torch.int64)
    mask[1, 2:5] = 1  # of the other class nothing
    segmentation, report = written(tmp_path, sized(Predicted("3.dcm", (file,), grid, Answer({}, mask))))
    white, grey = groups(report)
    assert white["Volume"] == [(pytest.approx(3 * 0.5 * 0.75 * 2.5, rel=1e-6), "mm3")]
    assert grey["Volume"] == [(0.0, "mm3")]
    frames, source = pydicom.dcmread(segmentation), pydicom.dcmread(file)
    for number, group in enumerate((white, grey), 1):
        (reference,) = group["Referenced Segmentation Frame"]
        assert reference.ReferencedSOPInstanceUID == frames.SOPInstanceUID
        frame = int(reference.ReferencedFrameNumber)
        owner = frames.PerFrameFunctionalGroupsSequence[frame - 1].SegmentIdentificationSequence[0]
        assert owner.ReferencedSegmentNumber == reference.ReferencedSegmentNumber == number
        (image,) = group["Source Image for Segmentation"]
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert group["template"] == "1410"
    assert frames.pixel_array.sum((1, 2)).tolist() == [3, 0]


def film(path: Path) -> Predicted:
    """A radiograph, which has no place in the patient."""
    tags = {"StudyInstanceUID": generate_uid(), "Modality": "DX", **dict.fromkeys(EMPTY, "")}
    dicom(path, values(0), **tags)
    return Predicted(path.name, (path,), read_image([path]).grid, Answer({}))


CLASSES = (
    NamedClass("normal", Concept("99NORTH", "N", "No finding")),
    NamedClass(
        "air",
        Concept("SCT", "36118008", "Pneumothorax"),
        Concept("SCT", "49755003", "Morphologically Abnormal Structure"),
    ),
)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("air", [("SCT", "36118008", "Pneumothorax")]),
        ("normal|air", [("99NORTH", "N", "No finding"), ("SCT", "36118008", "Pneumothorax")]),
        ("", [("SCT", "260413007", "None")]),
    ],
    ids=["one", "several", "none"],
)
def test_classes_are_evaluations_and_probabilities_are_numbers(
    tmp_path: Path, label: str, expected: list[tuple[str, str, str]]
) -> None:
    pytest.importorskip("highdicom")
    one = film(tmp_path / "film.dcm")
    one = replace(one, answer=Answer({"label": label, "normal": 1 / 3, "air": 1.234567890123456e-12}))
    dicom_report.write_report(tmp_path / "sr.dcm", one, ALGORITHM, classes=CLASSES)
    image, normal, air = groups(tmp_path / "sr.dcm")
    assert image["Predicted class"] == expected
    source = pydicom.dcmread(tmp_path / "film.dcm").SOPInstanceUID
    assert [reference.ReferencedSOPInstanceUID for reference in image["Source of Measurement"]] == [source]
    assert listed(tmp_path / "sr.dcm") == {source}
    assert normal["Probability"] == [(pytest.approx(1 / 3, rel=1e-12), "1")]
    assert air["Probability"] == [(pytest.approx(1.234567890123456e-12, rel=1e-9), "1")]
    assert air["Finding"] == [("SCT", "36118008", "Pneumothorax")]
    assert air["Finding category"] == [("SCT", "49755003", "Morphologically Abnormal Structure")]
    assert "Finding category" not in normal
    for group in (image, normal, air):
        assert (group["Algorithm Name"], group["Algorithm Version"]) == (["finetune@b"], ["abc123"])


@pytest.mark.parametrize(("distance", "answer"), [(12.5, "No"), (12.6, "Yes")])
def test_a_distance_is_with_its_threshold_and_which_side_it_is_on(tmp_path: Path, distance: float, answer: str) -> None:
    pytest.importorskip("highdicom")
    one = replace(sized(predicted(scan(tmp_path / "ct"))), facts={"ood_distance": distance})
    _, report = written(tmp_path, one, rule=RULE)
    image, *segments = groups(report)
    assert image["Distance from the training images"] == [(distance, "1")]
    assert image["Largest distance of images like the training images"] == [(12.5, "1")]
    ((_, _, far),) = image["Farther than images like the training images"]
    assert far == answer
    assert len(image["Source of Measurement"]) == 6
    assert len(segments) == 2


def test_a_report_of_other_numbers_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("highdicom")
    real = dicom_report._segment_groups
    monkeypatch.setattr(dicom_report, "_segment_groups", lambda *given: [*real(*given)][::-1])
    one = sized(predicted(scan(tmp_path / "ct")))
    with pytest.raises(ImageError, match="its DICOM report does not read back as it was written"):
        written(tmp_path, one)
    assert not (tmp_path / "sr.dcm").exists()


def test_a_series_that_belongs_to_no_study_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    path = dicom(tmp_path / "film.dcm", values(0))
    one = Predicted("film.dcm", (path,), read_image([path]).grid, Answer({"label": "air", "normal": 0.0, "air": 1.0}))
    with pytest.raises(ImageError, match=r"film\.dcm: a DICOM report cannot be made of this series \(it lacks StudyIn"):
        dicom_report.write_report(tmp_path / "sr.dcm", one, ALGORITHM, classes=CLASSES)
    assert not (tmp_path / "sr.dcm").exists()


# ------------------------------------------------------- the command
CODES = """
white: {scheme: SCT, value: 389080008, meaning: White Matter}
grey: {scheme: SCT, value: 389081007, meaning: Gray Matter}
"""


def test_predict_writes_reports_and_names_nobody_elsewhere(
    model: Path,  # noqa: F811
    tmp_path: Path,
    allograft: Command,
) -> None:
    pytest.importorskip("highdicom")
    scan(tmp_path / "scans" / "ct")
    scan(tmp_path / "scans" / "more", OBLIQUE, SeriesInstanceUID=generate_uid())
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 4), np.int16), np.eye(4)), tmp_path / "scans" / "brain.nii.gz")
    (tmp_path / "codes.yaml").write_text(CODES)
    out = tmp_path / "out"
    options = ("--dicom-seg", "--dicom-sr", "--dicom-codes", tmp_path / "codes.yaml", "--device", "cpu")
    answer = allograft("predict", model, tmp_path / "scans", "-o", out, *options)
    assert answer.code == 3
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {"ct_seg.dcm", "ct_sr.dcm", "more_seg.dcm", "more_sr.dcm", "results.csv"}
    rows = {row["image"]: row for row in csv.DictReader((out / "results.csv").open())}
    assert rows["brain.nii.gz"]["warnings"].startswith("failed: brain.nii.gz: is not DICOM, and a DICOM segmentation")
    card = load_predictor(model)[1]
    for name in ("ct", "more"):
        white, grey = groups(out / f"{name}_sr.dcm")
        assert [white["Volume"][0][0], grey["Volume"][0][0]] == [
            pytest.approx(float(rows[name][each])) for each in ("white", "grey")
        ]
        assert grey["Finding"] == [("SCT", "389081007", "Gray Matter")]
        uid = pydicom.dcmread(out / f"{name}_seg.dcm").SOPInstanceUID
        assert white["Referenced Segment"][0].ReferencedSOPInstanceUID == uid
        assert (white["Algorithm Name"], white["Algorithm Version"]) == (["model"], [card["checksum"]])
    told = [(out / "results.csv").read_bytes(), answer.out.encode(), answer.err.encode()]
    told += [path.read_bytes() for path in model.iterdir()]
    for secret in SECRETS:
        assert not any(secret.encode() in text for text in told)
    assert SECRETS[0].encode() in (out / "ct_sr.dcm").read_bytes()  # whose it is, for an archive


def classifier(folder: Path) -> Path:
    """A model of two classes that knows its training images."""
    torch.manual_seed(0)
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"label": 2}, "channels": [2, 4]}}}
    task = {"classification": {"classes": ["normal", "air"]}}
    save_predictor(Direct(build(spec)), folder, {**CARD, "task": task, "slices": None})
    gaussian = TiedGaussian(torch.zeros(1, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    held_out = torch.linspace(1e-9, 2e-9, 20, dtype=torch.float64)
    facts = {"checksum": load_predictor(folder)[1]["checksum"], "calibration": {}, "fairness": [], "notes": []}
    write_deployment(folder, Deployment(gaussian, held_out, facts))
    return folder


def test_a_classifier_writes_reports_of_films_and_whether_they_are_far(tmp_path: Path, allograft: Command) -> None:
    pytest.importorskip("highdicom")
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.dcm")
    out, folder = tmp_path / "out", classifier(tmp_path / "model")
    answer = allograft("predict", folder, tmp_path / "films", "-o", out, "--dicom-sr", "--device", "cpu")
    assert answer.code == 0, answer.err
    (row,) = csv.DictReader((out / "results.csv").open())
    image, normal, air = groups(out / "a_sr.dcm")
    assert image["Predicted class"][0][2] == row["label"]
    assert normal["Probability"][0][0] == pytest.approx(float(row["normal"]))
    assert air["Probability"][0][0] == pytest.approx(float(row["air"]))
    assert image["Distance from the training images"][0][0] == pytest.approx(float(row["ood_distance"]))
    assert image["Farther than images like the training images"][0][2].lower() == row["abstain"] == "yes"
    assert allograft("predict", folder, tmp_path / "films", "-o", tmp_path / "far", "--dicom-sr", "--abstain", "0.9",
                     "--device", "cpu").code == 0  # fmt: skip
    assert {path.name for path in (tmp_path / "far").iterdir()} == {"results.csv"}  # no answer, no report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dicom-sr",), "error: --dicom-sr refers to the segments that it measures; add --dicom-seg"),
        (("--dicom-codes", "c.yaml"), "error: --dicom-codes names the classes of DICOM objects; add --dicom-seg or"),
        (("--dicom-seg", "--dicom-codes", "absent.yaml"), "error: absent.yaml: cannot be read (No such file"),
    ],
    ids=["without segments", "codes alone", "no file"],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_written(
    model: Path,  # noqa: F811
    tmp_path: Path,
    allograft: Command,
    options: tuple[str, ...],
    message: str,
) -> None:
    pytest.importorskip("highdicom")
    answer = allograft("predict", model, scan(tmp_path / "ct"), "-o", tmp_path / "out", *options)
    assert answer.code == 2
    assert answer.err.startswith(message), answer.err
    assert not (tmp_path / "out").exists()


def test_a_model_without_masks_or_classes_is_refused(tmp_path: Path, allograft: Command) -> None:
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"paired": 1}, "channels": [2, 4]}}}
    save_predictor(Direct(build(spec)), tmp_path / "model", {**CARD, "task": {"synthesis": {}}})
    answer = allograft("predict", tmp_path / "model", scan(tmp_path / "ct"), "-o", tmp_path / "out", "--dicom-sr")
    assert answer.code == 2
    assert answer.err.startswith("error: --dicom-sr writes the sizes of masks and classes of images, and"), answer.err


def test_classes_and_segments_of_one_model_keep_their_places(tmp_path: Path, allograft: Command) -> None:
    pytest.importorskip("highdicom")
    torch.manual_seed(1)
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2, "label": 2}, "channels": [2, 4]}}}
    task = {"multitask": {"segmentation": {"classes": ["white"]}, "classification": {"classes": ["young", "old"]}}}
    save_predictor(Direct(build(spec)), tmp_path / "model", {**CARD, "task": task})
    out = tmp_path / "out"
    options = ("--dicom-seg", "--dicom-sr", "--device", "cpu")
    answer = allograft("predict", tmp_path / "model", scan(tmp_path / "ct"), "-o", out, *options)
    assert answer.code == 0, answer.err
    (row,) = csv.DictReader((out / "results.csv").open())
    image, young, old, white = groups(out / "ct_sr.dcm")
    assert image["Predicted class"][0][2] == row["label"]
    assert [group["Finding"][0][1:] for group in (white, young, old)] == [
        (f"CLASS{number}", name) for number, name in enumerate(("white", "young", "old"), 1)
    ]
    assert white["Volume"][0][0] == pytest.approx(float(row["white"]))
    assert old["Probability"][0][0] == pytest.approx(float(row["old"]))
    assert plain_classes(["white"])[0].name == pydicom.dcmread(out / "ct_seg.dcm").SegmentSequence[0].SegmentLabel
