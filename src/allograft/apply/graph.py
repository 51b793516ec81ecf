"""A model for other programs: its network as an ONNX or ``torch.export`` file that gives the same
numbers, with what an image must be like beside it."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from allograft.apply.graph_metadata import METADATA, bundle_metadata, facts_of
from allograft.apply.model import Model, load
from allograft.errors import ModelError, OutputError, require_extra
from allograft.predictor.direct import Direct, padded
from allograft.table import name_of
from allograft.tree import write_bytes, write_json

Form = Literal["onnx", "torch-export"]
SUFFIXES: dict[str, Form] = {".onnx": "onnx", ".pt2": "torch-export"}
"""What a file is, by the end of its name."""
TOLERANCE = 1e-4
"""The largest difference to our own predictor, as a share of the largest output."""
Runs = Callable[[Tensor], list[Tensor]]
"""An image -> the outputs, in their order."""


class InOrder(nn.Module):
    """A network as exporters take one: an image -> a tuple of tensors.

    Args:
        network: as the predictor holds it.
        keys: its outputs, in order.
    """

    def __init__(self, network: nn.Module, keys: Sequence[str]) -> None:
        super().__init__()
        self.network, self.keys = network, tuple(keys)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image)
        return tuple(outputs[key] for key in self.keys)


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Args:
        path: of the file; ``PATH.json`` and ``metadata.json`` are beside it.
        difference: the largest to our own predictor, on random images.
        sizes: the sizes of these images.
        is_flexible: whether images of other sizes can be given too.
    """

    path: Path
    difference: float
    sizes: tuple[tuple[int, ...], ...]
    is_flexible: bool


def export_graph(model: Path | str, out: Path | str, form: Form, *, network: nn.Module | None = None) -> Exported:
    """Write the network of a model folder as a file that other programs run.

    The file takes prepared images: what preparation is needed is written beside it. Nothing is
    written unless it gives what our predictor gives on random images of two sizes.

    Args:
        model: a folder whose predictor is one network and nothing else.
        out: the file.
        form: ``onnx``, for ONNX Runtime and others; ``torch-export``, for PyTorch without
            Allograft.
        network: your own module, when the model was trained with one.

    Raises:
        ModelError: a predictor that is more than a network; an operator that the format lacks; a
            file whose numbers differ.
        MissingExtraError: ``onnx`` without the extra of that name.
        OutputError: a ``metadata.json`` of another export is there.
    """
    model, out = Path(model), Path(out)
    if form == "onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            require_extra(library, "onnx")
    loaded = load(model, network=network, device="cpu")
    plain = _plain(model, loaded)
    _check_metadata(out)
    module = InOrder(plain.network, tuple(loaded.task.outputs)).eval()
    sizes = _sizes(loaded)
    with _quiet():
        program, is_flexible = _traced(module, loaded, sizes, model)
        sizes = sizes if is_flexible else sizes[:1]
        data, run = (_as_onnx if form == "onnx" else _as_program)(program, module.keys, model)
    difference = _largest_difference(run, plain, loaded, sizes)
    write_bytes(out, data)
    facts = facts_of(loaded, out, form, sizes, is_flexible=is_flexible) | {"largest_difference": difference}
    write_json(out.with_name(f"{out.name}.json"), facts)
    write_json(out.with_name(METADATA), bundle_metadata(loaded, facts))
    return Exported(out, difference, tuple(sizes), is_flexible)


def _plain(folder: Path, model: Model) -> Direct:
    if "boxes" in model.task.outputs:
        raise ModelError(
            f"{folder}: finds boxes, whose number differs from image to image; only masks, classes and images that are "
            "made can be exported: use allograft predict"
        )
    if not isinstance(model.predictor, Direct):
        kind = name_of("predictor", type(model.predictor))
        raise ModelError(
            f"{folder}: its predictor is '{kind}', which does more than run one network; only plain predictors, such "
            "as those of supervised and finetune, can be exported: use allograft predict, or export another row"
        )
    return model.predictor


def _check_metadata(out: Path) -> None:
    path = out.with_name(METADATA)
    if path.exists() and f'"{out.name}"' not in path.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(f"{path}: belongs to another export; choose another folder for {out.name}")


