"""A loss of MONAI or PyTorch by its class name, in the place of a task's own."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.errors import SpecError, nearest
from allograft.nn.processes import count_over_processes
from allograft.tasks.classification import Classification
from allograft.tasks.segmentation import Segmentation, pixels_that_count
from allograft.tasks.task import Forward, Outputs, Task

LIBRARIES = {"monai": "monai.losses", "torch": "torch.nn"}
"""First part of a name -> the module that has the class."""
FILLED_IN: Mapping[str, object] = {
    **{"to_onehot_y": True, "softmax": True, "use_softmax": True, "sigmoid": False, "other_act": None},
    **{"batch": False, "reduction": "mean"},
}
"""Arguments that the task decides: classes exclude each other, a loss is a mean over images."""
FETCHES = ("pretrained", "pretrained_path")
"""Arguments of classes that are made of downloaded or unpickled weights."""
SIDE = 16
"""Pixels along each axis of the image that a loss is tried on."""

Request = Mapping[str, Mapping[str, object] | None]
"""``{"monai.DiceFocalLoss": {"gamma": 2.0}}``."""


@dataclass(frozen=True)
class WithLoss:
    """A task that is trained by a loss named in the study; all else is the task's own.

    Args:
        task: segmentation or classification.
        name: ``monai.CLASS`` or ``torch.CLASS``.
        arguments: of the class, JSON values.
    """

    task: Segmentation | Classification
    name: str
    arguments: Mapping[str, object]

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or name == "task":  # of a copy in the making
            raise AttributeError(name)
        return getattr(self.task, name)

    def loss(self, output: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """The named loss as one term, under the name of its class.

        For masks it is computed image by image, of the pixels that count alone, and averaged over
        the images that are labelled; for classes over the cases that are labelled.
        """
        module = made_loss(self.name, self.arguments).to(output[self.task.key].device)
        compute = of_labels if isinstance(self.task, Classification) else of_masks
        return {self.name.partition(".")[2]: compute(module, output[self.task.key], batch)}

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """``loss`` of the network's output."""
        return self.loss(network(batch.image), batch)


def with_loss(task: Task, request: Request) -> Task:
    """The task, trained by the loss of a study's key ``loss``; the task itself where that is
    empty."""
    if not request:
        return task
    ((name, arguments),) = request.items()
    assert isinstance(task, (Segmentation, Classification))
    return cast(Task, WithLoss(task, name, arguments or {}))


def check_loss(task: Task, request: Request, *, dims: int | None = None, has_region: bool = False) -> None:
    """Raise ``SpecError`` for a loss that the task cannot be trained by: an unknown name or
    argument, a task with a loss of its own, or, on a small image, a value or a gradient that is not
    finite, or a value that is no smaller for the right answer than for a wrong one.

    Args:
        dims: spatial dimensions of the images; None where they are not known yet.
        has_region: whether some images have pixels that do not count.
    """
    if not request:
        return
    if len(request) != 1:
        raise SpecError(f"loss: expected one {{name: {{...}}}}, found {', '.join(request)}")
    ((name, arguments),) = request.items()
    if not isinstance(task, (Segmentation, Classification)):
        raise SpecError(
            f"loss: the task {type(task).__name__.lower()} has a loss of its own; leave loss out, or use segmentation "
            "or classification"
        )
    if task.weights:
        raise SpecError(
            f"loss: replaces the terms that task.weights names ({', '.join(task.weights)}); leave one of the two out"
        )
    module, (classes,) = made_loss(name, arguments or {}), task.outputs.values()
    sizes = [()] if isinstance(task, Classification) else [(SIDE,) * axes for axes in ((dims,) if dims else (2, 3))]
    failures = [_failure(module, classes, size) for size in sizes]
    if all(failures):  # a loss of planes is tried on a volume in vain, and the other way round
        raise SpecError(f"loss: {name}: {failures[0]}; choose another loss, or see its arguments in the documentation")
    if has_region and isinstance(task, Segmentation) and not is_pixelwise(module, classes):
        raise SpecError(
            f"loss: {name} compares neighbouring pixels, and the manifest has regions outside which no pixel counts; "
            "choose a loss that is made of sums over pixels, such as monai.DiceFocalLoss, or leave the column region "
            "out"
        )


