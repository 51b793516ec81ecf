"""Which test cases a report shows, in which order and with which words, and how its models are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.tiny import a_row, read, write_photographs

from allograft.methods.supervised import Supervised
from allograft.results.record import Record
from allograft.results.select import Chosen, Line
from allograft.run import pictures as room
from allograft.run.pictures import (
    UNLABELLED,
    WANTED,
    Models,
    _along_the_stream,
    _disputed,
    _from_end_to_end,
    _of_each_label,
    _scores,
    _shown,
    pictures_of,
)

KNOWN = {f"s{n}": f"S{n:03d}" for n in range(9)}


def a_line(
    scores: Mapping[str, float | None], title: str = "mine", key: str = "dice", target: str = "b", **more: Any
) -> Line:
    cases = tuple({"case": name, "subject": f"s{name[1:]}", key: value, **more} for name, value in scores.items())
    record = Record("u", {}, 0, "end", 0, target, "test", cases=cases)
    run = Chosen(a_row(Supervised(), target, 0, 0, f"unit {title}"), "end", {target: (record,)}, None)
    return Line(title, None, target, (run,), {}, {})


@dataclass
class Study:
    """What pictures ask of a study."""

    outputs: Any = field(default_factory=lambda: {"mask": 2})
    stream: Any = ()

    @property
    def made_task(self) -> Any:
        return SimpleNamespace(outputs=self.outputs, headline="dice", names=("vessel",))


def models(tmp_path: Path, *lines: Line, study: Study | None = None, cases: Any = ()) -> Models:
    """Every line has a model folder."""
    world: Any = SimpleNamespace(study=study or Study(), cases=lambda: cases)
    made = Models(tmp_path, world, lines, None)
    for line in lines:
        folder = room.model_folder(tmp_path, line)
        folder.mkdir(parents=True)
        (folder / "card.json").write_text("{}")
    return made


@pytest.mark.parametrize(
    ("count", "places"),
    [
        (9, [(0, "worst"), (2, "lower quarter"), (4, "median"), (6, "upper quarter"), (8, "best")]),
        (3, [(0, "worst"), (1, "median"), (2, "best")]),
        (2, [(0, "worst"), (1, "best")]),
        (1, [(0, "worst")]),
    ],
)
def test_cases_stand_at_even_distances_from_end_to_end(count: int, places: list[tuple[int, str]]) -> None:
    assert _from_end_to_end([str(n) for n in range(count)], WANTED) == [(str(n), word) for n, word in places]


def test_every_row_is_shown_on_the_same_cases_by_the_mean_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases that a row has no score of are shown on none."""
    one = a_line({"c0": 0.9, "c1": 0.1, "c2": 0.5, "c3": None, "c4": 0.0})
    two = a_line({"c0": 0.9, "c1": 0.9, "c2": 0.3, "c3": 0.4}, "other")
    made = models(tmp_path, one, two)
    monkeypatch.setattr(room, "_marked", lambda models, first, name: f"{first.title} {name}")
    shown = _shown(made, [one, two], KNOWN)
    assert [(each.name, each.title, each.marked) for each in shown] == [
        ("c2", "worst, S002", "mine c2"),
        ("c1", "median, S001", "mine c1"),
        ("c0", "best, S000", "mine c0"),
    ]
    assert _shown(made, [], KNOWN) == []


def test_without_labels_the_surest_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = a_line({"c0": 0.9, "c1": 0.1}, key="entropy")
    monkeypatch.setattr(room, "_marked", lambda *_: None)
    made = models(tmp_path, line)
    assert _scores(made, line) == ("entropy", {"c0": 0.9, "c1": 0.1})
    assert [(each.name, each.title) for each in _shown(made, [line], KNOWN)] == [
        ("c1", f"{UNLABELLED[0]}, S001"),
        ("c0", f"{UNLABELLED[-1]}, S000"),
    ]
    both = a_line({"c0": 0.5, "c1": None}, entropy=0.2)
    assert _scores(made, both) == ("dice", {"c0": 0.5})
    boxes = replace(made, world=SimpleNamespace(study=Study({"boxes": 1})))
    assert _scores(boxes, a_line({"c0": 0.5}, key="f1", dice=0.1)) == ("f1", {"c0": 0.5})


def test_of_made_images_the_median_of_each_label_is_shown(tmp_path: Path) -> None:
    labels = {"c0": "x", "c1": "y", "c2": "x", "c3": "x", "c4": "y"}
    cases = [SimpleNamespace(name=name, labels={"label": label}) for name, label in labels.items()]
    ranked = ["c3", "c4", "c0", "c1", "c2", "c9"]
    made = models(tmp_path, study=Study({"paired": 1}), cases=cases)
    assert _of_each_label(made, ranked) == [("c0", "label x"), ("c1", "label y")]
    assert _of_each_label(made, ["c3", "c0"]) == []
    assert _of_each_label(models(tmp_path, cases=cases), ranked) == []


