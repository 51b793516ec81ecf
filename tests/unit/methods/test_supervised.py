"""Supervised: a row's own optimizer and length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import run, session_of, write_cohort

from allograft.errors import SpecError
from allograft.recipe import parse_recipe, title
from allograft.step import GradientStep

CONTRACT = {
    "options": {"augmentation": "none", "optimizer": {"sgd": {"lr": 0.1}}, "epochs": 2, "show_updates": True},
    "averages": True,
}


def test_a_row_may_have_its_own_optimizer_and_length_and_the_schedule_spans_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    real = GradientStep.__call__

    def watched(self: GradientStep, batch: Any) -> Any:
        seen.append((type(self.optimizer).__name__, self.optimizer.param_groups[0]["lr"]))
        return real(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", watched)
    request = {"supervised": {"epochs": 2, "optimizer": {"sgd": {"lr": 0.5}}}}
    budget = {"epochs": 5, "steps_per_epoch": 2, "adapt_steps": 1, "batch_size": 2}
    run(
        session_of(
            write_cohort(tmp_path / "cohort"),
            tmp_path / "out",
            request,
            budget=budget,
            schedule={"poly": {"power": 1.0}},
        )
    )
    assert [name for name, _ in seen] == ["SGD"] * 4
    assert [rate for _, rate in seen] == pytest.approx([0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": {"avagrand": {}}}, "avagrad"),
        ({"optimizer": {"adam": {}, "sgd": {}}}, "expected one"),
        ({"optimizer": {}}, "nothing"),
        ({"optimizer": {"adam": {"learning_rate": 1}}}, "learning_rate"),
        ({"optimizer": {"avagrad": {"eps": 0.0}}}, "eps is 0.0"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_what_no_row_takes_is_refused_when_the_study_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_recipe({"supervised": arguments})


def test_the_title_names_it() -> None:
    told = title(parse_recipe({"supervised": {"epochs": 5, "optimizer": {"avagrad": {"lr": 10.0}}}}))
    assert told == "supervised optimizer=avagrad(lr=10.0) epochs=5"


def test_the_title_does_not_depend_on_the_order_of_arguments() -> None:
    first, second = (
        {"lr": 10.0, "eps": 0.1},
        {"eps": 0.1, "lr": 10.0},
    )  # a kept study has them in order, a file as it likes
    titles = {title(parse_recipe({"supervised": {"optimizer": {"avagrad": each}}})) for each in (first, second)}
    assert titles == {"supervised optimizer=(avagrad(eps=0.1, lr=10.0))"}
