"""MixStyle: the mixed features against a loop, what is left alone, partners, and nothing of it
after training."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context, read, write_photographs
from torch import nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.mixstyle import (
    MixedStyles,
    MixStyle,
    early_levels,
    mix_style,
    mixed_styles,
    partners,
)
from allograft.methods.supervised import Supervised
from allograft.networks import Wrapped, build
from allograft.recipe import Scenario

CONTRACT = {
    "arguments": {"probability": 0.9},
    "options": {"levels": 1, "probability": 0.1, "alpha": 5.0, "mix": "random"},
    "under": {
        # the contract's network has two levels; three steps at a half may all be left alone
        "levels": {"arguments": {"probability": 1.0}, "study": {"network": {"unet": {"channels": [4, 4, 8]}}}},
        "probability": {"arguments": {"probability": 1.0}},
        "mix": {"arguments": {"probability": 1.0}, "study": {"budget": {"steps": 3, "batch_size": 4}}},
    },
    # each process draws for its own share of a batch
    "processes": {"probability": 0.0},
}

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(levels: int = 3, **arguments: Any) -> Any:
    torch.manual_seed(0)
    given = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 6, 8, 10][:levels], **arguments}
    return build({"build": {"unet": given}})


# ---------------------------------------------------------- the mixing
@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([(4, 3), (2, 3, 2)]))
def test_mixing_is_that_of_a_loop(seed: int, count: int, size: tuple[int, ...]) -> None:
    draws = rng(seed)
    x = torch.randn(count, 3, *size, generator=draws, dtype=F64) * 4 + 2
    partner, share = torch.randperm(count, generator=draws), torch.rand(count, generator=draws, dtype=F64)
    result = mix_style(x, partner, share)
    pixels = math.prod(size)
    for b in range(count):
        for c in range(3):
            moments = []
            for image in (b, int(partner[b])):
                values = x[image, c].flatten().tolist()
                mean = sum(values) / pixels
                moments.append((mean, math.sqrt(sum((v - mean) ** 2 for v in values) / pixels + 1e-6)))
            (mean, spread), (other_mean, other_spread) = moments
            weight = float(share[b])
            scale, shift = weight * spread + (1 - weight) * other_spread, weight * mean + (1 - weight) * other_mean
            expected = [(v - mean) / spread * scale + shift for v in x[b, c].flatten().tolist()]
            assert result[b, c].flatten().tolist() == pytest.approx(expected)


def test_its_own_statistics_change_nothing_and_anothers_are_taken_over() -> None:
    x = torch.randn(3, 2, 5, 4, generator=rng(), dtype=F64) * torch.tensor([1.0, 3.0, 9.0]).view(3, 1, 1, 1)
    partner = torch.tensor([1, 2, 0])
    torch.testing.assert_close(mix_style(x, partner, torch.ones(3)), x)
    torch.testing.assert_close(mix_style(x, torch.arange(3), torch.rand(3, generator=rng())), x)
    swapped = mix_style(x, partner, torch.zeros(3))
    torch.testing.assert_close(swapped.mean((2, 3)), x[partner].mean((2, 3)))
    torch.testing.assert_close(
        swapped.var((2, 3), correction=0), x[partner].var((2, 3), correction=0), rtol=1e-4, atol=0
    )


def test_no_gradient_flows_through_statistics() -> None:
    """So the gradient of a sum is the scale's ratio alone, and nothing reaches the partner."""
    x = torch.randn(2, 1, 3, 3, generator=rng(), dtype=F64, requires_grad=True)
    share = torch.tensor([0.3, 1.0], dtype=F64)
    mix_style(x, torch.tensor([1, 0]), share)[0].sum().backward()
    spread = (x.detach().var((1, 2, 3), correction=0) + 1e-6).sqrt()
    expected = (0.3 * spread[0] + 0.7 * spread[1]) / spread[0]
    torch.testing.assert_close(x.grad[0], expected.expand(1, 3, 3).clone())
    assert not x.grad[1].any()


def test_a_flat_channel_stays_finite() -> None:
    x = torch.ones(2, 1, 2, 2)
    x[1] = torch.rand(1, 2, 2, generator=rng())
    assert mix_style(x, torch.tensor([1, 0]), torch.tensor([0.5, 0.5])).isfinite().all()


# ---------------------------------------------------------- partners
def test_partners_are_of_other_sites_where_there_are_any() -> None:
    site = torch.tensor([0, 0, 1, 2, 1])
    torch.manual_seed(0)
    drawn = [partners(site, "crossdomain") for _ in range(50)]
    assert all((site[one] != site).all() for one in drawn)
    assert {int(one[0]) for one in drawn} == {2, 3, 4}
    alone = [sorted(partners(torch.zeros(4), "crossdomain").tolist()) for _ in range(5)]
    assert alone == [[0, 1, 2, 3]] * 5
    random = [partners(site, "random") for _ in range(20)]
    assert all(sorted(one.tolist()) == [0, 1, 2, 3, 4] for one in random)
    assert any((site[one] == site).any() for one in random)


