"""Malformed model folders, weights files and devices."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tests.hostile.world import Bomb, Hostile

IMAGE = "cohort/images/b-000.png"


def predict(world: Path) -> list[Any]:
    return ["predict", world / "model", world / IMAGE, "-o", world / "out"]


def start(name: str) -> Callable[[Path], list[Any]]:
    def command(world: Path) -> list[Any]:
        study = world / "cohort" / "study.yaml"
        study.write_text(study.read_text() + f"start: {world / name}\n")
        return ["study", study, "--out", world / "out"]

    return command


def adapt(world: Path) -> list[Any]:
    return [
        "adapt",
        world / "model",
        world / "cohort" / "manifest.csv",
        "--recipe",
        "adabn",
        "-o",
        world / "out",
        "--set",
        "budget.steps=1",
    ]


def evaluate(world: Path) -> list[Any]:
    return ["evaluate", world / "model", world / "cohort" / "manifest.csv"]


def card(
    change: Callable[[dict[str, Any]], Any], command: Callable[[Path], list[Any]] = predict
) -> Callable[[Path], list[Any]]:
    """The card after a change; its checksum is left out, as a forger would."""

    def make(world: Path) -> list[Any]:
        path = world / "model" / "card.json"
        tree = json.loads(path.read_text())
        tree.pop("checksum")
        change(tree)
        path.write_text(json.dumps(tree))
        return command(world)

    return make


def content(
    name: str, data: bytes | str | None, command: Callable[[Path], list[Any]] = predict
) -> Callable[[Path], list[Any]]:
    """A file of the folder with other content, or none."""

    def make(world: Path) -> list[Any]:
        path = world / "model" / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return command(world)

    return make


def weights(name: str, data: Callable[[], bytes]) -> Callable[[Path], list[Any]]:
    """A file of weights that a study starts from."""

    def make(world: Path) -> list[Any]:
        (world / name).write_bytes(data())
        return start(name)(world)

    return make


def header(told: Any, rest: bytes = b"") -> bytes:
    """A safetensors file of this header."""
    text = json.dumps(told).encode() if not isinstance(told, bytes) else told
    return struct.pack("<Q", len(text)) + text + rest


def saved(thing: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file, **options)
    return file.getvalue()


def compressed() -> bytes:
    """What torch saved, its zip file deflated: a thousand to one."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"x": torch.zeros(2**22)}))) as whole,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for one in whole.infolist():
            small.writestr(one.filename, whole.read(one))
    return file.getvalue()


