"""The doctor: each illness that is planted in a cohort is found, and a healthy one is called
well."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from allograft.cohort import Case, Coding, Preprocessing, survey
from allograft.cohort.checks import check_duplicates, check_files, check_headers, check_places
from allograft.cohort.copies import Findings, Pair
from allograft.cohort.doctor import Diagnosis, Distance, Gap, _gap, _shares, _shifts, examine
from allograft.cohort.doctor_text import to_text
from allograft.cohort.findings import Named, Site
from allograft.cohort.site_checks import _total, check_grids, check_intensity, check_labels, check_subjects
from allograft.cohort.survey import Look, Style
from allograft.cohort.system import describe_system
from allograft.errors import ManifestError
from allograft.report.examination import write_examination


def picture(seed: int, size: int = 48) -> np.ndarray:
    low = np.random.default_rng(seed).integers(0, 255, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC))


def cohort(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write images (arrays as PNG; (array, affine) as NIfTI) and the manifest that names them."""
    kept = []
    for number, row in enumerate(rows):
        cells = dict(row)
        for key in ("image", "mask", "paired", "region", "boxes"):
            value = cells.get(key)
            if isinstance(value, np.ndarray):
                cells[key] = f"{key}-{number}.png"
                Image.fromarray(value).save(folder / cells[key])
            elif isinstance(value, tuple):
                cells[key] = f"{key}-{number}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(*value), folder / cells[key])
            elif isinstance(value, (bytes, dict)):
                cells[key] = f"{key}-{number}.{'json' if key == 'boxes' else 'png'}"
                (folder / cells[key]).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        kept.append({"subject": f"p{number}", "site": "a", **cells})
    columns = list(dict.fromkeys(key for row in kept for key in row))
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept)
    return folder / "manifest.csv"


def topics(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.topic: f"{finding.severity}: {finding.text}" for finding in diagnosis.findings}


def binary(seed: int) -> np.ndarray:
    return (picture(seed) > 128).astype(np.uint8)


def test_a_healthy_cohort_is_well(tmp_path: Path) -> None:
    found = examine(cohort(tmp_path, [{"image": picture(i), "mask": binary(i)} for i in range(24)]))
    assert (found.worst, found.findings, found.cases, found.subjects) == ("well", (), 24, 24)
    (site,) = found.sites
    assert (site.test_subjects, site.smallest_p) == (7, 2**-6)
    assert (site.sizes, site.channels, site.depths, site.codes) == (
        {"48 x 48": 24},
        {"1": 24},
        {"uint8": 24},
        {"0": 24, "1": 24},
    )
    assert "no findings" in to_text(found)


