"""Pin what every method's numbers depend on, and the numbers: ``python -m tests.contract.pin``
writes ``draws.json`` and ``numbers.json`` again; with names of methods, their lines alone.

A changed line means other numbers for that method: CHANGELOG.md then says so. Numbers are made
twice, once as on an older processor: where these differ, what is pinned may differ ten times as
much, and what rounding turns into something else is not pinned.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.contract.leaving import Leaves, leaving, published_weights, variants
from tests.contract.numbers import LEAST, Summary, pinned
from tests.contract.world import METHODS, draws_of, request, session_of, write_cohort

PINNED, NUMBERS = (Path(__file__).with_name(f"{name}.json") for name in ("draws", "numbers"))
OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
"""How the libraries compute on an older processor; PyTorch itself draws a network's first weights
alike on both."""
ELSEWHERE = {"figure matched-": math.inf, "figure stains": 0.02}
"""What a third processor made otherwise although these two agree: its beginning -> how far it may be. A picture of
matched clusters is another picture where one image changes its cluster, so none is pinned."""
Numbers = Mapping[str, Mapping[str, Mapping[str, Summary]]]
"""Method -> variant -> what -> its summary."""


def main(names: Sequence[str]) -> None:
    """Write both files."""
    names = names or METHODS
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_cohort(Path(folder) / "cohort")
        sessions = {name: session_of(manifest, Path(folder) / name, request(name)) for name in names}
        draws = {name: draws_of(session, session.prepare()) for name, session in sessions.items()}
    made, older = numbers(names), _on_older_processor(names)
    PINNED.write_text(_lines(_with(PINNED, draws)))
    kept = {name: _pinned_of(made[name], older[name]) for name in made}
    NUMBERS.write_text(_lines(_with(NUMBERS, kept)))


def numbers(names: Sequence[str]) -> Numbers:
    """What each of the methods' ``variants`` leaves in the contract world."""
    with tempfile.TemporaryDirectory() as folder, published_weights(Path(folder)):
        manifest = write_cohort(Path(folder) / "cohort")
        (manifest.parent / "prepared").mkdir()
        leaves = leaving(manifest, lambda name: Path(tempfile.mkdtemp(prefix=name, dir=folder)))
        return {name: numbers_of(name, leaves) for name in names}


def numbers_of(name: str, leaves: Leaves) -> Mapping[str, Mapping[str, Summary]]:
    """Variant of a method -> what -> its summary."""
    return {variant: leaves(name, *arguments).numbers for variant, arguments in variants(name).items()}


def _on_older_processor(names: Sequence[str]) -> Numbers:
    code = f"import json; from tests.contract.pin import numbers; print(json.dumps(numbers({list(names)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **OLDER}, stdout=subprocess.PIPE, check=True, text=True
    )
    older: Numbers = json.loads(done.stdout.splitlines()[-1])
    return older


def _pinned_of(made: Any, older: Any) -> dict[str, dict[str, Summary]]:
    return {
        variant: {
            what: kept
            for what, each in summaries.items()
            if (kept := pinned(each, older[variant].get(what, ()), _least(what)))
        }
        for variant, summaries in made.items()
    }


def _least(what: str) -> float:
    return next((far for begins, far in ELSEWHERE.items() if what.startswith(begins)), LEAST)


def _with(file: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """The methods that there are, those made now in the place of what the file has."""
    before = json.loads(file.read_text()) if file.exists() else {}
    return {name: made.get(name, before.get(name)) for name in METHODS}


def _lines(tree: Mapping[str, Any]) -> str:
    """JSON with a line for each method, and for each of its variants."""

    def text(value: Any) -> str:
        if not isinstance(value, dict):
            return json.dumps(value)
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items()) + "\n }"

    return "{\n" + ",\n".join(f" {json.dumps(name)}: {text(value)}" for name, value in tree.items()) + "\n}\n"


if __name__ == "__main__":
    main(sys.argv[1:])
