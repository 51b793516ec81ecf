"""Batch normalisation and losses of a batch that two processes share, against those of the
undivided batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.methods.mean_teacher import THETA, Consistency
from allograft.nn.adversarial import weighted_cross_entropy
from allograft.nn.batchnorm import SharedBatchNorm, batch_norm, shared_batch_norm
from allograft.nn.processes import by_itself, follow_first
from allograft.parts.entropy import mean_entropies
from allograft.parts.foreground import Foreground
from allograft.step import GradientStep, average_buffers
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation
from allograft.tasks.synthesis import Synthesis

pytestmark = pytest.mark.xdist_group("processes")

SIZES = (5, 3)
"""Images of each process."""
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1-d": (nn.BatchNorm1d(3), (4,)),
    "2-d": (nn.BatchNorm2d(3), (4, 5)),
    "3-d": (nn.BatchNorm3d(3), (2, 3, 4)),
    "one value": (nn.BatchNorm1d(3), ()),
    "other settings": (nn.BatchNorm2d(3, eps=0.1, momentum=0.5), (4, 5)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (4, 5)),
    "without parameters": (nn.BatchNorm2d(3, affine=False), (4, 5)),
    "without statistics": (nn.BatchNorm2d(3, track_running_stats=False), (4, 5)),
    "with an activation": (BatchNormAct2d(3), (4, 5)),
}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prepared(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer with parameters of its own, its input (8, 3, *spatial) far from zero, and the
    gradient of its output."""
    layer, spatial = copy.deepcopy(LAYERS[name][0]), LAYERS[name][1]
    for number, parameter in enumerate(layer.parameters()):
        parameter.data.copy_(1 + 0.3 * drawn(number, 3))
    x = drawn(2, sum(SIZES), 3, *spatial) * torch.tensor([1.0, 0.1, 3.0]).view(1, 3, *[1] * len(spatial)) + 2
    return layer, x, drawn(3, *x.shape)