def test_files_that_cannot_be_read_are_collected(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": picture(i), "mask": binary(i)} for i in range(3)]
    rows += [
        {"image": b"x", "mask": binary(0)},
        {"image": picture(7), "mask": b""},
        {"image": picture(8), "boxes": b"[1"},
    ]
    found = examine(cohort(tmp_path, rows))
    assert found.findings[0].severity == "stop"
    assert topics(found)["unreadable"].startswith("stop: 3 cases cannot be read")
    assert [one.row for one in found.findings[0].cases] == [5, 6, 7]


def test_a_case_with_two_files_off_its_image_is_one_case(tmp_path: Path) -> None:
    rows = [{"image": picture(0), "mask": binary(0)[1:], "region": binary(0)[1:]}, {"image": picture(1)}]
    (wrong,) = [finding for finding in examine(cohort(tmp_path, rows)).findings if finding.topic == "geometry"]
    assert wrong.text.startswith("1 case with a mask, region, pair or boxes")
    assert [one.row for one in wrong.cases] == [2, 2]


def test_what_is_as_frequent_is_listed_by_name() -> None:
    assert list(_total([{"c": 1, "b": 2}, {"a": 1, "b": 1, "d": 1}])) == ["b", "a", "c", "d"]


def test_sites_differ_in_how_many_boxes_of_each_kind_they_have(tmp_path: Path) -> None:
    kinds = {"a": ["n", "n", "n", "m"], "b": ["n", "m"]}
    rows = [
        {"image": picture(number), "site": name, "boxes": {"boxes": [[0, 0, 5, 5]] * len(each), "labels": each}}
        for number, (name, each) in enumerate(kinds.items())
    ]
    (apart,) = (one.before for one in examine(cohort(tmp_path, rows)).distances if one.measure == "labels")
    assert apart is not None
    assert apart.between == 0.25


def test_masks_regions_pairs_and_boxes_off_their_image(tmp_path: Path) -> None:
    image, flipped = np.zeros((8, 9, 10), np.int16), np.diag([-1.0, 1.0, 1.0, 1.0])
    image[2:4, 3:5, 4:6] = 100
    mask = (image > 0).astype(np.uint8)
    rows = [
        {"image": picture(0), "mask": binary(0)[1:]},
        {"image": picture(1), "region": binary(1)[:, 1:]},
        {"image": picture(2), "paired": picture(2)[:9]},
        {
            "image": picture(3),
            "boxes": {"boxes": [[0, 0, 49, 5], [3, 3, 3, 9], [0, 0, 48, 48]], "labels": ["n", "n", "m"]},
        },
        {"image": (image, np.eye(4)), "mask": (mask, flipped)},
        {"image": (image + 1, np.eye(4)), "mask": (mask, np.eye(4))},
    ]
    found = examine(cohort(tmp_path, rows))
    (wrong,) = [finding for finding in found.findings if finding.topic == "geometry"]
    assert [one.row for one in wrong.cases] == [2, 3, 4, 5, 6]
    details = [one.detail for one in wrong.cases]
    assert details[3:] == ["2 of 3 boxes leave the image or are empty", details[-1]]
    assert "up to 7.0 mm from its image" in details[-1]
    assert "axes" in topics(found)
    assert found.sites[0].boxes == {"n": 2, "m": 1}


@pytest.mark.parametrize("single", [1, 4])
def test_planes_among_volumes_can_be_removed_as_doctor_says(tmp_path: Path, single: int) -> None:
    """Volumes of one slice are planes, and no option makes one kind of both."""
    rows = [{"image": (np.zeros((9, 8, 1 if i < single else 6), np.int16) + i, np.eye(4))} for i in range(5)]
    found = examine(cohort(tmp_path, rows))
    (axes,) = [one for one in found.findings if one.topic == "axes"]
    assert [one.row for one in axes.cases] == ([2] if single == 1 else [6])
    assert f"remove the rows of the {'planes' if single == 1 else 'volumes'}" in axes.text
    assert "size" not in topics(found)  # one number for each axis could not be given
    left = [row for number, row in enumerate(rows, 2) if number not in {one.row for one in axes.cases}]
    assert "axes" not in topics(examine(cohort(tmp_path, left)))


def test_codes_without_a_class_are_found_with_the_coding(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, [{"image": picture(i), "mask": binary(i) * (i + 1)} for i in range(3)])
    assert "codes" not in topics(examine(manifest))
    found = examine(manifest, coding=Coding(mask={"one": (1,), "two": (2,)}))
    assert topics(found)["codes"].startswith("stop: 1 case with mask values that stand for no class")


def test_masks_of_0_and_255_and_mixed_ones_are_named(tmp_path: Path) -> None:
    rows = [
        {"image": picture(i), "mask": binary(i) * np.uint8(255 if i % 2 else 1), "site": "ab"[i % 2]} for i in range(8)
    ]
    found = examine(cohort(tmp_path, rows))
    assert topics(found)["mask codes"].startswith("note: masks of site 'b' hold 0 and 255")
    assert "one-site class" not in topics(found)  # 255 and 1 are one class
    mixed = examine(cohort(tmp_path, [{**row, "site": "a"} for row in rows]))
    assert topics(mixed)["mask codes"].startswith("warning: masks of site 'a' mix 255 with 1")


def test_subjects_and_labels_that_no_number_can_stand_on(tmp_path: Path) -> None:
    rows = [{"image": picture(i), "label": "ab"[i % 2], "subject": str(i), "site": "many"} for i in range(8)]
    rows += [{"image": picture(20 + i), "label": "c", "subject": "x", "site": "lonely"} for i in range(2)]
    rows += [{"image": picture(30 + i), "label": "a" * (i < 1), "subject": f"y{i}", "site": "bare"} for i in range(3)]
    found = examine(cohort(tmp_path, rows))
    said = [finding.text for finding in found.findings]
    assert any(text.startswith("site 'lonely' has one subject and cannot be split") for text in said)
    assert any(text.startswith("site 'many': 2 labelled test subjects") and "no p below 0.5" in text for text in said)
    assert any(text.startswith("label class 'c' occurs at site 'lonely' only") for text in said)
    assert any(text.startswith("label class 'b' occurs at site 'many' only") for text in said)
    assert any(text.startswith("site 'lonely' has only one label class") for text in said)
    assert any(text.startswith("site 'bare': 2 of 3 cases have no 'label'") for text in said)


def test_grids_that_differ_and_whether_the_preprocessing_mends_them(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.int16)
    rows = [{"image": (volume + i, np.diag([(-1.0) ** i, 1 + i % 2, 1, 1]))} for i in range(4)]
    manifest = cohort(tmp_path, rows)
    found = topics(examine(manifest))
    assert found["orientation"].startswith("note: orientations LAS (2), RAS (2); orientation: RAS")
    assert found["spacing"].startswith("warning: voxel sizes differ (1-1 x 1-2 x 1-1 mm)")
    assert "size" not in found
    raw = topics(examine(manifest, preprocessing=Preprocessing(orientation=None, spacing=(1, 1, 1))))
    assert raw["orientation"].startswith("warning")
    assert raw["spacing"].startswith("note")
    assert raw["size"].startswith("warning: 2 sizes after the preprocessing")
    wrong = topics(examine(manifest, preprocessing=Preprocessing(size=(4, 4))))
    assert wrong["preprocessing"].startswith("stop: 4 cases")


def test_channels_and_bit_depths_that_differ(tmp_path: Path) -> None:
    rows = [
        {"image": picture(0)},
        {"image": np.stack([picture(i) for i in (1, 2, 3)], -1)},
        {"image": picture(4).astype(np.uint16) * 257},
    ]
    found = topics(examine(cohort(tmp_path, rows)))
    assert found["channels"].startswith("stop")
    assert (
        found["bit depth"]
        == "note: pixels are stored as uint8 (2), uint16 (1); intensity scaling must bring them to one scale"
    )


def gap(diagnosis: Diagnosis, measure: str) -> Distance:
    return next(distance for distance in diagnosis.distances if distance.measure == measure)


def test_a_scale_that_zscore_removes_and_a_shift_that_it_does_not(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return picture(i).astype(np.uint16)

    scaled = examine(
        cohort(tmp_path, [{"image": image(i) * (1 if i % 2 else 250), "site": "ab"[i % 2]} for i in range(24)])
    )
    assert re.match(
        r"note: .* 2\.\d, about 2, orders of magnitude apart .*zscore.*removes it", topics(scaled)["intensity scale"]
    )
    assert "style" in topics(scaled)  # as stored
    assert not any("for the recipes" in finding.text for finding in scaled.findings)
    left = examine(tmp_path / "manifest.csv", preprocessing=Preprocessing(intensity="none"))
    assert topics(left)["intensity scale"].startswith("warning")
    assert "intensity: none does not remove it" in topics(left)["intensity scale"]
    gamma = [
        {"image": np.asarray(255 * (picture(i) / 255) ** (1 + 2 * (i % 2)), np.uint8), "site": "ab"[i % 2]}
        for i in range(24)
    ]
    shifted = examine(cohort(tmp_path, gamma))
    assert any(finding.text.startswith("intensity of 'a' and 'b' differs after") for finding in shifted.findings)
    same = examine(cohort(tmp_path, [{"image": picture(i), "site": "ab"[i % 2]} for i in range(24)]))
    assert not [finding for finding in same.findings if finding.topic in ("style", "content")]
    for measure in ("intensity", "spectrum", "layout"):
        after = gap(same, measure).after
        assert after is not None
        assert after.between < after.within


def test_turned_volumes_are_a_content_shift_until_they_are_oriented(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        volume = np.random.default_rng(i).normal(0, 5, (16, 16, 8)) + 100 * (np.arange(16) < 5)[:, None, None]
        turned = (volume, np.eye(4)) if i % 2 else (volume[::-1], np.diag([-1.0, 1, 1, 1]))
        rows.append({"image": (turned[0].astype(np.int16), turned[1]), "site": "ab"[i % 2]})
    layout = gap(examine(cohort(tmp_path, rows)), "layout")
    assert layout.before is not None
    assert layout.after is not None
    assert layout.before.between > 5 * layout.before.within
    assert layout.after.between < layout.after.within


def test_copies_and_leaks_of_the_split_column(tmp_path: Path) -> None:
    rows = [
        {"image": picture(0), "split": "train"},
        {"image": picture(0), "split": "test"},
        {"image": picture(1), "split": "train"},
    ]
    found = topics(examine(cohort(tmp_path, rows)))
    assert found["leak"].startswith("stop: 1 pair of cases is on two sides of the manifest's split column; ")
    assert found["duplicates"].startswith("warning: 1 group of images with the same pixels under different subjects")
    one = topics(examine(cohort(tmp_path, [{**row, "subject": "p", "split": ""} for row in rows])))
    assert one["duplicates"].startswith("note: 1 group of images with the same pixels within a subject")


def test_one_mask_for_two_subjects_is_found(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": picture(i), "mask": binary(i)} for i in range(3)]
    rows += [{"image": picture(3), "mask": "mask-0.png"}]
    found = examine(cohort(tmp_path, rows))
    told = topics(found)["shared mask"]
    assert told == "stop: 1 mask file named for several subjects; give each subject a mask of its own"
    (one,) = (finding for finding in found.findings if finding.topic == "shared mask")
    assert [(case.row, case.detail) for case in one.cases] == [(2, "mask 1"), (5, "mask 1")]
    same = [{**row, "subject": "p"} for row in rows]
    assert "shared mask" not in topics(examine(cohort(tmp_path, same)))


def test_the_page_is_escaped_and_names_nobody_and_the_diagnosis_is_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": b"x", "subject": "secret-123", "site": "<script>alert(1)</script>"}]
    rows += [{"image": picture(i), "subject": f"secret-{i}", "site": "b"} for i in range(3)]
    manifest = cohort(tmp_path, rows)
    found = examine(manifest)
    write_examination(tmp_path / "doctor.html", found, manifest)
    page = (tmp_path / "doctor.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    for name in ("secret", "image-0", str(tmp_path)):
        assert name not in page
    assert "row 2, subject S003" in page
    assert "image-0.png" in to_text(found)
    assert json.loads(json.dumps(asdict(found)))["cases"] == 4
    assert page.count("<img") == 3  # one cannot be read
    write_examination(tmp_path / "bare.html", found, None)
    assert "<img" not in (tmp_path / "bare.html").read_text()
    assert "data:image" not in (tmp_path / "bare.html").read_text()


def test_every_fact_of_a_site_is_from_its_own_source(tmp_path: Path) -> None:
    """Three images of two subjects at site a, one of site b that cannot be read, a volume at c."""
    wide = picture(0)[:20]
    rows: list[dict[str, Any]] = [
        {"image": wide, "mask": binary(0)[:20] * np.uint8(7), "label": "x | y", "subject": "zoe"},
        {"image": wide[:, ::-1].copy(), "mask": 0 * binary(0)[:20], "label": "y", "subject": "zoe"},
        {"image": picture(5), "boxes": {"boxes": [[0, 0, 5, 5]] * 3, "labels": ["n", "m", "n"]}, "subject": "amy"},
        {"image": b"x", "subject": "bob", "site": "b"},
        {"image": (np.random.default_rng(0).normal(0, 9, (8, 9, 10)), np.diag([-1.0, 2, 3, 1])), "site": "c"},
    ]
    manifest = cohort(tmp_path, rows)
    found = examine(manifest, preprocessing=Preprocessing(size=(10, 12), intensity="minmax"))
    a, b, c = found.sites
    assert (found.manifest, found.cases, found.subjects) == ("manifest.csv", 5, 4)
    assert (found.preprocessing["size"], found.preprocessing["intensity"]) == ((10, 12), "minmax")
    assert (a.name, a.cases, a.subjects, a.test_subjects, a.smallest_p) == ("a", 3, 2, 1, 1.0)
    assert list(a.sizes.items()) == [("20 x 48", 2), ("48 x 48", 1)]
    assert a.prepared == {"10 x 12": 3}
    assert list(a.codes.items()) == [("0", 2), ("7", 1)]
    assert list(a.labels.items()) == [("y", 2), ("x", 1)]
    assert list(a.boxes.items()) == [("n", 2), ("m", 1)]
    assert list(a.labelled.items()) == [("label", 2), ("mask", 2), ("boxes", 1)]
    assert (a.orientations, a.spacings, c.orientations, c.spacings) == ({}, {}, {"LAS": 1}, {"1 x 2 x 3": 1})
    assert (a.depths, c.depths, c.prepared, b.sizes, b.cases) == ({"uint8": 3}, {"float32": 1}, {}, {}, 1)
    assert a.scale == pytest.approx(float(np.quantile(wide, 0.99)), rel=0.05)
    assert 0.9 < a.scale_after <= 1
    assert found.worst == found.findings[0].severity == "stop"
    order = ["stop", "warning", "note"]
    assert [one.severity for one in found.findings] == sorted((one.severity for one in found.findings), key=order.index)
    (unread,) = (finding for finding in found.findings if finding.topic == "unreadable")
    (case,) = unread.cases
    assert (case.row, case.name, case.subject) == (5, "image-3.png", "S002")
    assert "[file]" in case.detail
    assert "image-3" not in case.detail
    text = to_text(found)
    assert text.startswith("manifest.csv: 5 cases, 4 subjects, 3 sites\n\nsite a\n")
    for line in (
        r"cases +3",
        r"subjects +2",
        r"labelled test subjects +1, smallest p 1",
        r"sizes +20 x 48 \(2\), 48 x 48 \(1\)",
        r"pixel types +uint8 \(3\)",
        r"mask codes +0 \(2\), 7 \(1\)",
        rf"intensity scale +{a.scale:.3g} stored, {a.scale_after:.3g} prepared",
    ):
        assert re.search(rf"^  {line}$", text, re.MULTILINE), line
    assert re.search(
        rf"^  stop     {re.escape(unread.text)}\n           row 5: image-3.png \(.*\[file\]", text, re.MULTILINE
    )


def a_site(name: str = "a", **facts: Any) -> Site:
    return Site(**{"name": name, "cases": 9, "subjects": 6, "test_subjects": 6, "smallest_p": 2**-5, **facts})


def said(findings: Any) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.topic, finding.text) for finding in findings]


def test_a_site_is_too_small_by_its_subjects_and_by_the_smallest_p() -> None:
    assert said(check_subjects([a_site(), a_site(subjects=2, test_subjects=0, smallest_p=1.0)])) == []
    few = a_site(test_subjects=5, smallest_p=2**-4)
    ((severity, _, text),) = said(check_subjects([few]))
    assert severity == "warning"
    assert "5 labelled test subjects at the default test fraction allow no p below 0.062" in text


def test_classes_and_labels_are_counted_by_column_and_by_case() -> None:
    one = a_site("a", labels={"x": 2, "y": 7}, boxes={"x": 1}, codes={"0": 9, "1": 9}, labelled={"mask": 9, "label": 8})
    two = a_site("b", labels={"x": 9}, boxes={"x": 9}, codes={"0": 9, "255": 9}, labelled={"mask": 9, "label": 9})
    assert [text.partition(":")[0] for _, _, text in said(check_labels([one, two]))] == [
        "label class 'y' occurs at site 'a' only",
        "site 'b' has only one label class, 'x'",
        "masks of site 'b' hold 0 and 255",
        "site 'a'",
    ]
    assert said(check_labels([one, two]))[-1][2].startswith("site 'a': 1 of 9 cases have no 'label'")
    three = a_site("c", boxes={"u": 1, "w": 1}, codes={"1": 1, "2": 1, "255": 1})
    told = [text for _, _, text in said(check_labels([one, three]))]
    assert told[1].startswith("mask classes '2', '255' occur at site 'c' only")
    assert told[0].startswith("site 'a' has only one mask class, '1'")
    assert told[2].startswith("boxes class 'x' occurs at site 'a' only")
    assert told[3].startswith("site 'a' has only one boxes class")
    assert told[4].startswith("boxes classes 'u', 'w' occur at site 'c' only")
    assert told[5].startswith("masks of site 'c' mix 255 with 1, 2")


def test_grids_are_compared_over_all_sites_and_the_advice_is_that_of_the_settings() -> None:
    one = a_site("a", channels={"1": 3}, prepared={"4 x 4": 3}, orientations={"LPS": 3}, depths={"uint8": 3})
    two = a_site("b", channels={"1": 1, "3": 4}, prepared={"4 x 4": 5}, orientations={"RAS": 5}, depths={"uint8": 5})

    def look(*mm: float) -> Look:
        return Look(Case("a", "1", "a", ()), 2, spacing=mm)

    looks = [look(1, 2), look(1.3, 2), look(1.6, 2.01)]
    for orientation, advice in (("LPS", "note"), (None, "warning")):
        told = said(check_grids([one, two], looks, Preprocessing(orientation=orientation)))
        assert [topic for _, topic, _ in told] == ["channels", "orientation", "spacing"]
        assert told[0][2].startswith("different numbers of channels: 1 (4), 3 (4); convert")
        assert told[1][0] == advice
        assert (
            "orientation: LPS makes them" in told[1][2]
            if orientation
            else "set preprocessing: orientation" in told[1][2]
        )
        assert told[2][0] == "warning"
        assert "voxel sizes differ (1-1.6 x 2-2.01 mm)" in told[2][2]
    assert [one[0] for one in said(check_grids([one], looks, Preprocessing(spacing=(1.0, 1.0))))] == ["note"]
    assert said(check_grids([one], [look(1, 2), look(1.05, 2.1)], Preprocessing())) == []
    many = a_site("c", sizes={"9": 9}, prepared={f"{n} x 4": 1 for n in range(7)})
    ((_, topic, text),) = said(check_grids([many], [], Preprocessing()))
    assert (topic, "7 sizes" in text, "and 2 more" in text) == ("size", True, True)


def test_the_intensity_finding_names_the_scaling_and_what_it_leaves() -> None:
    sites = [a_site("a", scale=1.0, scale_after=0.5), a_site("b", scale=9.0, scale_after=3.0), a_site("c")]
    ((severity, _, text),) = said(check_intensity(sites, Preprocessing(intensity="unit")))
    assert (severity, "(1 at 'a', 9 at 'b')" in text) == ("warning", True)
    assert "intensity: unit does not remove it (a factor of 6 is left): use zscore" in text
    assert said(check_intensity([a_site("a", scale=1.0), a_site("b", scale=7.9)], Preprocessing())) == []


def looks_of(*rows: tuple[str, str, str, Any]) -> list[Look]:
    return [
        Look(Case(name, subject, site, ()), number, box=box)
        for number, (name, subject, site, box) in enumerate(rows, 2)
    ]


def named(look: Look, detail: str) -> Named:
    return Named(look.row, look.case.name, look.case.subject, detail)


def test_volumes_are_misplaced_within_a_subject_of_a_site_and_by_their_largest_gap() -> None:
    near, over, far = ((0.0, 0.0), (9.0, 9.0)), ((5.0, 9.0), (9.0, 12.0)), ((12.0, 29.0), (15.0, 39.0))
    looks = looks_of(
        ("a", "1", "s", near), ("b", "1", "s", over), ("c", "1", "s", far), ("d", "1", "s", far), ("e", "1", "t", far),
        ("f", "2", "s", None),
    )  # fmt: skip
    (found,) = check_places(looks, named)
    assert found.text.startswith("1 subject with volumes that do not overlap")
    assert [(one.row, one.detail) for one in found.cases] == [(4, "20 mm from a"), (5, "20 mm from a")]


def test_nan_pixels_stop_a_study_unless_they_have_a_value() -> None:
    looks = [Look(Case(str(n), "1", "s", ()), n, notes=(("nan", f"{n} NaN"),)) for n in range(2, 15)]
    (stop,) = check_headers(looks, Preprocessing(), named)
    assert (stop.severity, stop.text[:25]) == ("stop", "13 cases with NaN pixels;")
    assert "{nan: 0}" in stop.text
    assert [one.row for one in stop.cases] == [*range(2, 12)]
    (note,) = check_headers(looks, Preprocessing(nan=-3.0), named)
    assert (note.severity, note.text) == ("note", "13 cases with NaN pixels; they become -3")
    assert [*check_files(looks, named)] == []


def test_each_kind_of_duplicates_has_its_own_finding() -> None:
    looks = {
        name: look for name, look in zip("abcdefgh", looks_of(*((n, n, "s", None) for n in "abcdefgh")), strict=True)
    }
    found = Findings(
        {**{name: name for name in "abcdefgh"}, "d": "c"},
        dict(zip("abcdefgh", "xxyyuvwt", strict=True)),
        (Pair("e", "f", "near", 0.995), Pair("e", "g", "near", 0.994)),
        (Pair("g", "h", "weak", 0.96),),
    )
    told = [*check_duplicates(found, looks, named)]
    assert [(one.severity, one.text.partition(" images")[0].partition(" (")[0]) for one in told] == [
        ("warning", "1 group of"),
        ("note", "1 group of"),
        ("warning", "2 pairs of near-duplicates"),
        ("note", "1 pair of similar"),
    ]
    assert [[(case.name, case.detail) for case in one.cases] for one in told] == [
        [("a", "pair 1"), ("b", "pair 1")],
        [("c", "pair 1"), ("d", "pair 1")],
        [("e", "pair 1"), ("f", "pair 1"), ("e", "pair 2"), ("g", "pair 2")],
        [("g", "pair 1"), ("h", "pair 1")],
    ]


def test_shifts_say_what_the_preprocessing_leaves() -> None:
    wide, narrow = Gap(0.5, 0.25), Gap(0.125, 0.375)
    kinds = (
        ("intensity", wide, narrow),
        ("spectrum", narrow, wide),
        ("layout", wide, wide),
        ("layout", narrow, narrow),
    )
    distances = [Distance(("a", "b"), *kind) for kind in kinds]
    distances += [
        Distance(("a", "b"), "labels", Gap(0.21, 0.0), None),
        Distance(("a", "b"), "labels", Gap(0.2, 0.0), None),
    ]
    told = [(one.topic, one.text) for one in _shifts(distances)]
    assert [topic for topic, _ in told] == ["style", "style", "content", "content"]
    assert "as stored; the preprocessing removes it (0.12 between, 0.38 within)" in told[0][1]
    assert "differs after the preprocessing (0.5 between, 0.25 within)" in told[1][1]
    assert told[3][1].startswith("class frequencies of 'a' and 'b' differ by 0.21")
    text = to_text(Diagnosis("m.csv", 2, 2, (), (), tuple(distances[:1]), {}))
    assert re.search(r"a - b: intensity +0\.5 \(0\.25\) +0\.125 \(0\.375\)$", text, re.MULTILINE)


def test_shares_of_classes_and_gaps_of_styles_by_hand() -> None:
    looks = [
        Look(Case("a", "1", "s", ()), 2, codes={0: 6, 255: 2}),
        Look(Case("b", "1", "s", ()), 3, codes={0: 1, 1: 1, 2: 2}),
    ]
    assert _shares(a_site(), looks[:1]) == {"0": 0.75, "1": 0.25}
    assert _shares(a_site(), looks) == pytest.approx({"0": 7 / 12, "1": 3 / 12, "2": 2 / 12})
    assert _shares(a_site(labels={"x": 1}, boxes={"n": 1}), looks) == {"x": 1.0}

    def styled(value: float, spread: float) -> Look:
        style = Style(np.full(25, value), np.full(24, 3 * value), np.full((8, 8), 5 * value), spread)
        return Look(Case("a", "1", "s", ()), 2, before=style)

    sides = [[styled(0, 2), styled(4, 2)], [styled(10, 4), styled(10, 4)]]
    assert _gap(sides, "before", "intensity") == Gap(round(8 / 3, 4), round(1 / 3, 4))
    assert _gap(sides, "before", "spectrum") == Gap(24.0, 3.0)
    assert _gap(sides, "after", "layout") is None


def test_a_look_is_at_every_file_of_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(0)[:30]).save(tmp_path / "turned.jpg", exif=turned_by(6))
    Image.fromarray(binary(0)[:30].T.copy() * 9).save(tmp_path / "mask.png")
    far = {"boxes": [[0, 0, 31, 5], [0, 0, 30, 48], [4, 4, 4, 9]], "labels": ["n", "m", "n"]}
    for name, boxes in (("first", {"boxes": [], "labels": []}), ("second", far)):
        (tmp_path / f"{name}.json").write_text(json.dumps(boxes))
    volume = np.zeros((2, 4, 6), np.float32)
    volume[..., 3] = np.arange(8).reshape(2, 4)
    volume[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 1.23456, 1, 1])), tmp_path / "v.nii.gz")
    np.save(tmp_path / "channels.npy", np.stack([np.zeros((8, 9)), np.full((8, 9), 50.0)]))
    labels = {
        "mask": tmp_path / "mask.png",
        "boxes": tmp_path / "first.json",
        "boxes_reader2": tmp_path / "second.json",
    }
    cases = [
        Case("turned", "1", "s", (tmp_path / "turned.jpg",), labels, tmp_path / "mask.png"),
        Case("v", "2", "s", (tmp_path / "v.nii.gz",)),
        Case("two", "3", "t", (tmp_path / "channels.npy",)),
    ]
    monkeypatch.setattr(survey, "STYLED", 1)
    photograph, deep, two = survey.survey(cases, Preprocessing(window=(0.0, 10.0), intensity="none"))
    assert (photograph.row, photograph.size, photograph.codes.keys()) == (2, (48, 30), {0, 9})
    assert sum(photograph.codes.values()) == 48 * 30
    assert photograph.problems == (("geometry", "2 of 3 boxes leave the image or are empty"),)
    assert [text for topic, text in photograph.notes if topic == "turn"] == [
        "the image has EXIF orientation 6, its mask 1",
        "EXIF orientation 6, and boxes that may be those of the pixels as stored",
        "the image has EXIF orientation 6, its region 1",
    ]
    assert (deep.orientation, deep.spacing, deep.box) == (
        "RAS", (2.0, 1.235, 1.0), (pytest.approx((-1, -0.61728, -0.5)), pytest.approx((3, 4.32096, 5.5))),
    )  # fmt: skip
    assert [topic for topic, _ in deep.notes] == ["nan"]
    assert [each.before is None for each in (photograph, deep)].count(True) == 1  # one of each site
    assert (two.channels, two.scale, two.scale_after) == (2, 50.0, 10.0)
    assert two.before is not None
    assert two.after is not None
    assert (two.before.intensity[-1], two.after.intensity[-1]) == (50.0, 10.0)
    shown = survey.style(np.nan_to_num(volume)[None])
    assert np.abs(shown.layout).max() > 0  # of the middle plane


