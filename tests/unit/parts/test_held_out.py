"""Who is held out of a training: subjects, never images, and each on one side only."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.tiny import VESSEL, a_context, write_photographs, write_rows

from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.parts.held_out import split_subjects


def test_a_patient_of_two_sites_is_on_one_side(tmp_path: Path) -> None:
    """Every subject is seen at both sites, so all images of a site are split as those of the other."""
    rows = [
        {"image": f"{site}{number}.png", "mask": f"{site}{number}-mask.png", "subject": f"p{number}", "site": site}
        for site in "ab"
        for number in range(6)
    ]
    write_photographs(tmp_path, {"a": 6, "b": 6})
    cohort = Cohort.read(write_rows(tmp_path / "both.csv", rows), VESSEL.coding)
    sites = [cohort.site(name) for name in "ab"]
    kept, out = split_subjects(sites, 0.5, a_context(), "stain_aglr")
    assert {len(view) for view in (*kept, *out)} == {3}
    assert not {s for view in kept for s in view.subjects} & {s for view in out for s in view.subjects}


def test_one_subject_cannot_be_split_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path / "c", {"a": 1}), VESSEL.coding)
    with pytest.raises(SpecError, match=r"sissi: 1 subject.*or set start: early-learning"):
        split_subjects([cohort], 0.2, a_context(), "sissi", instead="set start: early-learning")