def made_loss(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """The loss of a name, made once a process.

    Raises:
        SpecError: an unknown name or argument, with the nearest one; an argument that the task
            decides; a class that needs downloaded weights.

    Example:
        >>> made_loss("torch.CrossEntropyLoss", {"label_smoothing": 0.1}).label_smoothing
        0.1
    """
    return _made(name, json.dumps(arguments, sort_keys=True))


@cache
def _made(name: str, written: str) -> nn.Module:
    kind, arguments = loss_class(name), json.loads(written)
    parameters = inspect.signature(kind).parameters
    for key, value in arguments.items():
        if key not in parameters:
            raise SpecError(f"loss: {name}: {nearest(key, set(parameters) - set(FILLED_IN), 'argument')}")
        if key in FILLED_IN and value != FILLED_IN[key]:
            raise SpecError(
                f"loss: {name}: {key} is {json.dumps(value)}; it is set by the task to {json.dumps(FILLED_IN[key])}: "
                "leave it out"
            )
    given = {key: _tensor(value, str(parameters[key].annotation)) for key, value in arguments.items()}
    try:
        module: nn.Module = kind(**given, **{k: v for k, v in FILLED_IN.items() if k in parameters and k not in given})
    # a library's class may raise anything on arguments that make no sense to it
    except Exception as error:
        raise SpecError(f"loss: {name}: {_reason(error)}; see its arguments in the documentation") from error
    return module


def loss_class(name: str) -> type[nn.Module]:
    """The class of a name; ``SpecError`` with the nearest name for an unknown one."""
    library, _, class_name = name.partition(".")
    if library not in LIBRARIES or not class_name:
        wanted = " or ".join(f"{known}.CLASS" for known in LIBRARIES)
        raise SpecError(f"loss: found '{name}'; expected {wanted}, for example monai.DiceFocalLoss")
    module = importlib.import_module(LIBRARIES[library])
    known = {key for key, kind in vars(module).items() if key.endswith("Loss") and isinstance(kind, type)}
    if class_name not in known:
        raise SpecError(f"loss: {nearest(name, [f'{library}.{each}' for each in known], 'loss')}")
    kind: type[nn.Module] = getattr(module, class_name)
    if any(key in inspect.signature(kind).parameters for key in FETCHES):
        raise SpecError(f"loss: {name} is made of weights that it downloads; choose another loss")
    return kind


def of_masks(module: nn.Module, logits: Tensor, batch: Batch) -> Tensor:
    """The loss of each image, of the pixels that count, mean over the images that are labelled at
    all: (B, K, *spatial) -> ().

    An image of which some pixels do not count is given as a row of those that do, (1, K, N): the
    same to a loss that is made of sums over pixels.
    """
    mask = batch.labels["mask"]
    assert isinstance(mask, Tensor)
    counts = pixels_that_count(mask, batch.region)
    labelled = counts.flatten(1).any(1)
    total = logits.sum() * 0
    for index in labelled.nonzero().flatten().tolist():
        image, truth, kept = logits[index], mask[index], counts[index]
        if not kept.all():
            if not is_pixelwise(module, len(image)):
                raise SpecError(
                    f"loss: {type(module).__name__} compares neighbouring pixels, and in '{batch.cases[index]}' some "
                    "do not count; choose a loss that is a sum over pixels, such as monai.DiceFocalLoss"
                )
            image, truth = image[:, kept], truth[:, kept]
        total = total + _call(module, image[None], truth[None])
    return total / count_over_processes(labelled)


def of_labels(module: nn.Module, logits: Tensor, batch: Batch) -> Tensor:
    """The loss of the cases that are labelled: (B, K) and (B,) int64, -100 = none, -> ()."""
    label = batch.labels["label"]
    assert isinstance(label, Tensor)
    labelled = label >= 0
    if not labelled.any():
        return logits.sum() * 0
    value = _call(module, logits[labelled], label[labelled][:, None])
    return value * labelled.sum() / count_over_processes(labelled)


@cache
def is_pixelwise(module: nn.Module, classes: int) -> bool:
    """Whether a loss depends on which logits and class each pixel has, and not on where it lies:
    tried on a plane, and on the same pixels as a row in another order."""
    generator = torch.Generator().manual_seed(0)
    module = copy.deepcopy(module).cpu()
    logits = torch.randn((1, classes, SIDE, SIDE), generator=generator)
    mask = torch.randint(classes, (1, 1, SIDE, SIDE), generator=generator)
    order = torch.randperm(SIDE * SIDE, generator=generator)
    try:
        plane = _call(module, logits, mask)
        row = _call(module, logits.flatten(2)[..., order], mask.flatten(2)[..., order])
    except Exception:  # of a loss that takes nothing but planes
        return False
    return bool(torch.isclose(plane, row, rtol=1e-4))


def _call(module: nn.Module, logits: Tensor, truth: Tensor) -> Tensor:
    """Logits (B, K, *spatial) and truth (B, 1, *spatial) int64 -> (): PyTorch's classes take it
    without its channel."""
    value: Tensor = module(logits, truth[:, 0] if type(module).__module__.startswith("torch.") else truth)
    return value


def _failure(module: nn.Module, classes: int, size: tuple[int, ...]) -> str:
    """Why a loss cannot be minimised for images of a size, () for classes of an image; "" where it
    can."""
    generator = torch.Generator().manual_seed(0)
    count = SIDE ** max(1, len(size))
    truth = torch.arange(count).remainder(classes).reshape((1, 1, *size) if size else (count, 1))
    logits = torch.randn((len(truth), classes, *size), generator=generator).requires_grad_()
    right = 10.0 * F.one_hot(truth[:, 0], classes).movedim(-1, 1).float()
    try:
        with warnings.catch_warnings(action="ignore"):  # what a class says of shapes that it is not made for
            value = _call(module, logits, truth)
            if value.numel() != 1:
                return f"gives a tensor of shape {tuple(value.shape)}; expected one number"
            (slope,) = torch.autograd.grad(value.sum(), logits)
            low, high, sure = (_call(module, each, truth).item() for each in (right, right.roll(1, 1), 100 * right))
    # a library's loss may raise anything on shapes that are not its own
    except Exception as error:
        return _reason(error)
    if not (value.isfinite().all() and slope.isfinite().all() and slope.any()):
        return "its value or its gradient on a small image is not finite, or its gradient is 0"
    if not high - low > 0.01 * abs(high):
        return f"is {low:g} for a right answer and {high:g} for a wrong one; expected less for the right one"
    if sure < low - 1:
        return f"falls from {low:g} to {sure:g} as a right answer gets surer; expected a loss of logits, bounded below"
    return ""


def _tensor(value: object, annotation: str) -> object:
    """A list of numbers as a tensor, where that is what the argument takes."""
    return torch.tensor(value) if isinstance(value, list) and "Tensor" in annotation else value


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
