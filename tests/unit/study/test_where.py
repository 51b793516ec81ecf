"""``where`` keeps the cases of a side that have a value, or one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import write_photographs, write_rows

from allograft.errors import LeakageError, ManifestError, SpecError
from allograft.parts.groups import groups_of
from allograft.phantoms.skin import write_skin
from allograft.recipe import Needs
from allograft.study.keys import Question
from allograft.study.reading import make_study, read_study
from allograft.study.spec import Study
from allograft.study.where import Where, check_sites
from allograft.study.world import World
from allograft.tree import plain


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sites a and b of eight subjects each; tone 1 to 4 in turn."""
    folder = tmp_path_factory.mktemp("toned")
    lines = write_photographs(folder, {"a": 8, "b": 8}).read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return write_rows(
        folder / "manifest.csv", [{**row, "tone": str(1 + n % 4), "hair": "ny"[n % 2]} for n, row in enumerate(rows)]
    )


def tones(manifest: Path, out: Path, where: dict[str, Any]) -> dict[str, list[str]]:
    """Site -> the tones of its cases."""
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["vessel"]}},
        "source": ["a"],
        "target": ["b"],
    }
    study = make_study(
        {
            **tree,
            "recipes": ["supervised"],
            "test": {"fraction": 0.4, "val": 0},
            "where": where,
            "near_duplicates": "warn",
        }
    )
    cases = list(World.read(study, out).cases())
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
    manifest = write_skin(tmp_path, sites={"a": "none"}, subjects=48, size=32)
    study = read_study(Path(__file__).parents[3] / "examples/skin_groups.yaml", (f"cohort={manifest}",))
    world = World.read(study, tmp_path / "out")
    (part,) = study.target
    source, target = (
        cohorts[0]
        for cohorts in (
            world.scenario(Question(part, (part,)), 0, 0).source,
            world.scenario(Question(part, (part,)), 0, 0).target,
        )
    )
    assert {case.attributes["tone"] for case in source.cases} == {"1", "2"}
    assert {case.attributes["tone"] for case in target.cases} <= {"3", "4", "5", "6"}
    judged = {
        test.site: {case.attributes["tone"] for case in test.cohort.cases}
        for test in world.tests(0)
        if test.part == "test"
    }
    assert judged[part] <= {"3", "4", "5", "6"}
    assert groups_of((source,), "tone").codes == (1.0, 2.0)


PARTED = {"source": {"tone": [1, "2"]}, "target": {"tone": [3, 4]}}
PART = "a (tone 3, 4)"


def one_site(manifest: Path, where: dict[str, Any] = PARTED, **more: Any) -> Study:
    """From one group of a site to another."""
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["vessel"]}},
        "source": ["a"],
        "target": ["a"],
    }
    return make_study({**tree, "recipes": ["finetune"], "test": {"fraction": 0.4, "val": 0.3}, "where": where, **more})


def test_a_site_on_both_sides_is_parted_and_its_part_is_a_site(manifest: Path, tmp_path: Path) -> None:
    study = one_site(manifest, target_labels="all", near_duplicates="warn")
    assert (study.source, study.target) == (("a",), (PART,))
    world = World.read(study, tmp_path)
    assert world.sites == ("a", PART)
    assert {(case.site, case.attributes["tone"]) for case in world.cases()} == {
        ("a", "1"),
        ("a", "2"),
        (PART, "3"),
        (PART, "4"),
    }
    assert len({case.name for case in world.cases()}) == len(list(world.cases())) == 8


def test_no_group_is_seen_on_the_other_side(manifest: Path, tmp_path: Path) -> None:
    study = one_site(manifest, target_labels={"subjects": 1}, near_duplicates="warn")
    world = World.read(study, tmp_path)
    for needs in (Needs(), Needs(all_target_labels=True), Needs(every_target=True)):
        seen = world.scenario(Question(PART, (PART,)), 0, 0, needs)
        assert {case.attributes["tone"] for cohort in seen.source for case in cohort.cases} <= {"1", "2"}
        assert {case.attributes["tone"] for cohort in seen.target for case in cohort.cases} <= {"3", "4"}
        trained = {case.name for cohort in (*seen.source, *seen.target) for case in cohort.cases}
        assert not trained & {case.name for test in world.tests(0) for case in test.cohort.cases}
    judged = {
        (test.site, test.part): {case.attributes["tone"] for case in test.cohort.cases} for test in world.tests(0)
    }
    assert set(judged) == {("a", "val"), ("a", "test"), (PART, "test")}
    assert judged[PART, "test"] <= {"3", "4"}
    assert judged["a", "test"] | judged["a", "val"] <= {"1", "2"}


