"""What long commands say and where, how they resume after Ctrl-C, and the table alone."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Command, write_study

from allograft.cli.channel import LOGGER, opened
from allograft.phantoms.brain import write_brain

PROGRESS = re.compile(r"\[1 of \d+\] supervised -> b, seed 0")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    return write_study(folder)


@pytest.fixture(scope="module")
def once(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A study that was run with a log, and what it said."""
    out = tmp_path_factory.mktemp("out")
    words = ["study", str(study), "--out", str(out / "run"), "--quiet", "--log", str(out / "log" / "study.log")]
    words += ["--set", "target_labels=none", "--set", "recipes=[supervised]"]
    done = subprocess.run([sys.executable, "-m", "allograft", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_quiet_have_the_result_alone_and_the_log_has_all(
    once: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = once
    assert not PROGRESS.search(done.stderr)
    assert "report: " in done.stdout
    log = (out / "log" / "study.log").read_text()
    assert PROGRESS.search(log)
    assert "command: allograft study " in log
    assert re.search(r"trained after \d+\.\d s: dice 0\.\d{3} at a", log)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in log.splitlines())
    assert all(line.split(" ", 2)[2].startswith("warning: ") for line in log.splitlines() if "warning" in line)
    assert done.stderr.count("warning: ") == log.count("warning: ")


def test_the_log_is_appended_to_and_tells_how_a_command_ended(
    once: tuple[Path, subprocess.CompletedProcess[str]], study: Path, allograft: Command
) -> None:
    out, _ = once
    log = out / "log" / "study.log"
    before = log.read_text()
    answer = allograft("study", study, "--out", out / "run", "--verbose", "--log", log, "--set", "source=[nowhere]")
    assert answer.code == 2
    assert log.read_text().startswith(before)
    assert "ended by" in log.read_text()[len(before) :]
    assert re.match(r"\d\d:\d\d:\d\d command: allograft study ", answer.err)
    assert LOGGER.handlers == []  # closed again


def test_quiet_and_verbose_exclude_each_other(study: Path, allograft: Command, tmp_path: Path) -> None:
    answer = allograft("study", study, "--out", tmp_path / "out", "--quiet", "--verbose")
    assert answer.code == 2
    assert "--quiet and --verbose: found both" in answer.err
    answer = allograft("study", study, "--out", tmp_path / "out", "--log", tmp_path)
    assert answer.code == 2
    assert "cannot be written (Is a directory); choose another file" in answer.err


@pytest.mark.parametrize("quiet", [True, False])
def test_what_is_grave_reaches_the_quiet(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    grave = ["warning: one class", "missing: weights", "[2 of 3] failed: ValueError: x", "the new model is worse here"]
    with opened(quiet, False, None) as say:
        for line in ("[1 of 3] supervised -> b, seed 0", *grave):
            say(line)
    shown = capsys.readouterr().err.splitlines()
    assert shown == (grave if quiet else ["[1 of 3] supervised -> b, seed 0", *grave])


@pytest.mark.parametrize("form", ["csv", "json", "markdown", "latex"])
def test_report_prints_the_table_and_nothing_else(
    form: str, once: tuple[Path, subprocess.CompletedProcess[str]], allograft: Command
) -> None:
    out, _ = once
    page = out / "run" / "report.html"
    before = page.stat().st_mtime_ns
    answer = allograft("report", out / "run", "--format", form)
    assert answer.code == 0
    assert page.stat().st_mtime_ns == before
    with open(out / "run" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    if form == "csv":
        assert list(csv.DictReader(io.StringIO(answer.out))) == rows
    elif form == "json":
        assert [one["recipe"] for one in json.loads(answer.out)] == [row["recipe"] for row in rows]
    else:
        first = {"markdown": "| target", "latex": "% in the preamble"}[form]
        assert answer.out.startswith(first)
        assert answer.out.count("of 1") == sum(row["site"] == row["target"] for row in rows)


def test_an_unknown_format_is_refused_before_anything_is_read(allograft: Command, tmp_path: Path) -> None:
    answer = allograft("report", tmp_path / "none", "--format", "html")
    assert (answer.code, answer.out) == (2, "")
    assert "--format html: expected csv, json, markdown or latex" in answer.err


def test_ctrl_c_says_how_to_go_on(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    words = ["study", str(study), "--out", str(out), "--set", "budget.steps=20000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "allograft", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which background jobs of a shell ignore
    )
    try:
        until = time.monotonic() + 120
        while not list((out / "units").glob("*/lock")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    advice, command = said.splitlines()[-2:]
    assert advice == "interrupted; everything that is finished is kept. To resume, run the same command again:"
    assert shlex.split(command) == ["allograft", *words]
    assert not list((out / "units").glob("*/lock"))


def test_shells_complete_commands_and_options() -> None:
    script = "import sys; sys.argv = ['allograft']; from allograft.cli import main; main()"
    for typed, wanted in (("allograft stu", "study"), ("allograft report out --form", "--format")):
        asked = {"_ALLOGRAFT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **asked}
        )
        assert wanted in done.stdout.split(), done.stderr
