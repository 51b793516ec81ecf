"""Synthesis: the paired image on the study's grid and hidden with the labels, its loss, its
metrics, a study, and a saved model."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import write_rows

from allograft.apply import load
from allograft.apply.model import Predicted
from allograft.apply.prediction_files import written_hidden
from allograft.apply.predictions import write_predictions
from allograft.batch import Batch, collate
from allograft.cohort import Cohort, Preprocessing, Slices
from allograft.cohort.geometry import to_grid
from allograft.cohort.picture import Grid
from allograft.errors import ImageError, SpecError
from allograft.metrics.synthesis import structural_similarity
from allograft.phantoms.knee import write_knee
from allograft.results.record import read_all
from allograft.strict import validated
from allograft.studies import run_study
from allograft.table import find
from allograft.tasks.synthesis import Synthesis, absolute_error
from allograft.tasks.task import Answer
from allograft.transforms.sample import Sample

PLAIN = Preprocessing(intensity="none")


def write_pairs(folder: Path, sites: dict[str, float], subjects: int = 6, size: tuple[int, int] = (16, 12)) -> Path:
    """Smooth images, their negatives with a site's offset as pairs."""
    folder.mkdir(parents=True)
    rows = []
    for site, offset in sites.items():
        for number in range(subjects):
            rng = np.random.default_rng([len(rows), 5])
            i, j = np.indices(size)
            image = 100 + 60 * np.sin(i / rng.uniform(2, 5)) + 60 * np.cos(j / rng.uniform(2, 5))
            name = f"{site}{number}"
            Image.fromarray((0.8 * image + offset).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray((240 - image).clip(0, 255).astype(np.uint8)).save(folder / f"{name}-pair.png")
            rows.append({"image": f"{name}.png", "paired": f"{name}-pair.png", "subject": name, "site": site})
    return write_rows(folder / "manifest.csv", rows)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "cohort", {"a": 0.0}, 2)


def read(manifest: Path, task: Synthesis | None = None, preprocessing: Preprocessing = PLAIN, **options: Any) -> Cohort:
    return Cohort.read(manifest, (task or Synthesis()).coding, preprocessing=preprocessing, **options)


def stored(manifest: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(manifest.parent / name), np.float64)


def test_the_pair_is_a_share_of_its_range(manifest: Path) -> None:
    values = stored(manifest, "a0-pair.png")
    own = read(manifest).case(0).labels["paired"]
    assert isinstance(own, torch.Tensor)
    assert (tuple(own.shape), own.dtype) == ((1, 1, 16, 12), torch.float32)
    np.testing.assert_allclose(own[0, 0], (values - values.min()) / np.ptp(values), atol=1e-6)
    told = read(manifest, Synthesis(range=(50, 150))).case(0).labels["paired"]
    np.testing.assert_allclose(told[0, 0], (values - 50) / 100, atol=1e-6)  # type: ignore[index]
    assert told.min() < 0  # type: ignore[union-attr] # what lies outside the range is kept


def test_it_is_prepared_as_the_image_is(manifest: Path) -> None:
    cohort = read(manifest, preprocessing=Preprocessing(size=(8, 8), intensity="zscore"))
    values = stored(manifest, "a0-pair.png")
    place = cohort.prepared.image(cohort.cases[0])[1]
    expected = to_grid(((values - values.min()) / np.ptp(values)).astype(np.float32)[None], place, nearest=False)
    np.testing.assert_allclose(cohort.case(0).labels["paired"][0], expected, atol=1e-6)  # type: ignore[index]


def test_without_the_task_it_is_not_read(manifest: Path) -> None:
    (manifest.parent / "a0-pair.png").write_bytes(b"no image")
    assert Cohort.read(manifest, preprocessing=PLAIN).case(0).labels == {}


def test_kept_memory_mapped_under_its_content(manifest: Path, tmp_path: Path) -> None:
    first = read(manifest, cache=tmp_path / "prepared").prepared
    case = read(manifest).cases[0]
    assert np.shares_memory(first.paired(case), first.paired(case))  # read once, never copied
    assert not first.paired(case).flags.owndata  # the file's own bytes
    ranged = read(manifest, Synthesis(range=(0, 255)), cache=tmp_path / "prepared").prepared
    assert not np.array_equal(first.paired(case), ranged.paired(case))
    assert len(list((tmp_path / "prepared").rglob("*-paired.npy"))) == 2


