"""Labels that are told by name."""

from __future__ import annotations

from dataclasses import replace

import torch
from tests.unit.tiny import case

from allograft.batch import collate
from allograft.parts.deep_clusters import Labelled


def test_a_batch_keeps_what_it_had_beside_its_labels() -> None:
    batch = replace(collate([case("a", 1.0), case("b", 3.0)]), attributes={"age": torch.tensor([30, 40])})
    labelled = Labelled(lambda start: iter([batch] * start), {"b": 7, "a": 5}, "cluster")
    (made,) = labelled(1)
    assert {name: values.tolist() for name, values in made.attributes.items()} == {"age": [30, 40], "cluster": [5, 7]}
