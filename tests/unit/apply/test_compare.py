"""Two models, two folders of masks, two tables, or one of each: every number worked out by hand."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.unit.apply.squares import write_square

import allograft
from allograft.apply.compare import compare
from allograft.apply.prediction_tables import read_predictions
from allograft.apply.predictions import write_predictions
from allograft.errors import AllograftError, ImageError, ManifestError, ModelError, SpecError
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
from allograft.report.head_to_head import sentence
from allograft.results.head_to_head import ALL, Difference, HeadToHead

BLOB = {"segmentation": {"classes": ["blob"]}}
SHIFTS = {
    # image: (subject, site, shift in A, shift in B); a square of 5 x 5 moved by s rows has Dice 1 - s / 5
    "a/1": ("1", "a", 1, 0),
    "a/2": ("2", "a", 1, 2),
    "a/3L": ("3", "a", 1, 0),
    "a/3R": ("3", "a", 1, 1),
    **{f"b/{n}": (f"b{n}", "b", 3, 2 if n % 2 else 1) for n in range(6)},
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``data/manifest.csv`` and the masks of ``A`` and ``B``."""
    rows = ["image,mask,subject,site"]
    for name, (subject, site, first, second) in SHIFTS.items():
        write_square(tmp_path / "data" / f"{name}.png")
        write_square(tmp_path / "data" / f"{name}_truth.png")
        write_square(tmp_path / "A" / f"{name}.png", first)
        write_square(tmp_path / "B" / f"{name}_mask.png", second)
        rows.append(f"{name}.png,{name}_truth.png,{subject},{site}")
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def of_masks(folder: Path, **more: object) -> HeadToHead:
    return compare(folder / "A", folder / "B", folder / "data" / "manifest.csv", task=BLOB, **more)  # type: ignore[arg-type]


def at(found: HeadToHead, site: str, metric: str = "dice") -> Difference:
    return next(one for one in found.differences if (one.site, one.metric) == (site, metric))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_differences_by_hand(folders: Path) -> None:
    found = of_masks(folders)
    few, many, both = (at(found, site) for site in ("a", "b", ALL))
    # subjects 1, 2, 3: 1 - .8, .6 - .8, (1 + .8) / 2 - .8
    assert few.found is not None
    assert (few.a, few.b) == (pytest.approx(0.8), pytest.approx((1 + 0.6 + 0.9) / 3))
    assert few.found.difference == pytest.approx(0.1 / 3)
    half = 4.302652729911275 * math.sqrt((0.2**2 + 0.2**2 + 0.1**2 - 0.1**2 / 3) / 2 / 3)
    assert (few.found.low, few.found.high) == (pytest.approx(0.1 / 3 - half), pytest.approx(0.1 / 3 + half))
    assert (few.found.p, few.found.note) == (None, "cannot be significant with 3 subjects")
    assert (few.found.subjects, few.found.cases) == (3, 4)
    # six subjects, +.4 and +.2 in turn: mean .3, standard error sqrt(.012 / 6), t = 3 sqrt(5)
    assert many.found is not None
    assert many.found.difference == pytest.approx(0.3)
    assert many.found.low == pytest.approx(0.3 - 2.570581835636314 * math.sqrt(0.002))
    assert many.found.p == 2 / 2**6
    assert many.found.adjusted == many.found.p  # the only site that is tested
    tail = 0.5 - (math.atan(3) + 0.3 * (1 + 2 / 30)) / math.pi  # Student's t with 5 degrees of freedom, closed form
    assert many.found.false_claim == pytest.approx(tail, abs=1e-9)
    assert both.found is not None
    assert both.found.difference == pytest.approx((0.1 + 6 * 0.3) / 9)
    assert sentence(found)[0] == "B is ahead of A"


def test_the_difference_is_the_second_less_the_first(folders: Path) -> None:
    turned = compare(folders / "B", folders / "A", folders / "data" / "manifest.csv", task=BLOB)
    for one, other in zip(of_masks(folders).differences, turned.differences, strict=True):
        assert one.found is not None
        assert other.found is not None
        assert one.found.difference == pytest.approx(-other.found.difference)
        assert one.found.p == other.found.p
        # the claim is that of whichever is ahead
        assert one.found.false_claim == pytest.approx(other.found.false_claim)
    assert (turned.names, sentence(turned)[0]) == (("B", "A"), "B is ahead of A")


