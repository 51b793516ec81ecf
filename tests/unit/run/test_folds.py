"""``test: {folds: N}``: every fold has a run of its own, judged on its own test subjects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from tests.contract.world import session_of, write_cohort

from allograft.context import Store
from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.results.analysis.embedding import groups_of, unseen_of
from allograft.results.record import Record, read_all
from allograft.results.select import lines
from allograft.run.preview import _tried
from allograft.run.session import Session
from allograft.study.plan import Plan, Row, scenario_of
from allograft.study.world import World

FOLDS = 3


@dataclass(frozen=True)
class Ran:
    """A finished study in folds."""

    session: Session
    world: World
    plan: Plan
    records: dict[str, Record]

    def of(self, row: Row, part: str) -> Record:
        """What the row's own unit was judged on of the target in the row's fold."""
        (record,) = (
            record
            for record in self.records.values()
            if (record.unit, record.site, record.part, record.fold) == (row.unit, "b", part, row.fold)
        )
        return record


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The target's six subjects take turns in three folds."""
    folder = tmp_path_factory.mktemp("folds")
    session = session_of(
        write_cohort(folder / "cohort"),
        folder / "out",
        "finetune",
        recipes=["finetune", "supervised"],
        test={"folds": FOLDS, "val": 0.3},
        target_labels={"subjects": 1},
        budget={"steps": 1, "adapt_steps": 1, "batch_size": 2},
    )
    world = session.prepare()
    every = session.plan(world)
    plan = replace(every, rows=tuple(row for row in every.rows if row.recipe in (Supervised(), Finetune())))
    session.run_all(world, plan, (1, 1), report=False)
    return Ran(session, world, plan, read_all(session.out))


def subjects(record: Record) -> list[str]:
    return sorted({str(case["subject"]) for case in record.cases})


def test_every_subject_is_tested_once_and_by_a_model_that_never_saw_it(ran: Ran) -> None:
    every = sorted({case.subject for case in ran.world.cases() if case.site == "b"})
    for rows in ran.plan.lines().values():
        assert [row.fold for row in rows] == [*range(FOLDS)]
        assert sorted(subject for row in rows for subject in subjects(ran.of(row, "test"))) == every
        assert (len({row.unit for row in rows}) > 1) == (rows[0].recipe == Finetune())
        for row in rows:
            test, watched = ran.of(row, "test"), ran.of(row, "train-unlabelled")
            assert subjects(test) == sorted(ran.world.part("b", "test", row.fold).subjects)
            assert subjects(watched) == sorted(set(every) - {*subjects(test)})
            seen = scenario_of(ran.world, row)
            shown = {subject for cohort in (*seen.source, *seen.target) for subject in cohort.subjects}
            assert not shown & {*subjects(test)}
            assert {*test.labelled_subjects} <= shown


def test_a_line_pools_all_folds(ran: Ran) -> None:
    for line in lines(ran.plan, ran.records, ran.session.study.selection):
        (run,) = line.runs
        assert [record.fold for record in run.tests["b"]] == [*range(FOLDS)]
        measured = [case for record in run.tests["b"] for case in record.measured]
        assert line.scores["b"] == (ran.plan.task.aggregate(measured)["dice"],)


def test_figures_look_at_the_cases_of_their_own_fold(ran: Ran) -> None:
    tested = [ran.world.part("b", "test", fold) for fold in range(FOLDS)]
    assert [groups_of(ran.world, "b", fold)["target, test"].cases for fold in range(FOLDS)] == [
        cohort.cases for cohort in tested
    ]
    assert [unseen_of(ran.world, "b", fold)["b, test"].cases for fold in range(FOLDS)] == [
        cohort.cases for cohort in tested
    ]


def test_an_image_without_label_is_watched_under_its_own_name(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which its pixels are drawn: two images of a subject have other ones."""
    monkeypatch.setattr("allograft.run.judge.watched", lambda prediction, task, name: {"drawn by": name})
    row = ran.plan.rows[0]
    _, (stage, *_), _ = Store(ran.session.units / row.unit).load()  # type: ignore[misc]
    (images,) = ran.world.unlabelled_training(row.fold)
    cases = ran.session._judge(ran.world, row).watch(stage, images)
    assert [case["drawn by"] for case in cases] == [case.name for case in images.cohort.cases]


def test_a_forecast_counts_the_test_cases_of_its_own_fold(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.run.preview._judging", lambda *_: 1.0)
    cases = [sum(len(test.cohort.cases) for test in ran.world.tests(fold)) for fold in range(FOLDS)]
    fold = next(fold for fold in range(FOLDS) if cases[fold] != cases[0])
    row = next(row for row in ran.plan.rows if row.fold == fold and row.recipe == Supervised())
    judging: dict[tuple[str, str], float] = {}
    assert list(_tried(ran.session, ran.world, row, {}, judging))
    assert {*judging.values()} == {cases[fold]}


def test_a_fold_is_done_when_it_is_judged_and_fails_by_itself(ran: Ran) -> None:
    last = next(row for row in ran.plan.rows if row.fold == FOLDS - 1 and row.recipe == Finetune())
    ran.session.keep_failure(last, ValueError("planted"))
    (failed,) = (record for record in read_all(ran.session.out).values() if record.status == "failed")
    assert (failed.unit, failed.target, failed.fold) == (last.unit, "b", last.fold)
    assert not any(ran.session.run(ran.world, row, "again") for row in ran.plan.rows)
    assert read_all(ran.session.out).keys() == ran.records.keys()
    name = ran.of(last, "test").name
    (ran.session.out / "records" / f"{name}.json").unlink()
    assert [row.unit for row in ran.plan.rows if ran.session.run(ran.world, row, "again")] == [last.unit]
    assert ran.of(last, "test").cases == read_all(ran.session.out)[name].cases


def test_a_record_of_other_cases_is_made_again(ran: Ran) -> None:
    row = ran.plan.rows[0]
    record = ran.of(row, "test")
    replace(record, data="0" * len(record.data)).write(ran.session.out / "records")
    assert ran.session.run(ran.world, row, "again")
    assert ran.of(row, "test").data == read_all(ran.session.out)[record.name].data
