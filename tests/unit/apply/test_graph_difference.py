"""The comparison that every export must pass: each output, at each size, in shares of our own largest; and logging is
as it was afterwards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from allograft.apply import graph
from allograft.errors import ModelError

SIZES = [(4, 6), (5, 8)]
MODEL: Any = SimpleNamespace(task=SimpleNamespace(outputs={"mask": 2, "label": 3}), card={"channels": 1})


def ours(image: Tensor, largest: float = 1.0) -> dict[str, Tensor]:
    return {"mask": torch.full((len(image), 2, *image.shape[2:]), largest), "label": torch.zeros(len(image), 3)}


def difference(change: Callable[[str, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch, largest: float = 1.0) -> float:
    """With a file whose outputs are changed."""
    monkeypatch.setattr(graph, "padded", lambda network, image: ours(image, largest))
    plain: Any = SimpleNamespace(network=None)
    return graph._largest_difference(
        lambda image: [change(key, value) for key, value in ours(image, largest).items()], plain, MODEL, SIZES
    )


def test_equal_numbers_pass_and_a_small_difference_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(lambda key, value: value, monkeypatch) == 0.0
    assert difference(lambda key, value: value + 5e-5, monkeypatch) == pytest.approx(5e-5, rel=0.01)
    # of outputs of 100, a share
    assert difference(lambda key, value: value + 5e-3 * (key == "mask"), monkeypatch, 100.0) == pytest.approx(
        5e-5, rel=0.01
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda key, value: value + 5e-3 * (key == "mask"),
        lambda key, value: value - 5e-3 * (key == "label"),
        lambda key, value: value + 5e-3 * (len(value) == 2),  # the second size alone has two images
        lambda key, value: value + 5e-3 * (len(value) == 1),
        lambda key, value: value * math.nan if key == "label" else value,
        lambda key, value: value + math.inf,
        lambda key, value: value[:, :1],
        lambda key, value: value.mT if key == "mask" else value,
    ],
)
def test_what_is_unlike_ours_anywhere_is_refused(
    change: Callable[[str, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="use allograft predict"):
        difference(change, monkeypatch)


def test_what_exporters_say_is_quiet_and_nothing_else_afterwards() -> None:
    before = logging.root.manager.disable
    for error in (None, ValueError):
        try:
            with graph._quiet():
                assert logging.root.manager.disable == logging.WARNING
                if error:
                    raise error
        except ValueError:
            pass
        assert logging.root.manager.disable == before
