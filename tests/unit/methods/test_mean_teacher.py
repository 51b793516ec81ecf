"""Mean teacher: the average, the ramp, views brought together, the loss against a loop, weight 0,
and what is evaluated."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context, read, write_photographs
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods import mean_teacher
from allograft.methods.mean_teacher import (
    TEACHER,
    THETA,
    Consistency,
    MeanTeacher,
    TwoDraws,
    follow,
    in_students_view,
    rise,
    theta_between,
)
from allograft.methods.start import Start
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.synthesis import Synthesis
from allograft.transforms.augmentation import Draw, apply

CONTRACT = {
    "options": {
        "weight": 500.0,
        "momentum": 0.1,
        "late_momentum": 0.0,
        "late": 1.0,
        "ramp_up": 0.0,
        "augmentation": "strong",
    },
    # of three steps the first is late, and 1 - 1 / (n + 1) is below both
    "under": {"momentum": {"arguments": {"late": 1.0}}, "late": {"arguments": {"late_momentum": 0.0}}},
    "averages": True,
}

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(outputs: dict[str, int] | None = None, **arguments: Any) -> Any:
    torch.manual_seed(0)
    given = {"in_channels": 1, "outputs": outputs or {"mask": 2}, "channels": [4, 8], **arguments}
    return build({"build": {"unet": given}})


# ---------------------------------------------------------- the average and the ramp
def test_the_teacher_is_the_moving_average_of_a_loop_and_the_true_mean_at_first() -> None:
    network, teacher = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    steps = [torch.randn(2, generator=rng(n), dtype=F64) for n in range(5)]
    loop = teacher.weight.detach().clone()[0]
    first = loop.clone()
    for number, value in enumerate(steps, 1):
        with torch.no_grad():
            network.weight.copy_(value[None])
        momentum = min(1 - 1 / (number + 1), 0.99)
        follow(teacher, network, momentum)
        loop = momentum * loop + (1 - momentum) * value
        torch.testing.assert_close(teacher.weight[0].detach(), loop)
        torch.testing.assert_close(loop, torch.stack([first, *steps[:number]]).mean(0))


def test_extremes_of_the_momentum() -> None:
    network, teacher = nn.Linear(2, 1), nn.Linear(2, 1)
    before = teacher.weight.detach().clone()
    follow(teacher, network, 1.0)
    assert torch.equal(teacher.weight, before)
    follow(teacher, network, 0.0)
    assert torch.equal(teacher.weight, network.weight)


def test_the_ramp() -> None:
    values = [rise(step, 10) for step in range(12)]
    assert values == sorted(values)
    assert values[5] == pytest.approx(math.exp(-1.25))
    assert values[10:] == [1.0, 1.0]


# ---------------------------------------------------------- views of an image
def smooth(size: tuple[int, ...]) -> Tensor:
    """A function of the theta that bilinear sampling reads nearly exactly: (1, *size)."""
    axes = torch.meshgrid(*(torch.arange(count, dtype=F64) / count for count in size), indexing="ij")
    return torch.stack([(number + 1) * torch.sin(2 * axis) for number, axis in enumerate(axes)]).sum(0)[None]


MOVES = {
    2: [Draw(flips=(True, False)), Draw((20.0,), 0.2, (False, True)), Draw((-90.0,)), Draw()],
    3: [Draw(flips=(True, False, True)), Draw((10.0, -20.0, 15.0), -0.1, (False, True, False)), Draw()],
}


@pytest.mark.parametrize("spacing", [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize(("dims", "size"), [(2, (48, 40)), (3, (24, 20, 28))])
def test_what_one_draw_moved_is_brought_to_where_another_moved_it(
    dims: int, size: tuple[int, ...], spacing: list[float] | None
) -> None:
    """A network that answers pixel by pixel gives the same answer in both views."""
    image, voxel = smooth(size), None if spacing is None else spacing[:dims]
    for one in MOVES[dims]:
        for other in MOVES[dims]:
            student, _ = apply(image, {}, one, rng(), spacing=voxel)
            teacher, _ = apply(image, {}, other, rng(), spacing=voxel)
            moved, inside = in_students_view(teacher[None], theta_between(one, other, size, voxel)[None])
            # away from the border of the image, which views repeat, and of the teacher's view
            inner = torch.zeros(1, *size, dtype=torch.int64)
            inner[(0, *(slice(2, -2) for _ in size))] = 1
            shown, there = (
                apply(image, {"seen": inner}, each, rng(), spacing=voxel)[1]["seen"] for each in (one, other)
            )
            seen, _ = in_students_view((there * inner > 0).double()[None], theta_between(one, other, size, voxel)[None])
            counts = inside[0] & (shown[0] > 0) & (seen[0, 0] > 0.999)
            assert counts.double().mean() > 0.2
            torch.testing.assert_close(moved[0, 0][counts], student[0][counts], rtol=0, atol=0.02)


@settings(max_examples=10)
@given(st.tuples(st.booleans(), st.booleans()), st.tuples(st.booleans(), st.booleans()))
def test_flips_are_undone_exactly(one: tuple[bool, bool], other: tuple[bool, bool]) -> None:
    image = torch.rand(1, 6, 8, generator=rng())
    student, teacher = (apply(image, {}, Draw(flips=flips), rng())[0] for flips in (one, other))
    moved, inside = in_students_view(
        teacher[None], theta_between(Draw(flips=one), Draw(flips=other), (6, 8), None)[None]
    )
    assert inside.all()
    torch.testing.assert_close(moved[0], student, rtol=0, atol=1e-5)


def test_places_that_the_teacher_does_not_see_do_not_count() -> None:
    """Twice as near: the teacher sees the middle half of each side, so a quarter of the student's
    pixels."""
    theta = theta_between(Draw(), Draw(log_scale=math.log(2)), (8, 8), None)
    _, inside = in_students_view(torch.zeros(1, 1, 8, 8), theta[None])
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(inside[0], expected)


@pytest.mark.parametrize("patch", [None, (8, 8)])
def test_both_views_are_of_one_crop_under_draws_of_their_own(patch: tuple[int, ...] | None, tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 1})).unlabelled()
    case = TwoDraws("strong", patch)(cohort.case(0), rng(3))
    size = patch or (16, 16)
    assert case.image.shape == case.views[TEACHER].shape == (1, 1, *size)
    assert case.attributes[THETA].shape == (1, 6)
    assert not torch.equal(case.image, case.views[TEACHER])
    assert case.labels == {}
    still = TwoDraws("none", patch)(cohort.case(0), rng(3))
    assert torch.equal(still.image, still.views[TEACHER])
    torch.testing.assert_close(still.attributes[THETA].view(2, 3), torch.eye(3)[:2])


@pytest.mark.parametrize("spacing", [None, [1.0, 3.0]])
def test_both_views_and_what_lies_between_them_know_the_spacing(
    spacing: list[float] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Draw((30.0,), 0.1, (True, False)), Draw((-20.0,), 0.3)
    left = iter(draws)
    monkeypatch.setattr(mean_teacher, "draw", lambda *given: next(left))
    case = read(write_photographs(tmp_path, {"a": 1})).unlabelled().case(0)
    region = (torch.arange(256) % 3 > 0).view(1, 1, 16, 16)
    case = replace(case, region=region, spacing=None if spacing is None else torch.tensor([spacing]))
    made = TwoDraws("strong")(case, rng())
    student, moved = apply(case.image[0], {"region": region[0]}, draws[0], rng(), spacing=spacing)
    teacher, _ = apply(case.image[0], {}, draws[1], rng(), spacing=spacing)
    assert torch.equal(made.image[0], student)
    assert torch.equal(made.views[TEACHER][0], teacher)
    assert made.region is not None
    assert torch.equal(made.region[0], moved["region"])
    torch.testing.assert_close(made.attributes[THETA].view(2, 3), theta_between(*draws, (16, 16), spacing).float())


# ---------------------------------------------------------- the loss
@pytest.mark.parametrize(
    ("task", "several"),
    [(VESSEL, False), (Classification(("x", "y", "z")), False), (Multilabel(("x", "y", "z")), True)],
    ids=["mask", "label", "several"],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_that_of_a_loop(task: Any, several: bool, dims: int) -> None:
    network, key, size = a_network(dict(task.outputs), spatial_dims=dims), task.key, (8,) * dims
    teacher = copy.deepcopy(network)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(1.1)
    image, view = (torch.rand(4, 1, *size, generator=rng(n)) for n in range(2))
    labels: dict[str, Any] = {"mask": torch.randint(0, 2, (4, 1, *size), generator=rng())}
    labels["label"] = torch.ones(4, 3) if several else torch.tensor([0, 2, 1, 1])
    region = torch.ones(4, 1, *size, dtype=torch.bool)
    region[3, :, 2:] = False
    flipped = theta_between(Draw(), Draw(flips=(True,) + (False,) * (dims - 1)), size, None).float().flatten()
    batch = Batch(
        image,
        torch.tensor([0, 0, 1, 1]),
        tuple("abcd"),
        {key: labels[key]},
        attributes={THETA: flipped.expand(4, -1)},
        region=region,
        views={TEACHER: view},
    )
    terms = Consistency(task, teacher, 7.0)(network, batch)
    squash = torch.sigmoid if several and key == "label" else lambda x: x.softmax(1)
    own, others = squash(network(image[2:])[key]), squash(teacher(view[2:])[key])
    if key == "mask":
        others = others.flip(2)
    total = 0.0
    for b in range(2):
        squares = []
        for pixel in range(own[b, 0].numel()):
            if key == "label" or region[2 + b, 0].flatten()[pixel]:
                rows = (own[b].reshape(own.shape[1], -1)[:, pixel], others[b].reshape(own.shape[1], -1)[:, pixel])
                squares.append(sum((p.item() - q.item()) ** 2 for p, q in zip(*rows, strict=True)) / own.shape[1])
        total += sum(squares) / len(squares) / 2
    assert terms[f"consistency/{key}"].item() == pytest.approx(7.0 * total, rel=1e-4)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    # the target's labels are not looked at
    plain = task.objective(network, batch[:2])
    assert {name: terms[name].item() for name in plain} == {name: value.item() for name, value in plain.items()}


def test_agreement_costs_nothing() -> None:
    network = a_network()
    image = torch.rand(4, 1, 8, 8, generator=rng())
    theta = theta_between(Draw(), Draw(), (8, 8), None).float().flatten().expand(4, -1)
    batch = Batch(
        image,
        torch.zeros(4),
        ("",) * 4,
        {"mask": torch.zeros(4, 1, 8, 8, dtype=torch.int64)},
        {THETA: theta},
        views={TEACHER: image},
    )
    result = Consistency(VESSEL, copy.deepcopy(network), 20.0)(network, batch)["consistency/mask"]
    assert result.item() == pytest.approx(0, abs=1e-9)


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


def scenario(cohort: Cohort) -> Scenario:
    return Scenario((cohort.site("a"),), (cohort.site("b").unlabelled(),), sites=cohort.sites)


def test_at_weight_0_and_momentum_0_the_teacher_is_what_the_source_alone_gives(cohort: Cohort) -> None:
    recipe = MeanTeacher(weight=0.0, momentum=0.0, late_momentum=0.0, first=Start())
    budget = Budget(steps=3, adapt_steps=3, batch_size=2)
    _, result = finished(recipe.run(scenario(cohort), a_network(), a_context(budget=budget)))
    _, plain = finished(Supervised().run(scenario(cohort), a_network(), a_context(budget=budget)))
    for (name, p), q in zip(plain.named_parameters(), result.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_the_teacher_is_evaluated_and_normalised_by_target_images(cohort: Cohort) -> None:
    network = a_network(norm="batch")
    stage, result = finished(MeanTeacher(first=Start()).run(scenario(cohort), network, a_context()))
    assert stage.predictor.network is result
    assert result is not network
    assert all(p.requires_grad for p in result.parameters())
    layers = [m for m in result.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(int(layer.num_batches_tracked) == 3 for layer in layers)  # a pass a step, of the target
    seen = F.mse_loss(layers[0].running_mean, torch.zeros(4))
    assert float(seen) > 0


def test_the_papers_values_are_the_defaults() -> None:
    recipe = MeanTeacher()
    assert (recipe.weight, recipe.momentum, recipe.late_momentum, recipe.augmentation) == (20.0, 0.99, 0.999, None)
    assert (recipe.late, recipe.ramp_up) == (round(50 / 350, 3), round(100 / 350, 3))


def test_a_task_without_probabilities_is_refused() -> None:
    context = a_context()
    object.__setattr__(context, "task", Synthesis())
    with pytest.raises(SpecError, match="mean_teacher: works on class probabilities"):
        next(MeanTeacher().run(Scenario(), a_network(), context))


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_study_of_masks_and_one_of_classes_run(kind: str, tmp_path: Path) -> None:
    classes = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    study = classes if kind == "classification" else {"patch": [16, 16], "augmentation": "strong"}
    budget = {"steps": 1, "adapt_steps": 2, "batch_size": 2}
    recipe = {"mean_teacher": {"first": "start"}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, budget=budget, **study))
    assert {record.status for record in records.values()} == {"done"}
