"""Holding to a teacher: where it counts, how much, and that the teacher stands still."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from allograft.batch import Batch
from allograft.networks import build
from allograft.parts.distillation import Distilled, distillation, teacher_of
from allograft.tasks.segmentation import Segmentation


def a_network(seed: int) -> Any:
    torch.manual_seed(seed)
    arguments = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "dropout": 0.5}
    return build({"build": {"unet": arguments}})


def test_only_pixels_of_the_region_are_held_to_what_the_teacher_says_without_dropout() -> None:
    network, teacher = a_network(0), a_network(1).train()
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    region = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    region[0, :, :3], region[1, :, :, 5:] = True, True
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), {"mask": (image > 0).long()}, region=region)
    network.eval()
    task = Segmentation(("vessel",))
    terms = Distilled(task, teacher, distillation, 3.0)(network, batch)
    assert teacher.training  # as it was
    old = teacher.eval()(image)["mask"]
    expected = 3 * distillation(network(image)["mask"], old, region)
    torch.testing.assert_close(terms["distillation"], expected)
    assert not torch.allclose(expected, 3 * distillation(old, network(image)["mask"], region))
    assert {name: float(value) for name, value in terms.items() if name != "distillation"} == {
        name: float(value) for name, value in task.loss(network(image), batch).items()
    }
    assert "distillation" not in Distilled(task, None, distillation, 3.0)(network, batch)


def test_a_teacher_is_a_copy_that_does_not_move_and_answers_as_in_evaluation() -> None:
    network = a_network(0).train()
    teacher = teacher_of(network)
    assert network.training
    assert not teacher.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = [parameter.clone() for parameter in teacher.parameters()]
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.ones(sum(p.numel() for p in network.parameters())), network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
