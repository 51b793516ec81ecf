"""What ``evaluate`` and ``compare`` are told arrives on both sides and at every site, and what they leave out is
counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.apply.squares import write_square
from tests.unit.apply.test_millimetres import CARD, Bright
from tests.unit.apply.test_wiring import Listening
from tests.unit.tiny import write_rows

from allograft.apply import compare as compare_module
from allograft.apply.compare import compare
from allograft.apply.evaluate import Evaluation, evaluate, measuring, summary, write_evaluation
from allograft.apply.judged import judged_masks, judged_model, mask_files
from allograft.apply.model import Model
from allograft.cohort.prepared_images import file_hash
from allograft.errors import ModelError, SpecError
from allograft.tasks.segmentation import Segmentation

BLOB = {"segmentation": {"classes": ["blob"]}}
SITES = {"3": "b", "1": "b", "2": "a", "4": "a"}
"""Image -> its site; the last has no mask."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """``data/manifest.csv``, and the masks of ``A`` and ``B``, which are one and two rows off."""
    rows = []
    for name, site in SITES.items():
        write_square(tmp_path / "data" / f"{name}.png")
        write_square(tmp_path / "data" / f"{name}_truth.png")
        for shift, folder in enumerate("AB", 1):
            write_square(tmp_path / folder / f"{name}.png", shift)
        mask = "" if name == "4" else f"{name}_truth.png"
        rows.append({"image": f"{name}.png", "mask": mask, "subject": name, "site": site})
    write_rows(tmp_path / "data" / "manifest.csv", rows)
    return tmp_path


def blank(path: Path) -> None:
    """A mask in which nothing is found."""
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(path)


def test_sites_are_in_order_each_of_its_own_cases_and_the_rest_is_counted(place: Path) -> None:
    blank(place / "A" / "2.png")
    found = evaluate(place / "A", place / "data" / "manifest.csv", task=BLOB)
    assert list(found.metrics) == ["a", "b"]
    assert (found.metrics["a"]["dice"], found.metrics["b"]["dice"]) == (0.0, pytest.approx(0.8))
    assert [case["case"] for case in found.cases] == ["3.png", "1.png", "2.png"]
    assert found.unlabelled == 1


def test_a_line_of_a_site_counts_its_own_cases_and_names_what_is_undefined() -> None:
    cases = tuple({"site": site} for site in "aaabbbbb")
    metrics = {"a": {"dice": 0.5, "hd95": None, "undefined/hd95": 2.0}, "b": {"dice": 1.0, "undefined/dice": 0.0}}
    evaluation = Evaluation(metrics, cases, 0)
    assert summary(evaluation, "a") == "a: dice 0.500, hd95 undefined (2 of 3 cases undefined)"
    assert summary(evaluation, "b") == "b: dice 1.000"


def test_the_file_holds_all_that_was_found(tmp_path: Path) -> None:
    evaluation = Evaluation({"a": {"dice": 0.5}}, ({"case": "1", "site": "a", "dice": 0.5},), 7, ("1: look",))
    write_evaluation(evaluation, tmp_path / "e.json")
    kept = {"metrics": evaluation.metrics, "cases": list(evaluation.cases), "unlabelled": 7}
    assert json.loads((tmp_path / "e.json").read_text()) == {**kept, "warnings": ["1: look"]}
    write_evaluation(replace(evaluation, warnings=()), tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text()) == kept


def test_how_a_missed_class_counts_is_asked_of_masks_and_of_models(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank(place / "A" / "2.png")
    manifest = place / "data" / "manifest.csv"
    assert "hd95_diagonal" not in evaluate(place / "A", manifest, task=BLOB).metrics["a"]
    far = evaluate(place / "A", manifest, task=BLOB, missed="diagonal").metrics["a"]["hd95_diagonal"]
    assert far == pytest.approx(12 * 2**0.5)
    with pytest.raises(SpecError, match="missed: unknown way to measure a missed class 'diagonals'"):
        evaluate(place / "A", manifest, task=BLOB, missed="diagonals")  # type: ignore[arg-type]
    (place / "model").mkdir()
    (place / "model" / "card.json").write_text("{}")
    how: list[Any] = []
    made = Model(Listening(), CARD, torch.device("cpu"))
    monkeypatch.setattr("allograft.apply.evaluate.load", lambda folder, **told: how.append(told) or made)
    monkeypatch.setattr("allograft.apply.evaluate.look_at_model", lambda *told: how.append(told))
    found = evaluate(place / "model", manifest, missed="diagonal", device="cuda:7")
    assert "hd95_diagonal" in found.metrics["a"]
    assert how == [{"device": "cuda:7"}, (place / "model", "evaluate", "scores of 3 cases of another manifest")]
    assert found.warnings == tuple(f"{name}.png: from the predictor" for name in "312")
    told: list[Any] = []
    monkeypatch.setattr("allograft.apply.evaluate.measuring", lambda *given: told.append(given) or made.task)
    evaluate(place / "model", manifest, missed="diagonal", surface_dice=2.0)
    evaluate(place / "A", manifest, task=BLOB, missed="diagonal", surface_dice=2.0)
    assert [given[1:] for given in told] == [("diagonal", 2.0)] * 2


def test_the_tolerance_is_that_of_a_segmentation_inside_another_task() -> None:
    assert measuring(Segmentation(("x",)), "diagonal", 2.0) == Segmentation(("x",), missed="diagonal", surface_dice=2.0)
    assert measuring(Segmentation(("x",), surface_dice=3.0)) == Segmentation(("x",), surface_dice=3.0)


def test_hidden_files_and_second_parts_are_no_predictions(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", "c.img", "c.hdr", "d.hdr", "e.txt", "sub/f.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {name: [path.name for path in paths] for name, paths in mask_files(tmp_path).items()} == {
        "a": ["a.png"],
        "c": ["c.img"],
        "d": ["d.hdr"],
        "sub/f": ["f.nii.gz"],
    }


def test_a_model_is_judged_with_the_sites_and_the_preparation_of_its_card_image_by_image(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Listening()
    card = CARD | {"sites": ["z", "b"], "preprocessing": {"intensity": "none", "size": [12, 16]}}
    made = Model(predictor, card, torch.device("cpu"))
    judged = judged_model(made, place, place / "data" / "manifest.csv", made.task)
    assert judged.cohort.slices is None
    memory = judged.cohort.prepared.memory
    said = []
    for whole in judged.labelled.wholes():
        row, warnings = judged.row(whole)
        said += list(warnings)
        assert not memory
        assert row["site"] == SITES[row["case"][0]]
    assert [batch.site.tolist() for batch in predictor.given] == [[1], [1], [-1]]
    assert {tuple(batch.image.shape) for batch in predictor.given} == {(1, 1, 12, 16)}
    assert said == ["from the predictor"] * 3
    seen = replace(made, card=card | {"training_images": [file_hash(place / "data" / "1.png")]})
    with pytest.raises(ModelError, match="trained on"):
        judged_model(seen, place, place / "data" / "manifest.csv", made.task)


def test_masks_without_a_case_are_left_and_a_case_without_a_mask_is_named(place: Path) -> None:
    (place / "A" / "1.png").unlink()
    judged = judged_masks(place / "A", place / "data" / "manifest.csv", Segmentation(("blob",)))
    assert [bool(judged.absent(case)) for case in judged.labelled.cases] == [False, True, False]
    with pytest.raises(ModelError, match=r"A: holds no prediction for '1.png'; expected 1.png, 1_mask.png"):
        evaluate(place / "A", place / "data" / "manifest.csv", task=BLOB)


# ---------------------------------------------------------- compare
@pytest.mark.parametrize("names", [("x", "x"), ("x", " "), ("x", "difference"), ("x", "y", "z")])
def test_two_names_that_are_no_two_words_are_refused(names: Any, place: Path) -> None:
    with pytest.raises(SpecError, match="expected two different words"):
        compare(place / "A", place / "B", place / "data" / "manifest.csv", task=BLOB, names=names)


def test_folders_name_the_two_a_table_its_folder_and_equal_names_are_letters(place: Path) -> None:
    both = compare_module._names
    assert both((place / "A", place / "B"), None) == ("A", "B")
    assert both((place / "old" / "results.csv", place / "new" / "RESULTS.csv"), None) == ("old", "new")
    assert both((place / "x" / "masks", place / "y" / "masks"), None) == ("A", "B")


def test_a_table_is_known_by_its_ending_in_any_case(place: Path) -> None:
    (place / "A" / "RESULTS.CSV").write_text("image,unit,blob,warnings\n")
    side = compare_module._side("a", place / "A" / "RESULTS.CSV", "cpu")
    assert (side.kind, side.task) == ("results.csv", Segmentation(("blob",)))


def test_a_device_and_a_look_are_of_both_models(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (place / name).mkdir()
        (place / name / "card.json").write_text("{}")
    seen: list[Any] = []
    made = Model(Listening(), CARD, torch.device("cpu"))
    monkeypatch.setattr(compare_module, "load", lambda folder, *, device: seen.append((folder.name, device)) or made)
    monkeypatch.setattr(compare_module, "look_at_model", lambda folder, *what: seen.append(folder.name))
    found = compare(place / "old", place / "new", place / "data" / "manifest.csv", device="cuda:7")
    assert seen == [("old", "cuda:7"), ("new", "cuda:7"), "old", "new"]
    names = [case for case, site in SITES.items() if case != "4"]
    assert found.warnings == tuple(f"{side}: {name}.png: from the predictor" for side in ("old", "new")
                                   for name in names)  # fmt: skip
    assert found.unlabelled == 1


def test_a_case_that_one_side_has_not_is_no_unlabelled_one(place: Path) -> None:
    (place / "B" / "1.png").unlink()
    found = compare(place / "A", place / "B", place / "data" / "manifest.csv", task=BLOB)
    assert ([each.case for each in found.unmatched], found.unlabelled) == (["1.png"], 1)


def test_the_pictures_are_of_each_side_s_own_mask_and_score(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def draw(image: Any, truth: Any, mask: Any, marked: Any, **more: Any) -> Any:
        drawn.append((truth.copy(), mask.copy(), marked.copy(), more))
        return more["words"]

    pages: list[Any] = []
    monkeypatch.setattr(compare_module, "overlay_picture", draw)
    monkeypatch.setattr(compare_module, "write_page", lambda path, compared, **more: pages.append(more))
    (place / "B" / "results.csv").write_text(
        "image,unit,blob,warnings\n" + "".join(f"{name}.png,pixels,25,\n" for name in SITES)
    )
    compare(place / "A", place / "B" / "results.csv", place / "data" / "manifest.csv", place / "out", task=BLOB)
    (page,) = pages
    assert page["kinds"] == ("masks", "results.csv")
    assert (page["task"], page["classes"]) == ("segmentation of blob", ("blob",))
    assert len(drawn) == 6
    for number in range(0, 6, 2):
        (truth, one, marked, first), (_, other, also, second) = drawn[number : number + 2]
        assert [np.flatnonzero(mask.any(1))[0] for mask in (truth, one, other)] == [3, 4, 5]
        assert np.array_equal(marked > 0, (truth > 0) | (one > 0) | (other > 0))
        assert np.array_equal(marked, also)
        assert (first["words"], second["words"]) == (("A", "dice 0.800"), ("B", "dice 0.600"))
        assert first["classes"] == 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_card_says_which_values_the_truth_has_and_a_table_does_not(turned: bool, place: Path) -> None:
    coded = {"segmentation": {"classes": {"blob": [7]}}}
    model = compare_module.Side("m", place / "m", model=Model(Bright(), CARD | {"task": coded}, torch.device("cpu")))
    (place / "A" / "results.csv").write_text("image,unit,blob,warnings\n")
    both = [compare_module._side("t", place / "A" / "results.csv", "cpu"), model]
    shared = compare_module._shared_task(both[::-1] if turned else both, None)
    assert shared.coding.mask == {"blob": (7,)}
