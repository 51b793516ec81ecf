"""``OUT/protocol.json``: what a study will do, fixed before the first test score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from allograft import __version__
from allograft.cohort import Case
from allograft.cohort.splits import Assignment
from allograft.errors import OutputError, SpecError
from allograft.results.looks import looks, now
from allograft.results.record import read_all
from allograft.results.verdict import RULES_VERSION
from allograft.study.parts import shared_folder
from allograft.study.reading import make_study
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.tree import content_hash, plain, write_json

FILE = "protocol.json"
SCHEMA = 1
SHOWN = 8
"""Changed keys that are named."""


@dataclass(frozen=True)
class Protocol:
    """What was frozen.

    Args:
        frozen: when, in UTC.
        scores_before: test scores that were there already; 0 unless that was said plainly.
        rule: the version of the verdict's rules.
        parts: the folder of each part of the study below its own, "." for a study in one part ->
            ``{"study", "primary", "splits"}``.
        allograft: the version that wrote it.
    """

    frozen: datetime
    scores_before: int
    rule: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]
    allograft: str = __version__

    @property
    def hash(self) -> str:
        """Of rule, studies, splits and primary rows: what one publishes."""
        return content_hash(self.rule, self.parts)

    def write(self, out: Path) -> None:
        """Write ``OUT/protocol.json``."""
        content = {"schema": SCHEMA, "allograft": self.allograft, "frozen": self.frozen.isoformat(timespec="seconds")}
        body = {"scores_before": self.scores_before, "rule": self.rule, "parts": self.parts, "hash": self.hash}
        write_json(out / FILE, {**content, **body})


def make_protocol(studies: Mapping[Path, tuple[Study, World]], out: Path, scores_before: int) -> Protocol:
    """The protocol of a study as it is now.

    Args:
        studies: folder of each part -> its study, with its defaults filled in, and its world.
    """
    parts = {_place(folder, out): _part(study, world) for folder, (study, world) in studies.items()}
    return Protocol(now(), scores_before, {"rules_version": RULES_VERSION}, parts)


def read_protocol(out: Path) -> Protocol | None:
    """The protocol of a study's folder; None where none was frozen.

    Raises:
        OutputError: a file that is none, or was changed.
    """
    path = out / FILE
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["schema"] != SCHEMA:
            raise OutputError(
                f"{path}: schema {kept['schema']}, expected {SCHEMA}; use Allograft {kept.get('allograft', '?')}"
            )
        frozen = datetime.fromisoformat(kept["frozen"])
        protocol = Protocol(frozen, kept["scores_before"], kept["rule"], kept["parts"], kept["allograft"])
        if protocol.hash != kept["hash"]:
            raise ValueError("its content does not match its hash")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path}: not a protocol as 'allograft freeze' wrote it ({error}); restore the file from a copy"
        ) from error
    return protocol


def check_parts(out: Path, folders: list[Path]) -> None:
    """Raise ``SpecError`` where a study of other parts runs under a frozen protocol."""
    protocol = read_protocol(out)
    if protocol is not None:
        there, frozen = {_place(folder, out) for folder in folders}, set(protocol.parts)
        changes = [f"{name}: added" for name in sorted(there - frozen)]
        _refuse(out, protocol, [*changes, *(f"{name}: removed" for name in sorted(frozen - there))])


def check_protocol(out: Path, study: Study, world: World) -> None:
    """Raise ``SpecError`` where a study, or a part of one, is not what was frozen.

    Args:
        out: the folder of the study, or of the part.
        study: with its defaults filled in.
    """
    shared = shared_folder(out)
    protocol = read_protocol(shared)
    if protocol is None or (frozen := protocol.parts.get(_place(out, shared))) is None:
        return
    made = {"rule": {"rules_version": RULES_VERSION}, **_part(study, world)}
    was = {"rule": protocol.rule, **frozen, "study": plain(make_study(frozen["study"]))}
    changes = list(_changes(was, {**made, "study": plain(make_study(made["study"]))}))
    _refuse(out, protocol, changes)


def count_scores(out: Path, folders: list[Path]) -> int:
    """How many test scores a study's folder holds or has shown."""
    records = (record for folder in folders for record in read_all(folder, skip_damaged=True).values())
    count = sum(record.part == "test" and bool(record.measured) for record in records)
    return count + len(list((out / "merged").glob("*.json"))) + (0 if count else len(looks(out)))


def protocol_sentence(out: Path) -> str:
    """``protocol frozen 3 days before the first score; 2 looks``; "" where none was frozen."""
    protocol = read_protocol(out)
    if protocol is None:
        return ""
    seen = looks(out)
    count = f"{len(seen)} look{'' if len(seen) == 1 else 's'}"
    if protocol.scores_before:
        return f"protocol frozen after the first score ({protocol.scores_before} were there); {count}"
    if not seen:
        return "protocol frozen; no score yet"
    between = seen[0].time - protocol.frozen
    side = "before" if between >= timedelta(0) else "after"
    return f"protocol frozen {_duration(abs(between))} {side} the first score; {count}"


def _duration(time: timedelta) -> str:
    """In the largest unit of which there is one.

    >>> _duration(timedelta(days=3, hours=4)), _duration(timedelta(minutes=1)), _duration(timedelta(seconds=3))
    ('3 days', '1 minute', 'less than a minute')
    """
    for name, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if count := int(time.total_seconds() // seconds):
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a minute"


def _place(folder: Path, out: Path) -> str:
    return folder.relative_to(out).as_posix()


def _part(study: Study, world: World) -> dict[str, Any]:
    """What is frozen of a study in one part."""
    return {"study": study.spelt_out(), "primary": study.primary_title, "splits": _splits(world)}


def _splits(world: World) -> dict[str, Any]:
    """A hash of every subject's place, without the subjects themselves, and how many there are of
    each."""
    rows: set[tuple[str, str, str, int]] = set()
    for case in world.listed:
        rows.add((case.site, case.subject, *_where(case, world.assignments)))
    counts: dict[str, dict[str, int]] = {}
    for site, _, split, _ in sorted(rows):
        here = counts.setdefault(site, {})
        here[split] = here.get(split, 0) + 1
    return {"subjects": counts, "hash": content_hash(sorted(rows))}


def _where(case: Case, assignments: Mapping[str, Assignment]) -> tuple[str, int]:
    assignment = assignments[case.subject]
    return assignment.split, assignment.fold


def _changes(frozen: object, now: object, key: str = "") -> Iterator[str]:
    """``study.budget.steps: frozen 20, found 30``, of each key in which two trees differ."""
    if isinstance(frozen, Mapping) and isinstance(now, Mapping):
        for name in (*frozen, *(name for name in now if name not in frozen)):
            inner = f"{key}.{name}" if key else str(name)
            yield from _changes(frozen.get(name, "nothing"), now.get(name, "nothing"), inner)
    elif frozen != now:
        yield f"{key}: frozen {_short(frozen)}, found {_short(now)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(out: Path, protocol: Protocol, changes: list[str]) -> None:
    if changes:
        more = [f"and {len(changes) - SHOWN} more"] * (len(changes) > SHOWN)
        lines = "".join(f"\n  - {line}" for line in (*changes[:SHOWN], *more))
        raise SpecError(
            f"{out}: the protocol was frozen on {protocol.frozen:%Y-%m-%d %H:%M} UTC, and this study differs from it; "
            f"change it back, or choose another --out:{lines}"
        )
