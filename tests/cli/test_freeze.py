"""A protocol is frozen before the first test score, refuses another study, and every look is counted."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Command, write_study

from allograft.errors import AllograftError
from allograft.phantoms.brain import write_brain
from allograft.results import looks as looking
from allograft.results.looks import add_look, looks
from allograft.results.protocol import protocol_sentence, read_protocol

FEW = ("--set", "recipes=[finetune]", "--set", "budget.steps=1", "--set", "budget.adapt_steps=1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_brain(tmp_path, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    write_study(tmp_path)
    return tmp_path


def words(place: Path, command: str, *more: str) -> list[str]:
    return [command, str(place / "study.yaml"), "--out", str(place / "out"), *FEW, *more]


def frozen_before(place: Path, time: timedelta) -> None:
    """As if the protocol had been frozen so much earlier."""
    path = place / "out" / "protocol.json"
    kept = json.loads(path.read_text())
    kept["frozen"] = (datetime.fromisoformat(kept["frozen"]) - time).isoformat()
    path.write_text(json.dumps(kept))


def test_from_freezing_to_the_report(place: Path, allograft: Command) -> None:
    done = allograft(*words(place, "freeze"))
    assert done.code == 0, done.err
    assert "protocol frozen; no score yet" in done.out
    protocol = read_protocol(place / "out")
    assert protocol is not None
    assert protocol.hash in done.out
    text = (place / "out" / "protocol.json").read_text()
    subjects = {line.split(",")[0] for line in (place / "out" / "splits.csv").read_text().splitlines()[1:]}
    assert len(subjects) == 8
    assert not any(f'"{subject}"' in text for subject in subjects)
    assert not (place / "out" / "looks.jsonl").exists()
    frozen_before(place, timedelta(days=3, hours=5))
    ran = allograft(*words(place, "study"))
    assert ran.code == 0, ran.err
    assert "protocol frozen 3 days before the first score; 1 look\n" in ran.err
    page = (place / "out" / "report.html").read_text()
    assert "protocol frozen 3 days before the first score; 1 look<" in page
    again = allograft("report", place / "out")
    assert "protocol frozen 3 days before the first score; 2 looks\n" in again.err
    assert "protocol frozen 3 days before the first score; 2 looks<" in (place / "out" / "report.html").read_text()
    allograft("evaluate", place / "out" / "models" / "finetune@b", _third(place), "--device", "cpu")
    assert [(look.command, look.time.tzinfo) for look in looks(place / "out")] == [
        *(("study", UTC), ("report", UTC), ("evaluate", UTC))
    ]
    same = allograft(*words(place, "freeze"))
    assert (same.code, "3 days before the first score; 3 looks" in same.out) == (0, True)


def _third(place: Path) -> Path:
    write_brain(place / "third", sites={"c": "medium"}, subjects=2, size=32, seed=7)
    return place / "third" / "manifest.csv"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--set", "budget.steps=2"], [r"study.budget.steps: frozen 1, found 2"]),
        (["--set", "statistics.margin=0.1"], [r"study.statistics.margin: frozen \S+, found 0.1"]),
        (["--set", "primary=finetune"], ["primary: frozen , found finetune", "study.primary"]),
        (
            ["--set", "seeds=2", "--set", "clip=1.0"],
            ["study.seeds: frozen 1, found 2", "study.clip: frozen null, found 1.0"],
        ),
        (["--set", "pairs=all", "--set", "target_labels=none"], ["parts/from-a: added", r"\.: removed"]),
    ],
)
@pytest.mark.parametrize("command", ["study", "freeze"])
def test_another_study_is_refused_by_the_keys_that_changed(
    command: str, more: list[str], named: list[str], place: Path, allograft: Command
) -> None:
    allograft(*words(place, "freeze"))
    before = _files(place / "out")
    done = allograft(*words(place, command, *more))
    assert done.code == 2
    for key in named:
        assert re.search(key, done.err), done.err
    assert _files(place / "out") == before


def _files(out: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file() and "cache" not in path.parts}


def test_subjects_that_come_later_or_move_are_refused(place: Path, allograft: Command) -> None:
    allograft(*words(place, "freeze"))
    before = _files(place / "out")
    manifest = place / "manifest.csv"
    rows = manifest.read_text()
    last = dict(zip(rows.splitlines()[0].split(","), rows.strip().splitlines()[-1].split(","), strict=True))
    other = next((_third(place).parent / "images").iterdir())
    (place / "images" / "late.png").write_bytes(other.read_bytes())
    late = last | {"subject": "late", "image": "images/late.png", "mask": ""}
    manifest.write_text(rows + ",".join(late.values()) + "\n")
    done = allograft(*words(place, "study"))
    manifest.write_text(rows)
    assert (done.code, _files(place / "out") == before) == (2, True)
    assert re.search(r"splits.subjects.b.\w+: frozen \d, found \d", done.err), done.err
    splits = place / "out" / "splits.csv"
    text = splits.read_text()
    lines = [line for line in text.splitlines() if ",b," in line]
    test, train = (next(line for line in lines if f",{part}," in line) for part in ("test", "train"))
    splits.write_text(
        text.replace(test, test.replace(",test,", ",train,")).replace(train, train.replace(",train,", ",test,"))
    )
    done = allograft(*words(place, "study"))
    assert done.code == 2
    assert re.search(r"splits.hash: frozen \w+, found \w+", done.err)
    assert "subjects.b" not in done.err  # as many as before, others


def test_freezing_after_a_score_is_said_plainly_or_refused(place: Path, allograft: Command) -> None:
    allograft(*words(place, "study"))
    done = allograft(*words(place, "freeze"))
    assert done.code == 2
    assert "test scores, so nothing can be frozen before the first" in done.err
    assert not (place / "out" / "protocol.json").exists()
    done = allograft(*words(place, "freeze", "--after-scores"))
    assert done.code == 0
    assert re.search(r"protocol frozen after the first score \(\d+ were there\); 1 look", done.out)
    ran = allograft(*words(place, "study"))
    assert re.search(r"protocol frozen after the first score \(\d+ were there\); 2 looks<", _page(place))
    assert ran.code == 0


def test_records_that_were_removed_do_not_make_a_first_score(place: Path, allograft: Command) -> None:
    import shutil

    allograft(*words(place, "study"))
    shutil.rmtree(place / "out" / "records")
    done = allograft(*words(place, "freeze"))
    assert (done.code, "holds or has shown 1 test scores" in done.err) == (2, True)


def _page(place: Path) -> str:
    return (place / "out" / "report.html").read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 9, "allograft": "9.9"}'])
def test_a_protocol_that_is_none_is_refused(text: str, place: Path, allograft: Command) -> None:
    (place / "out").mkdir()
    (place / "out" / "protocol.json").write_text(text)
    done = allograft(*words(place, "study"))
    assert done.code == 2
    assert ("use Allograft 9.9" if "9.9" in text else "restore the file from a copy") in done.err


def test_a_protocol_that_was_changed_by_hand_is_refused(place: Path, allograft: Command) -> None:
    allograft(*words(place, "freeze"))
    path = place / "out" / "protocol.json"
    path.write_text(path.read_text().replace('"steps": 1', '"steps": 2', 1))
    done = allograft(*words(place, "study", "--set", "budget.steps=2"))
    assert (done.code, "its content does not match its hash" in done.err) == (2, True)


# ---------------------------------------------------------- looks
def _add(out: str, number: int) -> None:
    for _ in range(5):
        add_look(Path(out), f"process-{number}", "scores")


def test_looks_of_several_processes_are_all_there(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    started = [spawn.Process(target=_add, args=(str(tmp_path), number)) for number in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(100)
    assert sorted(look.command for look in looks(tmp_path)) == ["process-0"] * 5 + ["process-1"] * 5
    assert [path.name for path in tmp_path.iterdir()] == ["looks.jsonl"]


def test_a_line_that_a_killed_process_left_costs_no_other(tmp_path: Path) -> None:
    add_look(tmp_path, "study", "scores")
    with open(tmp_path / "looks.jsonl", "a") as file:
        file.write('{"time": "2026-')
    add_look(tmp_path, "report", "scores")
    assert [look.command for look in looks(tmp_path)] == ["study", "report"]


def test_a_look_is_on_the_disk_before_the_score(
    place: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as the first record is written, the line is there."""
    import sys

    from allograft.cli import main

    child = os.fork()
    if child == 0:
        monkeypatch.setattr("allograft.results.record.Record.write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        sys.argv = ["allograft", *words(place, "study")]
        main()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [look.command for look in looks(place / "out")] == ["study"]
    assert not list((place / "out").glob("records/*.json"))


def test_the_first_score_may_be_earlier_than_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allograft.results.protocol import Protocol

    began = datetime(2026, 3, 1, tzinfo=UTC)
    Protocol(began, 0, {}, {}).write(tmp_path)
    for hours, told in ((30, "1 day before the first score; 1 look"), (31, "1 day before the first score; 2 looks")):
        monkeypatch.setattr(looking, "now", lambda hours=hours: began + timedelta(hours=hours))
        add_look(tmp_path, "study", "")
        assert protocol_sentence(tmp_path) == f"protocol frozen {told}"
    Protocol(began + timedelta(hours=32), 0, {}, {}).write(tmp_path)
    assert protocol_sentence(tmp_path) == "protocol frozen 2 hours after the first score; 2 looks"


def test_a_study_without_a_protocol_has_looks_and_no_sentence(tmp_path: Path) -> None:
    add_look(tmp_path, "study", "")
    assert protocol_sentence(tmp_path) == ""


def test_a_model_that_nobody_may_write_beside_is_evaluated_unless_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise looking.OutputError("looks.jsonl: cannot be written")

    monkeypatch.setattr(looking, "add_look", full)
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "study.json").touch()
    looking.look_at_model(tmp_path / "models" / "m", "evaluate", "")
    (tmp_path / "protocol.json").touch()
    with pytest.raises(AllograftError, match="cannot be written"):
        looking.look_at_model(tmp_path / "models" / "m", "evaluate", "")
