"""Malformed studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.hostile.world import CANARY, Hostile

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + old] * 9)}]\n" for old, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def told(content: str | bytes, *, name: str = "study.yaml") -> Callable[[Path], list[Any]]:
    """A study file of this content."""

    def make(world: Path) -> list[Any]:
        path = world / "cohort" / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["study", path, "--out", world / "out"]

    return make


def changed(**keys: Any) -> Callable[[Path], list[Any]]:
    """The sound study with other values; ``a__b`` is the key b inside a."""

    def make(world: Path) -> list[Any]:
        path = world / "cohort" / "study.yaml"
        tree = yaml.safe_load(path.read_text())
        for key, value in keys.items():
            *outer, last = key.split("__")
            place = tree
            for one in outer:
                place = place.setdefault(one, {})
            place[last] = value
        path.write_text(yaml.safe_dump(tree))
        return ["study", path, "--out", world / "out"]

    return make


def weights(name: str, content: bytes) -> Callable[[Path], list[Any]]:
    def make(world: Path) -> list[Any]:
        (world / "cohort" / name).write_bytes(content)
        return changed(start=name)(world)

    return make


RAW: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("study.yaml", "found nothing")),
    "a word": ("hello", ("study.yaml",)),
    "a list": ("[1, 2]", ("study.yaml", "list")),
    "a number": ("3", ("study.yaml",)),
    "random bytes": (bytes(range(256)), ("study.yaml",)),
    "UTF-16": ("cohort: x".encode("utf-16"), ("study.yaml",)),
    "zero bytes": ("cohort: a\0b", ("study.yaml",)),
    "a tag that runs a command": (f"cohort: !!python/object/apply:os.mkdir [{CANARY}]", ("not plain YAML",)),
    "a tag that makes an object": ("cohort: !!python/object/new:subprocess.Popen [[ls]]", ("not plain YAML",)),
    "a tag that imports": ("cohort: !!python/name:os.system ''", ("not plain YAML",)),
    "a tag of a wrong value": ("seeds: !!int abc", ("not plain YAML",)),
    "binary that is none": ("cohort: !!binary '***'", ("study",)),
    "a set": ("cohort: !!set {a, b}", ("study",)),
    "aliases that multiply": (LAUGHS, ("aliases",)),
    "an alias of itself": ("cohort: &a [*a]", ("aliases",)),
    "a merge key": ("x: &x {seeds: 1}\n<<: *x", ("aliases",)),
    "nested ten thousand deep": ("cohort: " + "[" * 10_000, ("study.yaml", "nested")),
    "maps five thousand deep": ("cohort: " + "{a: " * 5000 + "1" + "}" * 5000, ("study.yaml", "nested")),
    "a key twice": ("seeds: 1\nseeds: 2", ("'seeds' is written twice",)),
    "a key twice inside": ("budget: {steps: 1, steps: 2}", ("'steps' is written twice",)),
    "a list for a key": ("? [a, b]\n: 1", ("study.yaml", "key")),
    "two documents": ("seeds: 1\n---\nseeds: 2", ("study.yaml",)),
    "a tab": ("budget:\n\tsteps: 1", ("study.yaml",)),
    "never closed": ("recipes: [a, {b: ", ("study.yaml",)),
    "an endless number": ("seeds: " + "9" * 5000, ("study.yaml",)),
    "an unknown directive": ("%YAML 9.9\n---\nseeds: 1", ("study",)),
    "five unknown keys": ("\n".join(f"k{i}: 1" for i in range(5)), ("unknown key",)),
}
BIG = 10**18
WRONG: dict[str, list[Any]] = {
    # key -> values of a wrong type or size, one entry each
    "cohort": [3, ["a"], "../../nowhere.csv", "x" * 1000, "a\0b", ""],
    "task": [
        "segmentation",
        [],
        {},
        {"segmentation": 3},
        {"segmentation": {"classes": []}},
        {"segmentation": {"classes": {"a": ["x"]}}},
        {"a": {}, "b": {}},
    ],
    "network": [
        "unet",
        [],
        {"unet": [1]},
        {"unet": "x"},
        {"__class__": {}},
        {"unet": {"channels": "abc"}},
        {"unet": {"channels": []}},
    ],
    "network__unet": [
        *({"channels": value} for value in ([BIG, BIG], [-4, 8], [0, 0], [4], [4.5, 8], ["a", "b"], [[4], [8]])),
        *({key: value} for key, value in (("spatial_dims", 9), ("norm", "nonsense"))),
        *({"strides": value} for value in ([0], [-2], [BIG])),
    ],
    "source": ["a", 3, [3], [["a"]], ["a", "nowhere"], {"a": 1}],
    "target": ["b", [], 3, ["a"], ["<script>"]],
    "target_labels": [
        "some",
        -1,
        {},
        {"subjects": 0},
        {"subjects": BIG},
        {"cases": -2},
        {"fraction": 7.5},
        {"slices": 2},
        {"subjects": 1, "cases": 1},
    ],
    "recipes": [
        "finetune",
        [[]],
        [{}],
        [3],
        [None],
        [{"finetune": 3}],
        [{"finetune": {"first": "nothing"}}],
        [{"os.system": {}}],
        [{"finetune": {}, "fourier": {}}],
    ],
    "test": [3, {"fraction": 1.5}, {"fraction": -0.5}, {"folds": 0}, {"folds": BIG}, {"val": 2}, {"fraction": "half"}],
    "seeds": [0, -1, 1.5, "3", BIG, [1], True],
    "budget__steps": [0, -5, 1.5, "many", [1]],
    "budget__adapt_steps": [0, -5],
    "budget__batch_size": [0, -1, "big", 1.5],
    "budget__epochs": [0, -1],
    "budget__steps_per_epoch": [0, -1],
    "optimizer": [
        "adam",
        [],
        {"adam": 3},
        {"os": {}},
        {"adam": {"lr": -1}},
        {"adam": {"lr": "fast"}},
        {"adam": {"params": []}},
        {"sgd": {"momentum": -1}},
    ],
    "schedule": ["nothing", 3, {"step": {"at": "x"}}, {"poly": {"power": "x"}}, {"cosine": {"nothing": 1}}],
    "clip": ["x", -1.0, 0.0, [1]],
    "patch": [3, [0, 0], [-4, 4], ["a", "b"], [16], [16, 16, 16], [BIG, BIG]],
    "preprocessing__size": [3, [0, 0], [-4, 4], [32], [BIG, BIG], [10**6, 10**6], ["a", "b"], [32.5, 32]],
    "preprocessing__spacing": [[0.0, 0.0], [1.0], "x"],
    "preprocessing__orientation": ["XYZ", 3, "RR", "RASRAS"],
    "preprocessing__intensity": ["bright", 3],
    "slices": [3, {"axis": 7}, {"axis": -1}, {"neighbours": -1}, {"axis": 2}],
    "augmentation": ["heavy", 3, True],
    "selection": ["best", 3, "source_val"],
    "near_duplicates": ["ignore", 3],
    "allow_duplicates": [["a"], [["a"]], [["a", "b", "c"]], 3],
    "where": [3, {"source": {"nothing": "x"}}, {"everywhere": {}}, {"source": {"site": 3}}],
    "start": [
        "nowhere.pt",
        "x" * 5000,
        "a\0b",
        "timm:",
        "hf:../../x",
        "hf:/etc/passwd",
        "hf:a/../b",
        "timm:../../x",
        "",
        3,
        "/dev/zero",
        ".",
    ],
    "file": ["x"],
    "seed": [1],
}
WORDS = {"seed": ("seeds",), "start": (), "preprocessing__size": ("size",)}
INFINITIES = {
    "a learning rate that is no number": ("optimizer: {adam: {lr: .nan}}", ("optimizer",)),
    "an infinite fraction": ("test: {fraction: .inf}", ("test.fraction",)),
    "an infinite clip": ("clip: .inf", ("clip",)),
    "a fraction beyond doubles": ("test: {fraction: 1e999}", ("test",)),
    "a spacing that is no number": ("preprocessing: {spacing: [.nan, .nan]}", ("preprocessing.spacing",)),
}


def added(line: str) -> Callable[[Path], list[Any]]:
    def make(world: Path) -> list[Any]:
        path = world / "cohort" / "study.yaml"
        key = line.split(":")[0]
        kept = [one for one in path.read_text().splitlines() if not one.startswith(f"{key}:")]
        path.write_text("\n".join([*kept, line, ""]))
        return ["study", path, "--out", world / "out"]

    return make


def shown(value: Any) -> str:
    return str(value)[:40].replace("\0", "0")


STUDIES: dict[str, Hostile] = {
    **{f"study: {name}": Hostile(told(content), words) for name, (content, words) in RAW.items()},
    **{
        f"study: {key}={shown(value)}#{number}": Hostile(
            changed(**{key: value}), WORDS.get(key, (key.split("__")[0].removesuffix("s"),))
        )
        for key, values in WRONG.items()
        for number, value in enumerate(values)
    },
    **{f"study: {name}": Hostile(added(line), words) for name, (line, words) in INFINITIES.items()},
    "study: a folder": Hostile(
        lambda world: ["study", world / "cohort", "--out", world / "out"], ("cohort", "no such study file")
    ),
    "study: weights that are text": Hostile(weights("w.pt", b"hello"), ("w.pt", "no plain state dict")),
    "study: weights of nothing": Hostile(weights("w.safetensors", b""), ("w.safetensors", "no safetensors file")),
}
