"""The picture of denoised features: one plane a moment, side by side, and the images in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context, write_photographs, write_rows
from torch import Tensor, nn

from allograft.cohort import Cohort
from allograft.figure import Points
from allograft.parts import denoising
from allograft.parts.denoising import _on_a_plane, show_denoising
from allograft.predictor.denoising import Moment
from allograft.tasks.classification import Classification


def test_each_moment_has_a_plane_of_its_own_with_both_axes_and_the_images_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(tmp_path, {"a": 7, "b": 5})
    names = [f"a{n}" for n in range(7)] + [f"b{n}" for n in range(5)]
    labels = ["z", "y", "y", "z", "z", "y", "y", "z", "z", "z", "y", "z"]
    rows = [
        {"image": f"{name}.png", "label": label, "subject": name, "site": name[0]}
        for name, label in zip(names, labels, strict=True)
    ]
    cohort = Cohort.read(write_rows(tmp_path / "labels.csv", rows), Classification(("z", "y")).coding)
    network, context = nn.Dropout(), a_context()
    seen: list[bool] = []

    def feature(image: Tensor, left: int) -> Tensor:
        flat = image.flatten(1)[:, : 40 + left].double()
        return torch.stack([flat.sin(), -flat], 1)  # of two samples the first

    def path(image: Tensor) -> Iterator[Moment]:
        seen.append(network.training)
        yield Moment(31, image, None)
        for left in range(30, -1, -1):
            yield Moment(left, image, feature(image, left))

    predictor: Any = SimpleNamespace(network=network.train(), steps=31, path=path)
    monkeypatch.setattr(denoising, "MOST", 6)
    show_denoising(predictor, [cohort.site("a"), cohort.site("b")], context)
    assert "denoising" not in context.meter.figures  # every second image makes seven, three fewer than shown
    monkeypatch.setattr(denoising, "FEWEST", 7)
    show_denoising(predictor, [cohort.site("a"), cohort.site("b")], context)
    assert set(seen) == {False}
    figure = context.meter.figures["denoising"]
    assert isinstance(figure, Points)
    shown = [0, 2, 4, 6, 7, 9, 11]
    moments = (30, 15, 3, 0)
    assert figure.group == tuple(f"{left} steps left" for left in moments for _ in shown)
    assert figure.colour == tuple("yz".index(labels[n]) for n in shown) * 4
    images = torch.cat([cohort.case(n).image for n in shown])
    for row, left in enumerate(moments):
        plane = _on_a_plane(feature(images, left)[:, 0], context)
        assert (plane.amin(0).tolist(), plane.amax(0).tolist()) == ([-1, -1], [1, 1])
        found = slice(len(shown) * row, len(shown) * (row + 1))
        assert figure.x[found] == pytest.approx([float(x) + 2.5 * row for x in plane[:, 0]])
        assert figure.y[found] == pytest.approx(plane[:, 1].tolist())
