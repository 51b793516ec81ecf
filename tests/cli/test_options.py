"""Every option of every command reaches what the command calls, as the argument that it is about,
and changes nothing else there. The work itself is not done: calls are recorded."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tests.cli.conftest import Command

from allograft import tree
from allograft.cli import app


class Reached(Exception):
    """The command has called the last of what it calls."""


Calls = dict[str, dict[str, Any]]
"""Function -> its arguments, defaults included."""


@dataclass(frozen=True)
class Called:
    """How a command is called, and what it calls.

    Args:
        words: what it needs, without its name.
        ends: functions, MODULE:NAME, that end it.
        gives: functions on the way -> what they return.
    """

    words: str
    ends: tuple[str, ...]
    gives: Mapping[str, Any] = field(default_factory=dict)


FABRIC = {
    "allograft.run.fabric:local_fabric": SimpleNamespace(is_global_zero=True),
    "allograft.cli.studies:opened": nullcontext(lambda line: None),
}
STUDY = {"allograft.study:read_study": "the study", **FABRIC}
SESSION = "allograft.run.session:Session"
IMPORTERS = "allograft.cohort.importers:import_"
COMMANDS = {
    "study": Called(
        "study.yaml --out out",
        ("allograft.studies:run_study", SESSION),
        {
            **STUDY,
            "allograft.cli.studies:made_executor": None,
            "allograft.results.tracking:Sinks": SimpleNamespace(check=lambda: None),
        },
    ),
    "freeze": Called("study.yaml --out out", ("allograft.freeze:freeze_study",), STUDY),
    "train": Called("study.yaml --out out", ("allograft.studies:train_model",), STUDY),
    "predict": Called("model images --out out", ("allograft.apply.predictions:write_predictions",)),
    "adapt": Called(
        "model m.csv --recipe finetune --out out",
        ("allograft.adapt:adapt_model", SESSION),
        {"allograft.adapt:adaptation": "the study", **FABRIC},
    ),
    "evaluate": Called(
        "model m.csv",
        ("allograft.apply.evaluate:write_evaluation", "allograft.tree:write_bytes"),
        {
            "allograft.apply.evaluate:evaluate": SimpleNamespace(metrics={}, unlabelled=0, warnings=()),
            "allograft.apply.travelling:check_record": None,
            "allograft.apply.travelling:site_record": SimpleNamespace(write=lambda path: tree.write_bytes(path, b"")),
        },
    ),
    "report": Called(
        "out",
        ("allograft.cli.studies:show", "allograft.results.formats:formatted"),
        {"allograft.studies:rebuild": "the result"},
    ),
    "clean": Called(
        "out",
        ("allograft.clean:remove",),
        {"allograft.clean:leftovers": SimpleNamespace(found=(), size=0), "allograft.clean:lines_of": []},
    ),
    "export": Called("model out.zip", ("allograft.apply.export:export_model", "allograft.apply.graph:export_graph")),
    "ensemble": Called("a b c --out out", ("allograft.apply.ensemble:make_ensemble",)),
    "monitor": Called("model results.csv --out out", ("allograft.apply.monitor:monitor",)),
    "import medmnist": Called("src out --site a", (f"{IMPORTERS}medmnist",)),
    "import msd": Called("src out --site a", (f"{IMPORTERS}msd",)),
    "import nnunet": Called("src out --site a", (f"{IMPORTERS}nnunet",)),
    "import coco": Called("src out --site a --images images", (f"{IMPORTERS}coco",)),
    "import voc": Called("src out --site a --images images", (f"{IMPORTERS}voc",)),
    "import bids": Called("src out", (f"{IMPORTERS}bids",)),
    "import folder": Called("src out --image image", (f"{IMPORTERS}folder",)),
    "import table": Called("src out --image image", (f"{IMPORTERS}table",)),
    "doctor": Called(
        "m.csv",
        ("allograft.cohort.system:describe_system", "allograft.report.examination:write_examination"),
        {"allograft.cohort.doctor:examine": "diagnosis", "allograft.cohort.doctor_text:to_text": ""},
    ),
    "phantom": Called("brain out", ("allograft.phantoms.brain:write_brain", "allograft.phantoms.skin:write_skin")),
    "label skin-tone": Called(
        "images --out out",
        ("allograft.apply.skin_sheet:write_sheet",),
        {
            "allograft.apply.skin_tones:label_skin_tones": SimpleNamespace(
                thresholds=(), tones={}, unknown=0, doubtful=0, within_one=None
            )
        },
    ),
    "label boxes": Called("images --out out --radius 3,9", ("allograft.apply.box_labels:label_boxes",)),
    "compare": Called("a b m.csv --out out", ("allograft.apply.compare:compare",)),
    "init": Called(
        "m.csv --out new.yaml",
        ("allograft.tree:write_bytes",),
        {"allograft.run.first_study:first_study": "the study", "allograft.run.study_text:study_text": "text"},
    ),
    "schema": Called("study", ("allograft.tree:write_bytes",), {"allograft.cli.schema:_made": {}}),
    "index add": Called("model m.csv", ("allograft.apply.index:add_to_index",)),
    "index remove": Called("model --subject a", ("allograft.apply.index:remove_from_index",)),
    "index recall": Called("model m.csv", ("allograft.apply.index:recall_of",)),
}
CLASSES = {"segmentation": {"classes": ["else", "more"]}}
OTHER: dict[tuple[str, str], tuple[str, str, Any]] = {
    ("study", "--set"): ("seeds=2 split=3", "overrides", ["seeds=2", "split=3"]),
    ("study", "--workers"): ("3", "workers", 3),
    ("study", "--checkpoint-seconds"): ("7", "checkpoint_seconds", 7.0),
    ("study", "--shard"): ("2/3", "shard", (2, 3)),
    ("study", "--devices"): ("2", "devices", 2),
    ("study", "--device"): ("cuda:1", "accelerator device", "cuda:1"),
    ("study", "--executor"): ("local", "name", "local"),
    ("study", "--jobs"): ("3", "jobs", 3),
    ("freeze", "--set"): ("seeds=2 split=3", "overrides", ["seeds=2", "split=3"]),
    ("evaluate", "--site"): ("else more", "sites", ["else", "more"]),
    ("train", "--set"): ("seeds=2 split=3", "overrides", ["seeds=2", "split=3"]),
    ("train", "--device"): ("cuda:1", "accelerator", "cuda:1"),
    ("predict", "--abstain"): ("0.9", "abstain", 0.9),
    ("adapt", "--set"): ("seeds=2 clip=1", "overrides", {"seeds": 2, "clip": 1}),
    ("adapt", "--device"): ("cuda:1", "accelerator", "cuda:1"),
    ("evaluate", "--classes"): ("else more", "task", CLASSES),
    ("evaluate", "--surface-dice"): ("1.5", "surface_dice", 1.5),
    ("report", "--without-images"): ("", "pictures", False),
    ("report", "--format"): ("csv", "form", "csv"),
    ("export", "--format"): ("onnx", "form", "onnx"),
    ("doctor", "--without-images"): ("", "manifest", {"manifest": None}),
    **{(name, "--quiet"): ("", "quiet progress", {"quiet": True, "progress": False}) for name in ("study", "adapt")},
    ("train", "--quiet"): ("", "quiet progress", {"quiet": True, "progress": False}),
    ("import medmnist", "--class"): ("0=normal 1=ill", "classes", {"0": "normal", "1": "ill"}),
    ("import table", "--class"): ("0=normal 1=ill", "classes", {"0": "normal", "1": "ill"}),
    ("import table", "--attribute"): ("else more", "attributes", ["else", "more"]),
    ("phantom", "--dims"): ("3", "dims", 3),
    ("phantom", "--subjects"): ("5", "subjects", 5),
    ("phantom", "--size"): ("16", "size", 16),
    ("phantom", "--site"): ("a=none b=severe", "sites", {"a": "none", "b": "severe"}),
    ("phantom", "--confounding"): ("a=0.6 b=0", "confounding", {"a": 0.6, "b": 0.0}),
    ("phantom", "--seed"): ("4", "seed", 4),
    ("label skin-tone", "--sheet"): ("else.png", "sheet", Path("else.png")),
    ("label skin-tone", "--skin"): ("ycbcr", "skin", "ycbcr"),
    ("label skin-tone", "--thresholds"): ("kinyanjui", "thresholds", "kinyanjui"),
    ("label boxes", "--radius"): ("4,8", "radius", (4.0, 8.0)),
    ("label boxes", "--method"): ("edges", "method", "edges"),
    ("label boxes", "--pixel-size"): ("0.5", "pixel_size", 0.5),
    ("compare", "--classes"): ("else more", "task", CLASSES),
    ("compare", "--names"): ("old,new", "names", ("old", "new")),
    ("compare", "--surface-dice"): ("1.5", "surface_dice", 1.5),
    ("init", "--out"): ("else", "name path", "else"),
    ("index recall", "--where"): ("timepoint=0 side=left", "where", {"timepoint": "0", "side": "left"}),
}
"""(Command, option) -> what is given, one word each time, which argument it is (or several of this
value), and its value, or that of each; by default a word, or two, the argument of the option's name, and these, or
True of a flag."""
CALLS: dict[tuple[str, str], str] = {
    ("label skin-tone", "--sheet"): "write_sheet",
    ("study", "--plan"): "Session",
    ("adapt", "--plan"): "Session",
    ("report", "--format"): "formatted",
    ("export", "--format"): "export_graph",
    ("schema", "--out"): "write_bytes",
    ("evaluate", "--out"): "write_evaluation",
    ("evaluate", "--record"): "write_bytes",
    ("clean", "--yes"): "remove",
    ("doctor", "--html"): "write_examination",
    ("doctor", "--system"): "describe_system",
}
"""Options under which another function is called."""
WORDS = {
    ("doctor", "--without-images"): "m.csv --html page.html",
    ("phantom", "--confounding"): "skin out",
    ("evaluate", "--site"): "model m.csv --record record.json",
}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command with its path, ``import msd``."""
    for name, each in command.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*path, name))
        else:
            yield " ".join((*path, name)), each


