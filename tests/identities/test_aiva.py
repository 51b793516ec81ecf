"""What must be equal in AIVA: matchings of moved centres, losses of aligned clusters, and training
at lambda 0."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context

from allograft.batch import Batch
from allograft.context import Store
from allograft.methods.aiva import Aiva, AlignmentObjective, alignment_loss, match_clusters
from allograft.methods.segjdot import TransportObjective
from allograft.networks import build
from allograft.parts.clustering import Clusters, cluster


def _network(norm: str = "instance") -> Any:
    torch.manual_seed(0)
    network = build(
        {
            "build": {
                "unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1, "norm": norm}
            }
        }
    )
    return network.train()


def _pair(seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 1, 16, 16, generator=rng)
    mask = (image > 0.5).long()
    mask[2:] = -100
    return Batch(image, torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"), {"mask": mask})


def _clusters(means: torch.Tensor, match: list[int]) -> Clusters:
    empty = torch.zeros(0)
    return Clusters(empty, empty, empty, empty, empty, means, torch.tensor(match))


def test_permuted_centres_are_matched_by_the_permutation() -> None:
    rng = torch.Generator().manual_seed(0)
    source = torch.randn(12, 2, generator=rng)
    order = torch.randperm(12, generator=rng)
    assert match_clusters(source, source[order]).tolist() == order.tolist()
    near = source[order] + 1e-4 * torch.randn(12, 2, generator=rng)
    assert match_clusters(source, near).tolist() == order.tolist()
    # nearest, not farthest
    assert match_clusters(-source, source[order]).tolist() != order.tolist()
    back = match_clusters(source[order], source)
    assert back[order].tolist() == list(range(12))


def test_where_the_means_meet_nothing_is_left_and_distance_counts_squared() -> None:
    rng = torch.Generator().manual_seed(1)
    means, match = torch.randn(3, 5, generator=rng), torch.tensor([1, 2, 0])
    members = torch.tensor([0, 0, 1, 2, 2])
    offset = torch.randn(5, 5, generator=rng)
    offset[:2] -= offset[:2].mean(0)
    offset[2] = 0
    offset[3:] -= offset[3:].mean(0)
    features = means[match[members]] + offset
    torch.testing.assert_close(alignment_loss(features, members, means, match), torch.tensor(0.0), atol=1e-10, rtol=0)
    one = alignment_loss(features + 1, members, means, match)
    torch.testing.assert_close(one, torch.tensor(15.0))  # three clusters, five features
    torch.testing.assert_close(alignment_loss(features + 2, members, means, match), 4 * one)
    torch.testing.assert_close(alignment_loss(features[:2] + 1, members[:2], means, match), torch.tensor(5.0))
    assert alignment_loss(features + 1, torch.full((5,), -1), means, match) == 0


@pytest.mark.parametrize(
    ("objective", "norm"),
    [
        (AlignmentObjective(VESSEL, Aiva(weight=0.0)), "instance"),
        (TransportObjective(VESSEL, 0.0, 0.0), "instance"),
        (TransportObjective(VESSEL, 0.0, 0.0), "batch"),
    ],
)
def test_without_weight_it_is_training_on_the_source(objective: Any, norm: str) -> None:
    context = a_context()
    ours, plain = _network(norm), _network(norm)
    a = context.gradient_step(ours, copy.copy(objective))
    b = context.gradient_step(plain)
    for step in range(3):
        batch = _pair(step)
        a(batch)
        b(batch[:2])
    for key, value in ours.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key


def test_without_weight_nothing_but_the_alignment_is_missing() -> None:
    """Batch statistics are those of the least weight there is; the parameters are those of training
    on the source."""
    context = a_context(optimizer={"sgd": {"lr": 1e-2}})
    none, least, plain = (_network("batch") for _ in range(3))
    clusters = _clusters(torch.zeros(2, 8 * 8 * 8), [1, 0])
    steps = [
        context.gradient_step(none, AlignmentObjective(VESSEL, Aiva(weight=0.0))),
        context.gradient_step(least, AlignmentObjective(VESSEL, Aiva(weight=1e-38), clusters, {"c": 0, "d": 1})),
        context.gradient_step(plain),
    ]
    for step in range(3):
        batch = _pair(step)
        batch = replace(batch, image=batch.image + torch.tensor([0.0, 0.0, 5.0, 5.0]).view(-1, 1, 1, 1))
        terms = [one(part) for one, part in zip(steps, (batch, batch, batch[:2]), strict=True)]
        assert "alignment" not in terms[0]
        assert "alignment" in terms[1]
    for key, value in none.state_dict().items():
        torch.testing.assert_close(value, least.state_dict()[key], msg=key)
        if key.startswith("encoder") and "running" in key:
            assert not torch.allclose(value, plain.state_dict()[key]), key
        elif "running" not in key and "num_batches" not in key:
            assert torch.equal(value, plain.state_dict()[key]), key


def test_a_whole_run_without_weight_clusters_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.methods.aiva.cluster", lambda *_, **__: pytest.fail("clustered for nothing"))
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", {"aiva": {"weight": 0.0, "first": "start"}}
    )
    _, row, records = run(session)
    assert all(record.status == "done" for record in records.values())
    assert set(Store(tmp_path / "out" / "units" / row.unit).figures()) == {"loss-adapt"}


def test_the_step_goes_towards_the_matched_mean() -> None:
    context = a_context(optimizer={"sgd": {"lr": 1e-3}})
    network, batch = _network(), _pair()
    with torch.no_grad():
        feature = network.encoder(batch.image[2:])[-1].flatten(1)
    means = torch.stack([feature[1] + 3, feature[0] - 2])
    objective = AlignmentObjective(VESSEL, Aiva(weight=1.0), _clusters(means, [1, 0]), {"c": 0, "d": 1})
    terms = objective(network, batch)
    width = feature.shape[1]
    torch.testing.assert_close(terms["alignment"], torch.tensor(4.0 * width + 9.0 * width), rtol=1e-4, atol=0)
    step = context.gradient_step(network, lambda network, batch: {"alignment": objective(network, batch)["alignment"]})
    before = step(batch)["alignment"]
    assert step(batch)["alignment"] < before
    assert all(p.grad is None or not p.grad.any() for p in network.heads.parameters())


@pytest.mark.parametrize(("variant", "share"), [("paper", 1.0), ("released", 0.9)])
def test_lambda_is_the_reciprocal_of_the_first_losses_and_then_stays(variant: Any, share: float) -> None:
    objective = AlignmentObjective(VESSEL, Aiva(variant=variant))
    values = [float(v) for v in range(5, 30)]
    found = [objective.scale(value) for value in values]
    for n in range(1, 21):
        assert found[n - 1] == pytest.approx(share * n / sum(values[:n]))
    assert found[20:] == [found[19]] * 5
    assert AlignmentObjective(VESSEL, Aiva(weight=0.3)).scale(7.0) == 0.3
    assert AlignmentObjective(VESSEL, Aiva()).scale(0.0) == 0.0


def test_a_shifted_copy_is_matched_group_by_group() -> None:
    rng = torch.Generator().manual_seed(3)
    groups = torch.arange(4).repeat_interleave(10)
    centres = 8 * torch.randn(4, 30, generator=rng)
    source = centres[groups] + 0.1 * torch.randn(40, 30, generator=rng)
    order = torch.randperm(40, generator=rng)
    target = (source + 0.5)[order]
    found = cluster(source, target, 4, seed=0, others=[target[:3] + 0.01])
    of_group = {int(g): found.source[groups == g].unique() for g in range(4)}
    assert all(len(one) == 1 for one in of_group.values())
    assert found.match[found.target[:40]].tolist() == [int(of_group[int(groups[i])]) for i in order]
    assert found.target[40:].tolist() == found.target[:3].tolist()
    for g, (own,) in of_group.items():
        torch.testing.assert_close(found.source_means[own], source[groups == g].mean(0))
        torch.testing.assert_close(
            found.source_centres[own], found.points[:40][groups == g].double().mean(0), rtol=1e-4, atol=1e-4
        )
