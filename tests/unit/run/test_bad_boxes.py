"""Boxes that are wrong are refused before anything is trained, whoever drew them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.tiny import write_photographs, write_rows

from allograft.cohort import Cohort
from allograft.errors import AllograftError, ManifestError
from allograft.run.images import prepare_images
from allograft.tasks.detection import Detection

RIGHT = '{"boxes": [[0, 0, 4, 4]], "labels": ["cell"]}'


def a_cohort(folder: Path, **texts: str) -> Cohort:
    """One image of 16 x 16 pixels with a file in each of these columns."""
    manifest = write_photographs(folder, {"a": 1})
    for column, text in texts.items():
        (folder / f"{column}.json").write_text(text)
    columns = {column: f"{column}.json" for column in texts}
    write_rows(manifest, [{"image": "a0.png", "subject": "a0", "site": "a", **columns}])
    return Cohort.read(manifest, Detection(("cell",)).coding)


@pytest.mark.parametrize("column", ["boxes", "boxes_reader2"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not JSON", "cannot be read as boxes"),
        ('{"boxes": [[0, 0, 17, 4]], "labels": ["cell"]}', "inside an image of 16 x 16"),
        ('{"boxes": [[4, 0, 4, 4]], "labels": ["cell"]}', "expected x0 < x1"),
        ('{"boxes": [[0, 0, 4, 4]], "labels": ["cel"]}', "did you mean 'cell'"),
        ('{"boxes": [[0, 0, 4, 4]], "labels": []}', "1 boxes and 0 labels"),
    ],
)
def test_wrong_boxes_are_refused_by_file(column: str, text: str, words: str, tmp_path: Path) -> None:
    cohort = a_cohort(tmp_path, **{"boxes": RIGHT, "boxes_reader2": RIGHT, column: text})
    with pytest.raises(AllograftError, match=words) as error:
        prepare_images([cohort], str)  # type: ignore[arg-type]
    assert f"{column}.json" in str(error.value)


def test_right_boxes_and_none_pass_and_a_missing_file_has_no_row(tmp_path: Path) -> None:
    prepare_images([a_cohort(tmp_path, boxes='{"boxes": [], "labels": []}', boxes_reader2=RIGHT)], str)  # type: ignore[arg-type]
    (tmp_path / "boxes_reader2.json").unlink()
    with pytest.raises(ManifestError, match="row 2, boxes_reader2: no file"):
        Cohort.read(tmp_path / "manifest.csv", Detection(("cell",)).coding)