OPTIONS = [
    (name, parameter)
    for name, command in commands(typer.main.get_command(app))
    for parameter in command.params
    if parameter.param_type_name == "option" and parameter.name != "help"
]


@pytest.fixture
def calls(allograft: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """What a command calls when it is given these words."""

    def of(name: str, *words: str) -> Calls:
        made: Calls = {}
        called = COMMANDS[name]

        def recorded(path: str, answer: Any) -> None:
            module, _, function = path.partition(":")
            held = importlib.import_module(module)
            real = getattr(held, function)
            signature = inspect.signature(real)

            @functools.wraps(real)
            def record(*values: Any, **named: Any) -> Any:
                bound = signature.bind(*values, **named)
                bound.apply_defaults()
                every = dict(bound.arguments)
                for parameter in signature.parameters.values():
                    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                        every |= every.pop(parameter.name)
                made[function] = {key: value for key, value in every.items() if not callable(value)}
                if answer is Reached:
                    raise Reached
                return answer

            patch.setattr(held, function, record)

        with monkeypatch.context() as patch:
            for path in called.ends:
                recorded(path, Reached)
            for path, answer in called.gives.items():
                recorded(path, answer)
            try:
                done = allograft(*name.split(), *words)
                assert done.code == 0, done.err
            except Reached:
                pass
        assert made
        return made

    return of


def test_every_command_with_an_option_is_here() -> None:
    assert set(COMMANDS) == {name for name, _ in OPTIONS}


def test_every_command_that_computes_takes_a_device_and_finds_one_itself() -> None:
    devices = {name: option.default for name, option in OPTIONS if option.name == "device"}
    assert devices == dict.fromkeys(
        ("study", "train", "predict", "adapt", "evaluate", "compare", "index add", "index recall"), "auto"
    )


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda value: getattr(value, "opts", [value])[0])
def test_no_option_is_ignored(name: str, option: Any, calls: Callable[..., Calls]) -> None:
    flag = max(option.opts, key=len)
    key = name, flag
    word, expected, value = OTHER.get(
        key, ("" if option.is_flag else "else", flag.removeprefix("--").replace("-", "_"), None)
    )
    if value is None:
        word += " more" * option.multiple
        value = True if option.is_flag else word.split() if option.multiple else word
    words = WORDS.get(key, COMMANDS[name].words).split()
    # the word in the place of the one that is there
    others = [*words[: words.index(flag)], *words[words.index(flag) + 2 :]] if flag in words else words
    without, given = (
        calls(name, *words),
        calls(name, *others, *(flag if not word else " ".join(f"{flag} {each}" for each in word.split())).split()),
    )
    if key in CALLS:
        assert CALLS[key] in set(given) - set(without)
        assert option.is_flag or any(each in (word, Path(word)) for each in given[CALLS[key]].values())
        return
    assert set(given) == set(without)
    changed = {
        argument: new
        for function, arguments in given.items()
        for argument, new in arguments.items()
        if new != without[function][argument]
    }
    assert set(changed) == set(expected.split())
    for argument, new in changed.items():
        wanted = value[argument] if isinstance(value, Mapping) and argument in value else value
        assert new == (Path(word) if isinstance(new, Path) else wanted)


GIVEN = [
    (name, number)
    for name, called in COMMANDS.items()
    for number, (before, word) in enumerate(pairwise(["", *called.words.split()]))
    if not word.startswith("--") and not before.startswith("--")
]


@pytest.mark.parametrize(("name", "number"), GIVEN)
def test_no_word_is_ignored(name: str, number: int, calls: Callable[..., Calls]) -> None:
    words = COMMANDS[name].words.split()
    other = {"phantom brain": "skin", "schema study": "card"}.get(f"{name} {words[number]}", "other")
    others = [*words[:number], other, *words[number + 1 :]]
    assert calls(name, *others) != calls(name, *words)
