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
from PIL import Image

from allograft.cohort import Coding, Preprocessing
from allograft.cohort.doctor import Diagnosis, Distance, examine
from allograft.cohort.doctor_text import to_text
from allograft.cohort.site_checks import _total
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


def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        examine(tmp_path / "manifest.csv")


def test_the_system_is_described() -> None:
    facts = describe_system()
    assert {"torch", "cuda", "memory", "/dev/shm", "torch threads", "cpu cores"} <= set(facts)
    assert any(name.startswith("gpu") for name in facts)
    assert all(isinstance(value, str) and value for value in facts.values())


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
