"""What nothing needs goes, on demand; all that a table, a report, a model or a resumed run needs stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.tiny import write_photographs

from allograft import clean, load, run_study, tree
from allograft.clean import Leftover, Leftovers, leftovers, lines_of, remove
from allograft.cli import main
from allograft.context import Store
from allograft.context.lock import locked
from allograft.context.store import LEFT_OUT
from allograft.results.record import read_all
from allograft.run.closing import Result
from allograft.studies import rebuild


def study(folder: Path, **changes: Any) -> dict[str, Any]:
    tree_ = {
        "cohort": str(folder / "cohort" / "manifest.csv"),
        "task": {"segmentation": {"classes": ["square"]}},
        "network": {"unet": {"spatial_dims": 2, "channels": [2, 4]}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 2},
        "recipes": [{"finetune": {"scope": "top"}}],
        "seeds": 2,
        "test": {"fraction": 0.4, "val": 0.25},
        "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2},
        "augmentation": "none",
    }
    return {**tree_, **changes}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, and a finished study of it with what an earlier version, another study and a killed
    process left."""
    folder = tmp_path_factory.mktemp("study")
    write_photographs(folder / "cohort", {"a": 4, "b": 5})
    assert isinstance(run_study(study(folder), folder / "out"), Result)
    units = folder / "out" / "units"
    first, second, *_ = sorted(units.iterdir())
    (first / "journal").mkdir()
    (first / "journal" / "train.safetensors").write_bytes(bytes(1000))
    kept = tree.load(second / "carry.safetensors")
    state = {"kind": "adam", "state": {"w": {"exp_avg": kept["network"][next(iter(kept["network"]))].clone()}}}
    tree.save(second / "carry.safetensors", {**kept, "optimizer": state, LEFT_OUT: False})
    tree.copy_folder(first, units / ("0" * len(first.name)))
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    tree.copy_folder(done, tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def out(folder: Path) -> Path:
    return folder / "out"


def files(folder: Path) -> Mapping[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kinds(found: Leftovers) -> set[str]:
    return {one.kind for one in found.found}


def test_looking_changes_nothing_and_says_what_and_how_much(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(out)
    found = leftovers(out)
    assert files(out) == before
    assert kinds(found) == {"journal", "optimizer", "stage", "unit"}
    by_kind = {kind: [one for one in found.found if one.kind == kind] for kind in kinds(found)}
    assert [one.size for one in by_kind["journal"]] == [1000]
    # five rows of two seeds, of which one seed each is handed over
    assert len(by_kind["stage"]) == 5
    assert found.total == sum(len(data) for name, data in before.items() if name.startswith("units/"))
    assert found.size < found.total
    text = "\n".join(lines_of(found))
    assert "journals of finished units                     1" in text
    assert "units that no row of the study has             1" in text


def test_a_cleaned_study_reports_and_predicts_as_before_and_runs_nothing_again(
    out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild(out)
    tables = {name: (out / name).read_bytes() for name in ("results.csv", "metrics.csv", "verdict.json")}
    models = files(out / "models")
    found = leftovers(out)
    size = sum(map(len, files(out / "units").values()))
    assert remove(found) == found.size
    assert sum(map(len, files(out / "units").values())) < size - 0.8 * found.size
    assert leftovers(out).found == ()
    monkeypatch.setattr("allograft.step.GradientStep.__call__", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("allograft.run.judge.Judge._record", lambda *_: pytest.fail("judged again"))
    rebuild(out)
    run_study(study(folder), out)
    assert {name: (out / name).read_bytes() for name in tables} == tables
    assert files(out / "models") == models
    (model, *_) = sorted((out / "models").iterdir())
    assert load(model).predict([folder / "cohort" / "b0.png"])


def test_what_was_cleaned_comes_back_where_it_is_asked_for(out: Path, folder: Path) -> None:
    """A record that is missing, and a model that another selection would hand over."""
    records, models = read_all(out), files(out / "models")
    remove(leftovers(out))
    gone = next(unit for unit in (out / "units").iterdir() if Store(unit).cleaned())
    lost = [name for name, record in records.items() if record.unit == gone.name]
    for name in lost:
        (out / "records" / f"{name}.json").unlink()
    for path in sorted((out / "units").iterdir()):
        store = Store(path)
        for stage in [one.name for one in (path / "stages").glob("*")]:
            store.clean_stage(stage)
    run_study(study(folder), out)
    again = read_all(out)
    assert {name: (one.metrics, one.cases) for name, one in again.items()} == {
        name: (one.metrics, one.cases) for name, one in records.items()
    }
    weights = {name: data for name, data in models.items() if name.endswith(".safetensors")}
    assert {name: data for name, data in files(out / "models").items() if name in weights} == weights
    assert not Store(gone).cleaned()


def test_the_state_of_an_optimizer_that_a_row_continues_stays(done: Path, tmp_path: Path) -> None:
    run_study(study(done, recipes=["octl"], seeds=1, baselines=False), tmp_path / "out")
    kept = [unit for unit in (tmp_path / "out" / "units").iterdir() if Store(unit).optimizer_bytes()]
    assert len(kept) == 1
    remove(leftovers(tmp_path / "out"))
    assert Store(kept[0]).optimizer_bytes()


def test_an_unfinished_study_keeps_all_that_it_may_go_on_with(folder: Path, out: Path) -> None:
    """The newest study in the folder has a unit that has not come to its end."""
    remove(leftovers(out))
    units = out / "units"
    before = set(units.iterdir())
    run_study(study(folder, recipes=["supervised"], seeds=1, budget={"steps": 3, "batch_size": 2}), out)
    unit = sorted(set(units.iterdir()) - before)[0]
    Store(unit).forget()
    (unit / "journal").mkdir()
    (unit / "journal" / "train.safetensors").write_bytes(bytes(10))
    found = leftovers(out)
    assert found.found == ()
    assert found.unknown == len(before)
    assert "the study is not finished with this version" in lines_of(found)[-1]
    run_study(study(folder, recipes=["supervised"], seeds=1, budget={"steps": 3, "batch_size": 2}), out)
    assert {one.unit for one in leftovers(out).found if one.kind == "unit"} == {path.name for path in before}


def test_another_version_removes_no_unit(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys are other ones then, also those of units that a row is built on."""
    monkeypatch.setattr("allograft.context.context.__version__", "99")
    found = leftovers(out)
    assert "unit" not in kinds(found)
    assert found.unknown


def test_what_another_process_works_at_is_left_alone(out: Path) -> None:
    before = leftovers(out)
    unit = next(one.unit for one in before.found if one.kind == "journal")
    with locked(Store(out / "units" / unit).lock_file):
        assert unit not in {one.unit for one in leftovers(out).found}
        remove(replace(before, found=tuple(one for one in before.found if one.unit == unit)))
        assert (out / "units" / unit / "journal").is_dir()


@dataclass(frozen=True)
class PartSession:
    """A part that says whether it is finished, and whose table hands over one model."""

    out: Path
    study: str
    finished: bool
    units: Path = Path()
    say: Any = None

    def plan(self, world: Any) -> Any:
        name = self.study
        return SimpleNamespace(units=(f"{name}-unit",), continued=frozenset({f"{name}-continued"}))


@pytest.mark.parametrize(
    ("parts", "finished"),
    [
        ((True, True), True),
        ((False, True), False),
        ((True, False), False),
        ((False, False), False),
        ((True, None), True),
    ],
)
def test_a_study_of_parts_is_finished_once_every_part_is(
    parts: tuple[bool | None, ...], finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is a part that could not be run; each part's table hands over a model of its own."""
    sessions = {
        f"part{number}": PartSession(tmp_path / str(number), f"part{number}", bool(done))
        for number, done in enumerate(parts)
    }

    def standing(study: str, *_: Any) -> Any:
        run = SimpleNamespace(row=SimpleNamespace(unit=f"{study}-unit"), stage=f"{study}-stage")
        lines = (SimpleNamespace(best_run=run), SimpleNamespace(best_run=None))
        return SimpleNamespace(lines=lines, verdicts={"b": ""} if sessions[study].finished else {})

    for name, value in {
        "kept_study": lambda out: "whole",
        "local_fabric": lambda **_: None,
        "Session": lambda *_: None,
        "part_sessions": lambda whole: sessions,
        "missing_parts": lambda out: {f"part{number}": "" for number, done in enumerate(parts) if done is None},
        "World": SimpleNamespace(read=lambda study, out: SimpleNamespace(study=study)),
        "read_all": lambda out: {},
        "as_recorded": lambda plan, records: SimpleNamespace(
            units=(plan.units[0].replace("unit", "earlier"),), continued=frozenset({"continued-earlier"})
        ),
        "standing_of": standing,
    }.items():
        monkeypatch.setattr(clean, name, value)
    use = clean._use(tmp_path, print)
    there = [name for name, done in zip(sessions, parts, strict=True) if done is not None]
    assert use.finished is finished
    assert use.shown == {(f"{name}-unit", f"{name}-stage") for name in there}
    assert use.units == {f"{name}-{which}" for name in there for which in ("unit", "earlier")}
    assert use.continued == {"continued-earlier", *(f"{name}-continued" for name in there)}


def test_the_command_removes_only_what_it_is_told_to(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["allograft", *words])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code in (0, None)
        return capsys.readouterr().out

    before = files(out)
    said = command("clean", str(out))
    assert "dry run: nothing was removed" in said
    assert files(out) == before
    assert "removed 0.0 MiB" in command("clean", str(out), "--yes")
    assert len(files(out)) < len(before)
    assert "nothing to remove" in command("clean", str(out))


def test_a_folder_that_no_study_wrote_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["allograft", "clean", str(tmp_path)])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert "holds no study.json; expected the output folder of 'allograft study'" in capsys.readouterr().err


def test_sizes_are_in_powers_of_two() -> None:
    found = (Leftover("unit", "abc", 700 * 2**20), Leftover("journal", "abc", 2**29))
    first, *lines = lines_of(Leftovers(Path("out"), found, 3 * 2**30))
    assert first.startswith("out: 3.00 GiB in")
    assert {line.split()[-2] for line in lines} == {"700.0", "512.0"}