def _sizes(model: Model) -> list[tuple[int, ...]]:
    """Two sizes of images to compare with: the training's own where there is one, and a larger one;
    sides of several lengths, so that a mix-up of axes shows."""
    preprocessing, multiple = model.prepared().preprocessing, max(1, model.predictor.network.multiple)  # type: ignore[attr-defined]
    if preprocessing.size is not None and model.slices is None:
        first = tuple(preprocessing.size)
    else:
        axes = _axes(model)
        first = tuple(multiple * -(-(32 + 8 * axis) // multiple) for axis in range(axes))
    first = tuple(side + -side % multiple for side in first)
    return [first, tuple(side + multiple * (axis + 1) for axis, side in enumerate(first))]


def _axes(model: Model) -> int:
    """How many spatial axes the network has, by its layers."""
    for layer in model.predictor.network.modules():  # type: ignore[attr-defined]
        for axes, kind in ((3, nn.Conv3d), (2, nn.Conv2d)):
            if isinstance(layer, kind):
                return axes
    return 2


def _traced(module: InOrder, model: Model, sizes: Sequence[tuple[int, ...]], folder: Path) -> tuple[Any, bool]:
    """The exported program, and whether it takes images of any size."""
    example = torch.zeros(2, int(model.card["channels"]), *sizes[0])
    any_size = {0: torch.export.Dim("batch", min=1)} | {
        axis: torch.export.Dim.DYNAMIC for axis in range(2, example.ndim)
    }
    reasons = []
    # a network for one size, such as a transformer with learned positions, is exported for it
    for shapes in (any_size, {0: torch.export.Dim("batch", min=1)}):
        try:
            with torch.no_grad():
                return torch.export.export(module, (example,), dynamic_shapes=(shapes,)), shapes is any_size
        except Exception as error:  # torch raises many kinds, of its own and of the network's
            reasons.append(f"{type(error).__name__}: {_first_line(error)}")
    raise ModelError(
        f"{folder}: its network cannot be traced for images of size {sizes[0]} ({reasons[-1]}); use allograft predict"
    )


def _as_program(program: Any, _keys: Sequence[str], _folder: Path) -> tuple[bytes, Runs]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    kept = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), lambda image: list(kept(image))


def _as_onnx(program: Any, keys: Sequence[str], folder: Path) -> tuple[bytes, Runs]:
    try:
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["image"],
                                 output_names=list(keys))  # fmt: skip
        assert made is not None
        data = made.model_proto.SerializeToString()
    except Exception as error:  # torch wraps what went wrong several times
        operator = _missing_operator(error)
        what = f"ONNX has no '{operator}'" if operator else _first_line(error)
        raise ModelError(
            f"{folder}: its network cannot be written as ONNX: {what}; use --format torch-export, or allograft predict"
        ) from error
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"{folder}: ONNX Runtime refuses its network ({_first_line(error)}); use --format torch-export"
        ) from error
    return data, lambda image: [torch.from_numpy(each) for each in session.run(None, {"image": image.numpy()})]


def _missing_operator(error: BaseException) -> str:
    """The operator that ONNX lacks, by torch's words: ``aten.fft_fft2.default``; "" where it is
    something else."""
    text = ""
    each: BaseException | None = error
    while each:
        text += f"\n{each}"
        each = each.__cause__ or each.__context__
    found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>", text)
    return f"{found[1]}.{found[2]}" if found else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _largest_difference(run: Runs, plain: Direct, model: Model, sizes: Sequence[tuple[int, ...]]) -> float:
    """Raise ``ModelError`` where the file gives other numbers than our predictor."""
    largest, keys = 0.0, tuple(model.task.outputs)
    for number, size in enumerate(sizes):
        generator = torch.Generator().manual_seed(number)
        image = torch.randn(1 + number, int(model.card["channels"]), *size, generator=generator)
        with torch.no_grad():
            expected, found = padded(plain.network, image), run(image)
        for key, value in zip(keys, found, strict=True):
            if value.shape != expected[key].shape or not bool(value.isfinite().all()):
                raise ModelError(
                    f"{key}: the exported network gives {tuple(value.shape)}, ours {tuple(expected[key].shape)}, for "
                    f"images of {size}; use allograft predict"
                )
            scale = max(1.0, float(expected[key].abs().max()))
            largest = max(largest, float((value - expected[key]).abs().max()) / scale)
    if largest > TOLERANCE:
        raise ModelError(
            f"the exported network differs from ours by {largest:.2g} of its largest output, expected at most "
            f"{TOLERANCE}; use allograft predict"
        )
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn and log what only their authors can use; what matters is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def form_of(out: Path, asked: str | None) -> Form | None:
    """What a file is to be: as asked for, or by its ending; None = a zip of the folder.

    Raises:
        AllograftError: a format that is none.
    """
    known = ("zip", *SUFFIXES.values())
    if asked is not None and asked not in known:
        raise ModelError(f"--format: found '{asked}', expected {', '.join(known[:-1])} or {known[-1]}")
    form = SUFFIXES.get(os.path.splitext(out)[1].lower(), "zip") if asked is None else asked
    return None if form == "zip" else form  # type: ignore[return-value]
