"""The donor search against loops over pairs of slices, written from the paper's section 3."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.metrics.similarity import SrsimReference, srsim
from allograft.parts.donors import Donors, comparable, draw_donors, source_scans

SIZE = (44, 40)


def _scans(*depths: int, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    blurred = [torch.nn.functional.avg_pool2d(torch.rand(d, 1, 50, 46, generator=rng), 7, stride=1) for d in depths]
    return [5 * one - 3 for one in blurred]


def _batch(image: Tensor, names: tuple[str, ...]) -> Batch:
    return Batch(image, torch.zeros(len(image), dtype=torch.int64), names)


def _grey(plane: Tensor) -> Tensor:
    """(C, H, W) -> (1, 1, H, W) in 0..1, by NumPy."""
    mean = plane.double().numpy().mean(0)
    return torch.from_numpy((mean - mean.min()) / np.ptp(mean))[None, None]


def _similarity(a: Tensor, b: Tensor) -> float:
    return float(srsim(_grey(a), _grey(b)))


def _expected(scans: list[Tensor], target: Tensor, search: str, count: int) -> list[list[int]]:
    """(slices, count) indices into the concatenated slices, for scans of one depth."""
    depth = len(target)
    index = lambda scan, place: scan * depth + place  # noqa: E731
    if search == "3d":
        whole = [sum(_similarity(scan[i], target[i]) for i in range(depth)) / depth for scan in scans]
        best = sorted(range(len(scans)), key=lambda scan: -whole[scan])[:count]
        return [[index(scan, i) for scan in best] for i in range(depth)]
    reach = {"2d": 0, "2.5d": 2}[search]
    chosen = []
    for i in range(depth):
        near = [(s, j) for s in range(len(scans)) for j in range(i - reach, i + reach + 1) if 0 <= j < depth]
        scored = sorted(near, key=lambda one: -_similarity(scans[one[0]][one[1]], target[i]))
        chosen.append([index(*one) for one in scored[:count]])
    return chosen


@pytest.mark.parametrize("search", ["2d", "2.5d", "3d"])
def test_volumes_and_slices_against_pairs(search: Any) -> None:
    scans, (target,) = _scans(6, 6, 6, 6), _scans(6, seed=1)
    expected = torch.tensor(_expected(scans, target, search, 3))
    volume = _batch(target.transpose(0, 1)[None], ("x",))
    assert torch.equal(Donors.from_scans(scans, search, 3).nearest(volume)[0], expected.T)
    slices = _batch(target, tuple(f"a#b/scan.nii.gz#{place}" for place in range(6)))
    assert torch.equal(Donors.from_scans(scans, search, 3, sliced=True).nearest(slices), expected)


@pytest.mark.parametrize("search", ["2d", "2.5d", "3d"])
def test_images_of_one_slice_are_ranked_whatever_the_mode(search: Any) -> None:
    scans, (target,) = _scans(1, 1, 1, 1, 1), _scans(1, seed=1)
    found = Donors.from_scans(scans, search, 7).nearest(_batch(target, ("x.png",)))
    scores = torch.tensor([_similarity(scan[0], target[0]) for scan in scans])
    assert torch.equal(found[0], scores.argsort(descending=True))  # five at most


def test_two_volumes_in_a_batch_do_not_see_each_other() -> None:
    scans, targets = _scans(3, 3, 3), _scans(3, 3, seed=1)
    donors = Donors.from_scans(scans, "3d", 2)
    both = donors.nearest(_batch(torch.stack([t.transpose(0, 1) for t in targets]), ("x", "x")))
    for found, target in zip(both, targets, strict=True):
        assert torch.equal(found, donors.nearest(_batch(target.transpose(0, 1)[None], ("x",)))[0])


def test_scans_of_other_depths_lend_their_nearest_slice() -> None:
    scans, (target,) = _scans(2, 5, 3), _scans(6, seed=1)
    volume = _batch(target.transpose(0, 1)[None], ("x",))
    of_slices = Donors.from_scans(scans, "2d", 3).nearest(volume)[0].T
    assert set(of_slices[0].tolist()) == {0, 2, 7}
    assert (
        of_slices[4, 0].item() == 6
    )  # the only one with a fifth slice comes first, then the nearest places of the others
    assert set(of_slices[5].tolist()) <= {5, 6, 9}
    of_scans = Donors.from_scans(scans, "3d", 3).nearest(volume)[0].T
    assert set(of_scans[4].tolist()) == {1, 6, 9}


def test_equal_donors_go_by_the_sources_order_and_their_number_by_the_source() -> None:
    scan, other = _scans(1, 1)
    donors = Donors.from_scans([other, scan, other, scan], "2d", 9)
    assert donors.nearest(_batch(scan, ("x",))).tolist() == [[1, 3, 0, 2]]
    assert [Donors.from_scans(_scans(4, 4), search, 99).count for search in ("2d", "2.5d", "3d")] == [2, 8, 2]  # type: ignore[arg-type]


def test_small_and_flat_images_are_compared_too() -> None:
    small = [scan[..., :32, :30] for scan in _scans(1, 1, 1)]
    donors = Donors.from_scans(small, "2d", 1)
    assert donors.compared == (40, 40)
    assert donors.nearest(_batch(small[1], ("x",))).item() == 1
    assert not comparable(torch.full((1, 3, 8, 8), 7.0), SIZE).any()
    ends = comparable(torch.stack([torch.arange(16.0).view(1, 4, 4), -9 * torch.arange(16.0).view(1, 4, 4)]), (4, 4))
    assert (ends.amin((1, 2, 3)).tolist(), ends.amax((1, 2, 3)).tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_scale_and_offset_of_a_target_do_not_matter() -> None:
    scans, (target,) = _scans(1, 1, 1, 1), _scans(1, seed=1)
    donors = Donors.from_scans(scans, "2d", 4)
    assert torch.equal(donors.nearest(_batch(target, ("x",))), donors.nearest(_batch(40 * target + 7, ("x",))))


def test_scores_among_some_are_those_of_all() -> None:
    images = torch.cat([comparable(scan, SIZE) for scan in _scans(5)])
    reference = SrsimReference.of(images)
    among = torch.tensor([4, 1])
    assert torch.equal(reference.scores(images[:1], among), reference.scores(images[:1])[among])


class _Cohort:
    """A cohort of arrays."""

    def __init__(self, *images: Tensor) -> None:
        self.images, self.cases = images, tuple(type("Case", (), {"name": f"c{n}"}) for n in range(len(images)))

    def __len__(self) -> int:
        return len(self.images)

    def unlabelled(self) -> _Cohort:
        return self

    def whole(self, which: int) -> Batch:
        return _batch(self.images[which], (f"c{which}",))

    def wholes(self) -> Iterator[Any]:
        for number, case in enumerate(self.cases):
            yield SimpleNamespace(case=case, batch=self.whole(number))

    case = whole


def test_sources_of_other_channels_or_slices_are_named() -> None:
    grey, rgb = _Cohort(torch.rand(1, 1, 8, 8)), _Cohort(torch.rand(1, 3, 8, 8))
    with pytest.raises(SpecError, match="'c0' has 3 channels, the first has 1"):
        list(source_scans([grey, rgb], "fourier"))  # type: ignore[list-item]
    with pytest.raises(SpecError, match=r"source image 'c0' has \(channels, slices\)"):
        draw_donors([grey, rgb], 2, torch.Generator().manual_seed(0))  # type: ignore[list-item]
    deep = _Cohort(torch.rand(1, 1, 4, 8, 8), torch.rand(1, 1, 5, 9, 8))
    with pytest.raises(SpecError, match=r"\(1, 4\).*preprocessing"):
        draw_donors([deep], 2, torch.Generator().manual_seed(1))  # type: ignore[list-item]
    assert [tuple(scan.shape) for scan in source_scans([deep], "fourier")] == [(4, 1, 8, 8), (5, 1, 9, 8)]  # type: ignore[list-item]


def test_drawn_donors_are_of_one_size_and_without_replacement() -> None:
    cohort = _Cohort(*(torch.full((1, 1, 4 + n, 6), float(n)) for n in range(5)))
    drawn = draw_donors([cohort], 9, torch.Generator().manual_seed(0))  # type: ignore[list-item]
    assert drawn.shape[0] == 5
    assert sorted(drawn.amax((1, 2, 3)).tolist()) == [0.0, 1.0, 2.0, 3.0, 4.0]
