"""A report does not predict again what the judge predicted: its features lie beside the records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.results.analysis.test_embedding import UNET, made
from tests.unit.tiny import VESSEL, read, write_photographs

from allograft.cohort import Cohort
from allograft.context.store import Kept
from allograft.methods.finetune import Finetune
from allograft.predictor import Direct, save_predictor
from allograft.recipe import Stage
from allograft.results.analysis import kept_features
from allograft.results.analysis.features import Known, cloud_of, in_turn
from allograft.results.analysis.kept_features import known_of
from allograft.results.record import Record, read_all
from allograft.run.judge import Judge
from allograft.study.world import TestSet

FABRIC: Any = SimpleNamespace(device=torch.device("cpu"), world_size=1)


@dataclass(frozen=True)
class Judged:
    """A model, the folder of its records, and the cohort that it was judged on."""

    predictor: Any
    out: Path
    cohort: Cohort

    @property
    def records(self) -> list[Record]:
        return list(read_all(self.out).values())

    @property
    def known(self) -> Known:
        return known_of(self.out / "records", self.records, VESSEL)


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    """Two cases of "a" that validate, and three of "b" that are tested, one of them without a label."""
    cohort = read(write_photographs(tmp_path / "cohort", {"a": 2, "b": 3}))
    hidden = tuple(replace(case, labels={}) if case.name == "b2.png" else case for case in cohort.cases)
    cohort = replace(cohort, cases=hidden, sites=("a", "b"))
    tests = (TestSet("a", "val", 0, cohort.site("a")), TestSet("b", "test", 0, cohort.site("b")))
    predictor = Direct(made(UNET))
    stage = Stage("end", predictor, unit="unit", recipe=Finetune(), sites=("a", "b"))
    Judge(tests, VESSEL, tmp_path / "records", FABRIC)(stage, 0, 0)
    return Judged(predictor, tmp_path, cohort)


def test_what_the_judge_saw_is_what_a_figure_sees(judged: Judged) -> None:
    known = judged.known
    assert set(known) == {case.name for case in judged.cohort.cases}
    groups = {name: judged.cohort.site(name) for name in "ab"}
    passes: list[int] = []
    judged.predictor.network.register_forward_hook(lambda *_: passes.append(1))
    kept = cloud_of(judged.predictor, VESSEL, groups, ("a", "b"), 300, known)
    assert not passes
    afresh = cloud_of(judged.predictor, VESSEL, groups, ("a", "b"), 300, {})
    assert len(passes) == 5
    assert kept is not None
    assert afresh is not None
    assert np.array_equal(kept.rows, afresh.rows)
    for one, other in zip(kept.seen, afresh.seen, strict=True):
        assert (one.loss, one.entropy) == (pytest.approx(other.loss), pytest.approx(other.entropy))
    assert known["b2.png"].loss is None  # it has no label
    assert len({known[name].loss for name in ("a0.png", "a1.png", "b0.png")}) == 3


def test_nothing_is_known_of_a_record_whose_file_is_gone_damaged_or_of_other_cases(judged: Judged) -> None:
    a, b = (judged.out / "records" / f"{record.name}.safetensors" for record in judged.records)
    names = {case.name for case in judged.cohort.site("b").cases}
    a.unlink()
    assert set(judged.known) == names
    damaged = bytearray(b.read_bytes())
    damaged[-3] ^= 1
    b.write_bytes(damaged)
    assert judged.known == {}
    judged_again = [replace(record, data="of other cases") for record in judged.records]
    assert known_of(judged.out / "records", judged_again, VESSEL) == {}


def test_a_model_on_disk_leaves_what_it_leaves_in_memory(judged: Judged, tmp_path: Path) -> None:
    save_predictor(judged.predictor, tmp_path / "model", {})
    test = TestSet("b", "test", 0, judged.cohort.site("b"))
    stage = Stage("end", Kept(tmp_path / "model"), unit="unit", recipe=Finetune(), sites=("a", "b"))
    Judge((test,), VESSEL, tmp_path / "again", FABRIC)(stage, 0, 0)
    (made,) = (tmp_path / "again").glob("*.safetensors")
    assert made.read_bytes() == (judged.out / "records" / made.name).read_bytes()


def test_only_what_a_figure_may_draw_is_kept_and_no_case_in_windows(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_features, "MOST", 2)
    keeper = kept_features.Keeper.of(judged.predictor, judged.cohort)
    assert keeper.shown == {case.name for case in in_turn(judged.cohort.cases)[:2]}
    image = judged.cohort.whole(0).batch
    for cut in (True, False):
        for name in [case.name for case in judged.cohort.cases]:
            whole: Any = SimpleNamespace(case=SimpleNamespace(name=name), is_cut=cut)
            with keeper.look(whole):
                judged.predictor(image.unlabelled())
        assert set(keeper.kept) == (set() if cut else keeper.shown)


def test_a_predictor_without_an_encoder_leaves_no_file(judged: Judged, tmp_path: Path) -> None:
    test = TestSet("b", "test", 0, judged.cohort.site("b"))
    stage = Stage("end", lambda batch: {"mask": torch.zeros(len(batch), 2, 16, 16)}, unit="x", sites=("a", "b"))
    Judge((test,), VESSEL, tmp_path / "plain", FABRIC)(replace(stage, recipe=Finetune()), 0, 0)
    assert [path.suffix for path in (tmp_path / "plain").iterdir()] == [".json"]
