"""One step of AdaptSegNet against the paper's equations, written out in float64."""

from __future__ import annotations

from typing import Any

import torch
from tests.unit.tiny import VESSEL, a_context

from allograft.batch import Batch
from allograft.methods.adaptsegnet import AdaptSegNet, enlarged
from allograft.networks import build


def _cross_entropy_to(logits: torch.Tensor, domain: int) -> torch.Tensor:
    probability = 1 / (1 + (-logits).exp())
    return -(probability if domain == 1 else 1 - probability).log().mean()


def test_a_step_is_equations_2_and_4() -> None:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1}
    network = build({"build": {"unet": arguments}}).double().train()
    image = torch.rand(4, 1, 32, 32, dtype=torch.float64)
    mask = (image > 0.5).long()
    mask[2:] = -100
    batch = Batch(image, torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"), {"mask": mask})
    recipe = AdaptSegNet(adversarial=0.7, auxiliary_adversarial=0.3, auxiliary_segmentation=0.2)
    step: Any = recipe.step(network, image[:1], 10, a_context(optimizer={"sgd": {"lr": 0.1}}))
    for part in (step.auxiliary, step.discriminators):
        part.double()
    inner_judge, judge = step.discriminators

    def levels(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = network.encoder(part)
        inner = enlarged(step.auxiliary.convolution(features[-1]), (32, 32))
        return inner, network(part)["mask"]

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        (inner_s, output_s), (inner_t, output_t) = levels(image[:2]), levels(image[2:])
        segmentation = sum(VESSEL.loss({"mask": output_s}, batch[:2]).values())
        segmentation = segmentation + 0.2 * sum(VESSEL.loss({"mask": inner_s}, batch[:2]).values())
        adversarial = 0.7 * _cross_entropy_to(judge(output_t.softmax(1)), 0)
        adversarial = adversarial + 0.3 * _cross_entropy_to(inner_judge(inner_t.softmax(1)), 0)
        found = torch.zeros((), dtype=torch.float64)
        for one, (s, t) in ((inner_judge, (inner_s, inner_t)), (judge, (output_s, output_t))):
            on_source, on_target = (
                _cross_entropy_to(one(s.detach().softmax(1)), 0),
                _cross_entropy_to(one(t.detach().softmax(1)), 1),
            )
            found = found + (on_source + on_target) / 2
        return segmentation + adversarial, found

    moving = [*network.parameters(), *step.auxiliary.parameters()]
    judges = list(step.discriminators.parameters())
    for_network, for_judges = losses()
    expected = [p - 0.1 * g for p, g in zip(moving, torch.autograd.grad(for_network, moving), strict=True)]
    gradients = torch.autograd.grad(for_judges, judges)
    # Adam's first update
    first = [p - 1e-4 * g / (g.abs() + 1e-8) for p, g in zip(judges, gradients, strict=True)]
    terms = step(batch)
    torch.testing.assert_close(
        sum(value for key, value in terms.items() if not key.startswith("discriminator")), for_network.detach()
    )
    torch.testing.assert_close(
        sum(value for key, value in terms.items() if key.startswith("discriminator")), for_judges.detach()
    )
    for p, wanted in zip((*moving, *judges), (*expected, *first), strict=True):
        torch.testing.assert_close(p.detach(), wanted.detach(), rtol=1e-7, atol=1e-9)
