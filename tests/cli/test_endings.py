"""How a command ends, with which code and words, and what ``study`` and ``report`` do on the way there."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.conftest import Command
from tests.cli.test_printed import Patch
from tests.cli.test_printed import answers as answers

from allograft.cli import main, show
from allograft.cli.channel import resumption
from allograft.cli.executor import made_executor
from allograft.cli.import_options import named_classes
from allograft.cli.studies import _shard
from allograft.context.journal import STOP, Stopped
from allograft.errors import MirrorIncomplete, MissingWeightsError, SpecError, UnitsFailed
from allograft.run.closing import Result
from allograft.run.parted import PartsResult

ENDS: list[tuple[BaseException, int, str]] = [
    (SpecError("a slip"), 2, "error: a slip\n"),
    (UnitsFailed("some"), 3, "error: some\n"),
    (MirrorIncomplete("no mirror"), 3, "error: no mirror\n"),
    (KeyboardInterrupt(), 130, "interrupted; everything that is finished is kept. To resume"),
    (SystemExit(130), 130, "interrupted; everything that is finished is kept. To resume"),
    (Stopped(), 143, "stopped; progress is kept. To resume"),
    (BrokenPipeError(), 1, ""),
    (SystemExit(5), 5, ""),
]


@pytest.mark.parametrize(("reason", "code", "words"), ENDS)
def test_each_ending_has_its_code_and_its_words(
    reason: BaseException, code: int, words: str, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(**_: Any) -> None:
        raise reason

    monkeypatch.setattr("allograft.cli.app", end)
    done = allograft("study", "s.yaml", "--out", "a b")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(words)
    assert bool(done.err) == bool(words)
    if "resume" in words:
        assert done.err.endswith(":\n  allograft study s.yaml --out 'a b'\n")


def test_another_error_is_not_hidden(allograft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.cli.app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize("name", ["study", "adapt", "train", "predict", "report", ""])
def test_only_what_resumes_says_how(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["allograft", *([name] if name else []), "--x"])
    assert ("To resume" in resumption("stopped", "progress")) == (name in ("study", "adapt", "train"))


def parts_result(failed: int, runs: int) -> Any:
    part = object.__new__(Result)
    for key, value in {"lines": (SimpleNamespace(runs=range(runs)),) * 2, "out": Path("part")}.items():
        object.__setattr__(part, key, value)
    made = object.__new__(PartsResult)
    for key, value in {"parts": {"x": part, "y": part}, "out": Path("out"), "missing": {}}.items():
        object.__setattr__(made, key, value)
    return made


def test_failed_runs_are_counted_over_all_parts_and_the_mirror_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartsResult, "failed", 3, raising=False)
    with pytest.raises(UnitsFailed, match=r"^3 of 20 runs failed; the table shows which and why$"):
        show.raise_failed(parts_result(3, 5))
    with pytest.raises(UnitsFailed, match=r"^3 of 20 runs failed; .*\nerror: the mirror is incomplete: x; y; "):
        show.raise_failed(parts_result(3, 5), ["x", "y"])
    monkeypatch.setattr(PartsResult, "failed", 0, raising=False)
    with pytest.raises(MirrorIncomplete, match=r"^the mirror is incomplete: x; the study itself is in its folder"):
        show.raise_failed(parts_result(0, 5), ["x"])
    show.raise_failed(parts_result(0, 5))


def test_a_plan_lists_every_part_and_what_is_missing(
    answers: Patch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def preview(part: str) -> str:
        if part == "third":
            raise MissingWeightsError("no weights")
        return f"plan of {part}"

    answers("allograft.run.preview:preview", preview)
    answers("allograft.run.preview:preview_table", lambda made: made)
    answers("allograft.run.parted:part_sessions", {"x": "first", "y": "third", "z": "second"})
    show.show_plan(None)  # type: ignore[arg-type]
    said = capsys.readouterr().out.split("\n")
    assert said[:6] == ["== x", "plan of first", "== y", "missing: no weights", "== z", "plan of second"]
    answers("allograft.run.parted:part_sessions", {"": "third"})
    with pytest.raises(MissingWeightsError):
        show.show_plan(None)  # type: ignore[arg-type]


# ---------------------------------------------------------- words
@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "1.0/2"])
def test_no_part_of_the_units_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=f"--shard {text}: expected I/N"):
        _shard(text)


def test_a_part_of_the_units() -> None:
    assert [_shard(text) for text in ("1/1", "2/3", "3/3")] == [(1, 1), (2, 3), (3, 3)]


def test_stored_words_and_classes() -> None:
    assert named_classes(["0=normal", "a b=x=y"]) == {"0": "normal", "a b": "x=y"}
    assert named_classes(None) == {}
    for wrong in ("0", "0=", "normal"):
        with pytest.raises(SpecError, match=rf"--class {wrong.partition('=')[0]}: expected STORED=NAME"):
            named_classes(["1=ill", wrong])


def test_an_executor_is_made_as_it_is_named(answers: Patch) -> None:
    made: list[Any] = []
    answers("allograft.run.executors:LocalExecutor", lambda jobs: made.append(("local", jobs)))
    answers("allograft.run.executors:RayExecutor", lambda *given: made.append(("ray", *given)))
    answers("allograft.errors:require_extra", lambda *given: made.append(given))
    assert made_executor(None, None, None, "cpu") is None
    made_executor("local", None, None, "cpu")
    made_executor("local", 3, None, "cpu")
    made_executor("ray", None, None, "cuda")
    made_executor("ray", None, "h:1", "cpu")
    ray = ("ray", "cluster")
    assert made == [("local", None), ("local", 3), ray, ("ray", "auto", "cuda"), ray, ("ray", "h:1", "cpu")]
    for name, jobs, address, told in (
        ("ray", 2, None, "--jobs goes with --executor local"),
        (None, 2, None, "--jobs goes with --executor local"),
        ("local", None, "h:1", "--address goes with --executor ray"),
        (None, None, "h:1", "--address goes with --executor ray"),
        ("locale", None, None, "--executor: unknown executor 'locale'; did you mean 'local'"),
    ):
        with pytest.raises(SpecError, match=told):
            made_executor(name, jobs, address, "cpu")


# ---------------------------------------------------------- study
@pytest.mark.parametrize("parted", [False, True])
def test_a_study_is_mirrored_part_by_part_after_it_was_run(
    parted: bool, answers: Patch, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    single = SimpleNamespace(out=Path("out"))
    result = parts_result(0, 1) if parted else single
    answers("allograft.study:read_study", "the study")
    answers("allograft.run.fabric:local_fabric", SimpleNamespace(is_global_zero=True))
    answers("allograft.studies:run_study", lambda *given, **how: done.append(("run", given)) or result)
    sinks = SimpleNamespace(check=lambda: done.append("check"), mirror=lambda outs: done.append(outs) or ["a", "b"])
    answers("allograft.results.tracking:Sinks", lambda *given: done.append(given) or sinks)
    answers("allograft.cli.studies:show", lambda *given: done.append(("show", *given)))
    answer = allograft("study", "s.yaml", "--out", "out", "--mlflow", "uri", "--tensorboard")
    outs = [Path("part")] * 2 if parted else [Path("out")]
    ran = ("run", ("the study", Path("out")))
    assert done == [("uri", True), "check", ran, outs, ("show", result, ["a", "b"])]
    assert answer.err.splitlines() == ["warning: a", "warning: b"]


def test_other_processes_run_the_same_and_say_nothing(answers: Patch, allograft: Command) -> None:
    done: list[Any] = []
    answers("allograft.study:read_study", "the study")
    answers("allograft.run.fabric:local_fabric", SimpleNamespace(is_global_zero=False))
    answers("allograft.studies:run_study", lambda *given, **how: done.append((given, how)))
    words = ("--workers", "2", "--shard", "2/3", "--checkpoint-seconds", "7")
    answer = allograft("study", "s.yaml", "--out", "out", "--plan", *words)
    ((given, how),) = done
    assert given == ("the study", Path("out"))
    assert {key: how[key] for key in ("workers", "shard", "checkpoint_seconds", "executor")} == {
        "workers": 2,
        "shard": (2, 3),
        "checkpoint_seconds": 7.0,
        "executor": None,
    }
    assert (answer.out, answer.err) == ("", "")


def test_asked_to_end_a_study_stops(answers: Patch, allograft: Command) -> None:
    before = signal.getsignal(signal.SIGTERM)
    answers("allograft.study:read_study", lambda *_: signal.raise_signal(signal.SIGTERM))
    answers("allograft.run.fabric:local_fabric", SimpleNamespace(is_global_zero=False))
    answers("allograft.studies:run_study", lambda *_, **__: None)
    try:
        allograft("study", "s.yaml", "--out", "out")
        assert STOP.is_set()
    finally:
        STOP.clear()
        signal.signal(signal.SIGTERM, before)


def test_a_report_of_failed_runs_ends_with_3_also_where_only_the_table_is_printed(
    answers: Patch, allograft: Command
) -> None:
    how: list[Any] = []
    result = parts_result(1, 5)
    answers("allograft.studies:rebuild", lambda out, **told: how.append(told) or result)
    answers("allograft.results.formats:formatted", lambda path, form: f"{path} as {form}\n")

    def fail(found: Any) -> None:
        raise UnitsFailed("1 of 20 runs failed")

    answers("allograft.cli.studies:raise_failed", fail)
    done = allograft("report", "out", "--format", "csv")
    assert (done.code, done.out) == (3, f"{Path('out/results.csv')} as csv\n")
    assert how == [{"report": False}]
