"""What an import prints can be pasted into a study, and what it cannot use it names and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allograft.cohort.importers.labels import mask_notes
from allograft.study.reading import read_study

REST = "cohort: manifest.csv\nsource: [a]\ntarget: [b]\nrecipes: [supervised]\n"


def pasted(line: str, folder: Path) -> Any:
    """The task of a study that begins with the line of an import."""
    (folder / "study.yaml").write_text(line.removeprefix("for the study: ") + "\n" + REST, encoding="utf-8")
    return read_study(folder / "study.yaml").made_task


@pytest.mark.parametrize(
    ("labels", "mask"),
    [
        ({"0": "background", "1": "Anterior", "2": "Posterior"}, {"Anterior": (1,), "Posterior": (2,)}),
        ({"background": 0, "edema": 1, "core": [2, 3]}, {"edema": (1,), "core": (2, 3)}),
        ({"background": 0, "no": 1, 'Pr\u00fcfung: "x"': 4}, {"no": (1,), 'Pr\u00fcfung: "x"': (4,)}),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            {"whole": (1,), "whole and core": (2,), "whole and core and enhancing": (3,)},
        ),
    ],
)
def test_the_printed_line_of_labels_is_a_task_of_a_study(tmp_path: Path, labels: Any, mask: dict[str, tuple[int, ...]]) -> None:
    line, *more = mask_notes(labels, tmp_path)
    assert pasted(line, tmp_path).coding.mask == mask
    assert [one.partition(":")[0] for one in more] == (["regions overlap"] if "whole" in labels else [])


def test_labels_without_a_class_print_no_line(tmp_path: Path) -> None:
    assert mask_notes({"background": 0}, tmp_path) == mask_notes(None, tmp_path) == []


def test_a_value_to_ignore_is_no_class_and_named(tmp_path: Path) -> None:
    line, ignored = mask_notes({"background": 0, "a": 1, "ignore": 5}, tmp_path)
    assert pasted(line, tmp_path).names == ("a",)
    assert ignored.startswith("mask value 5 means ignore")
