"""The released schedule of MMTL."""

from pathlib import Path

import numpy as np

from allograft.methods.mmtl import Mmtl, released_count


def test_released_schedule(vectors_root: Path) -> None:
    with np.load(vectors_root / "mmtl_schedule.npz") as stored:
        counts = stored["counts"].tolist()
    assert len(counts) == 128
    for epoch, _, expected in counts:
        assert released_count(epoch, 16) == expected
        assert Mmtl(epochs=64, schedule="released").count(epoch, 16) == expected
