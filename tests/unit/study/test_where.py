"""``where`` keeps the cases of a side that have a value, or one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import write_photographs, write_rows

from allograft.errors import SpecError
from allograft.methods.groups import groups_of
from allograft.phantoms.skin import write_skin
from allograft.study.plan import World
from allograft.study.spec import Where, make_study, read_study


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sites a and b of eight subjects each; tone 1 to 4 in turn."""
    folder = tmp_path_factory.mktemp("toned")
    lines = write_photographs(folder, {"a": 8, "b": 8}).read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return write_rows(folder / "manifest.csv", [{**row, "tone": str(1 + n % 4), "hair": "ny"[n % 2]} for n, row in enumerate(rows)])


def tones(manifest: Path, out: Path, where: dict[str, Any]) -> dict[str, list[str]]:
    """Site -> the tones of its cases."""
    tree = {"cohort": str(manifest), "task": {"segmentation": {"classes": ["vessel"]}}, "source": ["a"], "target": ["b"]}
    study = make_study({**tree, "recipes": ["supervised"], "test": {"fraction": 0.4, "val": 0}, "where": where, "near_duplicates": "warn"})
    cases = World.read(study, out).cohort.cases
    return {site: sorted(case.attributes["tone"] for case in cases if case.site == site) for site in "ab"}


def test_one_value_or_several_as_number_or_word(manifest: Path, tmp_path: Path) -> None:
    found = tones(manifest, tmp_path, {"source": {"tone": [1, "2"]}, "target": {"tone": 4}})
    assert found == {"a": ["1", "1", "2", "2"], "b": ["4", "4"]}


def test_columns_must_all_fit(manifest: Path, tmp_path: Path) -> None:
    found = tones(manifest, tmp_path, {"source": {"tone": ["1", "2", "3"], "hair": "y"}})
    assert found == {"a": ["2", "2"], "b": ["1", "1", "2", "2", "3", "3", "4", "4"]}


def test_no_value_that_any_case_has_leaves_none(manifest: Path, tmp_path: Path) -> None:
    for none in ([5, 6], []):
        with pytest.raises(SpecError, match="no case of site 'b' is left after the filter 'where'"):
            tones(manifest, tmp_path, {"target": {"tone": none}})


def test_it_is_read_from_yaml(tmp_path: Path) -> None:
    text = "cohort: m.csv\ntask: {segmentation: {classes: [x]}}\nsource: [a]\ntarget: [b]\nrecipes: [fourier]\n"
    (tmp_path / "study.yaml").write_text(text + "where: {source: {tone: [1, 2]}, target: {tone: dark}}\n")
    assert read_study(tmp_path / "study.yaml").where == Where({"tone": (1, 2)}, {"tone": "dark"})


@pytest.mark.parametrize("wrong", ["{tone: {a: 1}}", "{tone: [[1]]}", "{tone: 1.5}", "{tone: true}", "{tone: }"])
def test_what_is_no_value_is_refused(wrong: str, tmp_path: Path) -> None:
    text = "cohort: m.csv\ntask: {segmentation: {classes: [x]}}\nsource: [a]\ntarget: [b]\nrecipes: [fourier]\n"
    (tmp_path / "study.yaml").write_text(f"{text}where: {{source: {wrong}}}\n")
    with pytest.raises(SpecError, match=r"study.where.source.tone"):
        read_study(tmp_path / "study.yaml")


def test_the_example_trains_on_light_skin_and_is_judged_on_dark_skin(tmp_path: Path) -> None:
    """With the gate against leakage as it stands: lesions of the phantom are no near-duplicates."""
    manifest = write_skin(tmp_path, sites={"a": "none", "d": "none"}, subjects=24, size=32)
    study = read_study(Path(__file__).parents[3] / "examples/skin_groups.yaml", (f"cohort={manifest}",))
    world = World.read(study, tmp_path / "out")
    source, target = (cohorts[0] for cohorts in (world.scenario("d", 0, 0).source, world.scenario("d", 0, 0).target))
    assert {case.attributes["tone"] for case in source.cases} == {"1", "2"}
    assert {case.attributes["tone"] for case in target.cases} <= {"3", "4", "5", "6"}
    judged = {test.site: {case.attributes["tone"] for case in test.cohort.cases} for test in world.tests(0) if test.part == "test"}
    assert judged["d"] <= {"3", "4", "5", "6"}
    assert groups_of((source,), "tone").codes == (1.0, 2.0)
