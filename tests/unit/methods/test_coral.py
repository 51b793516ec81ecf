"""Deep CORAL: the loss against NumPy and the equations, what it does not see, and masks and classes
in 2-D and 3-D."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context
from torch import nn

from allograft.batch import Batch
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.coral import Coral, SourceAndCoral, as_samples, coral_loss, covariance
from allograft.networks import Wrapped, build
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

CONTRACT = {"options": {"weight": 100.0}}

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(outputs: dict[str, int], dims: int = 2) -> Any:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "outputs": outputs, "channels": [4, 8], "num_res_units": 1, "spatial_dims": dims}
    return build({"build": {"unet": arguments}})


# ---------------------------------------------------------- the loss
@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6), st.integers(1, 4))
def test_the_loss_is_that_of_the_papers_equations(seed: int, n: int, m: int, d: int) -> None:
    source, target = (torch.randn(count, d, generator=rng(seed), dtype=F64) for count in (n, m))
    both = []
    for features in (source.numpy(), target.numpy()):
        count, ones = len(features), np.ones((1, len(features)))
        sums = ones @ features
        both.append((features.T @ features - sums.T @ sums / count) / (count - 1))  # equations 2 and 3
    expected = np.linalg.norm(both[0] - both[1], "fro") ** 2 / (4 * d**2)
    assert float(coral_loss(source, target)) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(covariance(source).numpy(), np.cov(source.numpy(), rowvar=False).reshape(d, d))


def test_means_orders_and_rotations_of_both_do_not_count() -> None:
    source, target = torch.randn(6, 3, generator=rng(), dtype=F64), torch.randn(5, 3, generator=rng(1), dtype=F64)
    loss = coral_loss(source, target)
    assert float(coral_loss(source, source + 7)) == pytest.approx(0, abs=1e-24)
    torch.testing.assert_close(coral_loss(source.flip(0) + 3, target), loss)
    torch.testing.assert_close(coral_loss(target, source), loss)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng(2), dtype=F64))[0]
    torch.testing.assert_close(coral_loss(source @ turn, target @ turn), loss)
    torch.testing.assert_close(coral_loss(2 * source, 2 * target), 16 * loss)


def test_the_gradient_is_the_papers() -> None:
    """Equation 4: of the source's features 1 / (d^2 (n - 1)) (centred features)(C_S - C_T), the
    sign turned for the target's (equation 5)."""
    source = torch.randn(5, 3, generator=rng(), dtype=F64, requires_grad=True)
    target = torch.randn(4, 3, generator=rng(1), dtype=F64, requires_grad=True)
    coral_loss(source, target).backward()
    with torch.no_grad():
        apart = covariance(source) - covariance(target)
        for features, sign in ((source, 1), (target, -1)):
            expected = sign * (features - features.mean(0)) @ apart / (9 * (len(features) - 1))
            torch.testing.assert_close(features.grad, expected)
    assert torch.autograd.gradcheck(coral_loss, (source, target))


def test_each_place_of_each_image_is_a_sample() -> None:
    features = [torch.rand(2, 4, 8, 8), torch.rand(2, 6, 3, 5)]
    samples = as_samples(features)
    assert samples.shape == (2 * 15, 6)
    assert torch.equal(samples[15 + 2 * 5 + 4], features[1][1, :, 2, 4])
    assert torch.equal(as_samples(features[1][:, :, 0, 0]), features[1][:, :, 0, 0])


# ---------------------------------------------------------- the objective
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", [VESSEL, Classification(("no", "yes", "both"))], ids=["mask", "label"])
def test_the_terms_are_those_of_the_source_and_of_the_features(task: Any, dims: int) -> None:
    network = a_network(dict(task.outputs), dims)
    image = torch.rand(4, 1, *(8,) * dims, generator=rng())
    mask = torch.randint(0, 2, (4, 1, *(8,) * dims), generator=rng())
    labels = {"mask": mask, "label": torch.tensor([0, 2, 1, 1])}
    batch = Batch(image, torch.tensor([0, 0, 1, 1]), tuple("abcd"), {task.key: labels[task.key]})
    terms = SourceAndCoral(task, 3.0)(network, batch)
    plain = task.objective(network, batch[:2])
    assert {name: float(terms[name].detach()) for name in plain} == {
        name: float(value.detach()) for name, value in plain.items()
    }
    if task is VESSEL:
        pair = [as_samples(network.encoder(part)) for part in image.split(2)]
        assert pair[0].shape == (2 * 4**dims, 8)
    else:
        pair = [network(part)["label"] for part in image.split(2)]
    torch.testing.assert_close(terms["coral"], 3.0 * coral_loss(*pair))
    network.zero_grad()
    terms["coral"].backward()
    assert next(iter(network.encoder.parameters())).grad.abs().sum() > 0
    assert float(SourceAndCoral(task, 0.0)(network, batch)["coral"]) == 0


def test_steps_bring_the_covariances_together() -> None:
    network = a_network({"mask": 2})
    batch = Batch(
        torch.rand(4, 1, 8, 8, generator=rng()) * torch.tensor([1.0, 1.0, 5.0, 5.0]).view(4, 1, 1, 1),
        torch.tensor([0, 0, 1, 1]),
        tuple("abcd"),
        {"mask": torch.zeros(4, 1, 8, 8, dtype=torch.int64)},
    )
    optimizer, result = torch.optim.SGD(network.parameters(), lr=0.05), []
    for _ in range(8):
        loss = SourceAndCoral(VESSEL, 1.0)(network, batch)["coral"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        result.append(float(loss.detach()))
    assert result == sorted(result, reverse=True)


# ---------------------------------------------------------- the recipe
def test_the_weight_is_1_since_the_paper_names_none() -> None:
    assert Coral().weight == 1.0


def test_what_has_no_features_to_compare_is_refused() -> None:
    with pytest.raises(SpecError, match="coral: the network is one opaque module"):
        next(Coral().run(Scenario(), Wrapped(nn.Identity(), "mask"), a_context()))
    context = a_context(budget=Budget(steps=1, adapt_steps=1, batch_size=1))
    object.__setattr__(context, "task", Classification(("no", "yes")))
    with pytest.raises(SpecError, match="one image have no covariance"):
        next(Coral().run(Scenario(), a_network({"label": 2}), context))


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_study_of_masks_and_one_of_classes_run(kind: str, tmp_path: Path) -> None:
    classes = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    study = classes if kind == "classification" else {}
    budget = {"steps": 1, "adapt_steps": 1, "batch_size": 2}
    recipe = {"coral": {"first": "start"}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, budget=budget, **study))
    assert {record.status for record in records.values()} == {"done"}


def test_at_weight_0_the_target_still_enters_batch_statistics() -> None:
    """So that a row at 0 shows what the term adds, and not what normalising over the target does."""
    labels = {"mask": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}
    image = torch.cat([torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 9.0)])
    batch = Batch(image, torch.tensor([0, 1]), ("a", "b"), labels)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "norm": "batch"}}}
    ).train()
    (layer, *_) = (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    SourceAndCoral(VESSEL, 0.0)(network, batch)
    assert int(layer.num_batches_tracked) == 2  # a pass of the source, and one of the target
