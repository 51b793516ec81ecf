"""A finished unit's folder: what each of its files says, who may write them, and what is made again
of what was cleaned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.context.test_context import a_network
from tests.unit.tiny import case

from allograft import tree
from allograft.batch import Batch
from allograft.context import Journal, Store
from allograft.context.journal import STOP, Stopped
from allograft.context.store import LEFT_OUT, Cleaned, Kept
from allograft.errors import AllograftError, OutputError
from allograft.figure import Images, Lines, Relabelled
from allograft.predictor import Direct, Prediction
from allograft.recipe import Carry, Stage

ADAM = {"kind": "adam", "state": {"w": {"exp_avg": torch.zeros(6), "step": torch.zeros(1, dtype=torch.float64)}}}
CURVE = Lines("a curve", (0.0, 1.0), {"x": (1.0, 2.0)}, "step", "value")
COST = {"train_seconds": 2.0, "peak_memory_mb": 1.0, "trainable_parameters": 3}


def kept(folder: Path, *, optimizer: bool = True, figures: Any = None, template: Any = None) -> Store:
    """A unit of two stages, the second of which leaves nothing to judge."""
    store, network = Store(folder, template=template), a_network()
    first = Stage("one", Direct(network), ("a",), {"models": 2})
    store.keep_stage(first, {"cost": {"train_seconds": 1.0}, "seed": 7})
    store.keep(Carry(network, ADAM), [first, Stage("two", None, ("a", "b"))], COST, figures or {}, optimizer=optimizer)
    return store


def test_stages_come_back_with_what_they_saw_their_facts_and_the_cost_of_their_moment(tmp_path: Path) -> None:
    stages = kept(tmp_path).stages()
    assert stages is not None
    assert [(one.name, one.seen, dict(one.facts)) for one in stages] == [
        ("one", ("a",), {"models": 2}),
        ("two", ("a", "b"), {}),
    ]
    assert isinstance(stages[0].predictor, Kept)
    assert stages[1].predictor is None
    assert [dict(one.cost) for one in stages] == [{"train_seconds": 1.0}, COST]


def test_a_stage_is_kept_once_as_it_was(tmp_path: Path) -> None:
    store = kept(tmp_path)
    before = (store.stage_folder("one") / "model.safetensors").read_bytes()
    store.keep_stage(Stage("one", Direct(a_network(1))), {"cost": {}})
    assert (store.stage_folder("one") / "model.safetensors").read_bytes() == before


def test_the_state_of_an_optimizer_is_counted_left_out_and_asked_for(tmp_path: Path) -> None:
    with_state, without = kept(tmp_path / "with"), kept(tmp_path / "without", optimizer=False)
    assert (with_state.optimizer_bytes(), without.optimizer_bytes()) == (6 * 4 + 8, 0)
    assert [one.serves(optimizer=True) for one in (with_state, without)] == [True, False]
    assert [one.serves(optimizer=False) for one in (with_state, without)] == [True, True]
    assert without.load(optimizer=True) is None
    assert without.load() is not None
    with_state.clean_optimizer()
    assert tree.load(with_state.carry_file)[LEFT_OUT]
    assert (with_state.optimizer_bytes(), with_state.serves(optimizer=True)) == (0, False)
    assert Store(tmp_path / "absent").optimizer_bytes() == 0
    assert not Store(tmp_path / "absent").serves(optimizer=False)


def test_a_cleaned_stage_says_so_and_one_that_is_gone_makes_the_unit_unfinished(tmp_path: Path) -> None:
    store = kept(tmp_path)
    store.clean_stage("one")
    assert not store.stage_folder("one").exists()
    assert store.cleaned() == ("one",)
    (first, _) = store.stages() or ()
    assert isinstance(first.predictor, Cleaned)
    assert first.cost == COST
    with pytest.raises(OutputError, match="removed this model; run the study again"):
        first.predictor(case("x"))
    store.cleaned_file.unlink()
    assert store.cleaned() == ()
    assert store.stages() is None
    assert store.load() is None


def test_what_is_forgotten_is_run_again_and_other_stages_stay(tmp_path: Path) -> None:
    store = kept(tmp_path)
    store.clean_stage("two")
    store.forget()
    assert not store.carry_file.exists()
    assert store.cleaned() == ()
    assert (store.stage_folder("one") / "card.json").exists()


def test_a_damaged_stage_is_removed_to_be_made_again(tmp_path: Path) -> None:
    store = kept(tmp_path)
    (store.stage_folder("one") / "model.safetensors").write_bytes(b"no")
    assert store.kept_stage("one") is None
    assert not store.stage_folder("one").exists()


def test_figures_with_images_are_left_out_where_none_are_wanted_and_corrected_boxes_are_no_figure(
    tmp_path: Path,
) -> None:
    boxes = Relabelled(("a",), (0,), ((((0.0, 1.0, 2.0, 3.0),),),), (((1,),),))
    images = Images("images", (("cG5n",),))
    store = kept(tmp_path, figures={"curve": CURVE, "boxes": boxes, "images": images})
    assert store.figures() == {"curve": CURVE, "images": images}
    assert store.figures(images=False) == {"curve": CURVE}
    assert store.relabelled() == boxes
    assert Store(tmp_path / "absent").relabelled() is None
    store.figures_file.write_text("{")
    assert store.figures() == {}


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    store = Store(tmp_path / "unit", writes=False)
    network = a_network()
    store.keep_stage(Stage("one", Direct(network)), {})
    store.keep(Carry(network), [], COST, {"curve": CURVE})
    assert not (tmp_path / "unit").exists()
    made = kept(tmp_path / "made")
    (made.folder / "journal").mkdir()
    Store(made.folder, writes=False).tidy()
    assert (made.folder / "journal").exists()
    made.tidy()
    assert not (made.folder / "journal").exists()


@dataclass(frozen=True)
class Whole:
    """A predictor that needs all of a case."""

    sees_whole_cases: bool = True

    def __call__(self, batch: Batch) -> Prediction:
        """Nothing."""
        return {}


def test_a_kept_stage_is_loaded_once_for_each_device_and_says_what_the_predictor_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(folder: Path, *, template: Any, device: str) -> tuple[Any, dict[str, Any]]:
        asked.append((folder, template, device))
        return Whole(), {}

    monkeypatch.setattr("allograft.context.store.load_predictor", load)
    template = a_network()
    stage = Kept(tmp_path, template)
    assert stage.on("cpu") is stage.on("cpu")
    assert stage.sees_whole_cases
    assert stage.sees_whole_images
    stage(case("x"))
    stage.on("meta")
    assert asked == [(tmp_path, template, "cpu"), (tmp_path, template, "meta")]


# ---------------------------------------------------------- the journal of a run
def test_only_the_first_process_keeps_checkpoints(tmp_path: Path) -> None:
    other = Journal(tmp_path / "journal", seconds=0, writes=False)
    assert not other.due()
    other.keep("train", lambda: pytest.fail("made what is not written"))
    Journal(tmp_path / "journal", seconds=0).keep("train", lambda: {"at": 1})
    other.clear()
    assert (tmp_path / "journal" / "train.safetensors").exists()
    STOP.set()
    try:
        with pytest.raises(Stopped):
            other.keep("train", lambda: pytest.fail("made what is not written"))
    finally:
        STOP.clear()


def test_the_lease_is_asked_before_anything_is_written_or_removed(tmp_path: Path) -> None:
    asked: list[str] = []
    journal = Journal(tmp_path / "journal", seconds=0, check=lambda: asked.append("asked"))
    journal.keep("train", lambda: {"at": len(asked)})
    assert tree.load(tmp_path / "journal" / "train.safetensors")["at"] == 1
    journal.clear()
    assert len(asked) == 2
    assert not (tmp_path / "journal").exists()


def test_time_is_counted_from_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("allograft.context.journal.time.monotonic", lambda: now[0])
    journal = Journal(tmp_path, seconds=10.0, last=100.0)
    for later, due in ((109.9, False), (110.0, True)):
        now[0] = later
        assert journal.due() == due
    journal.finish("train", lambda: {"at": 3})
    assert (tmp_path / "train.safetensors").exists()
    now[0] = 119.9
    assert not journal.due()
    journal.finish("short", lambda: pytest.fail("a short training is repeated sooner than it is read"))
    now[0] = 120.0
    assert journal.due()


@pytest.mark.parametrize(
    ("at", "span", "given", "passed"),
    [
        (4, range(0, 4), True, False),
        (4, range(4, 8), True, False),
        (6, range(4, 8), True, False),
        (6, range(0, 4), False, True),
        (3, range(4, 8), False, False),
    ],
)
def test_a_checkpoint_is_given_to_the_part_that_it_lies_in(
    at: int, span: range, given: bool, passed: bool, tmp_path: Path
) -> None:
    Journal(tmp_path).keep("train", lambda: {"at": at})
    journal = Journal(tmp_path)
    assert (journal.open("train", span) is not None) == given
    assert journal.passed("train", span) == passed
    with pytest.raises(AllograftError, match="called twice in one run"):
        journal.open("train", span)


def test_what_is_computed_once_under_a_name_is_asked_for_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.once("x", lambda: 3) == 3
    with pytest.raises(AllograftError, match="once-x"):
        journal.once("x", lambda: 4)
    assert Journal(tmp_path).once("x", lambda: pytest.fail("made again")) == 3
