"""The distance of restored images to true ones: which images, by which features, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context, read, write_photographs
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.errors import TrainingError
from allograft.metrics.frechet import frechet_distance
from allograft.parts import restorations
from allograft.parts.restorations import frechet_by_start
from allograft.seeds import Seeds


class Start(nn.Module):
    """An encoder whose last feature has two channels; the first one is of something else."""

    def encoder(self, image: Tensor) -> list[Tensor]:
        assert not self.training
        return [image + 7, torch.cat([image, image.square()], 1)[..., ::2, :]]


def test_images_all_over_the_pool_are_compared_by_means_of_the_last_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 4, "b": 3})).unlabelled()
    pool, start, other = [cohort.site("a"), cohort.site("b")], Start().train(), nn.Dropout().train()
    seen: list[tuple[str, float]] = []

    def sample(case: Batch, rng: torch.Generator) -> Batch:
        seen.append((case.cases[0], float(torch.rand((), generator=rng))))
        return replace(case, image=case.image / 255)

    def restore(batch: Batch) -> dict[str, Tensor]:
        assert not other.training
        return {"distorted": batch.image * 0, "restored": batch.image.sqrt(), "true": batch.image}

    def measured(context: Any, pool: Any = pool, restore: Any = restore) -> dict[str, float]:
        return frechet_by_start(pool, sample, restore, start, context, other)  # type: ignore[arg-type]

    monkeypatch.setattr(restorations, "MOST", 3)
    found = measured(a_context())
    names = ["a0.png", "a3.png", "b2.png"]
    draws = [float(torch.rand((), generator=Seeds(0).rng("measured", number))) for number in range(3)]
    assert seen == list(zip(names, draws, strict=True))
    assert start.training
    assert other.training
    images = torch.cat([cohort.case(number).image / 255 for number in (0, 3, 6)])
    rows = [
        torch.stack([x[..., ::2, :].mean((1, 2, 3)), x[..., ::2, :].square().mean((1, 2, 3))], 1)
        for x in (images.sqrt(), images)
    ]
    assert found == {"frechet_start_encoder": pytest.approx(frechet_distance(rows[0], rows[1]), rel=1e-3)}
    assert set(measured(a_context(), [cohort.of(["a0", "a1"])])) == {"frechet_start_encoder"}
    assert measured(a_context(), [cohort.of(["a0"])]) == {}
    assert measured(replace(a_context(), rehearsal={})) == {}
    with pytest.raises(TrainingError, match="restored images are not finite"):
        measured(a_context(), restore=lambda batch: {"restored": batch.image / 0, "true": batch.image})
