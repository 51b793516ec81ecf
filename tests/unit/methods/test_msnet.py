"""MS-Net: a decoder for each site, and what it teaches the shared one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unit.methods.test_dsbn import SITE, a_network, changed
from tests.unit.tiny import VESSEL, a_context
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.msnet import Branches, MsNet, MsNetStep
from allograft.networks.network import operate
from allograft.nn.dsbn import at_domains
from allograft.recipe import Scenario
from allograft.run.fabric import local_fabric
from allograft.tasks.classification import Classification

CONTRACT = {
    "options": {"transfer": 0.1, "warmup": 0.67},
}

LR = 0.3


def a_batch(hidden: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(3)
    mask = torch.randint(2, (5, 1, 8, 8), generator=rng)
    mask[:, :, :hidden] = -100
    return Batch(torch.randn(5, 1, 8, 8, generator=rng), SITE, tuple("abcde"), {"mask": mask})


def a_step(transfer: float = 0.5, begin: int = 0) -> MsNetStep:
    network = changed().train()
    branches = Branches(network).train()
    for number, p in enumerate(branches.parameters()):  # decoders that differ
        p.data.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    optimizers = [
        torch.optim.SGD(part, lr=LR)
        for part in ([*network.encoder.parameters(), *branches.parameters()], network.parameters())
    ]
    return MsNetStep(network, branches, *optimizers, VESSEL, local_fabric(accelerator="cpu"), transfer, begin)  # type: ignore[arg-type]


def outcome(network: Any, branches: Branches, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of the shared decoder and of the auxiliary ones, the latter site by site."""
    with at_domains(network, batch.site):
        features = network.encoder(batch.image)
        shared = network.heads["mask"](features, network.decoder(features))
    own = [torch.empty(0)] * len(batch)
    for which in (0, 1):
        rows = [row for row in range(len(batch)) if batch.site[row] == which]
        cut = [feature[rows] for feature in features]
        with at_domains(branches, batch.site[rows]):
            logits = branches.heads[which](cut, branches.decoders[which](cut))
        for row, one in zip(rows, logits, strict=True):
            own[row] = one
    return shared, torch.stack(own)


def loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Dice (mean over images) and cross-entropy of one class, pixels of -100 left out."""
    counts = (mask[:, 0] >= 0).double()
    truth, chance = (mask[:, 0] == 1).double(), logits.double().softmax(1)[:, 1]
    both = (truth * chance * counts).sum((1, 2))
    total = ((truth + chance) * counts).sum((1, 2))
    each = F.cross_entropy(logits.double(), mask[:, 0].clamp_min(0), reduction="none") * counts
    return (1 - (2 * both + 1e-5) / (total + 1e-5)).mean() + (each.sum((1, 2)) / counts.sum((1, 2))).mean()


def descend(value: Tensor, parameters: list[Tensor]) -> None:
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    with torch.no_grad():
        for p, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                p -= LR * gradient


@pytest.mark.parametrize("hidden", [0, 2])
def test_an_iteration_is_two_steps_of_descent(hidden: int) -> None:
    step, batch = a_step(0.3), a_batch(hidden)
    network, branches = copy.deepcopy(step.network), copy.deepcopy(step.branches)
    step(batch)
    mask = batch.labels["mask"]
    assert isinstance(mask, Tensor)
    descend(loss(outcome(network, branches, batch)[1], mask), [*network.encoder.parameters(), *branches.parameters()])
    shared, own = outcome(network, branches, batch)
    taught = own.argmax(1, keepdim=True).where(mask >= 0, mask)
    assert not torch.equal(taught, mask)
    descend(0.7 * loss(shared, mask) + 0.3 * loss(shared, taught), list(network.parameters()))
    for mine, other in ((step.network, network), (step.branches, branches)):
        for (name, p), q in zip(mine.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=name)


def test_in_the_warm_up_the_shared_decoder_waits_and_afterwards_the_others_do_not_learn_from_it() -> None:
    step, batch = a_step(begin=1), a_batch()
    before = copy.deepcopy(step.network)
    assert set(step(batch)) == {"auxiliary/dice", "auxiliary/cross_entropy"}
    still = {
        name: torch.equal(p, q)
        for (name, p), q in zip(step.network.named_parameters(), before.parameters(), strict=True)
    }
    assert all(still[name] for name in still if not name.startswith("encoder."))
    assert not all(still[name] for name in still if name.startswith("encoder."))
    assert "transfer/dice" in step(batch)
    step.network.zero_grad()
    step._descend(step._shared(batch), step.shared)
    assert all(p.grad is None for p in step.branches.parameters())


def test_without_transfer_the_labels_alone_teach() -> None:
    terms = a_step(0.0)(a_batch())
    assert {key.split("/")[0] for key in terms} == {"auxiliary", "labels"}


def test_a_batch_of_one_site_and_of_one_image() -> None:
    step, batch = a_step(), a_batch()
    one = replace(batch[:1], site=torch.tensor([1]))
    before = copy.deepcopy(step.branches)
    assert all(value.isfinite() for value in step(one).values())
    for (name, p), q in zip(step.branches.named_parameters(), before.parameters(), strict=True):
        if name.startswith(("decoders.0", "heads.0")):
            assert torch.equal(p, q), name


def test_other_tasks_and_networks_are_refused() -> None:
    context = replace(a_context(), task=Classification(("one", "two")))
    with pytest.raises(SpecError, match=r"predicts label.*masks alone"):
        next(MsNet().run(Scenario(sites=("a",)), a_network(), context))
    with pytest.raises(SpecError, match="norm: batch"):
        next(MsNet().run(Scenario(sites=("a",)), a_network("instance"), a_context()))


def test_the_auxiliary_decoders_are_copies_of_the_shared_one() -> None:
    network = operate(a_network(), "dsbn", sites=["a", "b"])
    branches = Branches(network)
    for which in (0, 1):
        for p, q in zip(branches.decoders[which].parameters(), network.decoder.parameters(), strict=True):
            assert torch.equal(p, q)
            assert p is not q
