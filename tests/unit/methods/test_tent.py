"""Tent: what moves, one answer for an image whatever its batch, updates against a loop, and what is
refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context, read, write_photographs
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.methods.tent import Entropy, Tent, TentPredictor, affine_parameters, by_own_statistics
from allograft.networks import Wrapped, build
from allograft.parts.entropy import softmax_entropy
from allograft.parts.features import images_in_order
from allograft.parts.target_statistics import adapt_statistics
from allograft.predictor import Direct, load_predictor, save_predictor
from allograft.predictor.whole import sees_whole_images
from allograft.recipe import Needs, Scenario
from allograft.tasks.synthesis import Synthesis
from allograft.tree import digest

CONTRACT = {
    "options": {"mode": "episodic", "lr": 0.05, "epochs": 2, "iterations": 3},
    "under": {"iterations": {"arguments": {"mode": "episodic"}}},
    # Adam of its own, at a constant rate, on images as they are
    "own_settings": ("augmentation", "optimizer", "schedule", "loss"),
    "own_optimizers": True,
    "in_evaluation_mode": True,
    "marks": (),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(norm: str = "batch", outputs: dict[str, int] | None = None, **arguments: Any) -> Any:
    torch.manual_seed(0)
    network = build(
        {
            "build": {
                "unet": {
                    "in_channels": 1,
                    "outputs": outputs or {"mask": 2},
                    "channels": [4, 8],
                    "norm": norm,
                    "dropout": 0.3,
                    **arguments,
                }
            }
        }
    )
    for number, layer in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        layer.running_mean.add_(0.1 * number)  # as after some training
        layer.running_var.mul_(1 + number)
    return network


def images(count: int = 4, size: tuple[int, ...] = (8, 8)) -> Tensor:
    scale = torch.arange(1.0, count + 1).view(-1, *(1,) * (len(size) + 1))
    return torch.rand(count, 1, *size, generator=rng(1)) * scale


def batch_of(image: Tensor) -> Batch:
    return Batch(image, torch.full((len(image),), -1), tuple(map(str, range(len(image)))))


# ---------------------------------------------------------- what moves
def test_scales_and_shifts_alone_move_and_modes_come_back() -> None:
    network = a_network().train()
    next(iter(network.parameters())).requires_grad_(False)
    wanted = [p.requires_grad for p in network.parameters()]
    tuned = {id(p) for p in affine_parameters(network)}
    with by_own_statistics(network):
        Entropy(False)(network, batch_of(images()))["entropy/mask"].backward()
        assert {id(p) for p in network.parameters() if p.grad is not None} == tuned
        dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout)]
        assert dropouts
        assert not any(m.training for m in dropouts)
    assert [p.requires_grad for p in network.parameters()] == wanted
    assert all(module.training for module in network.modules())
    names = {name.rpartition(".")[0] for name, p in network.named_parameters() if id(p) in tuned}
    assert names == {name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_an_update_is_that_of_a_loop_written_out() -> None:
    """One convolution, one batch normalisation, pixels as classes: statistics of the batch, entropy
    in nats, Adam's first step of the size of its learning rate."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1e-5)).double()
    network = Wrapped(inner, "mask")
    image = images(1).double()
    gamma, beta = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    gamma.requires_grad_()
    beta.requires_grad_()
    made = inner[0](image)
    mean, variance = made.mean((0, 2, 3)), made.var((0, 2, 3), correction=0)
    normal = (made - mean.view(1, 2, 1, 1)) / (variance.view(1, 2, 1, 1) + 1e-5).sqrt()

    def logits() -> Tensor:
        return normal.detach() * gamma.view(1, 2, 1, 1) + beta.view(1, 2, 1, 1)

    moments = [[torch.zeros(2, dtype=torch.float64) for _ in range(2)] for _ in range(2)]
    for step in range(1, 4):
        p = logits().softmax(1)
        loss = -(p * p.log()).sum(1).mean()
        for value, (first, second), gradient in zip(
            (gamma, beta), moments, torch.autograd.grad(loss, (gamma, beta)), strict=True
        ):
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            with torch.no_grad():
                value -= 0.05 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    result = TentPredictor(network, 3, 0.05)(batch_of(image))["mask"]
    torch.testing.assert_close(result, logits().detach())


@pytest.mark.parametrize("iterations", [1, 5, 20])
def test_more_updates_make_an_image_surer(iterations: int) -> None:
    network, batch = a_network(), batch_of(images(2))
    before = softmax_entropy(TentPredictor(network, 1, 1e-9)(batch)["mask"]).mean()
    after = softmax_entropy(TentPredictor(network, iterations, 0.01)(batch)["mask"]).mean()
    assert after < before


