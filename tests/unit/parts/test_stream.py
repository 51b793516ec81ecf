"""The stages of a stream: what was seen, who is held out, and how well training cases are answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context, read, write_photographs
from torch import nn

from allograft.metrics.segmentation import dice
from allograft.parts import stream
from allograft.parts.stream import Phase, held_out_of, masked_mean, phases, stage_training, train_stage, training_dice
from allograft.recipe import Scenario, Stage


@pytest.fixture
def cohort(tmp_path: Path) -> Any:
    return read(write_photographs(tmp_path, {"a": 2, "b": 2, "c": 3}))


def test_a_stage_adds_the_sites_that_are_new_and_hides_them_from_its_batches(cohort: Any) -> None:
    both = cohort.where(lambda case: case.site in "cb")
    found = phases(Scenario(stream=(both, cohort.site("a"), both), sites=cohort.sites))
    assert [phase.seen for phase in found] == [("b", "c"), ("b", "c", "a"), ("b", "c", "a")]
    assert [phase.name for phase in found] == ["stage-1", "stage-2", "stage-3"]
    assert [phase.number for phase in found] == [0, 1, 2]
    assert found[0].cohort.case(0).site.tolist() == [-1]
    assert len(found[0].cohort) == 5


def test_each_stage_holds_out_subjects_of_its_own_draw_and_enough_of_either(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 9}))
    out = [held_out_of(Phase(number, cohort, ()), 0.3, a_context(), 2) for number in range(4)]
    assert [(len(held), len(rest)) for held, rest in out] == [(3, 6)] * 4
    assert all(not {*held.subjects} & {*rest.subjects} for held, rest in out)
    assert len({held.subjects for held, _ in out}) > 1
    assert [tuple(map(len, held_out_of(Phase(0, cohort, ()), share, a_context(), 2))) for share in (0.0, 1.0)] == [
        (2, 7),
        (7, 2),
    ]


def test_the_dice_of_training_cases_is_that_of_foreground_classes_that_are_found_or_there(cohort: Any) -> None:
    cases = [cohort.case(number) for number in range(3)]
    middle = sorted(float(case.image.mean()) for case in cases)[1]

    class Answers(nn.Module):
        """Three classes by brightness; the second foreground class is found in one image and there in none."""

        multiple = 1

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            assert not self.training
            bright = (image.mean((1, 2, 3), keepdim=True) - middle) > 1e-3
            return {"mask": torch.cat([120 - image, image - 120, bright * 1000.0 - 500 + image * 0], 1)}

    network: Any = Answers().train()
    expected = []
    for case in cases:
        answer = network.eval()(case.image)["mask"].argmax(1)
        for number in (1, 2):
            value = dice(answer == number, case.labels["mask"][:, 0] == number)
            expected += [value] if value == value else []
    network.train()
    few = cohort.where(lambda case: case.name in ("a0.png", "a1.png", "b0.png"))
    assert training_dice(network, few, a_context()) == pytest.approx(sum(expected) / len(expected))
    assert network.training
    assert len(expected) == 4


def test_a_mean_over_what_counts_is_of_each_image_first() -> None:
    values = torch.tensor([[[1.0, 3.0], [5.0, 100.0]], [[8.0, 100.0], [100.0, 100.0]], [[7.0, 7.0], [7.0, 7.0]]])
    counts = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]], [[False, False]] * 2])[
        :, None
    ]
    assert float(masked_mean(values, counts)) == pytest.approx((3 + 8 + 0) / 3)
    assert float(masked_mean(values[:, 0, 0], None)) == pytest.approx((1 + 8 + 7) / 3)


def test_a_stage_is_trained_by_its_own_loader_schedule_and_name(cohort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = nn.Conv2d(1, 2, 1).eval()
    context = a_context(schedule={"poly": {}})
    phase = Phase(1, cohort, ("a",))
    step, batches, steps = stage_training(network, phase, context)
    assert network.training
    assert step.schedule is not None
    assert steps == 3
    assert batches.seeds == context.loader_seeds("stage-2")
    told: dict[str, Any] = {}
    monkeypatch.setattr(stream, "train_with_checkpoints", lambda *_, **given: told.update(given) or iter(()))
    stage = Stage("stage-2")
    list(train_stage(network, phase, context, VESSEL.objective, stage))
    assert (told["name"], told["along"], told["steps"]) == ("stage-2", [stage], 3)
    assert replace(phase, number=0).name == "stage-1"
