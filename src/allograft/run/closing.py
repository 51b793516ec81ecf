"""What a study leaves: table, verdicts, models, CSV files and the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from allograft.results.analysis.correction import corrections, write_corrections
from allograft.results.costs import unit_seconds
from allograft.results.csv_files import result_frame, write_metrics, write_results
from allograft.results.evidence import write_verdicts
from allograft.results.models import export_models
from allograft.results.protocol import protocol_sentence
from allograft.results.record import Record, read_all
from allograft.results.select import NOT_YET, Line
from allograft.results.standing import Standing, standing_of
from allograft.run.curves import curves_of
from allograft.run.pace import Page
from allograft.study.parts import shared_folder
from allograft.study.plan import Plan
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.tree import content_hash

if TYPE_CHECKING:
    import pandas as pd

    from allograft.run.session import Session


@dataclass(frozen=True)
class Result:
    """What a study leaves.

    Args:
        out: the folder.
        study, plan: what was asked.
        lines: the table.
        models: (recipe's title, target) -> model folder.
        standing: how far the study is, with its verdicts.
    """

    out: Path
    study: Study
    plan: Plan
    lines: tuple[Line, ...]
    models: Mapping[tuple[str, str], Path]
    standing: Standing = field(default_factory=Standing)

    @property
    def table(self) -> pd.DataFrame:
        """The rows of ``results.csv``: one per recipe, target and evaluated site."""
        return result_frame(self.plan, self.lines)

    def __repr__(self) -> str:
        rows = len({line.title for line in self.lines})
        return f"Result({self.out}: {rows} recipes at {', '.join(self.study.target)}; {self.failed} runs failed)"

    @property
    def failed(self) -> int:
        """How many runs failed; one that waits for another shard has not."""
        return sum(run.error not in ("", NOT_YET) for line in self.lines for run in line.runs)


def restore(session: Session, world: World, plan: Plan) -> None:
    """Run again what ``clean`` removed and the table now needs, after another rule of selection
    say."""
    table = standing_of(world.study, plan, _records(session, world), session.units).lines
    for run in (run for line in table if (run := line.best_run) is not None):
        if run.stage in session.store(run.row.unit).cleaned():
            session.store(run.row.unit).forget()
            replace(session, continued=session.continued | plan.continued).run(world, run.row, "cleaned before")


def finish(
    session: Session, world: World, plan: Plan, *, report: bool, pictures: bool = True, keeps_page: bool = False
) -> Result:
    """Table, verdicts, models, ``results.csv``, ``metrics.csv``, ``correction.csv`` where boxes
    were corrected, and report.

    Args:
        keeps_page: leave a page as it is that was made of the same records.
    """
    now = standing_of(world.study, plan, _records(session, world), session.units)
    if any(run.tests for line in now.lines for run in line.runs):
        session.look()
    frozen = protocol_sentence(shared_folder(session.out))
    models = export_models(
        session.out, world, now, session.units, template=session.context(0).template, device=session.fabric.device
    )
    write_verdicts(session.out, now.verdicts)
    write_results(session.out, plan, now.lines)
    write_metrics(session.out, plan, now.lines)
    write_corrections(session.out, corrections(session.out, world, now.lines))
    asked = [world.study.spelt_out(), plan.units, now.done, now.total, pictures, *filter(None, [frozen])]
    page = Page(session.out, content_hash(*asked))
    if report and not (keeps_page and page.is_current()):
        write_page(session, world, plan, pictures=pictures, now=now)
        page.written()
    return Result(session.out, world.study, plan, now.lines, models, now)


def _records(session: Session, world: World, *, skip_damaged: bool = False) -> dict[str, Record]:
    """Those at the sites of this study: another study in the same folder may share units with it,
    which were judged at its own sites too."""
    sites = {*world.study.source, *world.study.target}
    records = read_all(session.out, skip_damaged=skip_damaged)
    return {name: record for name, record in records.items() if record.part == "weights" or record.site in sites}


def write_page(
    session: Session,
    world: World,
    plan: Plan,
    *,
    pictures: bool,
    waiting: Collection[str] = (),
    now: Standing | None = None,
) -> None:
    """Write ``report.html`` from the records that are there.

    Args:
        pictures: whether it may show patients' images.
        waiting: of a study that runs, the units that wait, undone even if they failed before.
        now: of a run that has ended, how far the study is; the page has further sections then.
    """
    from allograft.report import Shows, write_annotate, write_report
    from allograft.report.sections import sections_of
    from allograft.run.pictures import pictures_of

    records = _records(session, world, skip_damaged=not pictures)
    made = now or standing_of(world.study, plan, records, session.units, waiting)
    table = list(made.lines)
    template, device = session.context(0).template, session.fabric.device
    drawn = pictures_of(session.out, world, table, template) if pictures else {}
    figures = {
        (line.title, line.target): session.store(run.row.unit).figures(images=pictures)
        for line in table
        if (run := line.best_run)
    }
    extras = sections_of(session.out, world, plan, records, table, template, device=device) if now is not None else {}
    write_annotate(session.out, table)
    curves = curves_of(plan, session.units, records.values()) if made.done < made.total else []
    shows = Shows(
        drawn,
        figures,
        extras,
        world,
        seconds=unit_seconds(records.values()),
        curves=curves,
        frozen=protocol_sentence(shared_folder(session.out)),
    )
    page = session.out / "report.html"
    Page.forget(session.out)
    write_report(page, study=world.study, plan=plan, standing=made, shows=shows)
