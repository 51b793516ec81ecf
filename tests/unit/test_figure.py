"""Figures are kept as JSON and come back the same."""

from __future__ import annotations

import json

import pytest

from allograft.errors import AllograftError
from allograft.figure import Heatmap, Lines, Points, from_json, thinned, to_json


@pytest.mark.parametrize(
    "figure",
    [
        Lines("loss", (1.0, 2.0), {"dice": (0.5, None)}, "step", "loss"),
        Heatmap("gates", ("encoder",), ("1", "2"), ((0.0, 1.0),), 0.0, 1.0),
        Points("features", (0.0, 1.0), (1.0, 0.0), ("source", "target"), (0.1, 0.2), "loss"),
        Points("images", (0.0, 1.0), (1.0, 0.0), ("source", "target"), (0, 1), "cluster", (7, 3)),
    ],
)
def test_a_round_trip_through_a_file(figure):
    assert from_json(json.loads(json.dumps(to_json(figure)))) == figure


@pytest.mark.parametrize("tree", [{}, {"kind": "pie"}, {"kind": "lines", "title": "x"}])
def test_something_else_is_refused(tree):
    with pytest.raises(AllograftError):
        from_json(tree)


def test_curves_of_many_steps_are_thinned_to_means_of_windows():
    line = thinned({"loss": [float(number) for number in range(1000)]}, "loss", most=100)
    assert len(line.x) == 100
    assert line.y["loss"][:2] == (4.5, 14.5)
    assert line.x[:2] == (5.5, 15.5)