def passed(layer: nn.Module, x: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    """Two passes in training, and what they leave: output, gradients, buffers."""
    x = x.clone().requires_grad_()
    with shared_batch_norm([layer]):
        layer(x.detach() + 1)
        output = layer(x)
    (output * upstream).sum().backward()
    assert x.grad is not None
    gradients = {f"gradient of {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "gradient": x.grad, **gradients, **dict(layer.named_buffers())}


def own_part(values: Tensor, rank: int) -> Tensor:
    return values.split(SIZES)[rank]


# ---------------------------------------------------------- losses
def labelled_batch() -> Batch:
    """Eight images, of which the second process has one with a mask, a class and a pair; the first
    has four."""
    known = torch.tensor([True, True, False, True, True, False, True, False])
    mask = torch.randint(0, 3, (8, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    mask[~known] = -100
    paired = drawn(1, 8, 1, 4, 4)
    paired[~known] = torch.nan
    label = torch.tensor([0, 1, 0, 1, 1, 0, 1, 1]).where(known, -100)
    region = torch.ones(8, 1, 4, 4, dtype=torch.bool)
    region[0] = False
    labels = {"mask": mask, "paired": paired, "label": label}
    return Batch(drawn(2, 8, 1, 4, 4), torch.zeros(8, dtype=torch.int64), tuple("abcdefgh"), labels, region=region)


def several(label: Tensor) -> Tensor:
    """Two answers per image; the first is unknown where the second is yes."""
    answers = torch.stack([(label == 0).float(), (label == 1).float()], 1)
    answers[label < 0] = torch.nan
    answers[label == 1, 0] = torch.nan
    return answers


TASKS: dict[str, Any] = {
    "segmentation": Segmentation(("x", "y")),
    "classification": Classification(("no", "yes")),
    "multilabel": Multilabel(("no", "yes")),
    "synthesis": Synthesis(),
    "multitask": Multitask(Segmentation(("x", "y")), Classification(("no", "yes")), weight=3.0),
    "weighted": None,
    "foreground": None,
    "entropy": None,
    "consistency": None,
}


def loss_gradient(name: str, batch: Batch, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a task's loss with respect to the network's outputs."""
    outputs = {key: value.clone().requires_grad_() for key, value in values.items()}
    label = batch.labels["label"]
    assert isinstance(label, Tensor)
    if name == "weighted":
        loss = weighted_cross_entropy(outputs["label"], label, torch.tensor([0.2, 0.8]))
    elif name == "foreground":
        mask = batch.labels["mask"]
        assert isinstance(mask, Tensor)
        seen = Batch(batch.image, batch.site, batch.cases, {"mask": mask.clamp_max(1)}, region=batch.region)
        loss = Foreground("iou")(lambda _: {"mask": outputs["mask"][:, :2]}, seen)["iou"]  # type: ignore[arg-type]
    elif name == "entropy":
        loss = torch.stack([*mean_entropies(outputs, batch, several=False).values()]).sum()
    elif name == "consistency":
        unmoved = torch.eye(2, 3).flatten().repeat(len(batch), 1)
        seen = replace(batch, attributes={THETA: unmoved})
        teacher = {key: value.roll(1, 1) for key, value in values.items()}
        loss = torch.stack(
            [Consistency._mean_square(None, outputs[key], teacher[key], seen) for key in ("mask", "label")]  # type: ignore[arg-type]
        ).sum()
    else:
        labels = {**batch.labels, "label": several(label) if name == "multilabel" else label}
        if name == "multitask" and bool((label < 0).all()):
            del labels["label"]  # as a batch without any class is collated
        seen = Batch(batch.image, batch.site, batch.cases, labels, region=batch.region)
        loss = torch.stack([*TASKS[name].loss(outputs, seen).values()]).sum()
    loss.backward()
    return {key: value.grad for key, value in outputs.items() if value.grad is not None}


def predictions() -> dict[str, Tensor]:
    return {"mask": drawn(5, 8, 3, 4, 4), "label": drawn(6, 8, 2), "paired": drawn(7, 8, 1, 4, 4)}


# ---------------------------------------------------------- twenty steps
class Smooth(nn.Module):
    """Two convolutions with batch normalisation. Smooth: at a kink, rounding decides which way a
    gradient goes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus()),
                *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Conv2d(4, 1, 1)),
            )

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.layers(image)
        return made


class Alone:
    """What ``GradientStep`` asks of a fabric."""

    def autocast(self) -> Any:
        return torch.enable_grad()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def descended(rank: int, world: int, inside: AbstractContextManager[None] | None = None) -> dict[str, Tensor]:
    """Weights and buffers after twenty steps of SGD on the rank's share of batches of eight."""
    network = Smooth().train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)

    def objective(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"fit": (net(batch.image) - batch.image.roll(1, 2)).square().mean()}

    step = GradientStep(network, objective, optimizer, Alone())
    with shared_batch_norm([network]), inside or nullcontext():
        for number in range(20):
            images = drawn(100 + number, 8, 1, 6, 6)[rank::world]
            step(Batch(images, torch.zeros(len(images), dtype=torch.int64), tuple(map(str, range(len(images))))))
    return network.state_dict()


# ---------------------------------------------------------- two processes
def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name in LAYERS:
        layer, x, upstream = prepared(name)
        found[name] = passed(layer, own_part(x, rank), own_part(upstream, rank))
    layer, x, upstream = prepared("2-d")
    found["large mean"] = passed(layer, own_part(x + 1000, rank), own_part(upstream, rank))
    layer, x, upstream = prepared("2-d")
    found["an empty part"] = passed(layer, x[: 8 * (1 - rank)], upstream[: 8 * (1 - rank)])
    layer, x, _ = prepared("2-d")
    found["function"] = batch_norm(own_part(x, rank), layer).detach()
    if rank == 0:  # nobody waits for the other in evaluation
        with shared_batch_norm([layer.eval()]):
            found["evaluation"] = layer(x)
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Sequential(BatchNormAct2d(3)))
    with shared_batch_norm([network]):
        found["inside"] = [isinstance(one, SharedBatchNorm) for one in network.modules()]
        found["names"] = list(network.state_dict())
    found["outside"] = [type(one).__name__ for one in network.modules()]
    buffered = nn.Module()
    buffered.register_buffer("mean", torch.tensor([1.0, 2.0]) + rank)
    average_buffers(buffered)
    found["buffers"] = buffered.state_dict()["mean"]
    parts = [[0, 1, 2, 3, 4], [5, 6, 7]]
    for name in TASKS:
        for which, rows in {"some": parts[rank], "none": [[0, 1, 3], [2, 5, 7]][rank]}.items():
            outputs = {key: value[rows] for key, value in predictions().items()}
            found[f"{name}, {which}"] = loss_gradient(name, rows_of(labelled_batch(), rows), outputs)
    found["descended"] = descended(rank, 2)
    found["by itself"] = descended(0, 1, by_itself())
    followed = nn.BatchNorm1d(2)
    nn.init.constant_(followed.weight, 3.0 + rank)
    followed.running_mean.fill_(5.0 + rank)  # type: ignore[union-attr]
    follow_first(followed)
    found["followed"] = {name: value.clone() for name, value in followed.state_dict().items()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    labels = {key: value[rows] for key, value in batch.labels.items() if isinstance(value, Tensor)}
    assert batch.region is not None
    return Batch(
        batch.image[rows], batch.site[rows], tuple(batch.cases[row] for row in rows), labels, region=batch.region[rows]
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def joined(two: list[dict[str, Any]], name: str) -> Iterator[tuple[str, Tensor]]:
    """Outputs and gradients of images side by side; gradients of parameters as ``GradientStep``
    would add them; one's buffers."""
    a, b = (found[name] for found in two)
    for key in a:
        if key in ("output", "gradient"):
            yield key, torch.cat([a[key], b[key]])
        elif key.startswith("gradient"):
            yield key, a[key] + b[key]
        else:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)
            yield key, a[key]


@pytest.mark.parametrize("name", LAYERS)
def test_two_processes_normalise_as_one_does(name: str, two: list[dict[str, Any]]) -> None:
    """Outputs, gradients of images and parameters, running statistics; of unequal parts."""
    layer, x, upstream = prepared(name)
    alone = passed(layer.double(), x.double(), upstream.double())
    together = dict(joined(two, name))
    assert set(together) == set(alone)
    for key, value in together.items():
        torch.testing.assert_close(
            value.double(), alone[key].double(), rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_a_mean_far_from_zero_leaves_the_variance(two: list[dict[str, Any]]) -> None:
    """The square of 1000 has no digit left in float32 for a variance of 0.01."""
    layer, x, upstream = prepared("2-d")
    alone = passed(layer.double(), (x + 1000).double(), upstream.double())
    for key, value in joined(two, "large mean"):
        torch.testing.assert_close(value.double(), alone[key].double(), rtol=1e-5, atol=2e-5)


def test_a_process_without_images_takes_part(two: list[dict[str, Any]]) -> None:
    layer, x, upstream = prepared("2-d")
    alone = passed(layer, x, upstream)
    for key, value in joined(two, "an empty part"):
        torch.testing.assert_close(value, alone[key], rtol=1e-5, atol=1e-5)


def test_the_function_normalises_together_too(two: list[dict[str, Any]]) -> None:
    layer, x, _ = prepared("2-d")
    whole = torch.cat([found["function"] for found in two])
    torch.testing.assert_close(whole, layer.train()(x), rtol=1e-5, atol=1e-5)


def test_evaluation_waits_for_nobody(two: list[dict[str, Any]]) -> None:
    assert two[0]["evaluation"].shape == prepared("2-d")[1].shape


def test_layers_keep_their_names_and_are_themselves_afterwards(two: list[dict[str, Any]]) -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Sequential(BatchNormAct2d(3)))
    assert two[0]["inside"] == [False, False, True, False, True, False, False]
    assert two[0]["names"] == list(network.state_dict())
    assert two[0]["outside"] == [type(one).__name__ for one in network.modules()]


def test_a_process_alone_keeps_torchs_own_layer() -> None:
    layer = nn.BatchNorm2d(3)
    with shared_batch_norm([layer]):
        assert type(layer) is nn.BatchNorm2d


def test_buffers_are_averaged(two: list[dict[str, Any]]) -> None:
    assert [found["buffers"].tolist() for found in two] == [[1.5, 2.5]] * 2


@pytest.mark.parametrize(
    "rows", [("some", [0, 1, 2, 3, 4, 5, 6, 7]), ("none", [0, 1, 3, 2, 5, 7])], ids=["some", "none"]
)
@pytest.mark.parametrize("name", TASKS)
def test_losses_are_divided_by_what_all_processes_know(
    name: str, rows: tuple[str, list[int]], two: list[dict[str, Any]]
) -> None:
    """The mean of the processes' gradients is that of the undivided batch, though one knows more
    labels, or the other none."""
    which, order = rows
    whole = loss_gradient(
        name, rows_of(labelled_batch(), order), {key: value[order] for key, value in predictions().items()}
    )
    a, b = (found[f"{name}, {which}"] for found in two)
    assert set(a) == set(whole)
    for key, value in whole.items():
        assert value.abs().sum() > 0
        torch.testing.assert_close(torch.cat([a[key], b[key]]) / 2, value, rtol=1e-5, atol=1e-7)


def test_twenty_steps_of_two_processes_are_those_of_one(two: list[dict[str, Any]]) -> None:
    """Weights and running statistics, to a relative difference of 1e-5."""
    for key, value in descended(0, 1).items():
        for found in two:
            apart = (found["descended"][key].double() - value.double()).norm() / value.double().norm().clamp_min(1e-6)
            assert apart <= 1e-5, f"{key}: {apart:.1e}"


def test_a_process_by_itself_trains_as_one_that_is_alone_to_the_byte(two: list[dict[str, Any]]) -> None:
    for key, value in descended(0, 1).items():
        assert all(torch.equal(found["by itself"][key], value) for found in two), key


def test_weights_and_buffers_follow_the_first_process(two: list[dict[str, Any]]) -> None:
    for found in two:
        followed = found["followed"]
        assert (followed["weight"].tolist(), followed["running_mean"].tolist()) == ([3.0, 3.0], [5.0, 5.0])