def test_a_parted_study_is_the_same_when_it_is_read_again(manifest: Path) -> None:
    study = one_site(manifest)
    assert make_study(plain(study)) == study
    assert one_site(manifest, target=[PART]) == study
    # another site keeps its name
    assert one_site(manifest, target=["a", "b"]).target == (PART, "b")


@pytest.mark.parametrize(
    "where",
    [
        {"source": {"tone": [1, 2]}},
        {"source": {"tone": [1, 2]}, "target": {"hair": "n"}},  # a case may fit both
        {"source": {"tone": [1, 2]}, "target": {"tone": ["2", 3]}},
        {"source": {"tone": []}, "target": {"tone": [3]}},
    ],
)
@pytest.mark.parametrize("name", ["a", "written out"])
def test_a_site_that_nothing_parts_is_refused(manifest: Path, where: dict[str, Any], name: str) -> None:
    part = one_site(manifest, where, target=["b"]).where.part_of("a")
    with pytest.raises(
        SpecError,
        match=r"^target: site 'a' is a source too, and no column of where: separates .*target: \{tone: \[3, 4\]",
    ):
        one_site(manifest, where, target=["a" if name == "a" else part])


def test_a_subject_on_both_sides_is_refused_by_name(tmp_path: Path) -> None:
    lines = write_photographs(tmp_path, {"a": 6}, per_subject=2).read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    tone = ["1", "1", "2", "2", "3", "3", "4", "4", "2", "3", "1", "4"]
    manifest = write_rows(
        tmp_path / "manifest.csv", [{**row, "tone": value} for row, value in zip(rows, tone, strict=True)]
    )
    told = (
        r"subject 'a4' of site 'a' .*, 'a4-0.png' in the source and 'a4-1.png' in the target \(1 more subject has too\)"
    )
    with pytest.raises(LeakageError, match=told):
        World.read(one_site(manifest, near_duplicates="warn"), tmp_path / "out")


def test_a_site_is_named_once(manifest: Path) -> None:
    with pytest.raises(SpecError, match="target: site 'b' is named twice"):
        one_site(manifest, {}, target=["b", "b"])
    with pytest.raises(SpecError, match="source: site 'a' is named twice"):
        one_site(manifest, {}, source=["a", "a"], target=["b"])
    with pytest.raises(SpecError, match=r"target: site 'a \(tone 3, 4\)' is named twice"):
        one_site(manifest, target=["a", PART])


def test_a_site_of_the_manifest_is_never_taken_for_a_part(tmp_path: Path) -> None:
    lines = write_photographs(tmp_path, {"a": 4, "z": 2}).read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    named = [{**row, "site": row["site"].replace("z", PART), "tone": str(1 + n % 4)} for n, row in enumerate(rows)]
    with pytest.raises(SpecError, match="has the name of a site of the manifest"):
        World.read(one_site(write_rows(tmp_path / "manifest.csv", named)), tmp_path / "out")


@pytest.mark.parametrize("word", ["unknown", "nan", "Unknown"])
def test_a_column_of_which_nothing_is_known_is_refused_by_name(word: str, tmp_path: Path) -> None:
    """As ``label skin-tone`` leaves it where no image has a tone."""
    lines = write_photographs(tmp_path, {"a": 6}).read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) | {"tone": word} for line in lines[1:]]
    with pytest.raises(SpecError, match="where: column 'tone' is unknown or empty in every case; fill it in"):
        World.read(one_site(write_rows(tmp_path / "manifest.csv", rows)), tmp_path / "out")


def test_a_long_list_of_values_is_counted_in_the_name() -> None:
    assert Where(target={"centre": tuple(f"centre {n}" for n in range(20))}).part_of("a") == "a (centre, 20 values)"


def test_a_side_names_sites_that_are_there_and_have_cases_left() -> None:
    check_sites(["a", "b"], ["a", "b"], {"a", "b"}, "source")
    with pytest.raises(ManifestError, match="target: unknown site 'bb'; did you mean 'b'"):
        check_sites(["bb"], ["a", "b"], {"a", "b"}, "target")
    with pytest.raises(SpecError, match="source: no case of site 'a' is left"):
        check_sites(["a"], ["a", "b"], {"b"}, "source")
