"""Studies of many pairs: every source site to every target, or every target from all other sites, judged side by side.

``pairs: all`` is one study a source site, ``pairs: leave-one-site-out`` one a target; each lies whole in ``OUT/pairs``, with its own
table, report and models, and what is said over all pairs lies in ``OUT``. A site's test subjects are the same in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allograft import tree
from allograft.study.analysis.severity import severity_sheet
from allograft.study.plan import PAIRS, World
from allograft.study.record import read_all
from allograft.study.report.overview import Part, write_overview
from allograft.study.results import join_files
from allograft.study.run import kept_study, local_fabric, rebuild
from allograft.study.session import NetworkSource, Result, Session
from allograft.study.spec import Study, make_study


@dataclass(frozen=True)
class PairsResult:
    """What a study of many pairs leaves.

    Args:
        out: the folder.
        study: what was asked.
        parts: ``from a`` or ``to b`` -> what that study left.
    """

    out: Path
    study: Study
    parts: Mapping[str, Result]

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return sum(part.failed for part in self.parts.values())


def parts_of(study: Study) -> dict[str, Study]:
    """The studies that a study of many pairs consists of, by name.

    >>> task = {"segmentation": {"classes": ["vessel"]}}
    >>> study = make_study({"cohort": "m.csv", "task": task, "source": ["a", "b", "c"], "recipes": ["fourier"], "pairs": "all"})
    >>> {name: (part.source, part.target) for name, part in parts_of(study).items()}["from a"]
    (('a',), ('b', 'c'))
    >>> [(part.source, part.target) for part in parts_of(replace(study, pairs="leave-one-site-out")).values()][0]
    (('b', 'c'), ('a',))
    """
    sides: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    if study.pairs == "all":
        sides = {f"from {one}": ((one,), tuple(site for site in study.target if site != one)) for one in study.source}
    else:
        sides = {f"to {one}": (tuple(site for site in study.source if site != one), (one,)) for one in study.target}
    return {name: replace(study, pairs="listed", source=here, target=there) for name, (here, there) in sides.items() if here and there}


def run_pairs(
    study: Study | Mapping[str, Any],
    out: Path | str,
    *,
    network: NetworkSource | None = None,
    fabric: Any = None,
    workers: int = 0,
    checkpoint_seconds: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
    report: bool = True,
    shard: tuple[int, int] = (1, 1),
) -> PairsResult:
    """Run a study with ``pairs: all`` or ``leave-one-site-out``, or go on with one; the arguments are those of ``run_study``.

    Raises:
        AllograftError: bad input for any of the pairs, before anything is trained.
    """
    study, out = make_study(study), Path(out)
    whole = Session(study, out, network, fabric or local_fabric(), workers, checkpoint_seconds, say)
    sessions = part_sessions(whole)
    worlds: dict[str, World] = {}
    for name, session in sessions.items():
        say(f"== {name} ({len(worlds) + 1} of {len(sessions)})")
        worlds[name] = session.prepare()
    if whole.fabric.is_global_zero:
        tree.write_json(out / "study.json", study.spelt_out())
    results: dict[str, Result] = {}
    for name, session in sessions.items():
        say(f"== {name} ({len(results) + 1} of {len(sessions)})")
        plan = session.plan(worlds[name])
        session.run_all(worlds[name], plan, shard, report=report)
        if whole.fabric.is_global_zero:
            results[name] = session.finish(worlds[name], plan, report=report)
            _finish(out, study, results, len(sessions), report=report)
    return PairsResult(out, study, results)


def rebuild_pairs(out: Path, *, pictures: bool = True, say: Callable[[str], None] = lambda line: None) -> PairsResult:
    """All tables, CSV files, models and reports of a study of many pairs, from its records alone; see ``rebuild``."""
    study = kept_study(out)
    results: dict[str, Result] = {}
    for name in parts_of(study):
        say(f"== {name}")
        results[name] = rebuild(part_folder(out, name), pictures=pictures, say=say)
    _finish(out, study, results, len(results), report=True)
    return PairsResult(out, study, results)


def part_sessions(whole: Session) -> dict[str, Session]:
    """A session for each part, in a folder of its own."""
    return {name: replace(whole, study=part, out=part_folder(whole.out, name)) for name, part in parts_of(whole.study).items()}


def part_folder(out: Path, name: str) -> Path:
    """``OUT/pairs/from-a``, safe as a folder name; two parts never share one."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    return out / PAIRS / (safe if safe == name.replace(" ", "-", 1) else f"{safe}.{tree.content_hash(name)[:6]}")


def _finish(out: Path, study: Study, results: Mapping[str, Result], parts: int, *, report: bool) -> None:
    """What is said over all pairs that are there."""
    for file in ("results.csv", "metrics.csv"):
        join_files(out / file, {"+".join(result.study.source): result.out / file for result in results.values()})
    if report:
        made = list(results.values())
        units = {unit for result in made for unit in result.plan.units}
        records = [record for result in made for record in read_all(result.out).values() if record.unit in units]
        links = [(result.out / "report.html").relative_to(out).as_posix() for result in made]
        shown = [Part(name, link, one.study, one.plan, one.lines) for (name, one), link in zip(results.items(), links, strict=True)]
        write_overview(out / "report.html", study, shown, parts, severity_sheet(records, made[0].plan.headline))