def test_hidden_by_unlabelled(manifest: Path) -> None:
    hidden = read(manifest).unlabelled()
    assert "paired" not in repr(hidden.cases)
    assert hidden.case(0).labels == {}
    with pytest.raises(KeyError):
        _ = hidden.whole(0).paired


def test_fingerprints_follow_the_paired_file_and_the_range(manifest: Path) -> None:
    before, hidden = read(manifest).fingerprint(), read(manifest).unlabelled().fingerprint()
    assert read(manifest, Synthesis(range=(0, 255))).fingerprint() != before
    plain = Cohort.read(manifest, preprocessing=PLAIN).fingerprint()
    assert len(plain[2]) == 3  # a study that makes no images has the fingerprint it had
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(manifest.parent / "a1-pair.png")
    os.utime(manifest.parent / "a1-pair.png", (1, 1))
    after = read(manifest).fingerprint()
    assert [i for i in range(2) if before[0][i] != after[0][i]] == [1]
    assert read(manifest).unlabelled().fingerprint() == hidden


def test_another_grid_and_other_channels_are_refused(manifest: Path) -> None:
    with pytest.raises(ImageError, match="has 1 channels; expected 3, set task: synthesis: channels"):
        read(manifest, Synthesis(channels=3)).case(0)
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(manifest.parent / "a0-pair.png")
    with pytest.raises(
        ImageError, match=r"a0-pair.png: has shape \(12, 16\), expected \(16, 12\), that of its image 'a0.png'"
    ):
        read(manifest).case(0)


def write_volume(folder: Path, shift: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    for name, affine in (
        ("v", np.diag([1, 2, 3, 1])),
        ("p", np.array([[1, 0, 0, shift], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])),
    ):
        nibabel.save(
            nibabel.Nifti1Image(rng.random((12, 13, 14)).astype(np.float32), affine), folder / f"{name}.nii.gz"
        )
    return write_rows(folder / "m.csv", [{"image": "v.nii.gz", "paired": "p.nii.gz", "subject": "s", "site": "a"}])


def test_a_volume_elsewhere_in_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"p\.nii\.gz: found up to 4\.0 mm from its image"):
        read(write_volume(tmp_path, shift=4.0)).case(0)


@pytest.mark.parametrize("slices", [None, Slices(axis=1, neighbours=1)])
def test_volumes_and_their_slices(tmp_path: Path, slices: Slices | None) -> None:
    cohort = read(write_volume(tmp_path), slices=slices)
    shape = (1, 1, 12, 13, 14) if slices is None else (13, 1, 12, 14)
    paired = torch.cat([cohort.case(item).labels["paired"] for item in range(len(cohort))])
    assert tuple(paired.shape) == shape
    measured = Synthesis().measure({"paired": paired}, cohort.whole(0))
    nothing = dict.fromkeys(("mae", "median_error", "mad_error"), pytest.approx(0, abs=1e-6))
    assert measured == {"ssim": pytest.approx(1, abs=1e-6), **nothing}


def test_what_is_not_known_has_no_gradient_and_no_say() -> None:
    rng = torch.Generator().manual_seed(0)
    made = torch.randn(3, 2, 4, 5, generator=rng).requires_grad_()
    paired = torch.randn(3, 2, 4, 5, generator=rng)
    paired[1] = torch.nan
    paired[0, :, 0] = torch.nan
    region = torch.ones(3, 1, 4, 5, dtype=torch.bool)
    region[2, :, :, 0] = False
    expected = (
        (made[0, :, 1:] - paired[0, :, 1:]).abs().mean() + (made[2, :, :, 1:] - paired[2, :, :, 1:]).abs().mean()
    ) / 2
    loss = absolute_error(made, paired, region)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    grad = made.grad
    assert grad is not None
    assert grad.isfinite().all()
    assert (grad[1] == 0).all()
    assert (grad[0, :, 0] == 0).all()
    assert (grad[2, :, :, 0] == 0).all()
    assert (grad[0, :, 1:] != 0).all()
    nothing = absolute_error(made, torch.full_like(paired, torch.nan))
    assert (nothing.item(), nothing.requires_grad) == (0, True)


