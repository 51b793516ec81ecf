"""Pin what every method's numbers depend on: ``python -m tests.contract.pin`` writes ``draws.json``
again.

A changed line means other numbers for that method: CHANGELOG.md then says so.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.contract.world import METHODS, draws_of, request, session_of, write_cohort

PINNED = Path(__file__).with_name("draws.json")


def main() -> None:
    """Method -> ``Context.draws`` of its row in the contract world."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_cohort(Path(folder) / "cohort")
        sessions = {name: session_of(manifest, Path(folder) / name, request(name)) for name in METHODS}
        draws = {name: draws_of(session, session.prepare()) for name, session in sessions.items()}
    PINNED.write_text(json.dumps(draws, indent=1) + "\n")


if __name__ == "__main__":
    main()
