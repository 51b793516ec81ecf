"""Segmentation metrics against MONAI on random blobs."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from allograft.metrics.segmentation import average_surface_distance, case_metrics, dice, hausdorff95, iou

monai_metrics = pytest.importorskip("monai.metrics")

SHAPES = [
    ((40, 33), (1.0, 1.0)),
    ((40, 33), (0.7, 2.5)),
    ((12, 22, 19), (1.0, 1.0, 1.0)),
    ((12, 22, 19), (5.0, 0.8, 1.3)),
]


def _blobs(shape, seed):
    field = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = torch.from_numpy(gaussian_filter(field.numpy(), 2.0))
    return smooth > smooth.quantile(0.7)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_against_monai(shape, spacing, seed):
    prediction, target = _blobs(shape, 2 * seed), _blobs(shape, 2 * seed + 1)
    batch = (prediction[None, None], target[None, None])
    options = {"include_background": True, "spacing": spacing}
    assert dice(prediction, target) == pytest.approx(monai_metrics.compute_dice(*batch).item(), rel=1e-6)
    assert iou(prediction, target) == pytest.approx(monai_metrics.compute_iou(*batch).item(), rel=1e-6)
    hausdorff = monai_metrics.compute_hausdorff_distance(*batch, percentile=95, directed=False, **options).item()
    assert hausdorff95(prediction, target, spacing) == pytest.approx(hausdorff, rel=1e-5)
    average = monai_metrics.compute_average_surface_distance(*batch, symmetric=True, **options).item()
    assert average_surface_distance(prediction, target, spacing) == pytest.approx(average, rel=1e-5)


def test_classes_against_monai():
    spacing = (0.7, 2.5)
    prediction, target = (_blobs((40, 33), seed).long() + _blobs((40, 33), seed + 1).long() for seed in (20, 30))
    ours = case_metrics(prediction, target, ["one", "two"], torch.tensor(spacing))
    one_hot = [torch.nn.functional.one_hot(labels, 3).movedim(-1, 0)[None] for labels in (prediction, target)]
    theirs = monai_metrics.compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)[0]
    overlap = monai_metrics.compute_dice(*one_hot, include_background=False)[0]
    assert [ours["hd95/one"], ours["hd95/two"]] == pytest.approx(theirs.tolist(), rel=1e-5)
    assert ours["dice"] == pytest.approx(overlap.mean().item(), rel=1e-6)
