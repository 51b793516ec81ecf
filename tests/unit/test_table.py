"""Names: found, guessed, extended by other packages, and listed without an import."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from allograft import table
from allograft.errors import SpecError
from allograft.methods.finetune import Finetune


@pytest.mark.parametrize("kind", sorted(table._TABLES))
def test_every_row_names_something_that_is_there(kind: str) -> None:
    for name in table.rows(kind):
        thing = table.find(kind, name)
        assert callable(thing)
        assert table.name_of(kind, thing) == name


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(SpecError, match="unknown recipe 'finetun'; did you mean 'finetune'"):
        table.find("method", "finetun")
    with pytest.raises(SpecError, match=r"unknown optimizer 'qqq'; known: adam, .*sgd"):
        table.find("optimizer", "qqq")


def test_name_of() -> None:
    assert table.name_of("method", Finetune) == "finetune"
    assert table.name_of("optimizer", torch.optim.SGD) == "sgd"
    with pytest.raises(SpecError, match=r"is in no row.*allograft\.optimizers"):
        table.name_of("optimizer", torch.optim.RMSprop)


def test_packages_extend_a_table_and_cannot_replace_a_row(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def found(group: str) -> list[EntryPoint]:
        assert group == "allograft.optimizers"
        return [EntryPoint("rms", "torch.optim:RMSprop", group), EntryPoint("adam", "torch.optim:SGD", group)]

    monkeypatch.setattr(table, "entry_points", found)
    table._offered.cache_clear()
    request.addfinalizer(table._offered.cache_clear)
    assert table.find("optimizer", "rms") is torch.optim.RMSprop
    assert table.name_of("optimizer", torch.optim.RMSprop) == "rms"
    assert table.find("optimizer", "adam") is torch.optim.Adam


def test_summaries_are_first_lines_and_import_nothing() -> None:
    expected = {name: (table.find("method", name).__doc__ or "").split("\n")[0] for name in table.METHODS}
    assert dict(table.summaries("method")) == expected
    assert all(expected.values())
    told = (
        "import sys; from allograft.table import summaries; print(len(list(summaries('method'))), 'torch' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(table.METHODS)), "False"]
