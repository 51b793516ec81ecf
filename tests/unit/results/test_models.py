"""The models that a study hands over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allograft.context.lock import locked
from allograft.results.models import export_models, model_folder
from allograft.results.select import Line
from allograft.results.standing import Standing
from allograft.study.parts import PAIRS, PARTS


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


@pytest.mark.parametrize("kind", [PAIRS, PARTS])
def test_parts_of_a_study_keep_their_models_apart_in_one_folder(kind: str, tmp_path: Path) -> None:
    line = Line("finetune scope=top", None, "b", (), {}, {})
    alone, one, other = (model_folder(tmp_path / part, line) for part in ("", f"{kind}/a-b", f"{kind}/c-b"))
    assert alone.name == "finetune-scope-top@b"
    assert {alone.parent, one.parent, other.parent} == {tmp_path / "models"}
    assert len({alone, one, other}) == 3


def test_targets_whose_names_are_alike_keep_their_models_apart(tmp_path: Path) -> None:
    folders = {model_folder(tmp_path, Line("supervised", None, target, (), {}, {})) for target in ("a b", "a-b", "a/b")}
    assert len(folders) == 3
