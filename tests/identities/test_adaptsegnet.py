"""What must be equal in AdaptSegNet: training at lambda 0, and which loss moves whom, and where
to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context

from allograft.batch import Batch
from allograft.methods.adaptsegnet import SOURCE, TARGET, AdaptSegNet, domain_loss
from allograft.networks import build


def _network(norm: str = "instance") -> Any:
    torch.manual_seed(0)
    network = build(
        {
            "build": {
                "unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1, "norm": norm}
            }
        }
    )
    return network.train()


def _pair(seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 1, 32, 32, generator=rng)
    mask = (image > 0.5).long()
    mask[2:] = -100
    return Batch(image, torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"), {"mask": mask})


def _step(recipe: AdaptSegNet, network: Any, **settings: Any) -> Any:
    return recipe.step(network, _pair().image[:1], 10, a_context(**settings))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_without_weight_it_is_training_on_the_source(norm: str) -> None:
    ours, plain = _network(norm), _network(norm)
    a = _step(AdaptSegNet(levels=1, adversarial=0.0), ours)
    b = a_context().gradient_step(plain)
    kept = copy.deepcopy(a.discriminators.state_dict())
    for number in range(3):
        terms = a(_pair(number))
        b(_pair(number)[:2])
    assert set(terms) == {"dice", "cross_entropy"}
    for key, value in ours.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key
    assert all(torch.equal(value, kept[key]) for key, value in a.discriminators.state_dict().items())


@pytest.mark.parametrize("levels", [1, 2])
def test_the_network_learns_to_look_like_the_source_and_the_discriminator_to_tell(levels: Any) -> None:
    network = _network()
    recipe = AdaptSegNet(
        levels=levels, adversarial=1.0, auxiliary_adversarial=1.0, discriminator_lr=1e-30
    )  # a judge that stays
    step = _step(recipe, network, optimizer={"sgd": {"lr": 0.05}})
    batch = _pair()

    def target_looks(domain: float) -> list[float]:
        with torch.no_grad():
            return [
                float(domain_loss(judge(one.softmax(1)), domain))
                for judge, one in zip(step.discriminators, step._outputs(batch.image[2:]), strict=True)
            ]

    step._segmentation = lambda found, source: {
        "nothing": 0.0 * found[0].sum()
    }  # the adversarial loss alone moves the network
    before = target_looks(SOURCE)
    for _ in range(3):
        step(batch)
    after = target_looks(SOURCE)
    assert all(new < old for new, old in zip(after, before, strict=True))

    fresh = _step(AdaptSegNet(levels=levels, discriminator_lr=1e-3), _network(), optimizer={"sgd": {"lr": 0.0}})
    losses = [fresh(batch) for _ in range(8)]
    names = [key for key in losses[0] if key.startswith("discriminator")]
    assert len(names) == levels
    assert all(losses[-1][key] < losses[0][key] for key in names)
    judge = fresh.discriminators[-1]
    with torch.no_grad():
        logits = judge(fresh._outputs(batch.image)[-1].softmax(1)).flatten(1).mean(1)
    assert logits[:2].mean() < logits[2:].mean()  # above 0 is the target


def test_each_optimizer_is_moved_by_its_own_loss_alone() -> None:
    batch = _pair()
    one, other = _network(), _network()
    with_d = _step(AdaptSegNet(), one, optimizer={"sgd": {"lr": 0.1}})
    without = _step(AdaptSegNet(), other, optimizer={"sgd": {"lr": 0.1}})
    kept = [p.clone() for p in without.discriminators.parameters()]
    without.discriminator_optimizer.param_groups[0]["lr"] = 0.0
    with_d(batch)
    without(batch)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, without.discriminators.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(kept, with_d.discriminators.parameters(), strict=True))


def test_one_domain_is_the_others_mirror() -> None:
    logits = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(domain_loss(logits, SOURCE), domain_loss(-logits, TARGET))
    assert domain_loss(logits.abs() + 1, TARGET) < domain_loss(logits.abs() + 1, SOURCE)
