"""Which outputs of the frozen part are kept, that they cost what they promise, and what is
refused."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.networks import Wrapped, build, trainable
from allograft.networks.cache import FrozenOutputs, OnKept, frozen_outputs


def network_of(name: str, output: str = "mask", **more: Any) -> Any:
    return build({"build": {name: {"in_channels": 1, "outputs": {output: 2}, **more}}})


def a_batch(*numbers: int, size: int = 16) -> Batch:
    images = [torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(number)) for number in numbers]
    return Batch(torch.cat(images), torch.zeros(len(numbers)).long(), tuple(f"case {number}" for number in numbers))


def loss(network: Any, batch: Batch) -> dict[str, Tensor]:
    return {key: value.square().mean() for key, value in network(batch.image).items()}


class Calls:
    """Counts how often modules ran their own forward."""

    def __init__(self, **modules: nn.Module) -> None:
        self.counts = dict.fromkeys(modules, 0)
        for name, module in modules.items():
            own = module.forward

            def counted(*inputs: Any, own: Any = own, name: str = name) -> Any:
                self.counts[name] += 1
                return own(*inputs)

            module.forward = counted


def test_the_frozen_part_runs_once_a_case() -> None:
    network = network_of("unet", channels=[4, 8, 16])
    counts = Calls(level=network.encoder.levels[0], head=network.heads["mask"].block[0]).counts
    with trainable(network, "top"):
        objective = OnKept(loss, FrozenOutputs(3))
        objective(network, a_batch(0, 1))
        seen = counts["level"]  # each case, and the check
        heads = counts["head"]
        for numbers in ((1, 0), (0, 0), (1, 1)):
            objective(network, a_batch(*numbers))
        assert counts == {"level": seen, "head": heads + 3}
        objective(network, a_batch(0, 2))
        assert counts["level"] == seen + 1


def test_what_nothing_tuned_reads_is_not_kept() -> None:
    network = network_of("resnet", "label", small_stem=True)
    with trainable(network, "top"):
        kept = FrozenOutputs(1)
        with kept.replayed(
            network, a_batch(0, 1, size=8)
        ):  # one pixel at the end: a case alone has no statistics to train with
            pass
    sizes = {call: tensor.shape for call, tensor in kept.like.items() if not tensor.is_meta}  # type: ignore[union-attr]
    names = sorted(name for name, _ in sizes)
    assert (
        len(names) == 2
        # the last block's second convolution, for its tuned normalisation, and the shortcut around
        # it
    )
    assert "encoder.body.layer4.1.conv2" in names
    assert not any(tensor.is_meta for call, tensor in kept.kept["case 0"].items() if call in sizes)


def test_the_largest_frozen_modules_are_kept_and_no_tuned_one() -> None:
    network = network_of("unet", channels=[4, 8, 16])
    with trainable(network, "decoder"):
        found = frozen_outputs(network, a_batch(0).image)
    assert list(found) == [("encoder", 0)]
    assert len(found["encoder", 0]) == 3
    network.eval()
    with torch.no_grad():
        for ours, theirs in zip(found["encoder", 0], network.encoder(a_batch(0).image), strict=True):
            assert torch.equal(ours, theirs)


def test_a_file_holds_what_memory_does_not(tmp_path: Path) -> None:
    network = network_of("unet", channels=[4, 8, 16])
    said: list[str] = []
    with trainable(network, "top"):
        kept = [FrozenOutputs(2, tmp_path / "unit", said.append, in_memory=room) for room in (2**30, 0)]
        terms = [OnKept(loss, one)(network, a_batch(0, 1))["mask"] for one in kept]
    assert torch.equal(*terms)
    assert kept[0].file is None
    assert kept[1].file is not None
    a_case = sum(t.numel() * 4 for t in kept[0].kept["case 0"]["encoder", 0] if not t.is_meta)
    assert kept[1].file.seek(0, 2) >= 2 * a_case
    assert list((tmp_path / "unit").iterdir()) == []  # without a name: gone with the process
    assert (
        said[0] == f"keeping features of 2 cases, {a_case / 2**20:.1f} MiB each, {2 * a_case / 2**20:.0f} MiB in memory"
    )
    assert said[1].endswith(f"in a file in {tmp_path / 'unit'}")
    with trainable(network, "top"):
        OnKept(loss, FrozenOutputs(10**6, say=said.append, in_memory=2**60))(network, a_batch(0, 1))
    assert said[2].endswith(f" {10**6 * a_case / 2**20:.0f} MiB in memory")
    del kept
    gc.collect()


class InPlace(nn.Module):
    """Changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 2, 1)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.convolution(values.relu_().neg_())
        return out


