"""Who is held out of a training: subjects, never images, and each on one side only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context, write_photographs, write_rows
from torch import nn

from allograft.batch import Batch, collate
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.networks import build
from allograft.parts.held_out import HeldOutStep, mean_loss, split_subjects


def test_a_patient_of_two_sites_is_on_one_side(tmp_path: Path) -> None:
    """Every subject is seen at both sites, so all images of a site are split as those of the other."""
    rows = [
        {"image": f"{site}{number}.png", "mask": f"{site}{number}-mask.png", "subject": f"p{number}", "site": site}
        for site in "ab"
        for number in range(6)
    ]
    write_photographs(tmp_path, {"a": 6, "b": 6})
    cohort = Cohort.read(write_rows(tmp_path / "both.csv", rows), VESSEL.coding)
    sites = [cohort.site(name) for name in "ab"]
    kept, out = split_subjects(sites, 0.5, a_context(), "stain_aglr")
    assert {len(view) for view in (*kept, *out)} == {3}
    assert not {s for view in kept for s in view.subjects} & {s for view in out for s in view.subjects}


def test_one_subject_cannot_be_split_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path / "c", {"a": 1}), VESSEL.coding)
    with pytest.raises(SpecError, match=r"sissi: 1 subject.*or set start: early-learning"):
        split_subjects([cohort], 0.2, a_context(), "sissi", instead="set start: early-learning")


def test_the_loss_is_a_mean_over_images_of_all_cohorts_without_dropout(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path, {"a": 3, "b": 2}), VESSEL.coding)
    torch.manual_seed(0)
    network: Any = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "dropout": 0.5}}}
    )
    network.train()
    found = mean_loss(network, VESSEL, [cohort.site("a"), cohort.site("b")], a_context())  # batches of 2, 1 and 2
    assert network.training
    network.eval()
    batches = [collate([cohort.case(index) for index in part]) for part in ((0, 1), (2,), (3, 4))]
    losses = [float(sum(VESSEL.objective(network, batch).values())) for batch in batches]
    assert found == pytest.approx((2 * losses[0] + losses[1] + 2 * losses[2]) / 5)
    assert found != pytest.approx(sum(losses) / 3)
    singles = [float(sum(VESSEL.objective(network, cohort.case(index)).values())) for index in range(5)]
    in_crops = mean_loss(network, VESSEL, [cohort], a_context(patch=(8, 8)))
    assert in_crops == pytest.approx(sum(singles) / 5)  # one by one, since sizes may differ


def test_the_share_is_of_all_subjects_and_one_at_least_is_on_either_side(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path, {"a": 4, "b": 6}), VESSEL.coding)
    sites = [cohort.site(name) for name in "ab"]
    for share, count in ((0.0, 1), (0.3, 3), (1.0, 9)):
        kept, out = split_subjects(sites, share, a_context(), "sissi")
        assert [sum(map(len, part)) for part in (kept, out)] == [10 - count, count]


@pytest.mark.parametrize(("losses", "best"), [([0.5, 0.4, 0.4, 0.6], 4.0), ([0.5, 0.6, 0.7, 0.3], 7.0)])
def test_the_loss_is_taken_after_each_epoch_and_the_last_step_and_the_first_least_is_kept(
    losses: list[float], best: float
) -> None:
    """Seven steps in epochs of two; each step adds 1 to the weight."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer, told, seen = torch.optim.SGD(layer.parameters(), 1.0), iter(losses), list[float]()

    def stepped(batch: Batch) -> Any:
        with torch.no_grad():
            layer.weight += 1.0
        return {}

    members = {"network": layer, "optimizer": optimizer, "__call__": lambda self, batch: stepped(batch)}
    step: Any = type("Step", (), members)()
    scheduler: Any = SimpleNamespace(step=seen.append)
    watched = HeldOutStep(step, lambda: next(told), scheduler, every=2, total=7)
    assert watched.best.weight.item() == 0
    for _ in range(7):
        watched(None)  # type: ignore[arg-type]
    assert seen == losses
    assert (watched.best.weight.item(), watched.lowest) == (best, min(losses))
    assert watched.learning_rate == 1.0
