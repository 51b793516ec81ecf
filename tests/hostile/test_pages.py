"""Markup in a manifest's names is text on every page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Answer

SITE = "<script>alert(1)</script>"
SUBJECT = '"><img src=x onerror=alert(2)>'


@pytest.mark.timeout(120)
def test_markup_in_names_is_escaped(world: Path, allograft: Callable[..., Answer]) -> None:
    cohort = world / "cohort"
    (cohort / "images" / "b-000.png").rename(cohort / "images" / "<b onload=alert(3)>.png")
    lines = (cohort / "manifest.csv").read_text().splitlines()
    told = [lines[0]]
    for number, line in enumerate(lines[1:]):
        image, mask, *_ = line.split(",")
        site = line.split(",")[-1]
        image = image.replace("b-000.png", "<b onload=alert(3)>.png")
        quoted = SUBJECT.replace('"', '""')
        told.append(f'{image},{mask},"{quoted}{number}",{SITE if site == "b" else site}')
    (cohort / "manifest.csv").write_text("\n".join([lines[0], *told[1:], ""]))
    study = (cohort / "study.yaml").read_text().replace("target: [b]", f"target: ['{SITE}']")
    (cohort / "study.yaml").write_text(study)
    assert lines[0].split(",")[:4] == ["image", "mask", "subject", "site"]

    answer = allograft(
        "study",
        cohort / "study.yaml",
        "--out",
        world / "out",
        "--set",
        "budget.steps=1",
        "--set",
        "recipes=[supervised]",
    )
    assert answer.code == 0, answer.err
    page = (world / "out" / "report.html").read_text()
    examined = allograft("doctor", cohort / "manifest.csv", "--html", world / "doctor.html")
    assert examined.code == 0, examined.err
    for text in (page, (world / "doctor.html").read_text()):
        assert SITE not in text
        assert "alert(1)" in text  # shown, as text
        assert not re.search(r"<(img|b)[^>]*(onerror|onload)", text)
        assert "alert(2)" not in text, "a subject's name"
        assert "alert(3)" not in text, "a case's name"
    kept = {path.relative_to(world / "out") for path in (world / "out").rglob("*")}
    assert not [path for path in kept if "<" in str(path)]