# ---------------------------------------------------------- one answer for an image
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (8, 8, 8)])
def test_an_image_has_one_answer_whatever_its_batch_or_order(size: tuple[int, ...], tmp_path: Path) -> None:
    network = a_network(spatial_dims=len(size))
    predictor, image = TentPredictor(network, 3, 0.05), images(4, size)
    before = digest(network)
    together = predictor(batch_of(image))["mask"]
    assert together.shape == (4, 2, *size)
    assert torch.equal(predictor(batch_of(image.flip(0)))["mask"].flip(0), together)
    for number in range(4):
        assert torch.equal(predictor(batch_of(image[number : number + 1]))["mask"], together[number : number + 1])
    with torch.no_grad():
        assert torch.equal(predictor(batch_of(image))["mask"], together)
    assert digest(network) == before
    region = torch.zeros(4, 1, *size, dtype=torch.bool)  # `predict` knows of none
    assert torch.equal(predictor(replace(batch_of(image), region=region))["mask"], together)
    assert sees_whole_images(predictor)
    save_predictor(predictor, tmp_path / "kept", {"contains_images": False})
    assert torch.equal(load_predictor(tmp_path / "kept")[0](batch_of(image))["mask"], together)


@pytest.mark.parametrize(("several", "classes"), [(False, 3), (True, 3)])
def test_classes_of_images_too(several: bool, classes: int) -> None:
    network = a_network(outputs={"label": classes})
    result = TentPredictor(network, 3, 0.05, several)(batch_of(images()))["label"]
    assert result.shape == (4, classes)
    assert not torch.equal(result, TentPredictor(network, 3, 0.05, not several)(batch_of(images()))["label"])


@pytest.mark.parametrize(("other", "answer"), [("mask", "label"), ("label", "mask")])
def test_the_entropies_of_all_outputs_move_an_image(other: str, answer: str) -> None:
    network = a_network(outputs={"mask": 2, "label": 3})
    before = TentPredictor(network, 2, 0.05)(batch_of(images(1)))[answer]
    with torch.no_grad():
        for p in network.heads[other].parameters():
            p.mul_(-3)
    assert not torch.equal(TentPredictor(network, 2, 0.05)(batch_of(images(1)))[answer], before)


# ---------------------------------------------------------- the recipe
@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return read(write_photographs(tmp_path, {"a": 3, "b": 5}))


def finished(recipe: Tent, cohort: Cohort, network: Any, **settings: Any) -> Any:
    target = cohort.site("b").unlabelled()
    recipe = replace(recipe, first=recipe_start())
    running = recipe.run(Scenario(target=(target,), sites=("b",)), network, a_context(**settings))
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            return [stage for stage in stages if stage.name == "adapted"][-1], end.value.network


def recipe_start() -> Any:
    from allograft.recipe import parse_recipe

    return parse_recipe("start")


def test_online_without_a_step_of_any_size_is_adabn(cohort: Cohort) -> None:
    network = a_network()
    stage, result = finished(Tent(lr=1e-30), cohort, copy.deepcopy(network))
    target = cohort.site("b").unlabelled()
    adapt_statistics(network, images_in_order([target], 2))
    for (name, one), other in zip(result.state_dict().items(), network.state_dict().values(), strict=True):
        if "tracked" not in name:
            torch.testing.assert_close(one, other, msg=name)
    assert isinstance(stage.predictor, Direct)
    assert not any(module.training for module in result.modules())


def test_online_makes_one_update_a_batch_and_pass_and_keeps_all_other_weights(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    real = Entropy.__call__

    def watched(self: Entropy, network: Any, batch: Batch) -> Any:
        assert batch.labels == {}
        counted.append(len(batch))
        return real(self, network, batch)

    monkeypatch.setattr(Entropy, "__call__", watched)
    network = a_network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    _, result = finished(Tent(), cohort, network)
    assert counted == [2, 2, 2]  # five images by two
    tuned = {id(p) for p in affine_parameters(result)}
    for name, p in result.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) not in tuned), name
    counted.clear()
    finished(Tent(epochs=2), cohort, a_network())
    assert len(counted) == 6


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_networks_of_other_normalisations_are_tuned_by_theirs(norm: str, cohort: Cohort) -> None:
    for mode in ("online", "episodic"):
        stage, _ = finished(Tent(mode=mode, lr=0.05, iterations=2), cohort, a_network(norm))  # type: ignore[arg-type]
        assert stage.predictor(batch_of(images(2, (16, 16))))["mask"].isfinite().all()


def test_the_papers_values_are_the_defaults() -> None:
    recipe = Tent()
    assert (recipe.mode, recipe.lr, recipe.epochs, recipe.iterations) == ("online", 1e-3, 1, 10)
    assert recipe.needs == Needs(target_images=True)
    assert Tent(mode="episodic").needs == Needs()


def test_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(SpecError, match=r"tent: no normalisation.*norm: batch"):
        next(Tent().run(Scenario(), a_network("instance"), a_context()))
    context = a_context()
    object.__setattr__(context, "task", Synthesis())
    with pytest.raises(SpecError, match="tent: works on class probabilities"):
        next(Tent().run(Scenario(), a_network(), context))
    with pytest.raises(SpecError, match="tent: one image leaves one value a channel"):
        TentPredictor(a_network(), 1, 0.1)(batch_of(images(1, (2, 2))))


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
@pytest.mark.parametrize("mode", ["online", "episodic"])
def test_a_study_of_masks_and_one_of_classes_run(kind: str, mode: str, tmp_path: Path) -> None:
    classes = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    study = classes if kind == "classification" else {}
    budget = {"steps": 1, "adapt_steps": 1, "batch_size": 2}
    recipe = {"tent": {"first": "start", "mode": mode, "iterations": 1}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, budget=budget, **study))
    assert {record.status for record in records.values()} == {"done"}
