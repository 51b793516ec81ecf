"""One table of a study's models over its own sites and those of travelling records: what each model
scores at every site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allograft.apply.travelling import SiteRecord, read_site_record
from allograft.errors import OutputError
from allograft.predictor.card import read_card
from allograft.results.areas import area_limits
from allograft.results.csv_files import word, write_rows
from allograft.results.intervals import score_limits, t_limits
from allograft.results.looks import add_look
from allograft.results.ranking import area_of
from allograft.results.record import read_all
from allograft.results.scores import SHARES
from allograft.results.statistics import Interval, per_subject, undefined_in
from allograft.study.parts import part_folder, parts_of
from allograft.study.reading import kept_study
from allograft.study.spec import Study
from allograft.tasks import Task

if TYPE_CHECKING:
    from rich.table import Table

FOLDER = "merged"
"""Where the records lie that were merged, each named by its hash."""
COLUMNS = (
    *("model", "learned_from", "site", "record", "metric", "mean", "low", "high"),
    *("subjects", "cases", "undefined_cases"),
)
Cases = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Held:
    """A model that a study left.

    Args:
        names: its folders below ``models``; several where one unit answers several rows.
        learned_from: the sites that it learned from.
        model: the checksum of its weights.
    """

    unit: str
    stage: str
    names: tuple[str, ...]
    learned_from: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class Entry:
    """What one model scored at one site.

    Args:
        record: the hash of the travelling record; "" for the study's own test cases.
    """

    held: Held
    site: str
    record: str
    cases: Cases


@dataclass(frozen=True)
class SiteTable:
    """All entries, models in the order of their names, the study's own sites first."""

    task: Task
    entries: tuple[Entry, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """The columns."""
        own = [entry.site for entry in self.entries if not entry.record]
        return tuple(dict.fromkeys([*own, *(entry.site for entry in self.entries)]))


def merge(out: Path, files: Sequence[Path]) -> SiteTable:
    """Add travelling records to a study: they are copied to ``OUT/merged`` and ``OUT/sites.csv`` is
    written again. Where one file cannot be added, none is.

    Raises:
        OutputError: a file that is no record, or of another version; one that is there already; a
            model that the study does not hold, or whose weights are others; cases that this model
            was evaluated on before, or a surface Dice at another tolerance.
    """
    study, held = kept_study(out), {(model.unit, model.stage): model for model in held_models(out)}
    there = merged_records(out)
    tolerances = {model.surface_dice for model in there.values()} | {_tolerance(study)}
    new: dict[str, SiteRecord] = {}
    for path in files:
        record = read_site_record(path)
        _check(record, path, held, {**there, **new}, out)
        tolerances.add(record.surface_dice)
        if len(stated := sorted(mm for mm in tolerances if mm is not None)) > 1:
            raise OutputError(
                f"{path}: its surface Dice has a tolerance of {record.surface_dice} mm, and the table one of "
                f"{next(mm for mm in stated if mm != record.surface_dice)} mm; evaluate with the same --surface-dice"
            )
        new[record.hash] = record
    add_look(out, "merge", f"{len(new)} records and the table of sites")
    for key, record in new.items():
        record.write(out / FOLDER / f"{key}.json")
    return write_sites(out)


def merged_records(out: Path) -> dict[str, SiteRecord]:
    """Hash -> each record that was merged before."""
    records = map(read_site_record, sorted((out / FOLDER).glob("*.json")))
    return {record.hash: record for record in records}


def held_models(out: Path) -> list[Held]:
    """The models that a study holds, of all its parts."""
    cards = {path.parent.name: read_card(path.parent) for path in sorted((out / "models").glob("*/card.json"))}
    learned = {
        (record.unit, record.stage): (*record.source, *filter(None, [record.target]), *record.stream)
        for folder in part_folders(out)
        for record in read_all(folder).values()
    }
    by_unit: dict[tuple[str, str], list[str]] = {}
    for name, card in cards.items():
        by_unit.setdefault((card.get("unit", ""), card.get("stage", "")), []).append(name)
    return [
        Held(unit, stage, tuple(names), learned[unit, stage], cards[names[0]]["checksum"])
        for (unit, stage), names in by_unit.items()
        if (unit, stage) in learned
    ]


def part_folders(out: Path) -> list[Path]:
    """The folders with records of a study: its own, or those of its parts."""
    return [part_folder(out, name) if name else out for name in parts_of(kept_study(out))]


def write_sites(out: Path) -> SiteTable:
    """Write ``OUT/sites.csv``: one row per model, site and metric, of the study's own test cases
    and of every merged record; ``low`` and ``high`` are 95 % intervals over subjects."""
    table = site_table(out)
    rows = []
    for entry in table.entries:
        metrics = table.task.aggregate(entry.cases)
        for metric in [name for name in metrics if not name.startswith("undefined/")]:
            low, high = interval(table.task, entry.cases, metric) or ("", "")
            row: dict[str, Any] = {
                "model": word(entry.held.names[0]),
                "learned_from": word("+".join(entry.held.learned_from)),
            }
            row |= {"site": word(entry.site), "record": entry.record, "metric": metric, "low": low, "high": high}
            row |= {"mean": "" if (value := metrics[metric]) is None else value}
            row |= {"subjects": len({case["subject"] for case in entry.cases}), "cases": len(entry.cases)}
            rows.append({**row, "undefined_cases": len(undefined_in({0: entry.cases}, metric))})
    write_rows(out / "sites.csv", COLUMNS, rows)
    return table


def site_table(out: Path) -> SiteTable:
    """The table of a study with the records that were merged."""
    task, held = kept_study(out).made_task, held_models(out)
    own = list(_own(out, held))
    taken = {entry.site for entry in own}
    by_key = {(one.unit, one.stage): one for one in held}
    merged: list[Entry] = []
    labels: dict[tuple[str, int], str] = {}
    for key, record in merged_records(out).items():
        for number, name in enumerate(record.sites, 1):
            label = labels.setdefault((record.data, number), _label(name, record, number, taken | {*labels.values()}))
            cases = [dict(case) for case in record.cases if case["site"] == number]
            if cases and (model := by_key.get((record.unit, record.stage))):
                merged.append(Entry(model, label, key, [_without_site(case) for case in cases]))
    names = [one.names[0] for one in held]
    return SiteTable(task, tuple(sorted([*own, *merged], key=lambda entry: names.index(entry.held.names[0]))))


def interval(task: Task, cases: Cases, metric: str) -> Interval | None:
    """The 95 % interval over subjects of one model's score, in closed form; None where there is
    none, or for fewer than two subjects."""
    scores = per_subject(cases, metric) if any(metric in case for case in cases) else {}
    if not scores:
        area = area_of(task, cases, metric)
        return None if area is None else area_limits(area)
    if len(scores) < 2:
        return None
    low, high = (score_limits if metric.split("/")[0] in SHARES else t_limits)(sorted(scores.values()))
    return float(low), float(high)


def printed(table: SiteTable) -> Table:
    """The headline of every model at every site, for a terminal."""
    from rich.table import Table

    from allograft.results.table import LAYOUT

    metric = table.task.headline
    made = Table(title=f"{metric} of each model at each site, 95 % over subjects", **LAYOUT)
    made.add_column("model", min_width=16)
    for name in ("learned from", *table.sites):
        made.add_column(name, justify="right")
    for held in dict.fromkeys(entry.held for entry in table.entries):
        cells = {entry.site: _cell(table.task, entry, metric) for entry in table.entries if entry.held == held}
        others = f" (= {', '.join(held.names[1:])})" if held.names[1:] else ""
        made.add_row(
            held.names[0] + others, "+".join(held.learned_from) or "none", *(cells.get(s, "") for s in table.sites)
        )
    return made


def _cell(task: Task, entry: Entry, metric: str) -> str:
    value, between = task.aggregate(entry.cases).get(metric), interval(task, entry.cases, metric)
    count = len({case["subject"] for case in entry.cases})
    text = "undefined" if value is None else f"{value:.3f}"
    return f"{text} {f'[{between[0]:.2f}, {between[1]:.2f}] ' if between else ''}n={count}"


def _check(
    record: SiteRecord,
    path: Path,
    held: Mapping[tuple[str, str], Held],
    there: Mapping[str, SiteRecord],
    out: Path,
) -> None:
    """Raise ``OutputError`` for a record that the table cannot take."""
    if record.hash in there:
        raise OutputError(f"{path}: this record is in {out / FOLDER} already, as {record.hash}.json; leave it out")
    model = held.get((record.unit, record.stage))
    named = f"unit {record.unit[:8]}, stage '{record.stage}'"
    if model is None:
        known = (
            ", ".join(name for model_ in held.values() for name in model_.names) or "no model whose card names its unit"
        )
        raise OutputError(
            f"{path}: is of {named}, which {out} does not hold; expected one of {known}: give the OUT of its study, or "
            f"write its cards again with 'allograft report {out}'"
        )
    if record.model != model.model:
        raise OutputError(
            f"{path}: is of {named}, with weights of checksum {record.model}; {out / 'models' / model.names[0]} has "
            f"{model.model}: evaluate that folder"
        )
    same = next(
        (key for key, model_ in there.items() if (model_.unit, model_.stage, model_.data) == _asked(record)), None
    )
    if same is not None:
        raise OutputError(
            f"{path}: {model.names[0]} was evaluated on the same cases before; remove {out / FOLDER / same}.json to "
            "take this one"
        )


def _asked(record: SiteRecord) -> tuple[str, str, str]:
    return record.unit, record.stage, record.data


def _own(out: Path, held: Sequence[Held]) -> Iterator[Entry]:
    """The study's own test cases, of all folds together."""
    cases: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for folder in part_folders(out):
        for record in read_all(folder).values():
            if record.part == "test" and record.status == "done":
                kept = cases.setdefault((record.unit, record.stage, record.site), {})
                kept |= {case["case"]: case for case in record.measured}
    for model in held:
        for (unit, stage, site), kept in cases.items():
            if (unit, stage) == (model.unit, model.stage) and kept:
                yield Entry(model, site, "", list(kept.values()))


def _label(name: str, record: SiteRecord, number: int, taken: set[str]) -> str:
    """What the table calls a site; two sets of cases never share a column."""
    bare = name or f"site {number}"
    return f"{bare} ({record.data[:6]})" if not name or name in taken else name


def _without_site(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key != "site"}


def _tolerance(study: Study) -> float | None:
    tolerance: float | None = getattr(getattr(study.made_task, "segmentation", study.made_task), "surface_dice", None)
    return tolerance