def test_an_unlabelled_case_in_a_batch(manifest: Path) -> None:
    cohort = read(manifest)
    both = collate([cohort.case(0), cohort.unlabelled().case(1)])
    assert both.labels["paired"][1].isnan().all()  # type: ignore[union-attr]
    output = {"paired": torch.zeros(2, 1, 16, 12)}
    torch.testing.assert_close(
        Synthesis().loss(output, both), Synthesis().loss({"paired": output["paired"][:1]}, cohort.case(0))
    )


def test_spatial_changes_act_alike_and_intensities_stay() -> None:
    image = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    case = Batch(image, torch.tensor([0]), ("a",), {"paired": image.clone()})
    moved, changed, spatial = 0, 0, 0
    for seed in range(12):
        drawn = Sample("strong", (16, 16))(case, torch.Generator().manual_seed(seed))
        paired = drawn.labels["paired"]
        assert isinstance(paired, torch.Tensor)
        inside = ~paired.isnan()
        # never brightened, blurred beyond its values, or made noisy
        assert paired[inside].min() >= image.min() - 1e-6
        assert paired[inside].max() <= image.max() + 1e-6
        spatial += not torch.equal(paired[inside], image[..., 4:20, 4:20][inside])
        same = torch.allclose(drawn.image[inside], paired[inside], atol=1e-5)
        moved += same
        changed += not same
        together = torch.corrcoef(torch.stack([drawn.image[inside], paired[inside]]))[0, 1]
        assert together > 0.5  # the same places
    assert moved
    assert changed
    assert spatial == 12


def test_judged_and_answered_on_the_images_own_grid(manifest: Path) -> None:
    task = Synthesis(range=(0, 200))
    cohort = read(manifest, task, Preprocessing(size=(8, 8), intensity="none"))
    prediction = {"paired": torch.linspace(-0.5, 1.5, 64).reshape(1, 1, 8, 8)}
    made = task.made(prediction, cohort.whole(0))
    assert tuple(made.shape) == (1, 16, 12)
    assert (made.min(), made.max()) == (0, 1)
    truth = torch.from_numpy(stored(manifest, "a0-pair.png")) / 200
    measured = task.measure(prediction, cohort.whole(0))
    assert measured["mae"] == pytest.approx(200 * (made[0] - truth).abs().mean().item(), abs=1e-4)
    apart = np.sort(200 * (made[0] - truth).abs().double().numpy().ravel())
    median = (apart[95] + apart[96]) / 2  # of 16 x 12 pixels
    assert measured["median_error"] == pytest.approx(median, abs=1e-4)
    spread = np.sort(np.abs(apart - median))
    assert measured["mad_error"] == pytest.approx((spread[95] + spread[96]) / 2, abs=1e-4)
    assert measured["ssim"] == pytest.approx(structural_similarity(made, truth[None]), abs=1e-5)
    answer = task.answer(prediction, cohort.unlabelled().whole(0))
    assert (answer.values, answer.mask, list(answer.maps)) == ({}, None, ["paired"])
    torch.testing.assert_close(answer.maps["paired"], made[0])
    two = Synthesis(channels=2).answer({"paired": torch.rand(1, 2, 8, 8)}, cohort.unlabelled().whole(0))
    assert {name: tuple(one.shape) for name, one in two.maps.items()} == {"paired-0": (16, 12), "paired-1": (16, 12)}


def test_channels_come_back_alike_beyond_the_grid(manifest: Path) -> None:
    """The first channel of two is no background class."""
    cohort = read(manifest, Synthesis(), PLAIN)
    image, place = cohort.prepared.image(cohort.cases[0])
    cut = replace(place, start=(4, 2), size=(8, 8))
    cohort.prepared.memory.clear()
    object.__setattr__(cohort.prepared, "image", lambda case, **_: (image, cut))
    made = Synthesis(channels=2).made({"paired": torch.ones(1, 2, 8, 8)}, cohort.whole(0))
    assert torch.equal(made[0], made[1])
    assert (made[0, 0, 0], made[0, 8, 6]) == (0, 1)