def test_lambda_is_of_the_papers_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[torch.Tensor] = []

    def watched(x: torch.Tensor, partner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        shares.append(share)
        return x

    monkeypatch.setattr("allograft.methods.mixstyle.mix_style", watched)
    level, site, calls = nn.Identity(), torch.zeros(100), 400
    torch.manual_seed(0)
    with mixed_styles([level], site, MixStyle()):
        for _ in range(calls):
            level(torch.rand(100, 1, 1, 1))
    every = torch.cat(shares).double()
    assert len(shares) == pytest.approx(calls / 2, abs=4 * math.sqrt(calls) / 2)  # p = 0.5
    assert float(every.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(every.var()) == pytest.approx(0.25 / 1.2, abs=0.01)  # of Beta(a, a): 1 / (4 (2 a + 1))


# ---------------------------------------------------------- where, and when
@pytest.mark.parametrize(("levels", "count", "expected"), [(4, 3, 3), (3, 3, 2), (2, 3, 1), (4, 1, 1)])
def test_the_first_levels_are_mixed_after_and_never_the_last(levels: int, count: int, expected: int) -> None:
    network = a_network(levels)
    assert early_levels(network, count) == network.levels()[:expected]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unet", {"channels": [4, 8, 8], "outputs": {"mask": 2}}),
        ("unet", {"channels": [4, 8, 8], "outputs": {"mask": 2}, "spatial_dims": 3}),
        ("resnet", {"outputs": {"label": 2}}),
        ("resnet", {"outputs": {"label": 2}, "spatial_dims": 3}),
        ("dynunet", {"channels": [4, 8, 8], "outputs": {"mask": 2}}),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1], "outputs": {"mask": 2}}),
    ],
)
def test_networks_of_the_table_are_mixed_in_training_and_left_as_they_were(name: str, arguments: Any) -> None:
    torch.manual_seed(0)
    network = build({"build": {name: {"in_channels": 1, **arguments}}}).eval()
    image = torch.rand(2, 1, *(32,) * arguments.get("spatial_dims", 2), generator=rng())
    image[1] *= 9
    (key,) = arguments["outputs"]
    before = network(image)[key]
    with mixed_styles(early_levels(network, 3), torch.tensor([0, 1]), MixStyle(probability=1.0, alpha=5.0)):
        inside = network(image)[key]
    assert not torch.allclose(inside, before)
    assert torch.equal(network(image)[key], before)


def test_a_batch_is_mixed_by_its_sites_and_the_loss_is_the_tasks() -> None:
    network = a_network()
    batch = Batch(
        torch.rand(4, 1, 8, 8, generator=rng()),
        torch.tensor([0, 0, 1, 1]),
        tuple("abcd"),
        {"mask": torch.randint(0, 2, (4, 1, 8, 8), generator=rng())},
    )
    terms = MixedStyles(VESSEL, MixStyle(probability=1.0))(network, batch)
    plain = VESSEL.objective(network, batch)
    assert terms.keys() == plain.keys()
    assert not torch.equal(terms["cross_entropy"], plain["cross_entropy"])


# ---------------------------------------------------------- the recipe
@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return read(write_photographs(tmp_path, {"a": 4, "b": 3}))


def finished(running: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(running)
        except StopIteration as stop:
            return stop.value


def test_probability_0_is_plain_training_bit_for_bit(cohort: Cohort) -> None:
    scenario, context = Scenario(source=(cohort,), sites=cohort.sites), a_context()
    plain = finished(context.run(Supervised(), scenario, a_network(dropout=0.3))).network
    result = finished(context.run(MixStyle(probability=0.0), scenario, a_network(dropout=0.3))).network
    mixed = finished(context.run(MixStyle(probability=1.0), scenario, a_network(dropout=0.3))).network
    for (name, one), other in zip(plain.state_dict().items(), result.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert mixed.spec == plain.spec
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), mixed.parameters(), strict=True))
    assert not any(module._forward_hooks for module in mixed.modules())


def test_the_papers_values_are_the_defaults() -> None:
    recipe = MixStyle()
    assert (recipe.levels, recipe.probability, recipe.alpha, recipe.mix) == (3, 0.5, 0.1, "crossdomain")


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(SpecError, match="mixstyle: the network is one opaque module"):
        next(MixStyle().run(Scenario(), Wrapped(nn.Identity(), "mask"), a_context()))
    with pytest.raises(SpecError, match=r"batch_size to 2 or more"):
        next(MixStyle().run(Scenario(), a_network(), a_context(budget=Budget(steps=1, batch_size=1))))
    vit = build(
        {"build": {"vit": {"in_channels": 1, "outputs": {"label": 2}, "image_size": [32, 32], "patch_size": 16}}}
    )
    with pytest.raises(SpecError, match=r"mixstyle: .*transformer"):
        next(MixStyle().run(Scenario(), vit, a_context()))


def test_a_study_of_classes_runs(tmp_path: Path) -> None:
    study = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", {"mixstyle": {"probability": 1.0}}, **study
    )
    _, _, records = run(session)
    assert {record.status for record in records.values()} == {"done"}
