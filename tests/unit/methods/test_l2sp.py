"""L2-SP: the pull is towards the source's weights, as they were before the tuning. Its terms: see
``identities/test_adapters.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.world import run, session_of, write_cohort

from allograft.context import Store

CONTRACT = {"options": {"alpha": 5.0}}


def test_it_is_pulled_to_the_source(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    changes: dict[str, Any] = {
        "optimizer": {"sgd": {"lr": 0.02}},
        "budget": {"steps": 3, "adapt_steps": 6, "batch_size": 2},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1}},
    }

    def left(recipe: Any, out: Path) -> tuple[Any, Store]:
        _, row, _ = run(session_of(manifest, out, recipe, **changes))
        store = Store(out / "units" / row.unit)
        found = store.load()
        assert found is not None
        return found[0].network, store

    source, _ = left("supervised", tmp_path / "source")
    far = {}
    for alpha in (0.0, 10.0):
        network, store = left({"l2sp": {"alpha": alpha}}, tmp_path / f"{alpha}")
        apart = zip(network.parameters(), source.parameters(), strict=True)
        far[alpha] = sum(float((p - start).detach().square().sum()) for p, start in apart)
    pull: Any = store.figures()["loss-train"]
    assert pull.y["starting_point"][0] == 0
    assert pull.y["starting_point"][1] > 0
    assert far[10.0] < 0.7 * far[0.0]
