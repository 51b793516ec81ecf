"""What each command prints of what it did, and on which stream. The work itself is not done."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.conftest import Command

from allograft.errors import SpecError

Patch = Callable[[str, Any], None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """MODULE:NAME, and what it answers from now on."""

    def patch(path: str, answer: Any) -> None:
        module, _, name = path.partition(":")
        monkeypatch.setattr(
            importlib.import_module(module), name, answer if callable(answer) else lambda *_, **__: answer
        )

    return patch


def test_compare_names_twenty_cases_that_are_left_out_and_counts_the_rest(
    answers: Patch, allograft: Command, tmp_path: Path
) -> None:
    unmatched = [SimpleNamespace(case=f"case-{n}", name="A", reason="holds none") for n in range(23)]
    found = SimpleNamespace(unmatched=unmatched, unlabelled=4, warnings=("A: x: look",))
    answers("allograft.apply.compare:compare", found)
    answers("allograft.report.head_to_head:site_lines", ["a line per site"])
    answers("allograft.report.head_to_head:sentence", ("B is ahead", "by much"))
    done = allograft("compare", "a", "b", "m.csv", "-o", tmp_path)
    lines = done.out.splitlines()
    assert lines[0] == "a line per site"
    assert lines[1:21] == [f"left out: case-{n}: A holds none" for n in range(20)]
    assert lines[21:] == [
        f"left out: 3 more cases, see {tmp_path / 'cases.csv'}",
        "4 cases have no label and are not compared",
        "B is ahead: by much",
        f"page: {tmp_path / 'compare.html'}; numbers: {tmp_path / 'summary.csv'}, {tmp_path / 'cases.csv'}",
    ]
    assert done.err == "warning: A: x: look\n"
    found.unmatched, found.unlabelled = unmatched[:20], 0
    assert "more cases" not in (said := allograft("compare", "a", "b", "m.csv", "-o", tmp_path).out)
    assert "no label" not in said


def test_evaluate_prints_every_site_and_what_is_left_out(answers: Patch, allograft: Command) -> None:
    found = SimpleNamespace(metrics={"a": {}, "b": {}}, unlabelled=3, warnings=("x: look", "y: look"), cases=())
    answers("allograft.apply.evaluate:evaluate", found)
    answers("allograft.apply.evaluate:summary", lambda evaluation, site: f"of {site}")
    done = allograft("evaluate", "model", "m.csv")
    assert done.out.splitlines() == ["of a", "of b", "3 cases have no label and are not measured"]
    assert done.err.splitlines() == ["warning: x: look", "warning: y: look"]


def test_a_record_that_cannot_be_is_refused_before_anything_is_evaluated(answers: Patch, allograft: Command) -> None:
    called: list[Any] = []

    def refuse(*given: Any) -> None:
        called.append(given)
        raise SpecError("no record")

    answers("allograft.apply.travelling:check_record", refuse)
    answers("allograft.apply.evaluate:evaluate", lambda *_, **__: called.append("evaluated"))
    assert allograft("evaluate", "model", "m.csv", "--record", "r.json", "--site", "x").code == 2
    assert called == [(Path("model"), Path("m.csv"), ["x"])]


def test_a_database_tells_what_changed(answers: Patch, allograft: Command) -> None:
    names = tuple(f"n{number}" for number in range(7))
    answers("allograft.apply.index:add_to_index", SimpleNamespace(changed=2, total=9, unmatched=names))
    assert allograft("index", "add", "model", "m.csv").out.splitlines() == [
        "2 images added, 9 in the database",
        "without a paired image, left out: n0, n1, n2, n3, n4 and 2 more",
    ]
    answers("allograft.apply.index:add_to_index", SimpleNamespace(changed=2, total=9, unmatched=names[:5]))
    assert allograft("index", "add", "model", "m.csv").out.endswith("left out: n0, n1, n2, n3, n4\n")
    answers("allograft.apply.index:remove_from_index", SimpleNamespace(changed=3, total=4, unmatched=()))
    said = allograft("index", "remove", "model", "--subject", "p1").out.splitlines()
    assert said[0] == "3 images of p1 removed, 4 in the database"
    assert "train the model again without them" in said[1]
    two = SimpleNamespace(pairs=8, bands=({1: 0.25, 5: 1.0}, {1: 0.5}))
    answers("allograft.apply.index:recall_of", two)
    assert allograft("index", "recall", "model", "m.csv").out.splitlines() == [
        "band 1: recall@1 25.0%, recall@5 100.0%, of 8 pairs",
        "band 2: recall@1 50.0%, of 8 pairs",
    ]
    answers("allograft.apply.index:recall_of", SimpleNamespace(pairs=8, bands=two.bands[1:]))
    assert allograft("index", "recall", "model", "m.csv").out == "recall@1 50.0%, of 8 pairs\n"


@pytest.mark.parametrize("words", [["x"], ["a=1", "x"], ["a=1", "a=2"]])
def test_what_filters_no_row_is_refused(words: list[str], answers: Patch, allograft: Command) -> None:
    answers("allograft.apply.index:recall_of", SimpleNamespace(pairs=8, bands=()))
    where = [part for word in words for part in ("--where", word)]
    done = allograft("index", "recall", "model", "m.csv", *where)
    assert (done.code, done.out) == (2, "")
    assert f"--where: found '{', '.join(words)}'; expected COLUMN=VALUE, a column once" in done.err


def test_an_export_says_which_sizes_it_takes(answers: Patch, allograft: Command) -> None:
    made = SimpleNamespace(path="m.onnx", sizes=((16, 24), (18, 28)), is_flexible=True, difference=1.234e-6)
    answers("allograft.apply.graph:export_graph", made)
    assert allograft("export", "model", "m.onnx").out == (
        "m.onnx: images of any size; differs from allograft predict by at most 1.2e-06\n"
    )
    made.is_flexible = False
    assert "images of size (16, 24);" in allograft("export", "model", "m.onnx").out
    answers("allograft.apply.export:export_model", Path("m.zip"))
    assert allograft("export", "model", "m.zip").out == "m.zip\n"


def test_boxes_are_counted_with_the_images_that_have_none(answers: Patch, allograft: Command) -> None:
    answers("allograft.apply.box_labels:label_boxes", {"a": 3, "b": 0, "c": 2, "d": 0})
    done = allograft("label", "boxes", "images", "-o", "weak", "--radius", "3,9")
    assert done.out == f"5 boxes on 4 images in {Path('weak/boxes.csv')}; 2 images have none\n"
    for wrong in ("3", "3,x", ","):
        done = allograft("label", "boxes", "images", "-o", "weak", "--radius", wrong)
        assert done.code == 2
        assert f"--radius {wrong}: expected LOW,HIGH" in done.err


def test_without_a_manifest_the_machine_is_described_and_the_page_shows_images_unless_told_not_to(
    answers: Patch, allograft: Command, tmp_path: Path
) -> None:
    answers("allograft.cohort.system:describe_system", {"python": "3", "torch": "2"})
    for words in ((), ("--system",), ("m.csv", "--system")):
        assert allograft("doctor", *words).out.split() == ["python", "3", "torch", "2"]
    pages: list[Any] = []
    answers("allograft.cohort.doctor:examine", "diagnosis")
    answers("allograft.cohort.doctor_text:to_text", "text\n")
    answers("allograft.report.examination:write_examination", lambda *given: pages.append(given))
    assert allograft("doctor", "m.csv").out == "text\n"
    allograft("doctor", "m.csv", "--html", "p.html")
    allograft("doctor", "m.csv", "--html", "p.html", "--without-images")
    assert pages == [(Path("p.html"), "diagnosis", Path("m.csv")), (Path("p.html"), "diagnosis", None)]


def test_nothing_is_removed_unless_told_to(answers: Patch, allograft: Command) -> None:
    removed: list[Any] = []
    listed = SimpleNamespace(found=("x",), size=3 * 2**20)
    answers("allograft.clean:leftovers", listed)
    answers("allograft.clean:lines_of", ["one", "two"])
    answers("allograft.clean:remove", lambda found: removed.append(found) or 5 * 2**20)
    said = allograft("clean", "out").out
    assert said.splitlines() == [
        "one", "two", "dry run: nothing was removed; allograft clean out --yes removes 3.0 MiB"
    ]  # fmt: skip
    assert removed == []
    assert allograft("clean", "out", "--yes").out.endswith("removed 5.0 MiB\n")
    assert removed == [listed]
    listed.found = ()
    assert "dry run" not in allograft("clean", "out").out
