"""A model for other programs: the same numbers, what an image must be like, and what cannot be
exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.cli.conftest import Command
from tests.cli.conftest import allograft as allograft
from torch import Tensor, nn

from allograft.apply import graph
from allograft.apply.graph import export_graph
from allograft.errors import MissingExtraError, ModelError, OutputError
from allograft.methods.fourier import FourierPredictor
from allograft.networks import build
from allograft.predictor import Direct, Weights, save_predictor
from allograft.predictor.direct import padded

UNET = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [2, 4, 8]}}}
OWN = {"build": {"custom": {"class": "own", "key": "label"}}}
CARD: dict[str, Any] = {
    "task": {"segmentation": {"classes": ["white", "grey"]}},
    "preprocessing": {"intensity": "zscore", "orientation": "RAS", "spacing": [0.5, 0.75]},
    "channels": 1,
    "slices": None,
    "sites": ["a"],
}


class Pooled(nn.Module):
    """The user's own classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image).mean((2, 3))  # type: ignore[no-any-return]


class FixedSize(Pooled):
    """A classifier of images of 16 x 24 and no other size, as a transformer with positions is."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.rand(1, 16, 24))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image + self.positions)


@torch.library.custom_op("allograft_tests::strange", mutates_args=())
def strange(image: Tensor) -> Tensor:
    """An operator that no format knows."""
    return image + 1


@strange.register_fake
def _(image: Tensor) -> Tensor:
    return torch.empty_like(image)


class Strange(Pooled):
    """A classifier that uses it."""

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = super().forward(strange(image))
        return made


def saved(folder: Path, spec: Any = UNET, module: nn.Module | None = None, **card: Any) -> Path:
    torch.manual_seed(3)
    save_predictor(Direct(build(spec, module)), folder, {**CARD, **card})
    return folder


LABELS = {"task": {"classification": {"classes": ["no", "yes"]}}, "preprocessing": {"size": [16, 24]}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("graph") / "model")


def onnx_runs(path: Path, image: Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["mask"], {"image": image.numpy()})[0])


def test_onnx_gives_our_numbers_at_sizes_it_was_not_traced_at(
    model: Path, tmp_path: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    answer = allograft("export", model, "out.onnx")
    assert answer.code == 0, answer.err
    assert "out.onnx: images of any size; differs from allograft predict by at most" in answer.out
    network = build(UNET)
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    network.load_state_dict({key.removeprefix("predictor.network/"): value for key, value in weights.items()})
    for shape in ((1, 1, 48, 56), (3, 1, 36, 20)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = padded(network.eval(), image)["mask"]
        np.testing.assert_allclose(onnx_runs(tmp_path / "out.onnx", image), expected, atol=1e-5)


def test_torch_export_runs_without_us(model: Path, tmp_path: Path) -> None:
    made = export_graph(model, tmp_path / "out.pt2", "torch-export")
    assert made.is_flexible
    assert len(set(made.sizes)) == 2
    kept = torch.export.load(tmp_path / "out.pt2").module()
    (mask,) = kept(torch.zeros(1, 1, 40, 24))
    assert mask.shape == (1, 3, 40, 24)
    assert made.difference < 1e-5


@pytest.mark.parametrize("size", [(8, 12), (8, 12, 16)], ids=["images", "volumes"])
def test_every_axis_is_asked_for_in_any_size(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.export, "export", lambda *given, dynamic_shapes: asked.append(dynamic_shapes[0]))
    model = cast(Any, SimpleNamespace(card={"channels": 1}))
    assert graph._traced(cast(Any, None), model, [size], Path())[1]
    assert [sorted(axes) for axes in asked] == [[0, *range(2, 2 + len(size))]]


def test_beside_the_file_is_what_an_image_must_be_like(model: Path, tmp_path: Path) -> None:
    import monai

    export_graph(model, tmp_path / "out.pt2", "torch-export")
    facts = json.loads((tmp_path / "out.pt2.json").read_text())
    assert facts["spacing"] == [0.5, 0.75] == facts["preprocessing"]["spacing"]
    assert (facts["classes"], facts["input"]["multiple"], facts["input"]["size"]) == (["white", "grey"], 4, None)
    output = {"name": "mask", "channels": ["background", "white", "grey"], "probabilities": "softmax"}
    assert facts["outputs"] == [output]
    bundle = json.loads((tmp_path / "metadata.json").read_text())
    required = {"version", "monai_version", "pytorch_version", "numpy_version", "optional_packages_version"}
    required |= {"schema", "required_packages_version"}
    assert bundle.keys() >= required | {"task", "description", "authors", "copyright", "network_data_format"}
    assert bundle["task"] == "segmentation of white, grey"
    assert bundle["monai_version"] == monai.__version__
    tensor = {"type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"}
    described = [bundle["network_data_format"]["inputs"]["image"], bundle["network_data_format"]["outputs"]["mask"]]
    for one in described:
        assert one.keys() >= tensor | {"channel_def"}
        assert len(one["channel_def"]) == one["num_channels"]
    assert described[0]["spatial_shape"] == ["4*n", "4*m"]
    assert described[1]["channel_def"] == {"0": "background", "1": "white", "2": "grey"}


def test_a_network_for_one_size_is_exported_for_that_size(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", OWN, FixedSize(), **LABELS)
    made = export_graph(model, tmp_path / "out.pt2", "torch-export", network=FixedSize())
    assert (made.is_flexible, made.sizes) == (False, ((16, 24),))
    facts = json.loads((tmp_path / "out.pt2.json").read_text())
    assert facts["input"]["size"] == [16, 24]
    assert facts["outputs"] == [{"name": "label", "channels": ["no", "yes"], "probabilities": "softmax"}]
    kept = torch.export.load(tmp_path / "out.pt2").module()
    assert kept(torch.zeros(5, 1, 16, 24))[0].shape == (5, 2)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = saved(tmp_path / "model", OWN, Strange(), **LABELS)
    with pytest.raises(ModelError, match=r"ONNX has no 'allograft_tests\.strange\.default'; use --format torch-export"):
        export_graph(model, tmp_path / "out.onnx", "onnx", network=Strange())
    assert not list(tmp_path.glob("*.onnx*"))
    assert not (tmp_path / "metadata.json").exists()


def test_other_numbers_are_never_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = graph._as_program

    def turned(program: Any, keys: Any, folder: Path) -> Any:
        data, run = exported(program, keys, folder)
        return data, lambda image: [-each for each in run(image)]

    monkeypatch.setattr(graph, "_as_program", turned)
    with pytest.raises(ModelError, match="differs from ours by"):
        export_graph(model, tmp_path / "out.pt2", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_what_is_more_than_a_network_is_refused_by_name(tmp_path: Path, allograft: Command) -> None:
    inner = Direct(build(UNET))
    save_predictor(FourierPredictor(inner, torch.rand(1, 1, 4, 4), 0.3), tmp_path / "fourier", CARD)
    answer = allograft("export", tmp_path / "fourier", tmp_path / "out.onnx")
    assert answer.code == 2
    assert "its predictor is 'fourier', which does more than run one network" in answer.err
    save_predictor(Weights(inner.network), tmp_path / "weights", CARD)
    with pytest.raises(ModelError, match="its predictor is 'weights'"):
        export_graph(tmp_path / "weights", tmp_path / "out.pt2", "torch-export")
    boxes = saved(tmp_path / "boxes", task={"detection": {"classes": ["lesion"]}})
    with pytest.raises(ModelError, match="finds boxes"):
        export_graph(boxes, tmp_path / "out.pt2", "torch-export")


def test_bad_input(model: Path, tmp_path: Path, allograft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = allograft("export", model, tmp_path / "out.bin", "--format", "caffe")
    assert (answer.code, answer.err) == (
        2,
        "error: --format: found 'caffe', expected zip, onnx or torch-export\n",
    )
    (tmp_path / "metadata.json").write_text('{"name": "another.onnx"}')
    with pytest.raises(OutputError, match=r"metadata\.json: belongs to another export"):
        export_graph(model, tmp_path / "out.pt2", "torch-export")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'allograft\[onnx\]'"):
        export_graph(model, tmp_path / "elsewhere" / "out.onnx", "onnx")
