"""A study of many pairs is several studies side by side, and one page above them."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import write_photographs, write_rows

from allograft.cohort.splits import read_splits
from allograft.errors import MissingWeightsError, SpecError, SplitError
from allograft.results.record import read_all
from allograft.studies import PartsResult, rebuild, run_study
from allograft.study import parts
from allograft.study.parts import part_folder, parts_of
from allograft.study.reading import make_study
from allograft.study.spec import Study

TREE: dict[str, Any] = {
    "task": {"segmentation": {"classes": ["vessel"]}},
    "network": {"unet": {"spatial_dims": 2, "channels": [4, 8], "num_res_units": 1}},
    "augmentation": "strong",
    "source": ["a", "b", "c"],
    "pairs": "all",
    "recipes": ["histogram"],
    "test": {"fraction": 0.5, "val": 0.4},
    "near_duplicates": "warn",
    "seeds": 1,
    "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2},
}


def study_of(**changes: Any) -> Study:
    return make_study({"cohort": "manifest.csv", **TREE, **changes})


def sides(study: Study) -> dict[str, tuple[str, str]]:
    return {name: ("".join(part.source), "".join(part.target)) for name, part in parts_of(study).items()}


def test_all_is_one_study_a_source() -> None:
    assert sides(study_of()) == {"from a": ("a", "bc"), "from b": ("b", "ac"), "from c": ("c", "ab")}
    assert sides(study_of(target=["c", "d"])) == {"from a": ("a", "cd"), "from b": ("b", "cd"), "from c": ("c", "d")}
    assert sides(study_of(source=["a", "b"], target=["a"])) == {"from b": ("b", "a")}


def test_leaving_one_site_out_is_one_study_a_target() -> None:
    out = {"pairs": "leave-one-site-out"}
    assert sides(study_of(**out)) == {"to a": ("bc", "a"), "to b": ("ac", "b"), "to c": ("ab", "c")}
    assert sides(study_of(**out, target=["c", "d"])) == {"to c": ("ab", "c"), "to d": ("abc", "d")}


def test_a_part_is_the_study_but_for_its_sites() -> None:
    whole = replace(study_of(), file=Path("here/study.yaml"))
    for part in parts_of(whole).values():
        assert replace(part, pairs="all", source=whole.source, target=whole.target) == whole
        assert part.file == whole.file


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": []}, "pairs: all finds no pair in no source|target: names no site"),
        ({"source": ["a"]}, "pairs: all finds no pair in a; name at least two sites"),
        ({"source": ["a", "b", "a"]}, "source: site 'a' is named twice"),
        ({"target": ["a", "a"]}, "target: site 'a' is named twice"),
        ({"where": {"source": {"tone": 1}}}, "where: filters the two sides of one pair"),
        ({"pairs": "some"}, "study.pairs"),
    ],
)
def test_what_makes_no_pairs_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        study_of(**changes)


NAMED = ("network", "optimizer", "schedule", "task", "loss", "target_labels", "stream")


@pytest.mark.parametrize("key", NAMED)
def test_an_override_of_a_named_value_replaces_it(key: str) -> None:
    base, other = {"one": {"a": 1}}, {"other": {"b": 2}}
    assert parts._merged({key: base, "seeds": 1}, {key: other}) == {key: other, "seeds": 1}


def test_an_override_of_plain_keys_leaves_the_rest() -> None:
    assert parts._merged({"budget": {"steps": 1, "clip": 2}}, {"budget": {"steps": 3}}) == {
        "budget": {"steps": 3, "clip": 2}
    }


def test_no_two_parts_share_a_folder() -> None:
    names = ("from a", "from a b", "from a-b", "from a/b", "from ../b", "to a")
    folders = {part_folder(Path("out"), name) for name in names}
    assert len(folders) == len(names)
    assert all(folder.parent == Path("out/parts") and re.fullmatch(r"[\w.-]+", folder.name) for folder in folders)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 5, "b": 5, "c": 6})


@pytest.fixture(scope="module")
def ran(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> PartsResult:
    return run_study({**TREE, "cohort": str(manifest)}, tmp_path_factory.mktemp("out"))


def test_every_part_is_a_study_of_its_own(ran: PartsResult) -> None:
    assert list(ran.parts) == ["from a", "from b", "from c"]
    assert ran.failed == 0
    for name, part in ran.parts.items():
        assert part.out == part_folder(ran.out, name)
        assert {record.source for record in read_all(part.out).values()} == {part.study.source}
        assert {target for _, target in part.models} == set(part.study.target)
    # prepared and trained once
    assert not [*ran.out.glob("parts/*/units")]
    assert {path.name for path in ran.out.glob("parts/*/cache/*")} <= {"report.key"}
    assert (ran.out / "cache").is_dir()
    assert len(list((ran.out / "units").iterdir())) == sum(len(part.plan.units) for part in ran.parts.values())


def test_a_subject_stands_in_the_same_test_set_everywhere(ran: PartsResult) -> None:
    placed = [read_splits(part.out / "splits.csv") for part in ran.parts.values()]
    tested = [{subject for subject, place in places.items() if place.split == "test"} for places in placed]
    assert tested[0] == tested[1] == tested[2]
    assert len(tested[0]) == 2 + 2 + 3


def test_the_files_over_all_pairs_are_those_of_the_parts(ran: PartsResult) -> None:
    for file in ("results.csv", "metrics.csv"):
        with open(ran.out / file, newline="") as opened:
            rows = list(csv.DictReader(opened))
        expected = []
        for name, part in ran.parts.items():
            with open(part.out / file, newline="") as opened:
                expected += [
                    {"part": name, "source": "+".join(part.study.source), **row} for row in csv.DictReader(opened)
                ]
        assert rows == expected
        assert {(row["source"], row["target"]) for row in rows} == {(s, t) for s in "abc" for t in "abc" if s != t}


def test_the_page_says_all_pairs_and_leads_to_every_report(ran: PartsResult) -> None:
    page = (ran.out / "report.html").read_text()
    assert all(f">{s} → {t}<" in page for s in "abc" for t in "abc" if s != t)
    assert page.count("<svg") == 2  # doing nothing, and the rows that the verdicts name
    links = re.findall(r'href="(parts/[^"]+)"', page)
    assert links == [f"parts/from-{site}/report.html" for site in "abc"]
    assert all((ran.out / link).is_file() for link in links)
    assert "Severe and subtle shifts" in page
    for part in ran.parts.values():  # at home on the diagonal
        nothing = next(line for line in part.lines if line.title == "supervised")
        assert f"{nothing.score(part.study.source[0]):.3g}" in page


def test_means_over_pairs_are_of_all_parts(ran: PartsResult) -> None:
    page = (ran.out / "report.html").read_text()
    for title in ("supervised", "histogram"):
        scores = [
            line.score(line.target) or 0.0 for part in ran.parts.values() for line in part.lines if line.title == title
        ]
        assert len(scores) == 6
        row = page[page.index("Every recipe over all pairs") :]
        row = row[row.index(f">{title}<") :]
        assert f"{sum(scores) / 6:.3f}" in row[: row.index("</tr>")]


def test_again_it_runs_nothing_and_writes_the_same(ran: PartsResult, manifest: Path) -> None:
    before = (ran.out / "report.html").read_bytes()
    said: list[str] = []
    run_study({**TREE, "cohort": str(manifest)}, ran.out, say=said.append)
    assert not [line for line in said if re.match(r"\[\d+ of", line)]
    assert (ran.out / "report.html").read_bytes() == before
    rebuild(ran.out)
    assert (ran.out / "report.html").read_bytes() == before


def test_a_part_whose_published_weights_are_missing_is_listed_and_never_trained_from_scratch(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(repository: str, file: str) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setenv("ALLOGRAFT_WEIGHTS", str(tmp_path / "weights"))
    one_pair = {**TREE, "cohort": str(manifest), "source": ["a"], "target": ["b"], "pairs": "listed"}
    published = {"start": "timm:resnet18.a1_in1k"}
    with pytest.raises(MissingWeightsError, match="its weights are not on this machine"):
        run_study({**one_pair, **published}, tmp_path / "alone")
    with pytest.raises(MissingWeightsError):
        run_study({**one_pair, "each": {"one": published, "two": published}}, tmp_path / "none")
    said: list[str] = []
    made = run_study({**one_pair, "each": {"published": published, "own": {}}}, tmp_path / "out", say=said.append)
    assert isinstance(made, PartsResult)
    assert list(made.parts) == ["own"]
    assert list(made.missing) == ["published"]
    assert any(line.startswith("missing: start: timm:resnet18.a1_in1k") for line in said)
    page = (made.out / "report.html").read_text()
    assert "<dt>published</dt><dd>missing: start: timm:resnet18.a1_in1k" in page
    assert "The study is not finished" not in page
    with open(made.out / "results.csv", newline="") as opened:
        assert {row["part"] for row in csv.DictReader(opened)} == {"own"}
    assert rebuild(made.out).missing == made.missing  # type: ignore[union-attr]
    assert (made.out / "report.html").read_text() == page


def test_shards_share_the_work(manifest: Path, tmp_path: Path) -> None:
    study = {**TREE, "cohort": str(manifest), "source": ["a", "b"]}
    first = run_study(study, tmp_path, shard=(1, 2), report=False)
    assert [sum(line.done for line in part.lines) for part in first.parts.values()] == [1, 1]
    assert not first.failed  # what waits has not failed
    second = run_study(study, tmp_path, shard=(2, 2), report=False)
    assert [sum(line.done for line in part.lines) for part in second.parts.values()] == [2, 2]


def test_one_site_left_out_is_trained_on_by_no_one(manifest: Path, tmp_path: Path) -> None:
    made = run_study({**TREE, "cohort": str(manifest), "pairs": "leave-one-site-out"}, tmp_path)
    for name, part in made.parts.items():
        records = read_all(part.out).values()
        assert {record.source for record in records} == {tuple(site for site in "abc" if name != f"to {site}")}
    page = (tmp_path / "report.html").read_text()
    assert all(f">{pair}<" in page for pair in ("b + c → a", "a + c → b", "a + b → c"))
    assert "<svg" not in page


def test_a_pair_that_cannot_be_is_refused_before_anything_is_trained(manifest: Path, tmp_path: Path) -> None:
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["mask"] = "" if row["site"] == "c" else row["mask"]
    unlabelled = write_rows(manifest.with_name("unlabelled.csv"), rows)
    with pytest.raises(SplitError, match="source 'c': no training case has a 'mask'"):
        run_study({**TREE, "cohort": str(unlabelled)}, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("units"))
    made = run_study(
        {**TREE, "cohort": str(unlabelled), "source": ["a", "b"], "target": ["a", "b", "c"]}, tmp_path / "out"
    )
    page = (made.out / "report.html").read_text()
    pair = page[page.index(">a → c<") :]
    # nothing invented, nothing chosen
    assert pair[: pair.index("</tr>")].count("not measured") == 1
    assert ">1 of 2 pairs<" not in page
    assert not made.failed


def test_a_failed_run_is_shown_and_never_averaged_away(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allograft.methods.histogram import Histogram

    run = Histogram.run

    def breaks(self: Any, scenario: Any, network: Any, context: Any) -> Any:
        if {case.site for cohort in scenario.source for case in cohort.cases} == {"b"}:
            raise RuntimeError("planted")
        return run(self, scenario, network, context)

    monkeypatch.setattr(Histogram, "run", breaks)
    made = run_study({**TREE, "cohort": str(manifest)}, tmp_path)
    assert made.failed == 2
    page = (tmp_path / "report.html").read_text()
    row = page[page.index("Every recipe over all pairs") :]
    row = row[row.index(">histogram<") :]
    row = row[: row.index("</tr>")]
    assert "4 of 6 pairs" in row
    assert "4 of 6" in row
    assert 'class="warn"' in row


def test_names_are_escaped_and_no_patient_is_named(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "cohort", {"a": 4, "b": 4})
    text = manifest.read_text().replace(",b\n", ",<b>x\n").replace(",b\r\n", ",<b>x\r\n")
    manifest.write_text(text)
    made = run_study({**TREE, "cohort": str(manifest), "source": ["a", "<b>x"]}, tmp_path / "out")
    page = (made.out / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;x" in page
    assert not re.search(r"\b[ab]\d(\.png)?\b", page.split("<main>")[1].split("<script>")[0])
