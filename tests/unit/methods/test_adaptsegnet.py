"""AdaptSegNet: the discriminator's layers, where the inner segmentation comes from, a run, and what
is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context
from torch import nn

from allograft.errors import SpecError
from allograft.methods.adaptsegnet import AdaptSegNet, Discriminator, auxiliary_head
from allograft.networks import Wrapped, build
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification
from allograft.tree import digest

CONTRACT = {
    "options": {
        "levels": 1,
        "adversarial": 1.0,
        "auxiliary_adversarial": 1.0,
        "auxiliary_segmentation": 0.5,
        "discriminator_lr": 0.01,
    },
    "averages": True,
}


@pytest.mark.parametrize(
    ("size", "left"),
    [((64, 96), (2, 3)), ((32, 32), (1, 1)), ((16, 40), (1, 1)), ((1, 1), (1, 1)), ((32, 32, 64), (1, 1, 2))],
)
def test_every_size_leaves_something(size: tuple[int, ...], left: tuple[int, ...]) -> None:
    judge = Discriminator(3, len(size))
    assert judge(torch.rand(1, 3, *size)).shape == (1, 1, *left)


def test_the_published_layers() -> None:
    layers = list(Discriminator(19, 2).layers)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.in_channels for layer in convolutions] == [19, 64, 128, 256, 512]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 512, 1]
    assert {(layer.kernel_size, layer.stride, layer.padding) for layer in convolutions} == {((4, 4), (2, 2), (1, 1))}
    slopes = [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.2] * 4
    assert len(layers) == 9
    assert isinstance(layers[-1], nn.Conv2d)


def test_the_published_weights_are_the_defaults() -> None:
    recipe = AdaptSegNet()
    assert (recipe.adversarial, recipe.auxiliary_adversarial, recipe.auxiliary_segmentation) == (1e-3, 2e-4, 0.1)
    assert recipe.discriminator_lr == 1e-4


def _network(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build({"build": {name: {"in_channels": 1, "outputs": {"mask": 2}, **arguments}}})


@pytest.mark.parametrize(
    ("name", "arguments", "place"),
    [
        ("unet", {"channels": [4, 8]}, lambda n: n.encoder),
        ("unet", {"channels": [4, 8, 16]}, lambda n: n.decoder.ups[0]),
        ("unet", {"channels": [4, 8], "spatial_dims": 3}, lambda n: n.encoder),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}, lambda n: n.decoder.ups[0]),
        ("dynunet", {"channels": [4, 8, 16]}, lambda n: n.decoder.ups[0]),
    ],
)
def test_the_inner_feature_is_what_enters_the_last_stage(name: str, arguments: dict[str, Any], place: Any) -> None:
    network = _network(name, **arguments).train()
    image = torch.rand(2, 1, *(16,) * arguments.get("spatial_dims", 2))
    head = auxiliary_head(network, image, 2)
    assert head.place[0] is place(network)
    assert network.training
    assert sum(p.numel() for p in head.parameters()) == 2 * (head.convolution.in_channels + 1)
    from allograft.parts.features import captured

    with captured(head.place[0]) as seen:
        output = network(image)["mask"]
    assert head(seen[0], image.shape[2:]).shape == output.shape


@pytest.mark.parametrize("channels", [[4, 8], [4, 8, 16]])
def test_the_look_for_the_inner_feature_moves_no_running_statistics(channels: list[int]) -> None:
    network = _network("unet", channels=channels, norm="batch").train()
    before = digest(network)
    head = auxiliary_head(network, torch.rand(2, 1, 16, 16), 2)
    assert digest(network) == before
    assert sorted(dict(head.named_parameters())) == ["convolution.bias", "convolution.weight"]


def test_networks_and_tasks_without_segmentations_are_refused() -> None:
    with pytest.raises(SpecError, match="adaptsegnet: the network is one opaque module"):
        next(AdaptSegNet().run(Scenario(), Wrapped(nn.Identity(), "mask"), a_context()))
    classifier = build({"build": {"unet": {"in_channels": 1, "outputs": {"label": 2}, "channels": [4, 8]}}})
    with pytest.raises(SpecError, match=r"no decoder.*levels: 1"):
        auxiliary_head(classifier, torch.rand(1, 1, 16, 16), 2)
    context = a_context()
    object.__setattr__(context, "task", Classification(("no", "yes")))
    with pytest.raises(SpecError, match="the task gives label; use it with task: segmentation"):
        next(AdaptSegNet().run(Scenario(), classifier, context))


def test_the_optimizers_are_the_papers(tmp_path: Path) -> None:
    network = _network("unet", channels=[4, 8])
    step = AdaptSegNet().step(network, torch.rand(1, 1, 16, 16), 100, a_context())
    adam = step.discriminator_optimizer
    assert isinstance(adam, torch.optim.Adam)
    (group,) = adam.param_groups
    assert (group["lr"], group["betas"]) == (1e-4, (0.9, 0.99))
    for _ in range(50):
        adam.step()
        step.discriminator_schedule(torch.tensor(0.0))
    assert group["lr"] == pytest.approx(1e-4 * 0.5**0.9)
    moved = {id(p) for each in step.optimizer.param_groups for p in each["params"]}
    assert moved == {id(p) for p in (*network.parameters(), *step.auxiliary.parameters())}
    assert not moved & {id(p) for p in step.discriminators.parameters()}


@pytest.mark.parametrize("levels", [1, 2])
def test_a_run_with_a_batch_of_one_and_the_studys_schedule(levels: int, tmp_path: Path) -> None:
    budget = {"steps": 1, "adapt_steps": 2, "batch_size": 1}
    recipe = {"adaptsegnet": {"levels": levels, "first": "start"}}
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, budget=budget, schedule={"poly": {}}
    )
    _, _, records = run(session)
    assert all(record.status == "done" for record in records.values())