def test_a_distance_is_better_when_it_is_lower(folders: Path) -> None:
    found = at(of_masks(folders), "b", "hd95")
    assert (found.a, found.b) == (3.0, 1.5)
    assert found.found is not None
    assert found.found.difference == -1.5
    assert found.lead == 1.5


def test_files(folders: Path) -> None:
    found = of_masks(folders, out=folders / "out", names=("old", "new"))
    cases, summary = rows_of(folders / "out" / "cases.csv"), rows_of(folders / "out" / "summary.csv")
    assert len(cases) == len(SHIFTS)
    right = next(row for row in cases if row["case"] == "a/3R.png")
    assert (right["subject"], right["site"]) == ("3", "a")
    told = [float(right[f"dice {what}"]) for what in ("old", "new", "difference")]
    assert told == [pytest.approx(0.8), pytest.approx(0.8), pytest.approx(0.0)]
    assert {row["site"] for row in summary} == {ALL, "a", "b"}
    first = summary[0]
    assert (first["site"], first["metric"], first["better"]) == (ALL, "dice", "higher")
    assert float(first["difference"]) == found.overall.found.difference  # type: ignore[union-attr]
    page = re.sub(r"base64,[^\"]*", "", (folders / "out" / "compare.html").read_text())
    assert page.count("<figcaption><strong>old</strong>") == page.count("<figcaption><strong>new</strong>") == 10
    assert "http" not in page.replace("http-equiv", "")
    assert not re.findall(r"a/3R|b/5", page)  # nobody is named
    # the worst is that in which either is worst: B at 2 rows off, A at 3 rows off everywhere at b
    titles = re.findall(r"<h3>(S\d+ at \w)</h3>", page)
    assert {title[-1] for title in titles[:6]} == {"b"}


def test_a_name_is_escaped_on_the_page(folders: Path) -> None:
    of_masks(folders, out=folders / "out", names=("<b>old</b>", "new"))
    page = (folders / "out" / "compare.html").read_text()
    assert "<b>old" not in page
    assert "&lt;b&gt;old&lt;/b&gt;" in page


def test_a_case_without_a_prediction_is_left_out_of_both_by_name(folders: Path) -> None:
    (folders / "A" / "a" / "2.png").unlink()
    (folders / "B" / "b" / "0_mask.png").unlink()
    found = of_masks(folders, out=folders / "out")
    assert [(one.case, one.name) for one in found.unmatched] == [("a/2.png", "A"), ("b/0.png", "B")]
    assert len(found.a) == len(SHIFTS) - 2
    # subjects 1 and 3 are left
    assert at(found, "a").found.difference == pytest.approx(0.15)  # type: ignore[union-attr]
    last = rows_of(folders / "out" / "cases.csv")[-2:]
    assert [row["case"] for row in last] == ["a/2.png", "b/0.png"]
    assert "A holds no prediction for 'a/2.png'" in last[0]["note"]
    assert "1 case without a prediction of A; 1 case without a prediction of B" in (
        folders / "out" / "compare.html"
    ).read_text().replace("&#39;", "'")


def test_a_site_that_one_of_them_has_not_is_shown_without_a_number(folders: Path) -> None:
    for path in (folders / "B" / "b").iterdir():
        path.unlink()
    found = of_masks(folders, out=folders / "out")
    assert found.sites == ["a", "b"]
    assert [one.site for one in found.headlines] == ["a"]
    assert "no case that both have" in (folders / "out" / "compare.html").read_text()


def test_one_subject_has_no_interval(folders: Path) -> None:
    (folders / "data" / "manifest.csv").write_text(
        "image,mask,subject,site\na/3L.png,a/3L_truth.png,3,a\na/3R.png,a/3R_truth.png,3,a\n"
    )
    found = of_masks(folders, out=folders / "out")
    it = found.overall.found
    assert it is not None
    assert (it.subjects, it.cases, it.low, it.p, it.false_claim) == (1, 2, None, None, None)
    assert it.difference == pytest.approx(0.1)
    assert it.note == "one subject: no interval"
    assert sentence(found)[0] == "A and B cannot be told apart"


def test_a_class_that_one_misses_leaves_the_distance_of_both_undefined(folders: Path) -> None:
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(folders / "B" / "a" / "2_mask.png")
    found = at(of_masks(folders), "a", "hd95").found
    assert found is not None
    assert (found.subjects, found.cases, found.undefined) == (2, 3, (0, 1))


