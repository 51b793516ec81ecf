"""Seg-JDOT's costs against loops in float64, its plan against every assignment, and its loss
against the formula."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tiny import VESSEL

from allograft.batch import Batch
from allograft.methods.segjdot import TransportObjective, coupling, feature_distance, label_loss
from allograft.networks import build

F64 = torch.float64


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(3, 2), (2, 2, 2)]))
def test_costs(seed: int, s: int, t: int, shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(s, 5, generator=rng, dtype=F64), torch.randn(t, 5, generator=rng, dtype=F64)
    mask = torch.randint(-1, 3, (s, *shape), generator=rng)
    logits = torch.randn(t, 3, *shape, generator=rng, dtype=F64)
    distance, label = feature_distance(a, b), label_loss(mask, logits, mask >= 0)
    assert distance.shape == label.shape == (s, t)
    for i in range(s):
        for j in range(t):
            assert distance[i, j].item() == pytest.approx(sum((float(a[i, d]) - float(b[j, d])) ** 2 for d in range(5)))
            terms = []
            for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
                index = tuple(place)
                if mask[(i, *index)] >= 0:
                    row = [float(logits[(j, k, *index)]) for k in range(3)]
                    terms.append(math.log(sum(map(math.exp, row))) - row[int(mask[(i, *index)])])
            assert label[i, j].item() == pytest.approx(sum(terms) / max(len(terms), 1), abs=1e-12)


def test_the_plan_is_the_best_assignment() -> None:
    pytest.importorskip("ot")
    cost = torch.rand(5, 5, generator=torch.Generator().manual_seed(2), dtype=F64)
    best = min(permutations(range(5)), key=lambda order: sum(float(cost[i, order[i]]) for i in range(5)))
    expected = torch.zeros(5, 5, dtype=F64)
    expected[range(5), best] = 1 / 5  # the vertices of the polytope are permutations (Birkhoff)
    torch.testing.assert_close(coupling(cost), expected)


def told_apart(network: Any, label_weight: float) -> tuple[Batch, float]:
    """Four source and four target images, and an alpha, for which a plan of one cost alone, or of
    the weights swapped, is another plan."""
    for seed in range(200):
        rng = torch.Generator().manual_seed(seed)
        image, share = torch.rand(8, 1, 16, 16, generator=rng), torch.rand(8, 1, 1, 1, generator=rng)
        mask = (torch.rand(8, 1, 16, 16, generator=rng) < share).long()
        mask[4:] = -100
        with torch.no_grad():
            feature = network.encoder(image)[-1].flatten(1)
            distance = feature_distance(feature[:4], feature[4:])
            label = label_loss(mask[:4, 0], network(image[4:])["mask"], torch.ones(4, 16, 16, dtype=torch.bool))
        alpha = label_weight * float(label.std() / distance.std())
        plan = coupling(alpha * distance + label_weight * label)
        others = coupling(distance), coupling(label), coupling(label_weight * distance + alpha * label)
        if not any(torch.equal(plan, other) for other in others):
            return Batch(image, torch.tensor([0] * 4 + [1] * 4), tuple("abcdefgh"), {"mask": mask}), alpha
    pytest.fail("no draw tells the plans apart")


def test_the_loss_and_what_its_gradient_holds_fixed() -> None:
    pytest.importorskip("ot")
    torch.manual_seed(0)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1}}}
    )
    batch, alpha = told_apart(network, 0.5)
    image, mask = batch.image, batch.labels["mask"]
    terms = TransportObjective(VESSEL, alpha, 0.5)(network, batch)
    network.zero_grad()
    sum(terms.values()).backward()
    found = [p.grad.clone() for p in network.parameters()]

    network.zero_grad()
    source, target = network.encoder(image[:4])[-1].flatten(1), network.encoder(image[4:])[-1].flatten(1)
    logits = network(image[4:])["mask"]
    cost_features = torch.stack([torch.stack([((a - b) ** 2).sum() for b in target]) for a in source])
    cost_labels = torch.stack(
        [torch.stack([torch.nn.functional.cross_entropy(y[None], m) for y in logits]) for m in mask[:4]]
    )
    plan = coupling(alpha * cost_features + 0.5 * cost_labels)
    loss = (plan * (alpha * cost_features + 0.5 * cost_labels)).sum()
    plain = VESSEL.objective(network, batch[:4])
    torch.testing.assert_close(terms["feature_transport"] + terms["label_transport"], loss, rtol=1e-4, atol=1e-6)
    (loss + sum(plain.values())).backward()
    for one, p in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-3, atol=1e-5)
