"""The models that a study hands over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allograft.context.lock import locked
from allograft.results.models import export_models
from allograft.results.standing import Standing


def test_processes_that_share_a_folder_hand_over_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, waited = tmp_path / "models.lock", []
    with locked(lock):
        text = lock.read_text()
    lock.write_text(re.sub("token=.*", "token=another", text))  # another, which lives

    def meanwhile() -> None:
        waited.append(lock.exists())
        lock.unlink()  # and has finished

    monkeypatch.setattr("allograft.context.lock._sleep", meanwhile)
    assert export_models(tmp_path, None, Standing(), None) == {}  # type: ignore[arg-type]
    assert waited == [True]
    assert not lock.exists()