def test_masks_elsewhere_are_refused_with_the_distance(tmp_path: Path) -> None:
    mask, affine = np.zeros((7, 8, 9), np.uint8), np.diag([1.0, 1, 3, 1])
    mask[2:5, 3:7, 1:4] = 1
    far = affine.copy()
    far[:3, 3] = 500
    for name, place in (("data/c", affine), ("data/c_m", affine), ("A/c", affine), ("B/c", far)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, place), tmp_path / f"{name}.nii.gz")
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\nc.nii.gz,c_m.nii.gz,1,a\n")
    with pytest.raises(ImageError, match=r"866\.0 mm"):
        of_masks(tmp_path)
    # what is only stored along other axes is turned, and shown in its slices
    turned = nibabel.Nifti1Image(mask, affine).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    nibabel.save(turned, tmp_path / "B" / "c.nii.gz")
    found = of_masks(tmp_path, out=tmp_path / "out")
    assert (found.overall.a, found.overall.b) == (1.0, 1.0)
    assert found.overall.found.note == "one subject: no interval"  # type: ignore[union-attr]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count('data-at="0"') == page.count('data-at="2"') == 2  # three slices of each


def a_model(folder: Path, classes: tuple[str, ...] = ("blob",)) -> Path:
    """An untrained network: what it finds is noise, the same every time."""
    outputs = {"mask": len(classes) + 1}
    network = build({"build": {"unet": {"in_channels": 1, "outputs": outputs, "channels": [4, 8]}}})
    card = {"task": {"segmentation": {"classes": list(classes)}}, "preprocessing": {"size": [12, 12]}, "channels": 1}
    save_predictor(Direct(network), folder, {**card, "sites": ["a"], "slices": None})
    return folder


def test_a_model_its_table_and_its_masks_are_one(folders: Path) -> None:
    manifest = folders / "data" / "manifest.csv"
    model, said = a_model(folders / "model"), folders / "said"
    write_predictions(model, [manifest], said, overlay=True, probabilities=True, say=lambda text: None)
    for other in (said / "results.csv", said):
        found = compare(model, other, manifest, folders / "out")
        assert found.names == ("model", "said")
        for one in found.differences:
            assert one.a == one.b
            assert one.found is None or one.found.difference == 0
    # and the other way round, and against another tool's masks, whose classes the model names
    turned = compare(folders / "A", model, manifest)
    assert at(turned, "a").a == pytest.approx(0.8)
    assert at(turned, "a").b == at(found, "a").a
    assert allograft.compare is compare


def test_two_models_that_make_images(folders: Path) -> None:
    rows = [f"{name}.png,{name}_truth.png,{subject},{site}" for name, (subject, site, *_) in SHIFTS.items()]
    manifest = folders / "data" / "paired.csv"
    manifest.write_text("image,paired,subject,site\n" + "\n".join(rows) + "\n")
    for name, width in (("one", 4), ("two", 8)):
        network = build({"build": {"unet": {"in_channels": 1, "outputs": {"paired": 1}, "channels": [width, 8]}}})
        card = {"task": {"synthesis": {}}, "preprocessing": {"size": [12, 12]}, "channels": 1}
        save_predictor(Direct(network), folders / name, {**card, "sites": ["a"], "slices": None})
    found = compare(folders / "one", folders / "two", manifest, folders / "out")
    assert {one.metric for one in found.differences} == {"ssim", "mae", "median_error", "mad_error"}
    assert at(found, "b", "mae").is_lower_better
    assert (folders / "out" / "compare.html").read_text().count("<figcaption><strong>two</strong> ssim") == 10
    with pytest.raises(ModelError, match="found a folder of masks; expected synthesis of images"):
        compare(folders / "one", folders / "A", manifest)


def test_what_is_unlike_is_refused(folders: Path) -> None:
    manifest, model = folders / "data" / "manifest.csv", a_model(folders / "model")
    other = a_model(folders / "other", ("blob", "spot"))
    with pytest.raises(ModelError, match="predicts segmentation of blob, spot; expected segmentation of blob"):
        compare(model, other, manifest)
    with pytest.raises(ModelError, match="name them: --classes vessel"):
        compare(folders / "A", folders / "B", manifest)
    with pytest.raises(ModelError, match=r"predicts segmentation of blob; expected segmentation of spot, as --classes"):
        compare(model, folders / "B", manifest, task={"segmentation": {"classes": ["spot"]}})
    with pytest.raises(ModelError, match="neither a model folder"):
        compare(folders / "A", folders / "nothing", manifest, task=BLOB)
    for names in (("x", "x"), ("x", ""), ("x", "difference")):
        with pytest.raises(SpecError, match="two different words"):
            of_masks(folders, names=names)
    for path in (folders / "B").rglob("*.png"):
        path.rename(path.with_name(f"not-{path.name}"))
    with pytest.raises(ManifestError, match="no labelled case has a prediction of both"):
        of_masks(folders)


