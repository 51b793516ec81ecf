"""What must be equal along a stream: strength 0 is sequential training, a pool that never grows is
its one model, MiB with one class set is LwF, and a network that has not moved is not pulled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import session_of, write_cohort
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Store
from allograft.methods.ewc import Consolidated
from allograft.methods.mib import unbiased_cross_entropy
from allograft.methods.odex import Gaussian
from allograft.methods.plop import local_pod_distance
from allograft.methods.rw import Held, halved, path_score, to_unit_range
from allograft.parts.distillation import distillation
from allograft.recipe import title
from allograft.results.record import read_all
from allograft.run.session import Session
from allograft.tree import digest

STREAM = {"stream": [["a", "d"], ["b"]], "source": [], "target": [], "target_labels": "none"}
NOTHING: list[Any] = [
    {"ewc": {"strength": 0.0}},
    {"lwf": {"strength": 0.0}},
    {"mib": {"strength": 0.0}},
    {"rw": {"strength": 0.0}},
    {"plop": {"strength": 0.0}},
    {"odex": {"grow": "never"}},
    {"odex": {"factor": float("inf")}},
]


def ran(manifest: Path, out: Path, recipes: list[Any]) -> tuple[dict[str, str], Session]:
    """Title -> digest of what each row carries on."""
    session = session_of(manifest, out, recipes[0], **{**STREAM, "recipes": recipes})
    world = session.prepare()
    plan = session.plan(world)
    for number, row in enumerate(plan.rows):
        session.run(world, row, f"{number}")
    carried = {title(row.recipe): Store(out / "units" / row.unit).load() for row in plan.rows}
    return {name: digest(found[0].network) for name, found in carried.items() if found is not None}, session


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("stream"))


def test_strength_0_and_a_pool_that_never_grows_are_sequential_to_the_byte(manifest: Path, tmp_path: Path) -> None:
    weights, _ = ran(manifest, tmp_path, ["sequential", *NOTHING, "ewc"])
    assert len(weights) == len(NOTHING) + 2
    plain = weights.pop("sequential")
    assert weights.pop("ewc") != plain
    assert set(weights.values()) == {plain}


def test_mib_with_one_class_set_is_lwf_at_temperature_1(manifest: Path, tmp_path: Path) -> None:
    lwf = {"lwf": {"strength": 3.0, "temperature": 1.0}}
    weights, session = ran(manifest, tmp_path, [{"mib": {"strength": 3.0}}, lwf, {"lwf": {"strength": 3.0}}])
    mib, same, softened = weights.values()
    assert mib == same != softened
    records = read_all(session.out).values()
    scores = {
        record.recipe["title"]: record.metrics for record in records if (record.stage, record.site) == ("stage-2", "a")
    }
    assert len(scores) == 3
    assert scores["mib strength=3.0"] == scores["lwf strength=3.0 temperature=1.0"]


def test_background_terms_vanish_without_other_classes_and_count_with_them() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, old = torch.randn(2, 4, 5, generator=rng), torch.randn(2, 4, 5, generator=rng)
    mask = torch.randint(0, 4, (2, 5), generator=rng)
    assert torch.equal(unbiased_cross_entropy(logits, mask, ()), nn.functional.cross_entropy(logits, mask))
    assert unbiased_cross_entropy(logits, mask, (1,)) < unbiased_cross_entropy(logits, mask, ())
    assert torch.equal(distillation(logits, old), distillation(logits, old, temperature=1.0, new=()))
    assert distillation(logits, old[:, :3], new=(3,)) < distillation(logits[:, :3], old[:, :3])


def test_a_network_that_has_not_moved_is_not_pulled() -> None:
    layer = nn.Linear(3, 2)
    here = {name: p.detach().clone() for name, p in layer.named_parameters()}
    weight = {name: torch.rand_like(p) for name, p in layer.named_parameters()}
    batch = Batch(torch.zeros(1, 3), torch.tensor([0]), ("a",))

    def nothing(network: Any, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor(0.0)}

    ewc, rw = Consolidated(nothing, ((here, weight),), 1.0), Held(nothing, here, weight, 1.0)
    assert float(ewc(layer, batch)["consolidation"]) == float(rw(layer, batch)["walk"]) == 0.0
    with torch.no_grad():
        layer.bias += 1.0
    expected = weight["bias"].sum().item()
    assert float(ewc(layer, batch)["consolidation"]) == pytest.approx(expected / 2)  # lambda / 2
    assert float(rw(layer, batch)["walk"]) == pytest.approx(expected)  # lambda
    two = Consolidated(nothing, ((here, weight), (here, weight)), 3.0)
    assert float(two(layer, batch)["consolidation"]) == pytest.approx(3 * expected)


def test_the_same_features_are_at_no_distance() -> None:
    feature = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(1))
    assert float(local_pod_distance([feature], [feature], 3)) == 0.0
    moved = feature.clone()
    moved[0, 0, 0, 0] += 1.0
    assert float(local_pod_distance([feature], [moved], 1)) > 0.0


def test_scores_of_a_walk() -> None:
    assert path_score(torch.tensor([-5.0, 0.0]), torch.ones(2), torch.ones(2)).tolist() == [0.0, 0.0]
    unit = to_unit_range({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([5.0])})
    assert (unit["a"].tolist(), unit["b"].tolist()) == ([0.0, 0.5], [1.0])
    first = halved({}, {"a": torch.tensor([4.0])})
    assert first["a"].tolist() == [4.0]
    assert halved(first, {"a": torch.tensor([2.0])})["a"].tolist() == [3.0]


@pytest.mark.parametrize(("count", "values"), [(2, 2), (5, 5), (7, 40)])
def test_with_no_more_cases_than_values_every_own_case_has_squared_distance_n_minus_1(count: int, values: int) -> None:
    features = torch.randn(count, values, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    found = Gaussian.fit(100 * features + 7).mahalanobis(100 * features + 7)
    torch.testing.assert_close(found, torch.full((count,), count - 1.0, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_distances_of_own_cases_average_to_the_rank() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    fit = Gaussian.fit(features)
    assert fit.directions.shape == (4, 4)
    assert fit.mahalanobis(features).mean().item() == pytest.approx(4.0)
    assert fit.mahalanobis(fit.mean[None]).tolist() == [0.0]
    turned = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3))).Q
    torch.testing.assert_close(
        Gaussian.fit(features @ turned).mahalanobis(features @ turned), fit.mahalanobis(features), rtol=1e-5, atol=1e-5
    )
