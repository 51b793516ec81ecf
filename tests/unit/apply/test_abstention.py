"""``predict --abstain``: which images get no answer, and what is said of the threshold."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.contract.world import row_of, run, session_of, write_cohort
from torch import Tensor
from typer.testing import CliRunner

from allograft.apply import load
from allograft.apply.predictions import write_predictions
from allograft.cli import app
from allograft.context import Store
from allograft.errors import ModelError, SpecError
from allograft.predictor.abstention import Abstention, conformal_threshold
from allograft.predictor.card import read_card


@dataclass(frozen=True)
class Scored:
    reference_scores: Tensor


def test_the_threshold_is_an_order_statistic_and_coverage_leaves_each_case_out() -> None:
    scores = torch.arange(1.0, 20.0)  # 19 cases: 0.95 * 20 = 19, the largest
    assert conformal_threshold(scores, 0.95) == 19.0
    assert conformal_threshold(scores[:18], 0.95) == math.inf
    assert conformal_threshold(scores, 0.5) == 10.0
    rule = Abstention.from_predictor(Scored(scores.flip(0)), 0.5)  # type: ignore[arg-type]
    # without a case of at most 9 the threshold is 10, the ceil(19 / 2)-th of 18; without another it is 10 or 11
    assert (rule.threshold, rule.coverage, rule.cases) == (10.0, 9 / 19 + 1 / 19 * (10 <= 11), 19)


def test_what_cannot_abstain_is_refused() -> None:
    with pytest.raises(SpecError, match=r"--abstain: found 95; expected a share"):
        Abstention.from_predictor(Scored(torch.ones(30)), 95)  # type: ignore[arg-type]
    with pytest.raises(
        ModelError, match=r"9 held-out cases are too few for 0.95, which needs 19; ask for 0.90 or less"
    ):
        Abstention.from_predictor(Scored(torch.ones(9)), 0.95)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"no scores of held-out cases.*such as odex"):
        Abstention.from_predictor(object(), 0.95)  # type: ignore[arg-type]


def test_far_images_have_a_row_and_no_file(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    session = session_of(manifest, tmp_path / "study", {"odex": {"grow": "always"}})
    world, row, _ = run(session)
    assert row == row_of(session, world)
    store = Store(session.out / "units" / row.unit)
    card = read_card(store.stage_folder("stage-2"))
    assert {one["kind"] for one in card["predictor"]["fields"]["experts"]} == {"odex_expert"}
    result = session.finish(world, session.plan(world), report=False)
    (model,) = result.models.values()
    scores = load(model).predictor.reference_scores  # type: ignore[attr-defined]
    level = len(scores) / (len(scores) + 1) - 0.01
    images = [manifest.parent / case.image[0] for case in world.cases()]
    said: list[str] = []
    count = write_predictions(Path(model), images, tmp_path / "out", device="cpu", abstain=level, say=said.append)
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert count == len(rows) == len(images)
    threshold = conformal_threshold(scores, level)
    for line in rows:
        far = float(line["score"]) > threshold
        assert line["warnings"].startswith("abstained: score") == far
        assert (line["white"] == "") == far
        assert line["chosen"] in ("0", "1")
    names = {file.name for file in (tmp_path / "out").rglob("*_mask.png")}
    assert len(names) == sum(float(line["score"]) <= threshold for line in rows)
    assert "coverage" in said[0]
    assert f"of {len(scores)} held-out cases" in said[0]
    shown = CliRunner().invoke(
        app,
        [
            "predict",
            str(model),
            str(images[0]),
            "--out",
            str(tmp_path / "cli"),
            "--abstain",
            f"{level}",
            "--device",
            "cpu",
        ],
    )
    assert shown.exit_code == 0, shown.output
    assert "held-out cases" in shown.output