# ------------------------------------------------------------------ class probabilities
SICK = {"1": 0.1, "2": 0.4, "3": 0.35, "4": 0.8}
LABELS = {"1": "well", "2": "well", "3": "sick", "4": "sick"}


def table(path: Path, sick: Mapping[str, float], warnings: Mapping[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["image,label,well,sick,warnings"]
    for name, p in sick.items():
        rows.append(f"{name}.png,{'sick' if p >= 0.5 else 'well'},{1 - p},{p},{(warnings or {}).get(name, '')}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    rows = ["image,label,subject,site"]
    for name, label in LABELS.items():
        write_square(tmp_path / "data" / f"{name}.png")
        rows.append(f"{name}.png,{label},p{name},x")
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_two_tables_of_classes(patients: Path) -> None:
    first = table(patients / "old" / "results.csv", SICK)
    second = table(patients / "new" / "results.csv", {**SICK, "3": 0.6})
    found = compare(first, second, patients / "data" / "manifest.csv", patients / "out")
    assert found.names == ("old", "new")
    # placements of the four pairs: .35 is above .1 and below .4
    assert (found.overall.metric, found.overall.a, found.overall.b) == ("auroc", 0.75, 1.0)
    # of the case 3 the probability of the truth rises by .25, and its answer turns right
    assert at(found, "x", "true_probability").found.difference == pytest.approx(0.25 / 4)  # type: ignore[union-attr]
    assert (at(found, "x", "correct").a, at(found, "x", "correct").b) == (0.75, 1.0)
    assert (at(found, "x", "accuracy").a, at(found, "x", "accuracy").b) == (0.75, 1.0)
    page = (patients / "out" / "compare.html").read_text()
    assert "true_probability 0.350" in page
    assert "p3" not in re.sub(r"base64,[^\"]*", "", page)


def test_a_row_that_failed_or_abstained_is_left_out_with_its_reason(patients: Path) -> None:
    first = table(patients / "old" / "results.csv", SICK, {"2": "failed: damaged"})
    second = table(patients / "new" / "results.csv", SICK, {"3": "abstained: score 9 is above 1"})
    with open(patients / "data" / "manifest.csv", "a") as file:
        write_square(patients / "data" / "5.png")
        file.write("5.png,,p5,x\n")
    found = compare(first, second, patients / "data" / "manifest.csv")
    assert [(one.case, one.name, one.reason) for one in found.unmatched] == [
        ("2.png", "old", "failed: damaged"),
        ("3.png", "new", "abstained: score 9 is above 1"),
    ]
    assert found.unlabelled == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "image,label,well,sick,warnings\n1.png,well,1.5,-0.5,\n",
            "column 'well': found '1.5', expected a probability",
        ),
        ("image,label,well,sick,warnings\n1.png,well,x,0.5,\n", "column 'well': found 'x', expected a probability"),
        ("image,label,well,sick,warnings\n1.png,well,1,0,\n1.png,well,1,0,\n", "image '1.png' has two rows"),
        ("name,dice\n1.png,0.5\n", "expected the results.csv of predict"),
        ("image,label,well,sick,warnings\n1.png,well\n", "every row as long as the header"),
        ("image,rbc,warnings\n1.png,3,\n", "neither masks nor class probabilities"),
        ("image,unit,spot,label,well,warnings\n", "masks and classes at once"),
        ("", "expected the results.csv of predict"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(patients: Path, text: str, words: str) -> None:
    (patients / "bad.csv").write_text(text)
    good = table(patients / "old" / "results.csv", SICK)
    with pytest.raises(AllograftError, match=re.escape(words)):
        compare(good, patients / "bad.csv", patients / "data" / "manifest.csv")


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(f"{tmp_path / 'none.csv'}: no such file; expected the results.csv")):
        read_predictions(tmp_path / "none.csv")
