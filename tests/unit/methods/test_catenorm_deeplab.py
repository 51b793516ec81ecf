"""CateNorm on DeepLabV3+, and on what users get wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.methods.test_catenorm import a_batch, branches, changed
from tests.unit.methods.test_catenorm_rows import a_step

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.networks import build
from allograft.networks.network import operate
from allograft.nn.batchnorm import batch_norm
from allograft.nn.catenorm import CategoricalNorm2d, TwoBranchNorm2d, guided


def deeplab(blocks: int | None = None) -> Any:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "outputs": {"mask": 3}, "encoder": "resnet10t", "channels": 8}
    network = build({"build": {"deeplabv3plus": arguments}})
    return network if blocks is None else operate(network, "catenorm", classes=3, blocks=blocks)


# ---------------------------------------------------------- DeepLabV3+
@pytest.mark.parametrize("training", [True, False])
def test_on_deeplab_the_general_branch_is_the_network_as_it_was(training: bool) -> None:
    plain, network = deeplab().train(training), deeplab(1).train(training)
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for one in (plain, network):
        torch.manual_seed(5)  # the pyramid drops out
        found.append(one(image)["mask"])
    assert torch.equal(found[0], found[1])


def test_on_deeplab_the_stem_is_block_1_and_the_stages_follow() -> None:
    def beginnings(blocks: int) -> set[str]:
        return {name.removeprefix("encoder.body.").split(".")[0] for name in branches(deeplab(blocks))}

    assert {name[:5] for name in beginnings(1)} <= {"conv1", "bn1"}
    assert {"layer1", "layer2", "layer3"} < beginnings(4)
    assert "layer4" not in beginnings(4)
    plain = [name for name, module in deeplab(99).encoder.named_modules() if type(module).__name__ == "BatchNorm2d"]
    assert all(name.endswith((".general", ".norm")) for name in plain)


def test_on_deeplab_a_silent_branch_is_batch_normalisation() -> None:
    """gamma = beta = 0 and statistics of its own: the second pass is the first one's without its
    scale and shift."""
    network, plain = deeplab(1).train(), deeplab().train()
    for name, module in branches(network).items():
        for part in (module.categorical.gamma, module.categorical.beta):
            for p in part.parameters():
                torch.nn.init.zeros_(p)
        norm = plain.get_submodule(name)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    image, mask = torch.randn(2, 1, 32, 32), torch.rand(2, 3, 32, 32).softmax(1)
    torch.manual_seed(5)  # the pyramid drops out
    expected = plain(image)["mask"]
    torch.manual_seed(5)
    with guided(network, mask):
        torch.testing.assert_close(network(image)["mask"], expected)


def test_on_deeplab_an_iteration_keeps_the_branches_apart() -> None:
    network = deeplab(1).train()
    rng = torch.Generator().manual_seed(1)
    mask = torch.randint(3, (2, 1, 32, 32), generator=rng)
    step = a_step(network)
    terms = step(Batch(torch.randn(2, 1, 32, 32, generator=rng), torch.zeros(2), ("a", "b"), {"mask": mask}))
    assert all(value.isfinite() for value in terms.values())
    assert branches(network)
    for module in branches(network).values():
        assert int(module.general.num_batches_tracked) == int(module.categorical.norm.num_batches_tracked) == 1
        assert not torch.equal(module.general.running_mean, torch.zeros_like(module.general.running_mean))  # type: ignore[arg-type]
    for name, p in network.named_parameters():
        assert step.optimizer.state[p]["step"] == (1 if ".general." in name or ".categorical." in name else 2), name


def test_an_activation_inside_a_normalisation_is_not_lost() -> None:
    """timm's joined layers are left as they are; a network that has no others is refused."""
    network = build({"build": {"timm": {"in_channels": 1, "outputs": {"label": 2}, "name": "mobilenetv3_small_050"}}})
    with pytest.raises(SpecError, match="no 2-D batch"):
        operate(network, "catenorm", classes=2)


# ---------------------------------------------------------- bad input
def test_a_class_that_no_mask_of_a_batch_has() -> None:
    batch, network = a_batch(), changed().train()
    mask = batch.labels["mask"]
    terms = a_step(network)(replace(batch, labels={"mask": mask.clamp_max(1)}))  # type: ignore[union-attr]
    assert all(value.isfinite() for value in terms.values())
    assert all(p.isfinite().all() for p in network.parameters())


def test_a_batch_of_one_trains_where_there_is_more_than_a_pixel_and_says_so_where_not() -> None:
    network, batch = changed().train(), a_batch()
    assert all(value.isfinite() for value in a_step(network)(batch[:1]).values())
    for made in (torch.nn.BatchNorm2d(4), CategoricalNorm2d(4, 2).norm):
        with pytest.raises(SpecError, match=r"1 image of 1x1 pixels.*batch_size: 2"):
            batch_norm(torch.randn(1, 4, 1, 1), made)
        assert batch_norm(torch.randn(2, 4, 1, 1), made).isfinite().all()
    layer = TwoBranchNorm2d(4, 2).eval()
    assert layer(torch.randn(1, 4, 1, 1)).isfinite().all()
    with pytest.raises(SpecError, match="cannot train on one image"):
        deeplab(1).train()(torch.zeros(1, 1, 32, 32))
