"""Freeze a study's protocol before its first test score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from allograft.errors import OutputError
from allograft.results.protocol import Protocol, check_parts, count_scores, make_protocol, read_protocol
from allograft.run.fabric import local_fabric
from allograft.run.parted import part_sessions
from allograft.run.session import Session
from allograft.study.reading import make_study
from allograft.study.spec import Study


def freeze_study(
    study: Study | Mapping[str, object],
    out: Path | str,
    *,
    after_scores: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Protocol:
    """Write ``OUT/protocol.json``: the study with its defaults, its splits, the verdict's rules and
    the primary row. From then on ``run_study`` refuses another study in this folder.

    Args:
        after_scores: freeze although test scores are there; the report states it.

    Raises:
        OutputError: test scores are there; another protocol is.
    """
    study, out = make_study(study), Path(out)
    sessions = part_sessions(Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, say))
    scores = count_scores(out, [session.out for session in sessions.values()])
    earlier = read_protocol(out)
    if scores and earlier is None and not after_scores:
        raise OutputError(
            f"{out}: holds or has shown {scores} test scores, so nothing can be frozen before the first; freeze into "
            "another --out, or add --after-scores, which the report will state"
        )
    if earlier is not None:
        check_parts(out, [session.out for session in sessions.values()])
    completed = [session.completed() for session in sessions.values()]
    parts = {session.out: (session.study, session.prepare()) for session in completed}
    if earlier is not None:
        return earlier
    made = make_protocol(parts, out, scores)
    made.write(out)
    return made