def test_region(manifest: Path) -> None:
    region = np.zeros((16, 12), np.uint8)
    region[:8] = 1
    Image.fromarray(region).save(manifest.parent / "region.png")
    row = {"image": "a0.png", "paired": "a0-pair.png", "region": "region.png", "subject": "s", "site": "a"}
    cohort = read(write_rows(manifest.parent / "r.csv", [row]), Synthesis(range=(0, 255)))
    prediction = cohort.case(0).labels["paired"].clone()  # type: ignore[union-attr]
    prediction[..., 8:, :] = 0
    assert Synthesis(range=(0, 255)).measure({"paired": prediction}, cohort.whole(0))["mae"] == pytest.approx(
        0, abs=1e-4
    )


def test_pooled_over_subjects() -> None:
    cases = [
        {"case": str(i), "subject": "st"[i // 2], "ssim": value, "mae": 1.0} for i, value in enumerate((0.2, 0.4, 0.9))
    ]
    assert Synthesis().aggregate(cases) == {"ssim": pytest.approx(0.6), "mae": 1.0}
    assert Synthesis().headline == "ssim"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"range": [5, 5]}, "expected .low, high."),
        ({"rnage": [0, 1]}, "did you mean 'range'"),
        ({"weights": {"absolut_error": 1}}, "did you mean 'absolute_error'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        validated(Synthesis, arguments, "task.synthesis")


def test_a_study_its_report_and_a_saved_model(tmp_path: Path) -> None:
    manifest = write_pairs(tmp_path / "cohort", {"a": 0.0, "b": 20.0}, 6)
    tree = {
        "cohort": str(manifest),
        "task": {"synthesis": {"range": [0, 255]}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 2},
        "recipes": [{"finetune": {"scope": "top"}}],
        "test": {"fraction": 0.5, "val": 0.3},
        "seeds": 1,
        "budget": {"steps": 3, "adapt_steps": 2, "batch_size": 2},
        "augmentation": "light",
    }
    result = run_study(tree, tmp_path / "out")
    assert result.failed == 0
    for record in read_all(tmp_path / "out").values():
        assert {"ssim", "mae", "median_error", "mad_error"} <= set(record.metrics)
        assert result.plan.task.aggregate(record.cases) == record.metrics
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "ssim" in page.lower()
    assert "from left to right: the image; the true image; what was made" in page
    # three test subjects, as each of the rows sees them
    assert page.count("data:image/png") == 3 * len({line.title for line in result.lines})
    assert re.search(r"worst, S\d{3}", page)
    model = next((tmp_path / "out" / "models").iterdir())
    (one,) = load(model).predict([manifest.parent / "b0.png"])
    assert tuple(one.answer.maps["paired"].shape) == (16, 12)
    assert write_predictions(model, [manifest.parent / "b0.png"], tmp_path / "made", overlay=True) == 1
    written = np.asarray(Image.open(tmp_path / "made" / "b0_paired.png"), np.float64)
    np.testing.assert_allclose(written / 65535, one.answer.maps["paired"], atol=1e-5)
    with open(tmp_path / "made" / "results.csv", newline="", encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["b0.png"]


def test_a_report_shows_the_median_image_of_each_label(tmp_path: Path) -> None:
    """Maps by method and severity, as figure 3 of Chen and Niethammer 2023."""
    manifest = write_knee(tmp_path / "knee", sites={"a": "none"}, subjects=8, size=32)
    tree = {
        "cohort": str(manifest),
        "task": {"synthesis": {"range": [0, 255]}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1}},
        "source": ["a"],
        "target": ["a"],
        "recipes": ["supervised"],
        "baselines": False,
        "seeds": 1,
        "budget": {"steps": 1, "batch_size": 2},
    }
    run_study(tree, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (record,) = (one for one in read_all(tmp_path / "out").values() if one.part == "test")
    rows = {row["image"]: row["label"] for row in csv.DictReader(manifest.read_text().splitlines())}
    grades = sorted({rows[str(case["case"])] for case in record.cases})
    assert len(grades) > 1
    assert re.findall(r">label (\d+), S\d{3}<", page) == grades
    for grade in grades:
        scores = sorted(case["ssim"] for case in record.cases if rows[str(case["case"])] == grade)
        assert f"ssim {scores[len(scores) // 2]:.3f}" in page


def test_a_made_volume_is_written_in_the_unit_of_its_range_and_a_photograph_as_shares(tmp_path: Path) -> None:
    shares = torch.tensor([[[0.0, 0.5, 1.0]]])
    answer = Answer({}, maps={"paired": shares}, span=(-1000.0, 2000.0))
    volume = Predicted("v.nii.gz", (Path("v.nii.gz"),), Grid((1, 1, 3), np.eye(4)), answer)
    ((hidden, path),) = written_hidden(volume, tmp_path / "v", overlay=False, probabilities=False).items()
    assert path == tmp_path / "v_paired.nii.gz"
    assert nibabel.load(hidden).get_fdata().ravel().tolist() == [-1000, 500, 2000]  # type: ignore[attr-defined]
    flat = replace(answer, maps={"paired": shares[0]})
    photograph = Predicted("v.png", (Path("v.png"),), Grid((1, 3), None), flat)
    ((hidden, path),) = written_hidden(photograph, tmp_path / "v", overlay=False, probabilities=False).items()
    assert path == tmp_path / "v_paired.png"
    assert np.asarray(Image.open(hidden)).ravel().tolist() == [0, 32768, 65535]


def test_real_pairs_are_read() -> None:
    if "ALLOGRAFT_DATA" not in os.environ:
        pytest.skip("ALLOGRAFT_DATA names no folder of data")
    cohort = read(
        Path(os.environ["ALLOGRAFT_DATA"]) / "paired_brain" / "manifest.csv", preprocessing=Preprocessing(size=(64, 64))
    )
    assert len(cohort.labelled("paired")) == 144
    case = cohort.case(100)
    paired = case.labels["paired"]
    assert isinstance(paired, torch.Tensor)
    assert paired.shape == case.image.shape
    together = torch.corrcoef(torch.stack([case.image.flatten(), paired.flatten()]))[0, 1]
    assert 0.2 < together < 0.95  # the same head in another modality


# ---------------------------------------------------------- weights of the loss, of every task
ARGUMENTS: dict[str, dict[str, Any]] = {
    "segmentation": {"classes": ["vessel"]},
    "classification": {"classes": ["no", "yes"]},
    "multilabel": {"classes": ["no", "yes"]},
    "multitask": {"segmentation": {"classes": ["vessel"]}, "classification": {"classes": ["no", "yes"]}},
    "synthesis": {},
}


def task_of(name: str, **more: Any) -> Any:
    return validated(find("task", name), {**ARGUMENTS[name], **more}, f"task.{name}")


def loss_of(name: str, **more: Any) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    task = task_of(name, **more)
    output = {
        key: torch.randn(2, count, *((5, 5) if key != "label" else ()), generator=rng)
        for key, count in task.outputs.items()
    }
    label = torch.tensor([[0.0, 1.0], [1.0, 1.0]]) if name == "multilabel" else torch.tensor([0, 1])
    labels = {"mask": torch.ones(2, 1, 5, 5).long(), "label": label, "paired": torch.rand(2, 1, 5, 5, generator=rng)}
    return dict(task.loss(output, Batch(torch.zeros(2, 1, 5, 5), torch.zeros(2), ("a", "b"), labels)))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_weights_scale_and_drop_terms(name: str) -> None:
    terms = task_of(name).terms
    plain = loss_of(name)
    assert tuple(plain) == terms
    assert all(torch.equal(plain[term], loss_of(name, weights=dict.fromkeys(terms, 1.0))[term]) for term in terms)
    for chosen in terms:
        found = loss_of(name, weights={chosen: 2.5})
        assert all(torch.equal(found[term], plain[term] * (2.5 if term == chosen else 1.0)) for term in terms)
        if len(terms) > 1:
            assert tuple(loss_of(name, weights={chosen: 0})) == tuple(term for term in terms if term != chosen)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_weights(name: str) -> None:
    terms = task_of(name).terms
    for weights, message in (
        ({"dise": 1.0}, f"task: {name}: weights: "),
        ({terms[0]: -1.0}, f"{terms[0]} is -1.0"),
        ({terms[0]: float("inf")}, "finite"),
        (dict.fromkeys(terms, 0.0), "every term is 0"),
    ):
        with pytest.raises(SpecError, match=message):
            task_of(name, weights=weights)
    with pytest.raises(SpecError, match="did you mean 'dice'"):
        task_of("segmentation", weights={"dise": 1.0})
