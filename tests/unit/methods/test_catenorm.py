"""CateNorm: the surgery, the two steps of an iteration and the two passes of a prediction."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.catenorm import CateNorm, MaskLoss, TwoPass, TwoPassStep
from allograft.networks import build, rebuilt
from allograft.networks.network import Wrapped, operate
from allograft.nn.catenorm import TwoBranchNorm2d, guided
from allograft.predictor import Direct
from allograft.recipe import Scenario
from allograft.run.fabric import local_fabric
from allograft.tasks.classification import Classification
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation, squared_dice_loss

CONTRACT = {
    "arguments": {"warmup": 0.34},
    "options": {
        "blocks": 1,
        "position": 1,
        "shared": False,
        "warmup": 0.67,
        "dice_weight": 0.1,
        "clip_value": 1e-4,
        "dice": "plain",
    },
    "marks": (2,),  # the first checkpoint falls into the warm-up, which has no second pass
}

TWO = Segmentation(("one", "two"))


def a_network(norm: str = "batch", classes: int = 3, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build(
        {
            "build": {
                "unet": {
                    "in_channels": 1,
                    "outputs": {"mask": classes},
                    "channels": [4, 8, 8],
                    "norm": norm,
                    **arguments,
                }
            }
        }
    )


def changed(blocks: int = 4, classes: int = 3, norm: str = "batch") -> Any:
    return operate(a_network(norm, classes), "catenorm", classes=classes, blocks=blocks)


def a_batch(classes: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(3, 1, 16, 16, generator=rng)
    return Batch(
        image, torch.zeros(3).long(), ("a", "b", "c"), {"mask": torch.randint(classes, (3, 1, 16, 16), generator=rng)}
    )


def branches(network: Any) -> dict[str, TwoBranchNorm2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, TwoBranchNorm2d)}


# ---------------------------------------------------------- surgery
@pytest.mark.parametrize("training", [True, False])
def test_the_general_branch_is_the_network_as_it_was(training: bool) -> None:
    image, plain = a_batch().image, a_network().train(training)
    for module in plain.modules():
        if isinstance(
            module, torch.nn.BatchNorm2d
        ):  # as after some training: the branch takes weights and statistics over
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.add_(torch.rand(len(tensor)))  # type: ignore[union-attr,arg-type]
    twin = copy.deepcopy(plain)
    twin.spec = plain.spec
    network = operate(twin, "catenorm", classes=3)
    assert branches(network)
    assert torch.equal(network(image)["mask"], plain(image)["mask"])


@pytest.mark.parametrize(("blocks", "levels"), [(1, {"0"}), (2, {"0", "1"}), (4, {"0", "1", "2"})])
def test_only_the_first_blocks_of_the_encoder_change(blocks: int, levels: set[str]) -> None:
    assert {name.split(".")[2] for name in branches(changed(blocks))} == levels
    assert all(name.startswith("encoder.levels.") for name in branches(changed(blocks)))


def test_instance_normalisation_gives_way_to_batch_normalisation() -> None:
    network = changed(norm="instance")
    assert branches(network)
    assert all(type(module.general).__name__ == "BatchNorm2d" for module in branches(network).values())
    assert not any(type(module).__name__ == "InstanceNorm2d" for module in network.encoder.modules())


def test_it_is_built_again_from_its_spec() -> None:
    network = changed(blocks=2)
    assert network.spec["surgery"] == [{"catenorm": {"classes": 3, "blocks": 2}}]
    again = rebuilt(network.spec, network.state_dict())
    batch = a_batch()
    assert torch.equal(TwoPass(again)(batch)["mask"], TwoPass(network)(batch)["mask"])


def test_networks_without_2d_levels_are_refused() -> None:
    with pytest.raises(SpecError, match="2-D batch or instance"):
        operate(a_network(spatial_dims=3), "catenorm", classes=3)
    with pytest.raises(SpecError, match="at least 1"):
        operate(a_network(), "catenorm", classes=3, blocks=0)
    opaque = Wrapped(torch.nn.Conv2d(1, 3, 1), "mask")
    opaque.spec = {"build": {}, "surgery": []}
    with pytest.raises(SpecError, match="no encoder with levels"):
        operate(opaque, "catenorm", classes=3)


# ---------------------------------------------------------- prediction
def test_two_passes_are_two_calls_by_hand() -> None:
    network, batch = changed().eval(), a_batch()
    with torch.no_grad():
        first = network(batch.image)["mask"]
        with guided(network, first.softmax(1)):
            second = network(batch.image)["mask"]
    found = TwoPass(network.train())(batch)["mask"]
    assert torch.equal(found, second)
    assert not torch.equal(found, first)
    assert torch.equal(Direct(network)(batch)["mask"], first)  # no class map stays behind


def test_an_image_of_any_size_is_padded_once() -> None:
    network, batch = changed(), a_batch()
    odd = Batch(batch.image[:, :, :13, :11], batch.site, batch.cases)
    assert TwoPass(network)(odd)["mask"].shape == (3, 3, 13, 11)


def test_the_class_map_goes_even_when_a_pass_fails() -> None:
    network = changed()
    with pytest.raises(ValueError, match="mine"), guided(network, torch.zeros(1)):
        raise ValueError("mine")
    assert all(module.mask is None for module in branches(network).values())


# ---------------------------------------------------------- loss and steps
@pytest.mark.parametrize(
    ("task", "weight", "expected"),
    [
        (VESSEL, None, {"dice": 1.0}),
        (TWO, None, {"dice": 0.5, "cross_entropy": 0.5}),
        (TWO, 0.0, {"cross_entropy": 1.0}),
        (TWO, 0.2, {"dice": 0.2, "cross_entropy": 0.8}),
    ],
)
def test_the_weights_of_dice_and_cross_entropy(
    task: Segmentation, weight: float | None, expected: dict[str, float]
) -> None:
    classes = len(task.names) + 1
    batch, network = a_batch(classes), a_network(classes=classes)
    plain, found = task.objective(network, batch), MaskLoss(task, weight, "plain")(network, batch)
    assert found.keys() == expected.keys()
    for key, share in expected.items():
        torch.testing.assert_close(found[key], share * plain[key])


@pytest.mark.parametrize("classes", [2, 4])
def test_its_dice_is_the_papers(classes: int) -> None:
    """Against loops in float64 written from section 3; a region and pixels without a label do not
    count, nor an image without any."""
    rng = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(3, classes, 5, 6, generator=rng)
    mask = torch.randint(-1, classes, (3, 1, 5, 6), generator=rng)
    mask[mask < 0], mask[2] = -100, -100
    region = torch.rand(3, 1, 5, 6, generator=rng) > 0.2
    task = Segmentation(tuple("abcd"[: classes - 1]), weights={"dice": 3.0})
    batch = Batch(torch.zeros(3, 1, 5, 6), torch.zeros(3), ("a", "b", "c"), {"mask": mask}, region=region)
    each = []
    for b in range(2):
        pixels = [(i, j) for i in range(5) for j in range(6) if mask[b, 0, i, j] >= 0 and region[b, 0, i, j]]
        probability = {at: logits[b, :, at[0], at[1]].double().softmax(0).tolist() for at in pixels}
        losses = []
        for label in range(classes):
            truth = {at: float(mask[b, 0, at[0], at[1]] == label) for at in pixels}
            above = 2 * sum(truth[at] * probability[at][label] for at in pixels)
            losses.append(1 - above / sum(truth[at] ** 2 + probability[at][label] ** 2 for at in pixels))
        each.append(sum(losses) / classes)
    found = MaskLoss(task, 1.0).of({"mask": logits}, batch)
    assert found["dice"].item() == pytest.approx(3 * sum(each) / 2, rel=1e-5)
    assert set(found) == {"dice"}


def test_of_two_tasks_the_dice_of_the_masks_is_the_papers() -> None:
    batch = a_batch()
    output = {"mask": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2)), "label": torch.zeros(3, 2)}
    both = MaskLoss(Multitask(TWO, Classification(("x", "y"))), 1.0).of(output, batch)
    assert set(both) == {"dice", "label_cross_entropy"}
    assert torch.equal(both["dice"], MaskLoss(TWO, 1.0).of(output, batch)["dice"])


def test_the_background_is_missed_where_the_class_is_found_in_vain() -> None:
    """Of an image without the class the task's Dice asks nothing; the paper's, which has the
    background too, asks for the background."""
    empty = Batch(torch.zeros(1, 1, 4, 4), torch.zeros(1), ("a",), {"mask": torch.zeros(1, 1, 4, 4, dtype=torch.int64)})
    logits = {"mask": torch.stack([torch.zeros(4, 4), torch.linspace(-1, 2, 16).view(4, 4)])[None].requires_grad_()}
    slopes = {}
    for name in ("plain", "squared"):
        (slopes[name],) = torch.autograd.grad(MaskLoss(VESSEL, None, name).of(logits, empty)["dice"], logits["mask"])
    assert slopes["plain"].abs().max() < 1e-5
    assert (slopes["squared"][:, 1] > 1e-3).all()


def test_another_tasks_dice_is_plain_or_refused() -> None:
    class Other:
        key = "mask"

    context = replace(a_context(), task=Other())
    with pytest.raises(SpecError, match="set dice: plain"):
        CateNorm().check(Scenario((), ()), a_network(), context)
    CateNorm(dice="plain").check(Scenario((), ()), a_network(), context)


def a_step(network: Any, lr: float = 0.5, **changes: Any) -> TwoPassStep:
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    return TwoPassStep(
        network, MaskLoss(TWO), optimizer, local_fabric(accelerator="cpu"), changes.pop("clip_value", 0.1), **changes
    )


def by_hand(network: Any, batch: Batch, lr: float, clip: float) -> None:
    """One iteration of algorithm 1 with plain gradient descent."""
    logits = network(batch.image)["mask"]
    parameters = list(network.parameters())

    def descend(loss: Tensor, limit: float) -> None:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for p, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    p -= lr * gradient.clamp(-limit, limit)

    def loss(logits: Tensor) -> Tensor:
        return 0.5 * sum(TWO.loss({"mask": logits}, batch, dice=squared_dice_loss).values())  # type: ignore[return-value]

    chances = logits.detach().softmax(1)  # of the weights before the first step
    descend(loss(logits), float("inf"))
    for module in branches(network).values():
        module.mask = chances
    descend(loss(network(batch.image)["mask"]), clip)
    for module in branches(network).values():
        module.mask = None


def test_an_iteration_is_two_steps_of_descent() -> None:
    network, batch = changed().train(), a_batch()
    twin = copy.deepcopy(network)
    step = a_step(network, clip_value=0.01)
    for _ in range(2):
        step(batch)
        by_hand(twin, batch, 0.5, 0.01)
    for (name, one), other in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_each_branch_skips_the_others_step() -> None:
    """Adam's momentum would move a parameter that has a gradient of 0; one that has none stays."""
    network = changed().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    step = TwoPassStep(network, MaskLoss(TWO), optimizer, local_fabric(accelerator="cpu"), 0.1)
    for _ in range(3):
        step(a_batch())
    for name, p in network.named_parameters():
        one_branch = ".general." in name or ".categorical." in name
        assert optimizer.state[p]["step"] == (3 if one_branch else 6), name


def test_each_branch_keeps_its_own_statistics() -> None:
    network = changed().train()
    a_step(network)(a_batch())
    for module in branches(network).values():
        assert int(module.general.num_batches_tracked) == int(module.categorical.norm.num_batches_tracked) == 1


def test_the_second_pass_is_clipped_by_value_and_the_first_by_norm() -> None:
    """With nearly nothing let through, no parameter moves by more than that."""
    network = changed().train()
    before = [p.detach().clone() for p in network.parameters()]
    a_step(network, 1.0, clip_value=1e-4, clip=1e-9)(a_batch())
    moved = max(float((p.detach() - q).abs().max()) for p, q in zip(network.parameters(), before, strict=True))
    assert moved == pytest.approx(1e-4, rel=1e-2)


def test_another_task_is_refused() -> None:
    class Other:
        key = "label"

    context = copy.copy(a_context())
    object.__setattr__(context, "task", Other())
    with pytest.raises(SpecError, match="'label'"):
        next(CateNorm().run(Scenario(), a_network(), context))