def test_what_is_kept_is_not_changed_by_parts_that_work_in_place() -> None:
    network = Wrapped(nn.Sequential(nn.Conv2d(1, 4, 3), InPlace()), "mask")
    network.module[0].requires_grad_(False)  # type: ignore[index]
    expected = loss(network, a_batch(0))["mask"].item()
    objective = OnKept(loss, FrozenOutputs(1))
    assert [objective(network, a_batch(0))["mask"].item() for _ in range(3)] == [expected] * 3


def test_modes_statistics_generators_and_methods_are_as_before() -> None:
    network = network_of("unet", channels=[4, 8, 16], norm="batch")
    with trainable(network, "top"):
        modes = [module.training for module in network.modules()]
        buffers = [buffer.clone() for buffer in network.buffers()]
        state = torch.get_rng_state()
        with FrozenOutputs(2).replayed(network, a_batch(0, 1)):
            pass
        assert [module.training for module in network.modules()] == modes
        assert all(map(torch.equal, network.buffers(), buffers))
        assert torch.equal(torch.get_rng_state(), state)
    assert not any("forward" in vars(module) for module in network.modules())


class Centred(nn.Module):
    """Looks at the other cases of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, values: Tensor) -> Tensor:
        return self.weight * (values - values.mean(0))


@pytest.mark.parametrize(
    ("middle", "named"),
    [
        (nn.Sequential(nn.Dropout(0.5), nn.ReLU()), r"module\.1\.0"),
        (nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.ReLU()), r"module\.1\.0"),
        (Centred(), "a module of its own kind"),
    ],
)
def test_a_frozen_part_that_is_no_function_of_the_case_is_refused(middle: nn.Module, named: str) -> None:
    network = Wrapped(nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.Conv2d(4, 2, 1)), "mask")
    for p in (*network.module[0].parameters(), *middle.parameters()):  # type: ignore[index]
        p.requires_grad_(False)
    with (
        pytest.raises(
            SpecError,
            match=rf"no function of the case alone.*\({named}\); set the network's dropout .* to 0, or "
            rf"cache_features: fal",
        ),
        FrozenOutputs(2).replayed(network, a_batch(0, 1)),
    ):
        pass


def test_swins_drop_path_is_named() -> None:
    network = network_of(
        "swin", "label", image_size=32, embed_dim=24, depths=[1, 1, 2], num_heads=[1, 2, 3], window_size=4, patch_size=2
    )
    blocks = network.encoder.body.layers[2].blocks
    network.requires_grad_(False)
    blocks[1].mlp.requires_grad_(True)
    blocks[1].train()
    with (
        pytest.raises(SpecError, match=r"encoder\.body\.layers\.2\.blocks\.1\.drop_path1"),
        FrozenOutputs(2).replayed(network, a_batch(0, 1, size=32)),
    ):
        pass


def test_nothing_frozen_comes_first() -> None:
    network = network_of("unet", channels=[4, 8, 16])
    with trainable(network, "first"), pytest.raises(SpecError, match="no frozen part comes before the tuned one"):
        OnKept(loss, FrozenOutputs(1))(network, a_batch(0))