def field(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set what stands at a place of the card."""

    def change(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.pop(key)


def nested(depth: int) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for _ in range(depth):
            tree["predictor"] = {
                "kind": "fourier",
                "fields": {**tree["predictor"]["fields"], "inner": tree["predictor"]},
            }

    return change


PREDICTOR = ("predictor", "fields")
DIRECT = (*PREDICTOR, "inner", "fields", "network")
NETWORK = (*DIRECT, "network")
UNET = (*NETWORK, "build", "unet")
BIG = 10**9
EVIL = {
    "build": {"timm": {"in_channels": 1, "outputs": {"label": 2}, "name": "resnet18", "checkpoint_path": "evil.pth"}},
    "surgery": [],
}
HOVER = {"build": {"monai.HoVerNet": {"pretrained_url": "file:///etc/passwd", "key": "mask"}}, "surgery": []}
BERT = {"build": {"monai.Transchex": {"key": "mask"}}, "surgery": []}
WRONG: dict[str, tuple[Any, ...]] = {
    # fact of the card -> values of a wrong kind
    "format": (None, "1", 2, [1], {}, 1e308),
    "allograft": (3, None, []),
    "contains_images": ("no", 0, None),
    "channels": ("one", None, [1], 1.0, -1, 3),
    "seed": ("0", None, 1.5),
    "task": (
        None,
        "segmentation",
        [],
        {},
        {"a": 1, "b": 2},
        {"segmentation": 3},
        {"nothing": {}},
        {"segmentation": {"classes": {}}},
    ),
    "preprocessing": (
        None,
        "zscore",
        [],
        {"size": "x"},
        {"sizes": [32, 32]},
        {"intensity": "bright"},
        {"size": [BIG, BIG]},
        {"spacing": [0, 0]},
    ),
    "slices": (3, "x", [], {"axis": 9}, {"neighbours": -1}, {"axis": 2}),
    "recipe": (3, "fourier", []),
    "cost": (3, []),
    "metrics": (3, []),
    "protocol": ("x", []),
    "stage": (3, None),
    "intended_use": (3, {}),
    "target": (3, ["b"]),
    "training_images": (3, "abc", {}, [3], [None], [["a"]]),
    "checksum": (3, None, "0" * 32),
    "predictor": (
        None,
        3,
        "direct",
        [],
        {},
        {"kind": "direct"},
        {"kind": 3, "fields": {}},
        {"kind": "os.system", "fields": {}},
        {"tensor": "x"},
    ),
}
CARDS: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "an unknown predictor": (field("predictor", "kind", value="forier"), ("unknown predictor 'forier'", "fourier")),
    "a predictor that is a path": (field("predictor", "kind", value="../../os"), ("unknown predictor",)),
    "a field that is none": (field(*PREDICTOR, "extra", value=1), ("model",)),
    "a field that is missing": (lambda tree: tree["predictor"]["fields"].pop("style"), ("model",)),
    "text for a tensor": (field(*PREDICTOR, "style", value="x"), ("predictor.style", "Tensor")),
    "text for a number": (field(*PREDICTOR, "beta", value="x"), ("predictor.beta", "float")),
    "a list for a number": (field(*PREDICTOR, "beta", value=[0.1]), ("predictor.beta",)),
    "a number for a switch": (field(*PREDICTOR, "contains_images", value=3), ("predictor.contains_images", "bool")),
    "a number for a predictor": (field(*PREDICTOR, "inner", value=3), ("predictor.inner",)),
    "a number for a network": (field(*DIRECT, value=3), ("predictor.inner.network", "a network")),
    "a tensor that is not there": (field(*PREDICTOR, "style", value={"tensor": "nowhere"}), ("do not fit",)),
    "a tensor of another shape": (
        field(*PREDICTOR, "style", value={"tensor": "predictor.inner.network/heads.mask.block.0.conv.weight"}),
        (),
    ),
    "a place with dots": (field(*DIRECT, "at", value="../../x"), ("model",)),
    "a place that is a number": (field(*DIRECT, "at", value=3), ("predictor.inner.network",)),
    "a network that is a list": (field(*NETWORK, value=[]), ("predictor.inner.network",)),
    "a network without build": (field(*NETWORK, value={}), ("predictor.inner.network",)),
    "a network of two builds": (field(*NETWORK, "build", value={"unet": {}, "vit": {}}), ("predictor.inner.network",)),
    "a build of a number": (field(*NETWORK, "build", value={"unet": 3}), ("predictor.inner.network",)),
    "an unknown network": (field(*NETWORK, "build", value={"unett": {}}), ("unknown network 'unett'",)),
    "an unknown MONAI network": (
        field(*NETWORK, "build", value={"monai.UNett": {"key": "mask"}}),
        ("unknown MONAI network",),
    ),
    "a module of MONAI": (
        field(*NETWORK, "build", value={"monai.__builtins__": {"key": "mask"}}),
        ("unknown MONAI network",),
    ),
    "a network of the user's": (
        field(*NETWORK, "build", value={"custom": {"class": "os:system", "key": "mask"}}),
        ("hand it over",),
    ),
    "a network that unpickles": (field(*NETWORK, value=EVIL), ("checkpoint_path",)),
    "a network that downloads": (field(*NETWORK, value=HOVER), ("pretrained_url",)),
    "a network that downloads by default": (field(*NETWORK, value=BERT), ("downloads",)),
    "a timm model of the hub": (
        field(*NETWORK, "build", value={"timm": {"in_channels": 1, "outputs": {"label": 2}, "name": "hf-hub:a/b"}}),
        ("timm",),
    ),
    "surgery that is a map": (field(*NETWORK, "surgery", value={}), ("predictor.inner.network",)),
    "unknown surgery": (field(*NETWORK, "surgery", value=[{"appendix": {}}]), ("unknown surgery 'appendix'",)),
    "surgery of a number": (field(*NETWORK, "surgery", value=[3]), ("predictor.inner.network",)),
    "surgery of terabytes": (field(*NETWORK, "surgery", value=[{"lora": {"rank": BIG}}]), ("model",)),
    "channels of terabytes": (field(*UNET, "channels", value=[BIG, BIG]), ("times the size of its weights",)),
    "channels of some gigabytes": (
        field(*UNET, "channels", value=[4, 20_000, 20_000]),
        ("times the size of its weights",),
    ),
    "a thousand levels": (field(*UNET, "channels", value=[4] * 1000), ("model",)),
    "a million units": (field(*UNET, "num_res_units", value=10**6), ("of far more layers",)),
    "classes of terabytes": (field(*UNET, "outputs", value={"mask": 10**12}), ("times the size of its weights",)),
    "nine dimensions": (field(*UNET, "spatial_dims", value=9), ("model",)),
    "negative channels": (field(*UNET, "channels", value=[-4, 8]), ("model",)),
    "text for channels": (field(*UNET, "channels", value="abc"), ("model",)),
    "no classes": (field(*UNET, "outputs", value={"mask": 0}), ("model",)),
    "other channels than the weights": (field(*UNET, "channels", value=[4, 9]), ("do not fit together",)),
    "an unknown argument": (field(*UNET, "__class__", value="x"), ("unet",)),
    "twenty predictors inside each other": (nested(20), ("more than 16 deep",)),
    "three hundred predictors inside each other": (nested(300), ("more than 16 deep",)),
    "no task": (without("task"), ("lacks 'task'",)),
    "no preprocessing": (without("preprocessing"), ("lacks 'preprocessing'",)),
    "no channels": (without("channels"), ("lacks 'channels'",)),
    "no predictor": (without("predictor"), ("model",)),
    "no format": (without("format"), ("card.json: not a model card",)),
    "more classes than the network": (
        field("task", value={"segmentation": {"classes": ["a", "b", "c", "d", "e"]}}),
        (),
    ),
}
HUGE = {"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
LIE = {"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 16]}}
OVERFLOW = {"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}
FILES: dict[str, tuple[str, bytes | str | None, tuple[str, ...]]] = {
    "no card": ("card.json", None, ("no model folder",)),
    "an empty card": ("card.json", "", ("not a model card",)),
    "a card of garbage": ("card.json", bytes(range(256)), ("not a model card",)),
    "a card that is a list": ("card.json", "[]", ("not a model card",)),
    "a card nested a hundred thousand deep": ("card.json", "[" * 100_000, ("not a model card",)),
    "a card with an endless number": ("card.json", '{"format": ' + "9" * 10_000 + "}", ("not a model card",)),
    "a card in UTF-16": ("card.json", "{}".encode("utf-16"), ("not a model card",)),
    "no weights": ("model.safetensors", None, ("no safetensors file",)),
    "weights of nothing": ("model.safetensors", b"", ("no safetensors file",)),
    "weights that are a pickle": ("model.safetensors", pickle.dumps(Bomb()), ("no safetensors file",)),
    "weights that torch pickled": ("model.safetensors", saved({"x": Bomb()}), ("no safetensors file",)),
    "a header of terabytes": ("model.safetensors", struct.pack("<Q", 10**12) + b"{}", ("no safetensors file",)),
    "a tensor of terabytes": ("model.safetensors", header(HUGE), ("no safetensors file",)),
    "a tensor larger than its bytes": ("model.safetensors", header(LIE, bytes(16)), ("no safetensors file",)),
    "a shape that overflows": ("model.safetensors", header(OVERFLOW, bytes(16)), ("no safetensors file",)),
    "an unknown type": (
        "model.safetensors",
        header({"x": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        ("no safetensors file",),
    ),
    "overlapping tensors": (
        "model.safetensors",
        header({k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}, bytes(4)),
        ("no safetensors file",),
    ),
    "a header that is no JSON": ("model.safetensors", header(b"{" * 50), ("no safetensors file",)),
    "other tensors": ("model.safetensors", save({"x": torch.ones(1)}), ("model",)),
}
STARTS: dict[str, tuple[str, Callable[[], bytes], tuple[str, ...]]] = {
    "a pickle with code": ("w.pt", lambda: pickle.dumps(Bomb()), ("w.pt", "no plain state dict")),
    "a state dict with code": (
        "w.pt",
        lambda: saved({"x": torch.ones(1), "y": Bomb()}),
        ("w.pt", "no plain state dict"),
    ),
    "code in the old format": (
        "w.pth",
        lambda: saved({"y": Bomb()}, _use_new_zipfile_serialization=False),
        ("w.pth", "no plain state dict"),
    ),
    "a whole module": ("w.pt", lambda: saved(torch.nn.Linear(1, 1)), ("w.pt", "no plain state dict")),
    "tensors of a wrong shape": (
        "w.pt",
        lambda: saved({"encoder.levels.0.weight": torch.ones(3)}),
        ("w.pt", "none of its 1 tensors fits"),
    ),
    "no tensors": ("w.pt", lambda: saved({"a": 1}), ("w.pt", "holds no weights")),
    "a tensor expanded from one number": (
        "w.pt",
        lambda: saved({"x": torch.zeros(1).expand(10**6, 10**6)}),
        ("w.pt", "larger than what is stored"),
    ),
    "a sparse tensor": (
        "w.pt",
        lambda: saved(
            {"x": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6))}
        ),
        ("w.pt",),
    ),
    "a zip file that unfolds": ("w.pt", compressed, ("w.pt", "compressed")),
    "half a file": ("w.pt", lambda: saved({"x": torch.ones(1000)})[:2000], ("w.pt", "half a file")),
    "a safetensors of terabytes": ("w.safetensors", lambda: header(HUGE), ("w.safetensors", "no safetensors file")),
    "a safetensors that lies": (
        "w.safetensors",
        lambda: header(LIE, bytes(16)),
        ("w.safetensors", "no safetensors file"),
    ),
}
DEFINED = {("slices", 5), ("preprocessing", 6), ("preprocessing", 7)}
"""Refused at the image, not at the card."""


def at_card(key: str, number: int) -> tuple[str, ...]:
    return () if (key, number) in DEFINED or key in ("predictor", "checksum") else ("model", key)


MODELS: dict[str, Hostile] = {
    **{
        f"card: {key}={str(value)[:40]}#{number}": Hostile(card(field(key, value=value)), at_card(key, number))
        for key, values in WRONG.items()
        for number, value in enumerate(values)
    },
    **{f"card: {name}": Hostile(card(change), words) for name, (change, words) in CARDS.items()},
    **{
        f"start: {name}": Hostile(card(CARDS[name][0], start("model")), CARDS[name][1])
        for name in (
            "channels of terabytes",
            "a network that unpickles",
            "a thousand levels",
            "a million units",
            "no predictor",
            "nine dimensions",
        )
    },
    **{
        f"adapt: {name}": Hostile(card(CARDS[name][0], adapt), CARDS[name][1])
        for name in (
            "channels of some gigabytes",
            "a network that is a list",
            "no task",
            "a network that downloads",
            "no format",
        )
    },
    **{
        f"evaluate: {name}": Hostile(card(CARDS[name][0], evaluate), CARDS[name][1])
        for name in (
            "channels of terabytes",
            "text for a tensor",
            "a tensor of another shape",
            "more classes than the network",
        )
    },
    **{f"model: {name}": Hostile(content(file, data), words) for name, (file, data, words) in FILES.items()},
    **{f"start: {name}": Hostile(weights(file, data), words) for name, (file, data, words) in STARTS.items()},
    "device: a word": Hostile(lambda world: [*predict(world), "--device", "banana"], ("device", "banana")),
    "device: one that is not here": Hostile(
        lambda world: [*predict(world), "--device", "cuda:99"], ("device", "cuda:99")
    ),
    "model: a file": Hostile(
        lambda world: ["predict", world / IMAGE, world / IMAGE, "-o", world / "out"], ("no model folder",)
    ),
    "model: a name of 5,000 characters": Hostile(
        lambda world: ["predict", "x" * 5000, world / IMAGE, "-o", world / "out"], ()
    ),
}
