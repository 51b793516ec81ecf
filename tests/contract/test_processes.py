"""Two processes train to what one process trains to, batch normalisation and its running statistics
included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.contract.world import METHODS, run, session_of_processes, statistics_of_images, write_cohort

import allograft
from allograft.context.store import Store

# one launch serves them all
pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(600)]

SCRIPT = """
import sys, json
from pathlib import Path
from tests.contract.world import run, session_of_processes, statistics_of_images
manifest, out, names = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def work(fabric):
    with statistics_of_images():
        for name in names:
            run(session_of_processes(manifest, out / name, name, fabric))

if __name__ == "__main__":
    from lightning_fabric import Fabric
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(work)
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """All methods on two processes, in one launch."""
    folder = tmp_path_factory.mktemp("together")
    manifest = write_cohort(folder / "cohort")
    script = folder / "work.py"
    script.write_text(SCRIPT)
    # these tests, and the source under test
    roots = (Path(__file__).parents[2], Path(allograft.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(script), str(manifest), str(folder / "out"), json.dumps(METHODS)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))},
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return manifest, folder / "out"


@pytest.mark.parametrize("name", METHODS)
@statistics_of_images()
def test_two_processes_equal_one(name: str, together: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, out = together
    _, row, records = run(session_of_processes(manifest, tmp_path, name))
    assert all(record.status == "done" for record in records.values())
    alone, *_ = Store(tmp_path / "units" / row.unit).load()  # type: ignore[misc]
    title = records[next(key for key in records if key.startswith(row.unit))].recipe
    shared = next(
        Store(folder).load()
        for folder in (out / name / "units").iterdir()
        if (card := next(folder.glob("stages/*/card.json"), None))
        and json.loads(card.read_text())["recipe"] == {title["name"]: title["parameters"]}
    )
    assert shared is not None
    for key, value in shared[0].network.state_dict().items():
        torch.testing.assert_close(value, alone.network.state_dict()[key], rtol=1e-5, atol=5e-6)
