"""Files of codes for the classes of a model: what is read, and every refusal."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pydicom
import pytest
from tests.unit.apply.test_dicom_segmentation import ALGORITHM, predicted, scan

from allograft.apply.dicom_codes import Concept, plain_classes, read_codes
from allograft.apply.dicom_segmentation import write_segmentation
from allograft.errors import SpecError

CATEGORY = "{scheme: SCT, value: 91723000, meaning: Anatomical Structure}"
CODES = f"""
white: {{scheme: SCT, value: 389080008, meaning: White Matter, category: {CATEGORY}}}
grey: {{scheme: 99NORTH, value: "G-1", meaning: Graue Substanz}}
"""


def written(folder: Path, text: str, name: str = "codes.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_are_read_in_the_order_of_the_model(tmp_path: Path) -> None:
    grey, white = read_codes(written(tmp_path, CODES), ["grey", "white"])
    assert white.code == Concept("SCT", "389080008", "White Matter")
    assert white.category == Concept("SCT", "91723000", "Anatomical Structure")
    assert (grey.name, grey.code, grey.category) == ("grey", Concept("99NORTH", "G-1", "Graue Substanz"), None)


def test_the_file_of_the_page_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "howto" / "hospital.md").read_text(encoding="utf-8")
    (text,) = (block for block in re.findall(r"^```text\n(.*?)^```", page, flags=re.M | re.S) if "scheme:" in block)
    liver, lesion = read_codes(written(tmp_path, text), ["liver", "lesion"])
    assert (liver.code.value, lesion.code.scheme) == ("10200004", "99NORTH")
    known = importlib.import_module("pydicom.sr.codedict").codes.SCT
    assert (known.Liver.value, known.AnatomicalStructure.value) == ("10200004", "91723000")


def test_json_is_read_too(tmp_path: Path) -> None:
    tree = {"vessel": {"scheme": "SCT", "value": "59820001", "meaning": "Blood Vessel"}}
    (vessel,) = read_codes(written(tmp_path, json.dumps(tree), "codes.json"), ["vessel"])
    assert vessel.code == Concept("SCT", "59820001", "Blood Vessel")


SECOND = "grey: {scheme: SCT, value: 389081007, meaning: Gray Matter}"


def with_white(**changed: str) -> str:
    keys = {"scheme": "SCT", "value": "1", "meaning": "White", **changed}
    return f"white: {{{', '.join(f'{key}: {value}' for key, value in keys.items())}}}\n{SECOND}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whte: {scheme: SCT, value: 1, meaning: a}", "codes.yaml: unknown class 'whte'; did you mean 'white'?"),
        (SECOND, "codes.yaml: class 'white' has no code; add one, for example white: "),
        ("[white]", "codes.yaml: expected one entry per class, for example white: {scheme: SCT"),
        (f"white: 12\n{SECOND}", "codes.yaml: white: found '12'; expected a code"),
        ("white: [", "codes.yaml: not plain YAML"),
        (f"white: {{scheme: SCT}}\n{SECOND}", "white.value: missing; expected a word"),
        (with_white(scheme="SNOMED"), "white: unknown coding scheme 'SNOMED'; expected SCT (SNOMED CT), a scheme"),
        (with_white(scheme="NORTH"), "a scheme of your own whose name begins with 99, such as 99NORTH"),
        (with_white(scheme="99ABCDEFGHIJKLMNO"), "white.scheme: found '99ABCDEFGHIJKLMNO'; expected 1 to 16"),
        (with_white(value="1.10"), "white: value: found 1.1, a number or yes and no to YAML; put it in quotes"),
        (with_white(code="1"), "white.code: unknown key 'code'"),
        (with_white(meaning="' '"), "white.meaning: found ' '; expected 1 to 64 characters"),
        (with_white(meaning=65 * "a"), "expected 1 to 64 characters"),
        (with_white(meaning=r"'a\b'"), "without backslash"),
        (with_white(category="{scheme: X, value: 1, meaning: a}"), "white: category: unknown coding scheme 'X'"),
        (with_white(category="{scheme: SCT, value: true, meaning: a}"), "white: category: value: found True"),
        (with_white(category="{scheme: SCT, value: 1, text: a}"), "white.category.text: unknown key 'text'"),
    ],
)
def test_what_cannot_be_a_code_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_codes(written(tmp_path, text), ["white", "grey"])
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("missing", ["absent.yaml", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_codes(tmp_path / missing, ["white"])


def test_the_line_that_an_error_proposes_is_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_codes(written(tmp_path, "{}"), ["grey"])
    (grey,) = read_codes(written(tmp_path, str(caught.value).partition("for example ")[2]), ["grey"])
    assert grey.code == Concept("SCT", "91723000", "Anatomical Structure")


def test_segments_have_the_codes_of_the_file_and_otherwise_our_own(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    one = predicted(scan(tmp_path / "ct"))
    classes = read_codes(written(tmp_path, CODES), ["white", "grey"])
    write_segmentation(tmp_path / "seg.dcm", one, classes, ALGORITHM)
    white, grey = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert (white.SegmentLabel, grey.SegmentLabel) == ("white", "grey")
    assert _code(white.SegmentedPropertyTypeCodeSequence) == ("SCT", "389080008", "White Matter")
    assert _code(white.SegmentedPropertyCategoryCodeSequence) == ("SCT", "91723000", "Anatomical Structure")
    assert _code(grey.SegmentedPropertyTypeCodeSequence) == ("99NORTH", "G-1", "Graue Substanz")
    write_segmentation(tmp_path / "plain.dcm", one, plain_classes(["white", "grey"]), ALGORITHM)
    white, grey = pydicom.dcmread(tmp_path / "plain.dcm").SegmentSequence
    assert _code(grey.SegmentedPropertyTypeCodeSequence) == ("99ALLOGRAFT", "CLASS2", "grey")
    assert _code(grey.SegmentedPropertyCategoryCodeSequence)[2] == "Spatial and Relational Concept"


def _code(sequence: list[pydicom.Dataset]) -> tuple[str, str, str]:
    return sequence[0].CodingSchemeDesignator, sequence[0].CodeValue, sequence[0].CodeMeaning


def test_names_in_any_letters_read_back_with_those_of_the_patient(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    patient = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"}
    one = predicted(scan(tmp_path / "ct", **patient))
    write_segmentation(tmp_path / "seg.dcm", one, plain_classes(["größe", "肝臓"]), ALGORITHM)
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [segment.SegmentLabel for segment in read.SegmentSequence] == ["größe", "肝臓"]
    assert str(read.PatientName) == "Yamada^Tarou=山田^太郎"
    assert "肝臓".encode() in (tmp_path / "seg.dcm").read_bytes()
