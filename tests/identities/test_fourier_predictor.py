"""What the Fourier predictor must equal: doing nothing, one swap by hand, and the plain mean over
donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.fourier import Fourier, FourierPredictor
from allograft.parts import donors as donors_module
from allograft.parts.donors import SIZES, Donors
from allograft.transforms.fourier import crop_or_pad, low_amplitude, swap_amplitude, swap_kept_amplitude


@dataclass(frozen=True)
class Linear:
    """Two logits a pixel, and of the label, that depend on the image; it notes how many images each
    call had."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        self.calls.append(len(batch))
        assert len(batch.site) == len(batch.image) == len(batch.cases)
        mask = torch.cat([batch.image, -0.5 * batch.image + 0.1], dim=1)
        return {"mask": mask, "label": mask.flatten(2).amax(2), "paired": batch.image}


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _batch(image: Tensor) -> Batch:
    return Batch(image, torch.zeros(len(image), dtype=torch.int64), tuple(f"case-{n}" for n in range(len(image))))


@pytest.fixture
def batch() -> Batch:
    return _batch(_images(2, 1, 16, 12))


@pytest.fixture
def donors() -> Tensor:
    return 3.0 + 2.0 * _images(3, 1, 16, 12, seed=1)


def _by_hand(batch: Batch, donors: Tensor, beta: float) -> list[Mapping[str, Tensor]]:
    return [Linear()(replace(batch, image=swap_amplitude(batch.image, donor, beta))) for donor in donors]


def test_beta_zero_is_doing_nothing(batch: Batch, donors: Tensor) -> None:
    found = FourierPredictor(Linear(), low_amplitude(donors, 0.0), 0.0)(batch)
    assert torch.equal(found["mask"], Linear()(batch)["mask"])


def test_the_image_as_its_own_donor_changes_nothing(batch: Batch) -> None:
    one = batch[:1]
    found = FourierPredictor(Linear(), low_amplitude(one.image, 0.3), 0.3)(one)["mask"].softmax(1)
    torch.testing.assert_close(found, Linear()(one)["mask"].softmax(1))


@pytest.mark.parametrize("contains_images", [False, True])
def test_it_is_the_mean_probability_over_donors(contains_images: bool, batch: Batch, donors: Tensor) -> None:
    style = donors if contains_images else low_amplitude(donors, 0.3)
    found = FourierPredictor(Linear(), style, 0.3, contains_images=contains_images)(batch)
    each = _by_hand(batch, donors, 0.3)
    for key in ("mask", "label"):
        expected = sum(one[key].softmax(1) for one in each) / len(each)
        torch.testing.assert_close(found[key].exp(), expected)  # a logarithm of probabilities
        assert (found[key].softmax(1) - Linear()(batch)[key].softmax(1)).abs().max() > 0.01
    torch.testing.assert_close(found["paired"], sum(one["paired"] for one in each) / len(each))


def test_of_several_labels_the_mean_is_that_of_their_sigmoids(batch: Batch, donors: Tensor) -> None:
    found = FourierPredictor(Linear(), low_amplitude(donors, 0.3), 0.3, several=True)(batch)
    each = _by_hand(batch, donors, 0.3)
    torch.testing.assert_close(found["label"].sigmoid(), sum(one["label"].sigmoid() for one in each) / len(each))
    torch.testing.assert_close(found["mask"].softmax(1), sum(one["mask"].softmax(1) for one in each) / len(each))
    sure = FourierPredictor(Linear(), low_amplitude(donors, 0.3), 0.3, several=True)(
        replace(batch, image=1000 * batch.image)
    )
    assert bool(sure["label"].isfinite().all())


def test_the_order_of_donors_does_not_matter(batch: Batch, donors: Tensor) -> None:
    one, other = (FourierPredictor(Linear(), low_amplitude(each, 0.3), 0.3)(batch) for each in (donors, donors.flip(0)))
    torch.testing.assert_close(one["mask"], other["mask"])


