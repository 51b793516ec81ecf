"""The sentence of a verdict says of the row named beforehand whether it was taken or only tested."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.results.test_verdict import FREE, TOP, a_study, scored, verdict

PRIMARY: dict[str, Any] = {"primary": "fourier"}


@pytest.mark.parametrize(
    ("gains", "how"),
    [({FREE: 0.2, TOP: 0.3}, "named beforehand)"), ({FREE: 0.0, TOP: 0.0}, "tested alone)")],
)
def test_the_row_named_beforehand(gains: dict[str, float], how: str) -> None:
    found = verdict(a_study(**PRIMARY), scored(gains, spread=0.02))
    assert found.looked_at == FREE
    assert how in found.sentence
    assert ("the row named beforehand is fourier" in found.sentence) == (found.action == "keep")


def test_optimism_that_rounds_to_nothing_is_not_said() -> None:
    """And the worst site of the model that is kept is its own."""
    kept = verdict(a_study(), scored({TOP: 0.0}), home={"supervised": -0.7, TOP: 0.1})
    assert kept.action == "keep"
    assert "optimism" not in kept.sentence
    assert "worst site home with 0.100" in kept.sentence
    taken = verdict(a_study(), scored({TOP: 0.4}, spread=0.001))
    assert taken.action == "change"
    assert "optimism" not in taken.sentence
    assert (taken.optimism or 0.0) < 5e-4
