"""Whether a change left the bytes alone: run every method of the contract world here and in another
checkout, on the same machine.

``python -m tests.contract.compare write FILE`` in each checkout, with its ``src`` first on
``PYTHONPATH``; then ``python -m tests.contract.compare diff BEFORE AFTER``, which names what
differs and ends with 1 where anything does.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contract.world import METHODS, draws_of, request, run, session_of, write_cohort

from allograft import tree

LEFT_OUT = {
    "carry": {"cost"},
    "record": {"cost", "environment", "unit", "checksum"},
    "card": {"cost", "allograft"},
    "figure": set[str](),
}
"""What may differ from run to run, or names a unit: its key also holds versions."""


def sha256(thing: Any) -> str:
    """Of JSON values and tensors."""
    total = hashlib.sha256()
    for part in _parts(thing):
        total.update(part)
    return total.hexdigest()


def _parts(thing: Any) -> Iterator[bytes]:
    if hasattr(thing, "numpy"):
        yield f"{thing.dtype}{tuple(thing.shape)}".encode()
        yield thing.contiguous().view(-1).numpy().tobytes()
    elif isinstance(thing, dict):
        for key in sorted(thing, key=str):
            yield f"{{{key}:".encode()
            yield from _parts(thing[key])
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield b"["
            yield from _parts(value)
    else:
        yield json.dumps(thing).encode()


def left(out: Path) -> dict[str, str]:
    """``unit | kind field | place`` -> sha256 of everything that a study keeps, field by field;
    units go by the names of their recipes."""
    found: dict[str, str] = {}

    def add(unit: str, kind: str, place: str, kept: dict[str, Any]) -> None:
        for key in kept.keys() - LEFT_OUT[kind]:
            found[f"{unit} | {kind} {key} | {place}"] = sha256(kept[key])

    for folder in (out / "units").iterdir():
        cards = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("stages/*/card.json")}
        unit = next(iter(next(iter(cards.values()), {"recipe": {"without stages": {}}})["recipe"]))
        add(unit, "carry", "", tree.load(folder / "carry.safetensors"))
        add(unit, "figure", "", json.loads((folder / "figures.json").read_text()))
        for stage, card in cards.items():
            add(unit, "card", stage, card)
    for path in (out / "records").glob("*.json"):
        record = json.loads(path.read_text())
        add(record["recipe"]["name"], "record", f"{record['stage']} {record['site']} {record['part']}", record)
    return found


def write(file: Path) -> None:
    """Run every method and write what it left."""
    made: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_cohort(Path(folder) / "cohort")
        for name in METHODS:
            session = session_of(manifest, Path(folder) / name, request(name))
            world, *_ = run(session)
            made[name] = {"draws": draws_of(session, world), **left(Path(folder) / name)}
    file.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """A line for everything that is not the same in both."""
    lines = []
    for method in sorted(before.keys() | after.keys()):
        one, other = before.get(method, {}), after.get(method, {})
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                lines.append(f"{method} | {name}: {one.get(name, 'absent')[:12]} -> {other.get(name, 'absent')[:12]}")
    return lines


def main(action: str, *files: str) -> int:
    """``write FILE`` or ``diff BEFORE AFTER``, with a count of each field that differs."""
    if action == "write":
        write(Path(files[0]))
        return 0
    lines = differences(*(json.loads(Path(file).read_text()) for file in files))
    print("\n".join(lines) or "the same")
    for what, count in sorted(Counter(line.split(" | ")[2] for line in lines if line.count(" | ") > 2).items()):
        print(f"{count} x {what}")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
