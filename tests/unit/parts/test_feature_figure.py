"""The plane of pooled features: means over space, of images spread over the cohorts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.unit.tiny import a_context, write_photographs, write_rows

from allograft.cohort import Cohort
from allograft.figure import Points
from allograft.networks import build
from allograft.parts.feature_figure import show_features
from allograft.tasks.classification import Classification


def labelled(folder: Path, **sites: int) -> Cohort:
    """Images of three classes in turn."""
    write_photographs(folder, sites)
    rows = [
        {"image": f"{site}{n}.png", "label": "xyz"[n % 3], "subject": f"{site}{n}", "site": site}
        for site, count in sites.items()
        for n in range(count)
    ]
    return Cohort.read(write_rows(folder / "labels.csv", rows), Classification(("z", "y", "x")).coding)


def test_every_so_many_an_image_is_shown_by_the_mean_of_its_feature_its_site_and_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = SimpleNamespace(fit_transform=lambda values: values[:, :2])
    monkeypatch.setattr("sklearn.manifold.TSNE", lambda **_: plane)
    cohort, context = labelled(tmp_path, a=11, b=9), a_context()
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"label": 3}, "channels": [2, 6]}}})
    show_features(network, [cohort.site("a"), cohort.site("b")], context, most=10)  # type: ignore[arg-type]
    figure = context.meter.figures["features"]
    assert isinstance(figure, Points)
    assert figure.group == ("a",) * 6 + ("b",) * 5
    places = [*range(0, 11, 2), *range(0, 9, 2)]
    assert figure.colour == tuple("zyx".index("xyz"[place % 3]) for place in places)
    chosen = [index for index in range(11) if index % 2 == 0] + [11 + index for index in range(9) if index % 2 == 0]
    images = torch.cat([cohort.case(index).image for index in chosen])
    with torch.no_grad():
        features = network.eval().encoder(images)[-1].mean((2, 3))  # type: ignore[union-attr, operator]
    assert figure.x == pytest.approx(features[:, 0].tolist(), rel=1e-4)
    assert figure.y == pytest.approx(features[:, 1].tolist(), rel=1e-4)


@pytest.mark.parametrize(("count", "shown"), [(9, False), (10, True)])
def test_ten_images_are_enough(count: int, shown: bool, tmp_path: Path) -> None:
    context = a_context()
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"label": 3}, "channels": [2, 4]}}})
    show_features(network, [labelled(tmp_path, a=count)], context)  # type: ignore[arg-type]
    assert ("features" in context.meter.figures) is shown
