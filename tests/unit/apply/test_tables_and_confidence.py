"""Tables of predictions where the classes are several, the truth has other values or a mask is gone, and the
confidence that ``monitor`` compares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tests.unit.apply.squares import write_square
from tests.unit.tiny import write_rows

from allograft.apply import monitor as module
from allograft.apply.prediction_tables import judged_table, read_predictions
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.segmentation import Segmentation


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ("a.png,z,0.2,0.8,\nb.png,y,0.6,0.4,\n", Classification),
        ("a.png,z,0.2,0.8,\nb.png,y,0.9,0.8,\n", Multilabel),  # no sum of 1
        ("a.png,z|y,0.5,0.5,\nb.png,y,0.6,0.4,\n", Multilabel),
        ("a.png,z,0.2,0.8,\nb.png,,,,failed: gone\n", Classification),
        ("a.png,z,0.2,0.8,\nb.png,,,,abstained: far\n", Classification),
    ],
)
def test_classes_that_do_not_add_up_to_one_are_several(rows: str, kind: type, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(f"image,label,z,y,warnings\n{rows}")
    task = read_predictions(tmp_path / "results.csv").task
    assert (type(task), task.names) == (kind, ("z", "y"))


def test_masks_beside_a_table_hold_class_numbers_whatever_the_truth_holds(tmp_path: Path) -> None:
    """One of them is gone, and another has no row."""
    rows = []
    for name in "123":
        write_square(tmp_path / "data" / f"{name}.png")
        write_square(tmp_path / "out" / f"{name}_mask.png", 1)
        write_square(tmp_path / "data" / f"{name}_truth.png")
        truth = Image.open(tmp_path / "data" / f"{name}_truth.png").point(lambda value: value * 255)
        truth.save(tmp_path / "data" / f"{name}_truth.png")
        rows.append({"image": f"{name}.png", "mask": f"{name}_truth.png", "subject": name, "site": "a"})
    manifest = write_rows(tmp_path / "data" / "manifest.csv", rows)
    (tmp_path / "out" / "2_mask.png").unlink()
    (tmp_path / "out" / "results.csv").write_text(
        "image,unit,blob,warnings\n1.png,pixels,25,\n2.png,pixels,25,\n4.png,pixels,25,\n"
    )
    table = read_predictions(tmp_path / "out" / "results.csv")
    judged = judged_table(table, manifest, Segmentation({"blob": (255,)}))  # type: ignore[arg-type]
    found, gone, unlisted = judged.labelled.wholes()
    assert judged.row(found)[0]["dice"] == pytest.approx(0.8)
    assert judged.absent(found.case) == ""
    assert "holds no prediction for '2.png'" in judged.absent(gone.case)
    assert judged.absent(unlisted.case) == "holds no row for '3.png'"


def test_the_confidence_is_the_probability_of_the_class_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, rows in enumerate(("a.png,z,0.2,0.8,\nb.png,,,,failed: gone\n", "c.png,y,0.7,0.3,\n")):
        (tmp_path / f"{number}.csv").write_text(f"image,label,y,z,warnings\n{rows}")
    before = {module.CONFIDENCE: [0.9]}
    deployment: Any = SimpleNamespace(facts={"reference": before, "units": ()})
    loaded = SimpleNamespace(task=Classification(("y", "z")), predictor=None, deployment=deployment)
    monkeypatch.setattr(module, "load", lambda folder, **_: loaded)
    monkeypatch.setattr(module, "Deployment", SimpleNamespace)
    monkeypatch.setattr(module.Abstention, "by_default", staticmethod(lambda *_: None))
    given: list[Any] = []
    monkeypatch.setattr(module, "compared", lambda *told: given.append(told) or ())
    found = module.monitor(tmp_path, [tmp_path / "0.csv", tmp_path / "1.csv"])
    assert given == [(before, {module.CONFIDENCE: [0.8, 0.7]}, (0, 0, 0, 0))]
    assert found.failed == 1
