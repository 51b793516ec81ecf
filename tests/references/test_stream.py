"""Continual methods against slow float64 loops written from the papers' equations, and the Gaussian
of ODEx against a dense pseudo-inverse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tiny import a_context, read, write_photographs
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.methods.mib import unbiased_cross_entropy
from allograft.methods.odex import Expert, Gaussian, centre
from allograft.methods.plop import local_pod, local_pod_distance
from allograft.methods.rw import Walked, WalkingStep
from allograft.networks import build
from allograft.parts.distillation import distillation
from allograft.parts.domain_features import gram, pooled
from allograft.parts.importance import fisher_diagonal
from allograft.step import GradientStep


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_the_gaussian_is_a_dense_pseudo_inverse(count: int, values: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, values, generator=rng, dtype=torch.float64) @ torch.diag(
        torch.logspace(-1, 1, values, dtype=torch.float64)
    )
    unseen = 3 * torch.randn(4, values, generator=rng, dtype=torch.float64)
    mean = features.numpy().mean(0)
    covariance = (features.numpy() - mean).T @ (features.numpy() - mean) / count  # 1/N, not 1/(N - 1)
    inverse = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
    expected = [(row - mean) @ inverse @ (row - mean) for row in unseen.numpy()]
    np.testing.assert_allclose(Gaussian.fit(features).mahalanobis(unseen), expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(1, 9), st.sampled_from([0.05, 0.5, 1.0]), st.integers(0, 10**6))
def test_shrinkage_is_a_dense_inverse_and_sees_across(count: int, values: int, shrinkage: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, values, generator=rng, dtype=torch.float64)
    unseen = torch.randn(3, values, generator=rng, dtype=torch.float64)
    mean = features.numpy().mean(0)
    covariance = (features.numpy() - mean).T @ (features.numpy() - mean) / count
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / values * np.eye(values)
    expected = [(row - mean) @ np.linalg.solve(shrunk, row - mean) for row in unseen.numpy()]
    fit = Gaussian.fit(features, shrinkage=shrinkage)
    np.testing.assert_allclose(fit.mahalanobis(unseen), expected, rtol=1e-6, atol=1e-8)


def test_only_shrinkage_sees_a_shift_across_the_training_cases() -> None:
    features = torch.eye(3, 6, dtype=torch.float64)
    across = features + 100 * torch.eye(6, dtype=torch.float64)[5]
    torch.testing.assert_close(Gaussian.fit(features).mahalanobis(across), Gaussian.fit(features).mahalanobis(features))
    assert (Gaussian.fit(features, shrinkage=0.1).mahalanobis(across) > 1e4).all()


def test_distances_to_a_history_are_summed_averaged_or_the_last_and_scaled() -> None:
    rng = torch.Generator().manual_seed(0)
    history = tuple(Gaussian.fit(torch.randn(9, 3, generator=rng)) for _ in range(3))
    x = torch.randn(5, 3, generator=rng)
    every = [one.mahalanobis(x) for one in history]
    made = {
        rule: Expert(nn.Identity(), history, torch.tensor([4.0, 9.0, 2.0]), rule) for rule in ("sum", "mean", "last")
    }  # type: ignore[arg-type]
    torch.testing.assert_close(made["sum"].distance(x), every[0] + every[1] + every[2])
    torch.testing.assert_close(made["mean"].distance(x), (every[0] + every[1] + every[2]) / 3)
    torch.testing.assert_close(made["last"].distance(x), every[2])
    assert made["sum"].scaled(torch.tensor([2.0, 18.0, 9.0])).tolist() == [0.0, 1.0, 7 / 16]  # (d - 2) / (18 - 2)
    assert made["sum"].mean == pytest.approx((0 + 2 + 7) / 16 / 3)


def test_a_sum_over_the_history_counts_age_as_distance_and_a_mean_does_not() -> None:
    """Four stages of one distribution, each with its held-out cases as they were; then a fifth."""
    rng = torch.Generator().manual_seed(0)
    stages = [torch.randn(240, 4, generator=rng) for _ in range(5)]
    far = {}
    for rule in ("sum", "mean"):
        model = Expert(nn.Identity(), (), torch.zeros(0), rule)  # type: ignore[arg-type]
        for stage in stages[:4]:
            model = replace(model, history=(*model.history, Gaussian.fit(stage[:160])))
            model = replace(model, held_out=torch.cat([model.held_out, model.distance(stage[160:])]))
        far[rule] = float(model.scaled(model.distance(stages[4])).mean()) / model.mean
    assert far["mean"] == pytest.approx(1.0, abs=0.1)
    assert far["sum"] == pytest.approx(4 / 2.5, abs=0.1)  # four distances; held-out cases have 1, 2, 3 and 4


def test_features_are_pooled_until_few_enough() -> None:
    feature = torch.randn(2, 3, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    assert pooled(feature, 3 * 8 * 6 * 4).shape == (2, 576)
    once = pooled(feature, 575)
    assert once.shape == (2, 3 * 4 * 3 * 2)
    assert once[1, 0].item() == pytest.approx(feature[1, 0, :2, :2, :2].mean().item(), rel=1e-5)
    assert pooled(feature, 1).shape == (2, 3)
    flat = feature.flatten(2).double()
    expected = [[(flat[b, i] * flat[b, j]).mean() for i in range(3) for j in range(3)] for b in range(2)]
    torch.testing.assert_close(gram(feature), torch.tensor(expected, dtype=torch.float64))
    euclidean = centre(flat[:, 0, :5])
    mean = flat[:, 0, :5].mean(0)
    torch.testing.assert_close(euclidean.mahalanobis(flat[:, 1, :5]), (flat[:, 1, :5] - mean).square().sum(1))


def test_distillation_is_its_sum_over_pixels_and_classes() -> None:
    rng = torch.Generator().manual_seed(1)
    logits, old = (torch.randn(2, 3, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    counts = torch.tensor([[True, True, True, False], [True, True, False, False]])[:, None]
    by_image = []
    for b in range(2):
        pixels = []
        for p in range(4):
            if not counts[b, 0, p]:
                continue
            q = [math.exp(float(v)) ** (1 / 2.0) for v in old[b, :, p].log_softmax(0)]
            y = [math.exp(float(v)) ** (1 / 2.0) for v in logits[b, :, p].log_softmax(0)]
            pixels.append(-sum(q[c] / sum(q) * math.log(y[c] / sum(y)) for c in range(3)))
        by_image.append(sum(pixels) / len(pixels))
    assert float(distillation(logits, old, counts, temperature=2.0)) == pytest.approx(sum(by_image) / 2)


def test_mib_s_corrections_are_sums_of_probabilities() -> None:
    rng = torch.Generator().manual_seed(2)
    logits, old = (
        torch.randn(1, 4, 6, generator=rng, dtype=torch.float64),
        torch.randn(1, 3, 6, generator=rng, dtype=torch.float64),
    )
    mask = torch.tensor([[0, 0, 3, 3, 0, -100]])
    p, q = logits.softmax(1)[0], old.softmax(1)[0]
    each = [-math.log(p[0, i] + p[1, i] + p[2, i]) if mask[0, i] == 0 else -math.log(p[3, i]) for i in range(5)]
    assert float(unbiased_cross_entropy(logits, mask, (1, 2))) == pytest.approx(sum(each) / 5)
    terms = [
        -(q[0, i] * math.log(p[0, i] + p[3, i]) + q[1, i] * math.log(p[1, i]) + q[2, i] * math.log(p[2, i]))
        for i in range(6)
    ]
    assert float(distillation(logits, old, new=(3,))) == pytest.approx(float(sum(terms)) / 6)


def test_local_pod_is_the_papers_slices() -> None:
    feature = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected: list[float] = []
    for parts in (1, 2):
        for i in range(parts):
            for j in range(parts):
                rows, columns = slice(i * 4 // parts, (i + 1) * 4 // parts), slice(j * 6 // parts, (j + 1) * 6 // parts)
                region = feature[0, :, rows, columns]
                for c in range(2):
                    expected += [float(sum(region[c, h]) / region.shape[2]) for h in range(region.shape[1])]
                for c in range(2):
                    expected += [float(sum(region[c, :, w]) / region.shape[1]) for w in range(region.shape[2])]
    found = local_pod(feature, 2)
    np.testing.assert_allclose(found[0], expected)
    other = feature + 0.5  # every profile moves by a half
    assert float(local_pod_distance([feature, feature], [other, feature], 2)) == pytest.approx(0.25 * len(expected) / 2)
    assert local_pod(torch.zeros(1, 2, 4, 4, 4), 3).shape == (1, 2 * (3 * 4 + 8 * 3 * 2 + 64 * 3))


def test_fisher_information_is_squared_slopes_of_the_whole_likelihood_over_the_pixels(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cohort = read(write_photographs(tmp_path, {"a": 3}, size=(8, 8)))
    torch.manual_seed(0)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "norm": "batch"}}}
    )
    network.train()
    found = fisher_diagonal(network, cohort, a_context())
    assert network.training
    network.double().eval()
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for index in range(3):
        case = cohort.case(index)
        log_p = network(case.image.double())["mask"].log_softmax(1)
        truth = case.labels["mask"]
        assert isinstance(truth, Tensor)
        network.zero_grad()
        log_p.gather(1, truth).sum().backward()
        for name, p in network.named_parameters():
            assert p.grad is not None
            expected[name] += p.grad.square() / truth.numel() / 3
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-7)


def test_a_walk_is_the_sums_of_its_algorithm() -> None:
    class Line(nn.Linear):
        pass

    torch.manual_seed(1)
    network = Line(3, 1).double()
    optimizer, momentum, every = torch.optim.SGD(network.parameters(), lr=0.1), 0.9, 2
    images = torch.randn(5, 4, 3, dtype=torch.float64)

    def objective(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (net(batch.image) - 1).square().mean()}

    twin = Line(3, 1).double()
    twin.load_state_dict(network.state_dict())
    step = WalkingStep(
        GradientStep(network, objective, optimizer, a_context().fabric), Walked.from_network(network), momentum, every
    )  # type: ignore[arg-type]
    for image in images:
        step(Batch(image, torch.zeros(4), tuple("abcd")))
    fisher, score, gain = (dict.fromkeys(range(3), 0.0) for _ in range(3))
    start = twin.weight.detach().clone()[0]
    for number, image in enumerate(images, 1):
        loss = (twin(image) - 1).square().mean()
        slopes = torch.autograd.grad(loss, [twin.weight, twin.bias])
        for i in range(3):
            slope = float(slopes[0][0, i])
            gain[i] += slope * 0.1 * slope  # - slope * movement, and the movement is -0.1 slope
            fisher[i] = momentum * slope**2 + (1 - momentum) * fisher[i]
        with torch.no_grad():
            for p, slope_of in zip([twin.weight, twin.bias], slopes, strict=True):
                p -= 0.1 * slope_of
        if number % every == 0:
            for i in range(3):
                moved = float(twin.weight[0, i] - start[i])
                score[i] += max(0.0, gain[i] / (fisher[i] * moved**2 / 2 + 1e-8))
                gain[i] = 0.0
            start = twin.weight.detach().clone()[0]
    assert step.walked.fisher["weight"][0].tolist() == pytest.approx(list(fisher.values()))
    assert step.walked.score["weight"][0].tolist() == pytest.approx(list(score.values()))
    assert step.walked.gain["weight"][0].tolist() == pytest.approx(list(gain.values()))
    kept = step.walked.state_dict()
    other = Walked.from_network(twin)
    other.load_state_dict(kept)
    assert all(torch.equal(other.score[name], value) for name, value in step.walked.score.items())
