"""Streams that are made of sites: how many subjects each stage has, who stays together, and what each is altered by.
Cohorts whose names stand for their sites, and whose attributes are numbered together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.unit.study.test_settings import cohort_of
from tests.unit.study.test_who_is_seen import TREE, image
from tests.unit.tiny import write_photographs, write_rows

from allograft.cohort import Coding, Cohort, Preprocessing
from allograft.cohort.prepared_images import PreparedImages
from allograft.errors import SpecError, SplitError
from allograft.study import cohorts as module
from allograft.study import make_study
from allograft.study.cohorts import read_cohorts
from allograft.study.keys import Gradual, Transformed


def cohort(images: int = 1, **sites: int) -> Cohort:
    cases = [image(f"{s}{n:02}", i) for s, count in sites.items() for n in range(count) for i in range(images)]
    return Cohort(tuple(cases), tuple(sites), PreparedImages(Preprocessing(), Coding()))


def stages(made: Cohort) -> dict[str, list[str]]:
    """Site -> its subjects, each once."""
    found: dict[str, dict[str, None]] = {}
    for case in made.cases:
        found.setdefault(case.site, {})[case.subject] = None
    assert all(count == 1 for count in Counter(subject for names in found.values() for subject in names).values())
    return {site: list(names) for site, names in found.items()}


def test_the_mix_moves_in_equal_steps_from_the_first_site_to_the_last() -> None:
    gradual = Gradual(("a", "b"), 5)
    before = cohort(images=2, a=8, b=8, z=3)
    made = module._graded(before, gradual)
    mixed = [Counter(subject[0] for subject in stages(made).get(name, ())) for name in gradual.names]
    # cumulative shares of a are 1, .75, .5, .25, 0 over 2.5
    assert [mix["a"] for mix in mixed] == [3, 3, 1, 1, 0]
    assert [mix["b"] for mix in mixed] == [0, 1, 1, 3, 3]
    assert stages(made)["z"] == ["z00", "z01", "z02"]
    assert [case.name for case in made.cases] == [case.name for case in before.cases]
    assert made.sites == ("a", "b", "z", *gradual.names)
    assert set(stages(made)[gradual.names[0]]) != {"a00", "a01", "a02"}  # drawn, not the first of the list
    assert module._graded(cohort(z=3), gradual).sites == ("z",)


def test_a_site_between_two_others_is_met_in_the_middle() -> None:
    gradual = Gradual(("a", "b", "c"), 3)
    mixed = stages(module._graded(cohort(a=4, b=4, c=4), gradual))
    assert [{subject[0] for subject in mixed[name]} for name in gradual.names] == [{"a"}, {"b"}, {"c"}]


def test_a_stage_needs_two_subjects() -> None:
    with pytest.raises(SplitError, match="stage 'a to b, 1 of 3' has fewer than two subjects; ask for fewer stages"):
        module._graded(cohort(a=1, b=8), Gradual(("a", "b"), 3))
    module._graded(cohort(a=3, b=3), Gradual(("a", "b"), 2))


def test_each_stage_is_altered_as_far_as_it_is_along_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        module, "drawn_alteration", lambda name, share, **how: drawn.append((name, share, how)) or f"altered {share}"
    )
    spec = Transformed(("a", "b"), 5, (0.2, 0.8), (0.7, 1.3), 20.0, 7.0)
    made = module._transformed(cohort(images=2, a=6, b=5, z=1), spec)
    assert [len(stages(made)[name]) for name in spec.names] == [3, 2, 2, 2, 2]
    assert stages(made)["z"] == ["z00"]
    shares = {name: {case.alteration for case in made.cases if case.site == name} for name in spec.names}
    assert list(shares.values()) == [{None}, *({f"altered {share}"} for share in (0.25, 0.5, 0.75, 1.0))]
    assert next(case for case in made.cases if case.site == "z").alteration is None
    assert all(how == {"intensity": (0.2, 0.8), "scale": (0.7, 1.3), "degrees": 20.0, "mm": 7.0}
               for *_, how in drawn)  # fmt: skip
    assert {name for name, *_ in drawn} == {case.name for case in made.cases if case.site != "z"}
    assert {subject[0] for subject in stages(made)[spec.names[0]]} == {"a", "b"}  # of both sites, drawn
    with pytest.raises(SplitError, match="9 subjects cannot fill 5 stages with two each"):
        module._transformed(cohort(a=9), Transformed(("a",), 5))
    module._transformed(cohort(a=10), Transformed(("a",), 5))


# ---------------------------------------------------------- several cohorts
@pytest.fixture
def several(tmp_path: Path) -> dict[str, Any]:
    """Two cohorts, one with a column of its own values."""
    made = {}
    for name, sites, seed in (("one", {"a": 2, "b": 2}, 3), ("two", {"c": 2, "d": 2}, 4)):
        manifest = write_photographs(tmp_path / name, sites, seed=seed)
        head, *lines = [line.split(",") for line in manifest.read_text().splitlines()]
        rows = [dict(zip(head, line, strict=True)) for line in lines]
        values = {"one": "fm", "two": "mx"}[name]
        write_rows(manifest, [{**row, "sex": values[number % 2]} for number, row in enumerate(rows)])
        made[name] = {"manifest": str(manifest)}
    return {**TREE, "cohorts": made, "source": ["one"], "target": ["two/c"]}


def test_a_cohort_s_name_is_all_of_its_sites_on_every_side(several: dict[str, Any], tmp_path: Path) -> None:
    study, read = read_cohorts(make_study({**several, "pool": ["two", "one/b"]}), tmp_path / "cache")
    assert (study.source, study.target) == (("one/a", "one/b"), ("two/c",))
    assert study.pool == ("two/c", "two/d", "one/b")
    assert [each.sites for each in read] == [("one/a", "one/b", "two/c", "two/d")] * 2
    assert [{case.site for case in each.cases} for each in read] == [{"one/a", "one/b"}, {"two/c", "two/d"}]
    stream = {**several, "source": [], "target": [], "stream": [["one"], ["two/d"]]}
    study, _ = read_cohorts(make_study(stream), tmp_path / "cache")
    assert study.stream == (("one/a", "one/b"), ("two/d",))
    assert study.target == ("one/a", "one/b", "two/d")


def test_attributes_are_numbered_over_all_cohorts(several: dict[str, Any], tmp_path: Path) -> None:
    _, read = read_cohorts(make_study(several), tmp_path / "cache")
    assert {each.prepared.coding.attributes["sex"] for each in read} == {("f", "m", "x")}


def test_a_later_stage_in_two_cohorts_is_refused_too(several: dict[str, Any], tmp_path: Path) -> None:
    stream = {**several, "source": [], "target": [], "stream": [["one/a"], ["one/b", "two/d"]]}
    with pytest.raises(SpecError, match=r"the stage \[one/b, two/d\] lies in two cohorts"):
        read_cohorts(make_study(stream), tmp_path / "cache")


def test_a_cohort_changes_its_own_keys_of_the_preprocessing_alone(several: dict[str, Any], tmp_path: Path) -> None:
    several["cohorts"]["two"] |= {"preprocessing": {"size": [8, 8]}, "slices": None}
    study = make_study({**several, "preprocessing": {"intensity": "unit", "size": [16, 16]}})
    _, read = read_cohorts(study, tmp_path / "cache")
    found = [(each.prepared.preprocessing.intensity, each.prepared.preprocessing.size) for each in read]
    assert found == [("unit", (16, 16)), ("unit", (8, 8))]
    several["cohorts"]["two"]["preprocessing"] = {"sise": [8, 8]}
    with pytest.raises(SpecError, match=r"cohorts\.two\.preprocessing.*sise"):
        read_cohorts(make_study(several), tmp_path / "cache")


@pytest.mark.parametrize("classes", [{"vesel": [1]}, {"vessel": ["white"]}])
def test_classes_of_a_cohort_are_the_task_s_with_values_of_its_masks(
    classes: dict[str, Any], several: dict[str, Any], tmp_path: Path
) -> None:
    several["cohorts"]["two"]["classes"] = {"vessel": [7, 8]}
    _, read = read_cohorts(make_study(several), tmp_path / "cache")
    assert [each.prepared.coding.mask for each in read] == [{"vessel": (1,)}, {"vessel": (7, 8)}]
    several["cohorts"]["two"]["classes"] = classes
    with pytest.raises(SpecError, match=r"cohorts.two.classes: (unknown class 'vesel'|found 'white'; expected)"):
        read_cohorts(make_study(several), tmp_path / "cache")


def test_names_are_behind_their_cohort_s_and_of_one_cohort_as_they_are(several: dict[str, Any], tmp_path: Path) -> None:
    _, (one, _) = read_cohorts(make_study(several), tmp_path / "cache")
    first = one.cases[0]
    assert (first.name, first.subject, first.site) == ("one/a0.png", "one/a0", "one/a")
    alone = {**several, "cohort": several["cohorts"]["one"]["manifest"], "source": ["a"], "target": ["b"]}
    alone.pop("cohorts")
    _, (only,) = read_cohorts(make_study(alone), tmp_path / "cache")
    assert (only.cases[0].name, only.cases[0].subject, only.cases[0].site) == ("a0.png", "a0", "a")
    assert cohort_of(("1", "a", {})).sites == ("a",)
