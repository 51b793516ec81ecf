"""Group DRO: the weights against a loop of algorithm 1, one site = plain training, cases of a site
alone, and a warning."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context, read, write_photographs

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.methods.groupdro import GroupDro, WorstSites, labelled_alone, updated_weights
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification
from allograft.tasks.detection import Detection
from allograft.tasks.multilabel import Multilabel

CONTRACT = {"options": {"rate": 10.0}}

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(outputs: dict[str, int] | None = None, **arguments: Any) -> Any:
    torch.manual_seed(0)
    given = {"in_channels": 1, "outputs": outputs or {"mask": 2}, "channels": [4, 8], **arguments}
    return build({"build": {"unet": given}})


def batch_of(site: list[int], size: int = 8) -> Batch:
    count = len(site)
    image, mask = torch.rand(count, 1, size, size, generator=rng()), torch.zeros(count, 1, size, size)
    mask = (torch.rand(mask.shape, generator=rng(1)) < 0.3).long()
    return Batch(image, torch.tensor(site), tuple(map(str, range(count))), {"mask": mask})


# ---------------------------------------------------------- the weights
@given(
    st.lists(st.lists(st.floats(0, 20), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.01, 0.5]),
)
def test_weights_are_those_of_a_loop(losses: list[list[float]], rate: float) -> None:
    weights, loop = torch.full((3,), 1 / 3, dtype=F64), [1 / 3] * 3
    for each in losses:
        weights = updated_weights(weights, torch.tensor(each, dtype=F64), rate)
        loop = [q * math.exp(rate * loss) for q, loss in zip(loop, each, strict=True)]
        loop = [q / sum(loop) for q in loop]
    assert weights.tolist() == pytest.approx(loop)


def test_a_larger_loss_has_a_larger_share_and_long_runs_do_not_overflow() -> None:
    weights = torch.tensor([0.5, 0.5], dtype=F64)
    for _ in range(10_000):
        weights = updated_weights(weights, torch.tensor([5.0, 1.0], dtype=F64), 0.01)
    assert weights.isfinite().all()
    assert float(weights[0]) == pytest.approx(1.0)
    assert updated_weights(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0]), 0.0).tolist() == [0.5, 0.5]


def test_the_loss_is_the_weighted_sum_of_the_sites_own_losses_after_the_update() -> None:
    network, batch = a_network(), batch_of([0, 2, 0, 2, 2])
    objective = WorstSites(VESSEL, {0: "a", 2: "c"}, 0.5)
    terms = objective(network, batch)
    own = []
    for number in (0, 2):
        rows = [row for row, site in enumerate(batch.site.tolist()) if site == number]
        alone = Batch(batch.image[rows], batch.site[rows], ("",) * len(rows), {"mask": batch.labels["mask"][rows]})
        own.append({name: float(value.detach()) for name, value in VESSEL.objective(network, alone).items()})
    shares = [math.exp(0.5 * sum(each.values())) for each in own]
    shares = [share / sum(shares) for share in shares]
    assert objective.weights.tolist() == pytest.approx(shares)
    expected = {
        f"{key}/{site}": share * value
        for site, share, each in zip("ac", shares, own, strict=True)
        for key, value in each.items()
    }
    assert {name: float(value.detach()) for name, value in terms.items()} == pytest.approx(expected)


def test_a_site_that_a_batch_lacks_has_no_loss_and_no_gradient() -> None:
    network, objective = a_network(), WorstSites(VESSEL, {0: "a", 1: "b"}, 0.5)
    terms = objective(network, batch_of([0, 0]))
    assert [terms[name].item() for name in ("dice/b", "cross_entropy/b")] == [0, 0]
    (terms["dice/b"] + terms["cross_entropy/b"]).backward()
    assert not any(p.grad is not None and p.grad.any() for p in network.parameters())
    assert objective.weights[0] > 0.5 > objective.weights[1]


@pytest.mark.parametrize(
    ("task", "label"),
    [
        (Classification(("x", "y")), torch.tensor([0, 1, 1])),
        (Multilabel(("x", "y")), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, float("nan")]])),
    ],
)
def test_other_tasks_hide_the_other_sites_alike(task: Any, label: torch.Tensor) -> None:
    network = a_network({"label": 2})
    batch = Batch(torch.rand(3, 1, 8, 8, generator=rng()), torch.tensor([0, 1, 1]), tuple("abc"), {"label": label})
    output = network(batch.image)
    hidden = labelled_alone(batch, batch.site == 1)
    expected = task.loss({"label": output["label"][1:]}, batch[1:])
    for name, value in task.loss(output, hidden).items():
        torch.testing.assert_close(value, expected[name])
    assert torch.equal(batch.labels["label"].nan_to_num(9), label.nan_to_num(9))


# ---------------------------------------------------------- the recipe
@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return read(write_photographs(tmp_path, {"a": 4, "b": 3}))


def finished(running: Generator[Any, None, Any]) -> tuple[Any, Any]:
    stage = None
    while True:
        try:
            stage = next(running)
        except StopIteration as stop:
            return stage, stop.value.network


@pytest.mark.parametrize("rate", [0.01, 5.0])
def test_with_one_source_site_it_is_plain_training_bit_for_bit_and_says_so(rate: float, cohort: Cohort) -> None:
    scenario = Scenario(source=(cohort.site("a"),), sites=cohort.sites)
    arguments = {"norm": "batch", "dropout": 0.3}
    with torch.random.fork_rng():
        _, plain = finished(Supervised().run(scenario, a_network(**arguments), a_context()))
        stage, result = finished(GroupDro(rate).run(scenario, a_network(**arguments), a_context()))
    for (name, one), other in zip(plain.state_dict().items(), result.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert stage.facts == {"weight/a": 1.0}
    with pytest.warns(UserWarning, match="groupdro: 'a' is the only source site"):
        GroupDro().check(scenario, result, a_context())


def test_several_sites_are_weighed_and_nothing_is_said(cohort: Cohort) -> None:
    scenario = Scenario(source=(cohort.site("a"), cohort.site("b")), sites=cohort.sites)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GroupDro().check(scenario, a_network(), a_context())
    stage, even = finished(GroupDro(0.0).run(scenario, a_network(), a_context()))
    assert stage.facts == {"weight/a": 0.5, "weight/b": 0.5}
    stage, result = finished(GroupDro(5.0).run(scenario, a_network(), a_context()))
    assert sum(stage.facts.values()) == pytest.approx(1.0)
    assert stage.facts["weight/a"] != 0.5
    assert any(not torch.equal(p, q) for p, q in zip(even.parameters(), result.parameters(), strict=True))


def test_weights_are_part_of_the_state_that_is_kept() -> None:
    objective = WorstSites(VESSEL, {0: "a", 1: "b"}, 0.5)
    objective(a_network(), batch_of([0, 0]))
    other = copy.deepcopy(WorstSites(VESSEL, {0: "a", 1: "b"}, 0.5))
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.weights, objective.weights)


def test_the_papers_rate_is_the_default() -> None:
    assert GroupDro().rate == 0.01


def test_boxes_are_refused() -> None:
    context = a_context()
    object.__setattr__(context, "task", Detection(("cell",)))
    with pytest.raises(SpecError, match=r"groupdro: .*the task gives boxes"):
        GroupDro().check(Scenario(), a_network(), context)


def test_a_study_of_classes_runs(tmp_path: Path) -> None:
    study = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "groupdro", **study))
    assert {record.status for record in records.values()} == {"done"}