def test_all_donors_go_in_one_call(batch: Batch, donors: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Linear()
    whole = FourierPredictor(inner, low_amplitude(donors, 0.3), 0.3)(batch)
    assert inner.calls == [6]
    monkeypatch.setattr("allograft.parts.versions.PIXELS", 4 * 16 * 12 + 5)
    parts = FourierPredictor(inner, low_amplitude(donors, 0.3), 0.3)(batch)
    assert inner.calls == [6, 4, 2]
    torch.testing.assert_close(parts["mask"], whole["mask"])


def test_batch_is_loop_of_singles_with_a_search() -> None:
    scans = _images(5, 1, 1, 40, 44, seed=1)
    found = Donors.from_scans(list(scans), "2d", 2)
    predictor = FourierPredictor(Linear(), low_amplitude(scans[:, 0], 0.1), 0.1, donors=found)
    batch = _batch(_images(3, 1, 40, 44))
    alone = torch.cat([predictor(batch[n : n + 1])["mask"] for n in range(3)])
    torch.testing.assert_close(predictor(batch)["mask"], alone)


@pytest.mark.parametrize("search", ["2d", "2.5d", "3d"])
def test_a_source_image_finds_itself_and_stays(search: Any) -> None:
    scans = list(_images(4, 3, 2, 40, 44, seed=1))  # four scans, three slices, two channels
    found = Donors.from_scans(scans, search, 1)
    style = low_amplitude(torch.cat(scans), 0.3)
    volume = _batch(scans[2].transpose(0, 1)[None])
    seen: list[Tensor] = []

    def inner(batch: Batch) -> Mapping[str, Tensor]:
        seen.append(batch.image)
        return {"mask": batch.image}

    FourierPredictor(inner, style, 0.3, donors=found)(volume)
    torch.testing.assert_close(seen[0], volume.image)
    FourierPredictor(inner, torch.cat(scans), 0.3, contains_images=True, donors=found)(volume)
    torch.testing.assert_close(seen[1], volume.image)


def test_each_slice_of_a_volume_takes_its_own_donors() -> None:
    scans = list(_images(4, 3, 2, 40, 44, seed=1))
    found = Donors.from_scans(scans, "2d", 2)
    style = low_amplitude(torch.cat(scans), 0.3)
    volume = _batch(_images(1, 2, 3, 40, 44))
    chosen = found.nearest(volume)[0]  # (count, slices)
    seen: list[Tensor] = []

    def inner(batch: Batch) -> Mapping[str, Tensor]:
        seen.append(batch.image)
        return {"mask": batch.image}

    FourierPredictor(inner, style, 0.3, donors=found)(volume)
    for donor, slices in zip(seen[0], chosen, strict=True):
        for place, source in enumerate(slices.tolist()):
            expected = swap_amplitude(volume.image[0, :, place], torch.cat(scans)[source], 0.3)
            torch.testing.assert_close(donor[:, place], expected)


def test_a_black_image_takes_phase_zero_and_stays_finite(donors: Tensor) -> None:
    black = _batch(torch.zeros(1, 1, 16, 12))
    found = FourierPredictor(Linear(), low_amplitude(donors, 0.3), 0.3)(black)
    expected = sum(one["mask"].softmax(1) for one in _by_hand(black, donors, 0.3)) / 3
    torch.testing.assert_close(found["mask"].softmax(1), expected)
    scans = _images(3, 1, 1, 40, 44, seed=1)
    searched = FourierPredictor(
        Linear(), low_amplitude(scans[:, 0], 0.1), 0.1, donors=Donors.from_scans(list(scans), "2d", 2)
    )
    assert bool(searched(_batch(torch.zeros(1, 1, 40, 44)))["mask"].isfinite().all())


def test_donors_that_do_not_fit_are_named(batch: Batch, donors: Tensor) -> None:
    rgb = replace(batch, image=batch.image.expand(-1, 3, -1, -1))
    with pytest.raises(SpecError, match=r"images have \(channels, slices\) \(3,\), donors \(1,\)"):
        FourierPredictor(Linear(), low_amplitude(donors, 0.3), 0.3)(rgb)
    volume = replace(batch, image=_images(2, 1, 5, 16, 12))
    with pytest.raises(SpecError, match=r"\(1, 5\), donors \(1,\)"):
        FourierPredictor(Linear(), low_amplitude(donors, 0.3), 0.3)(volume)
    with pytest.raises(SpecError, match="same beta"):
        FourierPredictor(Linear(), low_amplitude(donors, 0.3), 0.1)(batch)
    with pytest.raises(SpecError, match="'boxes' has no mean"):
        FourierPredictor(lambda one: {"boxes": ()}, low_amplitude(donors, 0.3), 0.3)(batch)


def test_the_papers_settings_are_the_defaults() -> None:
    assert (Fourier().beta, Fourier().donors, Fourier().search) == (0.01, 7, "2d")


@pytest.mark.parametrize("beta", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("size", [(16, 12), (15, 11), (33, 48)])
def test_kept_amplitudes_swap_as_the_donor_itself_does(size: tuple[int, int], beta: float) -> None:
    image, style = _images(2, 1, 2, *size), _images(3, 2, *size, seed=1)
    assert torch.equal(swap_kept_amplitude(image, low_amplitude(style, beta), beta), swap_amplitude(image, style, beta))
    with pytest.raises(SpecError, match="same beta"):
        swap_kept_amplitude(image, low_amplitude(style, beta)[..., :-1], beta)


@pytest.mark.parametrize("search", ["2d", "3d", None])
def test_a_donor_is_transformed_once_for_a_size(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is predicted is to the bit what cutting and transforming the donors anew for each image
    gives."""
    transformed: list[tuple[int, ...]] = []

    def counted(style: Tensor, beta: float) -> Tensor:
        transformed.append(tuple(style.shape))
        return low_amplitude(style, beta)

    monkeypatch.setattr(donors_module, "low_amplitude", counted)
    scans = _images(4, 3, 1, 40, 44, seed=1)
    found = None if search is None else Donors.from_scans(list(scans), search, 2)
    style = scans[:, 0] if search is None else scans.flatten(0, 1)
    seen: list[Tensor] = []

    def inner(batch: Batch) -> Mapping[str, Tensor]:
        seen.append(batch.image)
        return {"mask": batch.image}

    predictor = FourierPredictor(inner, style, 0.3, contains_images=True, donors=found)
    first, other = _batch(_images(2, 1, 40, 44)), _batch(_images(1, 1, 37, 50))

    def by_hand(batch: Batch) -> Tensor:
        chosen = style[None] if found is None else style[found.nearest(batch)]
        return swap_amplitude(batch.image[:, None], crop_or_pad(chosen, batch.image.shape[-2:]), 0.3).flatten(0, 1)

    def asked(batch: Batch) -> int:
        return len(style) if found is None else len(found.nearest(batch).unique())

    for batch, new in ((first, asked(first)), (first, 0), (other, asked(other)), (first[:1], 0), (other, 0)):
        before = len(transformed)
        predictor(batch)
        assert torch.equal(seen[-1], by_hand(batch))
        assert len(transformed) - before == new
        assert all(shape == (1, *batch.image.shape[-2:]) for shape in transformed[before:])


def test_spectra_are_kept_of_the_last_sizes_only(donors: Tensor) -> None:
    predictor = FourierPredictor(Linear(), donors, 0.3, contains_images=True)
    sizes = [(16 + n, 12) for n in range(SIZES + 2)]
    for size in (*sizes, sizes[-SIZES]):  # the last is asked for again, and goes to the end
        predictor(_batch(_images(1, 1, *size)))
    assert [size for size, _ in predictor._spectra.kept] == [*sizes[-SIZES + 1 :], sizes[-SIZES]]
    assert all(len(known) == len(donors) for known in predictor._spectra.kept.values())


def test_each_slice_of_a_volume_of_another_size_takes_its_own_donors() -> None:
    scans = list(_images(4, 3, 2, 40, 44, seed=1))
    found = Donors.from_scans(scans, "2d", 2)
    volume = _batch(_images(1, 2, 3, 36, 50))
    chosen = found.nearest(volume)[0]  # (count, slices)
    seen: list[Tensor] = []

    def inner(batch: Batch) -> Mapping[str, Tensor]:
        seen.append(batch.image)
        return {"mask": batch.image}

    FourierPredictor(inner, torch.cat(scans), 0.3, contains_images=True, donors=found)(volume)
    for donor, slices in zip(seen[0], chosen, strict=True):
        for place, source in enumerate(slices.tolist()):
            expected = swap_amplitude(volume.image[0, :, place], crop_or_pad(torch.cat(scans)[source], (36, 50)), 0.3)
            assert torch.equal(donor[:, place], expected)