def turned_by(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        examine(tmp_path / "manifest.csv")


def test_the_system_is_described() -> None:
    facts = describe_system()
    assert {"torch", "cuda", "memory", "/dev/shm", "torch threads", "cpu cores"} <= set(facts)
    assert any(name.startswith("gpu") for name in facts)
    assert all(isinstance(value, str) and value for value in facts.values())


def test_memory_is_named_in_its_order_and_a_small_share_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        total, free = 2**29, 2**28

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    files = {"/proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n"}
    files["/sys/fs/cgroup/memory.max"] = str(3 * 2**30)
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = str(2**62)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: files[str(self)])
    facts = describe_system()
    assert facts["/dev/shm"].startswith("0.5 GiB, 0.2 GiB free; small:")
    assert facts["memory"] == "8.0 GiB, 4.0 GiB available, this container may use 3.0 GiB"
    Usage.total = 2**31
    assert describe_system()["/dev/shm"] == "2.0 GiB, 0.2 GiB free"


def test_each_gpu_is_named_with_its_memory_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        name, major, minor = "H", 9, 1

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((1 + number) * 2**30, 4 * 2**30))
    facts = describe_system()
    assert facts["gpu 0"] == "H, 4.0 GiB, 1.0 GiB free, compute capability 9.1"
    assert facts["gpu 1"] == "H, 4.0 GiB, 2.0 GiB free, compute capability 9.1"


