"""A study of several parts: a session for each, and what holds over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from allograft import tree
from allograft.report.overview import Part, write_overview
from allograft.results.analysis import correction
from allograft.results.analysis.label_curve import label_curves, write_label_curve
from allograft.results.analysis.severity import severity_sheet
from allograft.results.csv_files import join_files
from allograft.results.evidence import FILE as VERDICTS
from allograft.results.protocol import protocol_sentence
from allograft.results.record import read_all
from allograft.run.closing import Result
from allograft.run.session import Session
from allograft.study.parts import part_folder, parts_of
from allograft.study.spec import Study

if TYPE_CHECKING:
    import pandas as pd

MISSING = "missing.json"
"""Parts of a study that were not run, each with the reason."""


@dataclass(frozen=True)
class PartsResult:
    """What a study of several parts leaves: pairs of sites, named settings, numbers of target
    labels.

    Args:
        out: the folder.
        study: what was asked.
        parts: ``from a``, ``swin24`` or ``subjects-4`` -> what that study left.
        missing: parts that were not run, since the published weights that they start from are not
            on this machine and cannot be fetched -> which file, and where to put it.
    """

    out: Path
    study: Study
    parts: Mapping[str, Result]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """The tables of all parts, with the column ``part``."""
        import pandas as pd

        frames = [result.table.assign(part=name) for name, result in self.parts.items()]
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        return f"PartsResult({self.out}: {', '.join(self.parts)}; {self.failed} runs failed)"

    @property
    def named_parts(self) -> list[Part]:
        """The parts that are there, with the place of each page."""
        return [
            Part(name, (one.out / "report.html").relative_to(self.out).as_posix(), one.study, one.plan, one.standing)
            for name, one in self.parts.items()
        ]

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return sum(part.failed for part in self.parts.values())


def part_sessions(whole: Session) -> dict[str, Session]:
    """A session for each part, in a folder of its own; of a study in one part, the session itself
    under ""."""
    return {
        name: replace(whole, study=part, out=part_folder(whole.out, name) if name else whole.out)
        for name, part in parts_of(whole.study).items()
    }


def missing_parts(out: Path) -> dict[str, str]:
    """The parts of a study that were not run, each with the reason."""
    missing: dict[str, str] = json.loads((out / MISSING).read_text()) if (out / MISSING).exists() else {}
    return missing


def join(out: Path, whole: PartsResult, parts: int, *, report: bool) -> None:
    """What holds over all parts that are there, of so many that can be run: one table, and a page
    over them."""
    study, results, shown = whole.study, whole.parts, whole.named_parts
    for file in ("results.csv", "metrics.csv", correction.FILE):
        every = {name: ("+".join(result.study.source), result.out / file) for name, result in results.items()}
        if here := {name: part for name, part in every.items() if part[1].exists()}:
            join_files(out / file, here)
        else:
            tree.remove(out / file)
    joined = {
        name: {site: tree.plain(asdict(verdict)) for site, verdict in one.standing.verdicts.items()}
        for name, one in results.items()
    }
    if len(results) == parts and all(joined.values()):
        tree.write_json(out / VERDICTS, joined)
    else:
        tree.remove(out / VERDICTS)
    write_label_curve(out, label_curves(shown))
    if report:
        made = list(results.values())
        units = {unit for result in made for unit in result.plan.units}
        records = [record for result in made for record in read_all(result.out).values() if record.unit in units]
        severity = severity_sheet(records, made[0].plan.headline)
        write_overview(
            out / "report.html",
            study,
            shown,
            parts,
            severity,
            missing=whole.missing,
            frozen=protocol_sentence(out),
        )