def test_a_model_is_asked_with_its_own_sites_and_the_users_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = replace(read(write_photographs(tmp_path / "cohort", {"a": 1, "b": 1})), sites=("a", "b"))
    asked: list[Any] = []
    template: Any = object()
    monkeypatch.setattr(
        room, "load_predictor", lambda folder, **words: asked.append(words) or ("predictor", {"sites": ["b", "a"]})
    )
    monkeypatch.setattr(
        room,
        "case_prediction",
        lambda predictor, whole, task: asked.append((predictor, whole.batch.site.tolist())) or "prediction",
    )
    task = SimpleNamespace(answer=lambda prediction, whole: SimpleNamespace(mask=torch.ones(1), boxes=prediction))
    world: Any = SimpleNamespace(study=SimpleNamespace(made_task=task), named=lambda name: cohort.site(name))
    made = Models(tmp_path, world, (), template)
    loaded = made.load(tmp_path)
    assert made.answer(loaded, "b").boxes == "prediction"
    assert asked == [{"template": template}, ("predictor", [0])]
    assert made.find(loaded, "a").tolist() == [1.0]
    assert asked[-1] == ("predictor", [1])
    truth = made.truth("a")
    assert truth is not None
    assert truth.shape == (16, 16)
    assert made.image("a").shape[-2:] == (16, 16)


def test_a_line_without_a_score_or_a_model_has_no_picture(tmp_path: Path) -> None:
    line = a_line({"c0": 0.5})
    made = models(tmp_path, line)
    assert made.folder(line) == room.model_folder(tmp_path, line)
    assert made.folder(replace(line, target="c")) is None
    unjudged = replace(line, runs=(replace(line.runs[0], tests={}),))
    assert made.folder(unjudged) is None
    (room.model_folder(tmp_path, line) / "card.json").unlink()
    assert made.folder(line) is None


# ---------------------------------------------------------- where rows disagree
def disputed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, labelled: bool = False) -> tuple[list[Any], list[str]]:
    """Of seven cases two models differ by as many pixels, at either end, as the case's number."""
    scores = {f"c{n}": 0.5 for n in range(7)}
    lines = [a_line(scores, title, "dice" if labelled else "entropy") for title in ("one", "two")]
    made = models(tmp_path, *lines)
    found: list[str] = []

    def find(self: Models, model: Any, name: str) -> Any:
        found.append(name)
        mask = np.zeros((4, 4), np.int64)
        first = int(name[1:]) if model == "two" else 0
        mask.flat[first : first + 8] = 1
        return mask

    monkeypatch.setattr(Models, "load", lambda self, folder: folder.name.partition("@")[0])
    monkeypatch.setattr(Models, "find", find)
    monkeypatch.setattr(
        room, "_heat", lambda models, name, share, title, caption: (name, int((share > 0).sum()), title, caption)
    )
    return _disputed(made, "b", dict(KNOWN)), found


def test_the_images_of_which_rows_differ_most_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, found = disputed(tmp_path, monkeypatch)
    assert [(name, pixels) for name, pixels, *_ in made] == [("c6", 12), ("c5", 10), ("c4", 8)]
    assert [title for *_, title, _ in made] == ["most disputed", "number 2", "number 3"]
    assert made[0][3].startswith("S006, differ at ")
    assert len(found) == 14
    monkeypatch.setattr(room, "ASKED", 3)
    few, asked = disputed(tmp_path / "few", monkeypatch)
    assert few[0][2] == "most disputed of 3 looked at"
    assert len({*asked}) == 3


def test_where_there_is_a_truth_or_one_row_alone_nothing_is_disputed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disputed(tmp_path / "labelled", monkeypatch, labelled=True)[0] == []
    line = a_line({"c0": 0.5}, key="entropy")
    assert _disputed(models(tmp_path / "one", line), "b", KNOWN) == []


def test_only_what_has_pixels_or_boxes_is_drawn_and_no_stream_is_followed_where_there_is_none(tmp_path: Path) -> None:
    world: Any = SimpleNamespace(study=SimpleNamespace(made_task=SimpleNamespace(outputs={"label": 2})))
    assert pictures_of(tmp_path, world, []) == {}
    line = a_line({"c0": 0.5})
    assert _along_the_stream(models(tmp_path, line), line.runs[0], KNOWN) == []
