"""Update magnitudes: which layers stand in which group, what is measured, and that measuring
changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Store
from allograft.errors import SpecError
from allograft.figure import Lines
from allograft.networks import Wrapped, build
from allograft.step import GradientStep
from allograft.train import parts, train
from allograft.tree import digest
from allograft.updates import GROUPS, Measured, UpdateMagnitudes, layer_groups


def _network(name: str = "unet", **changes: Any) -> Any:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8, 8], **changes}
    return build({"build": {name: arguments}})


def _names(network: Any) -> dict[str, list[str]]:
    known = {id(p): name for name, p in network.named_parameters()}
    return {group: [known[id(kernel)] for kernel in kernels] for group, kernels in layer_groups(network).items()}


def test_every_kernel_of_a_unet_stands_in_the_group_of_its_kind() -> None:
    network = _network(num_res_units=1)
    found = _names(network)
    assert tuple(found) == GROUPS
    every = {name for name, p in network.named_parameters() if p.ndim == 4}
    assert sorted(name for names in found.values() for name in names) == sorted(every)
    assert set(found["context"]) == {name for name in every if name.startswith("encoder.")}
    assert [name.split(".")[0] for name in found["transpose"]] == [
        "decoder",
        "heads",
    ]  # the last up-sampling is the head's
    assert all(name.startswith("decoder.") for name in found["localization"])
    assert all(name.startswith("heads.") for name in found["segmentation"])
    sizes = {name: p.shape for name, p in network.named_parameters()}
    assert [tuple(sizes[name][:2]) for name in found["transpose"]] == [
        (16, 4),
        (8, 2),
    ]  # (in, out), as transposed kernels are stored
    assert [tuple(sizes[name][:2]) for name in found["segmentation"]] == [(2, 2)]


def test_other_networks_and_those_without_a_decoder() -> None:
    nn_unet = _names(_network("dynunet"))
    assert [name for name in nn_unet["segmentation"] if "output" in name or name.startswith("heads.")] == nn_unet[
        "segmentation"
    ]
    assert len(nn_unet["transpose"]) == 2
    classifier = _names(_network(outputs={"label": 3}))
    assert set(classifier) == {"context", "segmentation"}
    assert classifier["segmentation"] == ["heads.label.linear.weight"]
    wrapped = Wrapped(nn.Conv2d(1, 2, 1), "mask")
    with pytest.raises(SpecError, match="opaque"):
        UpdateMagnitudes(lambda batch: {}, wrapped)


class Moving:
    """A step that moves every parameter of a part by a known amount."""

    def __init__(self, network: Any) -> None:
        self.network, self.count = network, 0

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self.count += 1
        for part, module in self.network.parts():
            for p in module.parameters():
                p.add_({"encoder": -0.5, "decoder": 0.25, "heads": 2.0}[part] * self.count)
        return {}


def test_the_magnitude_is_the_mean_over_layers_of_the_mean_absolute_change_at_every_kth_step() -> None:
    network = _network(num_res_units=1)
    step = UpdateMagnitudes(Moving(network), network, every=2)
    for _ in range(3):
        step(Batch(torch.zeros(1, 1, 8, 8), torch.tensor([0]), ("a",)))
    found = step.measured.values
    assert found["context"] == pytest.approx([0.5, 1.5], rel=1e-4)  # steps 1 and 3, not their signs
    assert found["localization"] == pytest.approx([0.25, 0.75], rel=1e-4)
    assert found["segmentation"] == pytest.approx([2.0, 6.0], rel=1e-4)
    assert found["transpose"] == pytest.approx(
        [(0.25 + 2) / 2, 3 * (0.25 + 2) / 2], rel=1e-4
    )  # a layer counts once, whatever its size
    figure = step.figure()
    assert isinstance(figure, Lines)
    assert figure.x == (1.0, 3.0)
    assert tuple(figure.y) == GROUPS
    assert figure.title.endswith("slowest/fastest 0.12 (localization/segmentation)")


def test_nothing_measured_and_nothing_moved_say_so() -> None:
    network = _network()
    step = UpdateMagnitudes(lambda batch: {}, network)
    assert step.figure().title.endswith("nothing moved")
    step(Batch(torch.zeros(1, 1, 8, 8), torch.tensor([0]), ("a",)))
    assert step.figure().title.endswith("nothing moved")


def _step(every: int | None) -> Any:
    network = _network(num_res_units=1)
    context = a_context()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    inner = GradientStep(
        network, lambda net, batch: {"loss": net(batch.image)["mask"].square().mean()}, optimizer, context.fabric
    )
    return inner if every is None else UpdateMagnitudes(inner, network, every)


def _batches(start: int) -> Any:
    number = start
    while True:
        image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        yield Batch(image, torch.tensor([0, 0]), ("a", "b"))
        number += 1


def test_the_training_is_the_same_to_the_bit() -> None:
    digests = set()
    for every in (None, 1, 3):
        step = _step(every)
        history = train(step, _batches, steps=5, context=a_context())
        digests.add((digest(step.network), tuple(history.terms["loss"])))
    assert len(digests) == 1


def test_a_resumed_training_has_measured_the_same() -> None:
    whole = _step(2)
    train(whole, _batches, steps=5, context=a_context())
    begun, resumed = _step(2), _step(2)
    train(begun, _batches, steps=3, context=a_context())
    kept = {path: part.state_dict() for path, part in parts(begun)}
    for path, part in parts(resumed):
        part.load_state_dict(kept[path])
    train(resumed, _batches, steps=range(3, 5), context=a_context())
    assert resumed.measured.values == whole.measured.values
    assert len(whole.measured.values["context"]) == 3
    again = Measured()
    again.load_state_dict(whole.measured.state_dict())
    again.values["context"].append(0.0)
    assert len(whole.measured.values["context"]) == 3


def test_a_row_shows_it_and_its_training_is_its_own(tmp_path: Path) -> None:
    request = {"supervised": {"optimizer": {"avagrad": {"lr": 1.0, "eps": 0.1}}, "epochs": 2, "show_updates": True}}
    budget = {"epochs": 1, "steps_per_epoch": 3, "adapt_steps": 1, "batch_size": 2}
    _, row, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", request, budget=budget))
    assert all(record.status == "done" for record in records.values())
    store = Store(tmp_path / "out" / "units" / row.unit)
    shown = store.figures()["updates"]
    assert isinstance(shown, Lines)
    assert len(shown.x) == 6
    assert "slowest/fastest" in shown.title
    found = store.load()
    assert found is not None
    assert found[0].optimizer is None  # no row continues it
