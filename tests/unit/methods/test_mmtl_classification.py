"""MMTL for classification on chest phantoms: a body trained for other classes, a new head at
random, and what the contract asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.contract.test_kills import Killed
from tests.contract.undisturbed import weights
from tests.contract.world import run, session_of, told

from allograft import tree
from allograft.cohort import Loader
from allograft.context import Store
from allograft.context.journal import Journal
from allograft.networks import build
from allograft.phantoms.chest import CLASSES, write_chest


def _spec(outputs: dict[str, int], network: dict[str, Any]) -> Any:
    ((name, arguments),) = network.items()
    return {"build": {name: {"in_channels": 1, "outputs": outputs, **arguments}}}


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a study of two labels asks when it starts from a body trained for fourteen findings."""
    folder = tmp_path_factory.mktemp("chest")
    manifest = write_chest(folder / "cohort", sites={"a": "none", "b": "severe"}, subjects=8, size=32)
    torch.manual_seed(7)
    network = {"unet": {"channels": [4, 8], "num_res_units": 1}}
    body = build(_spec({"label": 14}, network))
    save_file(body.state_dict(), folder / "body.safetensors")
    return {
        "manifest": manifest,
        "source": ["a"],
        "task": {"classification": {"classes": list(CLASSES)}},
        "network": network,
        "start": str(folder / "body.safetensors"),
        "preprocessing": {"intensity": "unit"},
        "budget": {"steps": 3, "adapt_steps": 4, "batch_size": 4},
    }


def _session(request_: dict[str, Any], out: Path, recipe: Any = None) -> Any:
    changes = {key: value for key, value in request_.items() if key != "manifest"}
    return session_of(request_["manifest"], out, recipe or {"mmtl": {"epochs": 4}}, **changes)


def test_the_head_is_new_and_at_random_and_the_body_is_the_files(request_: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    session = _session(request_, tmp_path)
    world = session.prepare()
    body, networks = load_file(request_["start"]), [session.start(world, seed).state_dict() for seed in (0, 1, 0)]
    heads = [{name: value for name, value in one.items() if name.startswith("heads.")} for one in networks]
    assert all(torch.equal(one[name], body[name]) for one in networks for name in one if not name.startswith("heads."))
    assert {value.shape[0] for value in heads[0].values()} == {2}
    assert not any(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert all(torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


def test_it_runs_mixes_and_gives_the_same_bytes_twice_and_after_a_kill(
    request_: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed: list[list[str]] = []
    real = Loader.__call__

    def watched(self: Loader, start: int) -> Any:
        for batch in real(self, start):
            if "mixed" in self.seeds.path:
                mixed.append([Path(case).name[:1] for case in batch.cases])
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "__call__", watched)
        _, row, records = run(_session(request_, tmp_path / "one"))
    assert all(record.status == "done" for record in records.values()), [record.error for record in records.values()]
    assert [names.count("b") for names in mixed] == [0, 1, 2, 3]
    own = [record for record in records.values() if record.unit == row.unit and record.part == "test"]
    assert all(len(case["probabilities"]) == 2 for record in own for case in record.cases)

    monkeypatch.setattr(Journal, "due", lambda self: self.writes)
    count = 0
    write = tree.write_bytes

    def counted(path: Path, data: bytes) -> None:
        nonlocal count
        write(path, data)
        count += "units" in path.parts
        if count == 8:
            raise Killed

    with monkeypatch.context() as patch:
        for module in ("allograft.tree", "allograft.predictor.folder"):
            patch.setattr(f"{module}.write_bytes", counted)
        with pytest.raises(Killed):
            run(_session(request_, tmp_path / "two"))
    _, _, again = run(_session(request_, tmp_path / "two"))
    assert told(again) == told(records)
    assert weights(tmp_path / "two", row.unit) == weights(tmp_path / "one", row.unit)


def test_the_head_is_trained_for_both_sites(request_: dict[str, Any], tmp_path: Path) -> None:
    session = _session(request_, tmp_path, {"mmtl": {"epochs": 4, "first": "start"}})
    world, row, _ = run(session)
    found = Store(tmp_path / "units" / row.unit).load()
    assert found is not None
    before, after = session.start(world, 0).state_dict(), found[0].network.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"heads.label.linear.weight", "heads.label.linear.bias"} <= moved
    assert any(name.startswith("encoder.") for name in moved)
