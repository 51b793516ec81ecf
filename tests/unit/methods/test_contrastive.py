"""Contrastive pre-training: its loss, its views, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, a_context, write_photographs

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.contrastive import SECOND, Contrastive, TwoViews
from allograft.networks import Network, build
from allograft.nn.contrastive import nt_xent
from allograft.nn.ssim import ssim
from allograft.parts.pretexts import RANGE
from allograft.recipe import Scenario

CONTRACT = {
    "arguments": {"drop": 1.0},  # as the study's schedule in the contract would be
    "study": {"pool": ["a", "d", "b"]},
    "options": {
        "temperature": 0.1,
        "augmentation": "light",
        "epochs": 1,
        "drop": 0.34,
        "held_out": 0.6,
        "ssim": {"window": 7},
    },
    "own_settings": ("augmentation",),
    "marks": (),
}


def a_case(size: int = 24) -> Batch:
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(5))
    return Batch(image, torch.tensor([0]), ("a",), subjects=("a",))


def a_network() -> Network:
    torch.manual_seed(0)
    unet = {"in_channels": 1, "outputs": {"paired": 1}, "channels": [4, 8], "num_res_units": 1}
    network = build({"build": {"unet": unet}})
    assert isinstance(network, Network)
    return network


def test_two_views_are_of_one_crop_and_are_drawn_apart() -> None:
    case, patch = a_case(), (12, 12)
    still = TwoViews("none", patch)(case, torch.Generator().manual_seed(1))
    assert torch.equal(still.image, still.views[SECOND])
    corners = [(i, j) for i in range(13) for j in range(13) if torch.equal(still.image, window(case.image, i, j))]
    assert len(corners) == 1
    elsewhere = TwoViews("none", patch)(case, torch.Generator().manual_seed(2))
    assert not torch.equal(elsewhere.image, still.image)
    for strength in ("light", "strong"):
        moved = TwoViews(strength, patch)(case, torch.Generator().manual_seed(1))
        assert not torch.equal(moved.image, moved.views[SECOND])
    again = TwoViews("strong", patch)(case, torch.Generator().manual_seed(1))
    assert torch.equal(again.views[SECOND], moved.views[SECOND])
    assert again.attributes[RANGE].item() == pytest.approx((case.image.max() - case.image.min()).item())


def window(image: torch.Tensor, i: int, j: int) -> torch.Tensor:
    return image[..., i : i + 12, j : j + 12]


def test_the_objective_is_the_papers_of_both_views() -> None:
    network, rng = a_network(), torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 3, 1, 16, 16, generator=rng).unbind()
    spans = torch.tensor([1.0, 2.0, 3.0])
    batch = Batch(first, torch.zeros(3).long(), tuple("abc"), attributes={RANGE: spans}, views={SECOND: second})
    terms = Contrastive(temperature=0.2).objective(network, batch)
    made = [network(image)["paired"] for image in (first, second)]
    missed = [(1 - ssim(one, image, spans)).mean() for one, image in zip(made, (first, second), strict=True)]
    torch.testing.assert_close(terms["restoration"], (missed[0] + missed[1]) / 2, rtol=1e-4, atol=1e-5)
    pooled = [network.encoder(image)[-1].mean((2, 3)) for image in (first, second)]
    torch.testing.assert_close(terms["contrast"], nt_xent(*pooled, 0.2), rtol=1e-4, atol=1e-5)


def test_no_batch_shows_a_subject_as_its_own_negative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_photographs(tmp_path, {"a": 6}, per_subject=3)
    cohort = Cohort.read(manifest, VESSEL.coding, preprocessing=Preprocessing()).unlabelled()
    seen: list[tuple[str, ...]] = []
    real = Contrastive.objective

    def watched(self: Contrastive, network: Any, batch: Batch) -> Any:
        seen.append(batch.subjects)
        return real(self, network, batch)

    monkeypatch.setattr(Contrastive, "objective", watched)
    context = a_context(budget=Budget(steps=10, batch_size=5))
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    assert list(context.run(Contrastive(held_out=0.2), Scenario(pool=(cohort,), sites=("a",)), network))
    assert len(seen) == 10
    assert all(len(set(subjects)) == 5 for subjects in seen)


def test_a_batch_without_negatives_is_refused(tmp_path: Path) -> None:
    cohort = Cohort.read(write_photographs(tmp_path, {"a": 4}), VESSEL.coding, preprocessing=Preprocessing())
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    for size in (1, 4):
        context = a_context(budget=Budget(batch_size=size))
        with pytest.raises(SpecError, match=f"a batch of {size} from 3 subjects; expected 2 to 3"):
            Contrastive().check(Scenario(pool=(cohort.unlabelled(),), sites=("a",)), network, context)
    alone = Scenario(pool=(cohort.of(["a0"]).unlabelled(),), sites=("a",))
    with pytest.raises(SpecError, match=r"the pool has one subject, and held_out: 0\.2 sets at least one aside"):
        Contrastive(held_out=0.2).check(alone, network, a_context())