# ---------------------------------------------------------- real cohorts
def some(data_root: Path, name: str, folder: Path, every: int) -> Path:
    """A manifest of every n-th case, with copies of its files: a manifest's paths may not leave its
    folder."""
    with open(data_root / name / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))[::every]
    for path in (row[key] for row in rows for key in ("image", "mask", "region") if row.get(key)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data_root / name / path, folder / path)
    return cohort(folder, rows)


def test_the_one_site_class_of_chest_xray(data_root: Path, tmp_path: Path) -> None:
    found = examine(some(data_root, "chest_xray", tmp_path, 6))
    said = [finding.text for finding in found.findings if finding.topic.startswith("one-site")]
    assert any(text.startswith("label class 'covid-19' occurs at site 'covid-collection' only") for text in said)
    assert not any("near-duplicates" in finding.text for finding in found.findings)


def test_the_four_orders_of_magnitude_of_hippocampus(data_root: Path, tmp_path: Path) -> None:
    found = examine(some(data_root, "hippocampus", tmp_path, 4))
    assert re.search(
        r"about 4, orders of magnitude apart.*zscore, image by image, removes it", topics(found)["intensity scale"]
    )
    for distance in found.distances:
        if distance.measure == "intensity":
            assert distance.before is not None
            assert distance.after is not None
            assert distance.before.between > 5 * distance.before.within
            assert distance.after.between < 0.8 * distance.after.within


def test_the_masks_of_vessels(data_root: Path, tmp_path: Path) -> None:
    found = examine(some(data_root, "vessels", tmp_path, 4))
    assert topics(found)["mask codes"].startswith("note: masks of sites 'chase', 'drive' hold 0 and 255")
    assert "duplicates" not in topics(found)
    assert any(finding.topic == "style" and "after the preprocessing" in finding.text for finding in found.findings)
