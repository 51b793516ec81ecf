"""SR-SIM: what must be equal, piq pair by pair, and ranking with kept maps."""

from __future__ import annotations

import piq
import pytest
import torch
from torch import Tensor

from allograft.errors import SpecError
from allograft.metrics.similarity import SrsimReference, ordered, similarity_maps, srsim


def _images(count: int, height: int = 64, width: int = 72, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = torch.rand(count, 1, height + 6, width + 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.avg_pool2d(noise, 7, stride=1).to(dtype)


@pytest.mark.parametrize("size", [(40, 40), (61, 83), (120, 120), (300, 260), (400, 390), (641, 700)])
def test_piq_pair_by_pair(size: tuple[int, int]) -> None:
    x, y, z = _images(3, *size).split(1)
    found = srsim(torch.cat([x, z]), torch.cat([y, y]))
    expected = torch.stack([piq.srsim(x, y), piq.srsim(z, y)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(srsim(200 * x, 200 * y, data_range=200.0), found[:1])


def test_equal_images_score_one_and_the_order_of_a_pair_does_not_matter() -> None:
    x, y = _images(4).split(2)
    torch.testing.assert_close(srsim(x, x), torch.ones(2, dtype=x.dtype))
    torch.testing.assert_close(srsim(x, y), srsim(y, x))
    assert bool((srsim(x, y) < 0.99).all())


def test_a_batch_is_a_loop_of_pairs() -> None:
    x, y = _images(6).split(3)
    torch.testing.assert_close(
        srsim(x, y), torch.cat([srsim(a, b) for a, b in zip(x.split(1), y.split(1), strict=True)])
    )


def test_gradients_flow() -> None:
    x, y = _images(2).split(1)
    x.requires_grad_()
    srsim(x, y).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    step = 1e-4 * x.grad
    gained = srsim(x.detach() + step, y) - srsim(x.detach() - step, y)
    torch.testing.assert_close(gained, 2e-4 * x.grad.square().sum()[None], rtol=1e-2, atol=0)


def test_kept_maps_give_the_scores_of_pairs() -> None:
    images = _images(9)
    reference = SrsimReference.of(images[1:])
    assert len(reference) == 8
    expected = srsim(images[:1].expand(8, -1, -1, -1), images[1:])
    torch.testing.assert_close(reference.scores(images[:1]).double(), expected, rtol=0, atol=2e-6)
    assert torch.equal(reference.ranked(images[:1]), expected.argsort(descending=True))
    torch.testing.assert_close(SrsimReference.of(images[1:].split(3)).maps, reference.maps)


def test_ties_stand_in_the_references_order() -> None:
    a, b = _images(2).split(1)
    reference = SrsimReference.of(torch.cat([b, a, b, a, a, b]))
    assert reference.ranked(a).tolist() == [1, 3, 4, 0, 2, 5]


def test_scores_that_differ_by_rounding_are_ties() -> None:
    rounding = 1e-7 * torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert ordered(0.5 + rounding).tolist() == list(range(50))
    assert ordered(0.5 + 100 * rounding).tolist() != list(range(50))


def test_a_black_image_is_finite() -> None:
    black = torch.zeros(1, 1, 48, 48)
    image = _images(1, 48, 48, torch.float32)
    assert bool(srsim(black, image).isfinite())
    assert all(bool(one.isfinite().all()) for one in similarity_maps(black))


def test_wrong_arguments_are_named() -> None:
    image = _images(1)
    with pytest.raises(SpecError, match="one size"):
        srsim(image, _images(1, 64, 64))
    with pytest.raises(SpecError, match="at least 40"):
        srsim(image[..., :39], image[..., :39])
    with pytest.raises(SpecError, match="grey"):
        srsim(image.expand(1, 3, -1, -1), image.expand(1, 3, -1, -1))
    with pytest.raises(SpecError, match="data_range"):
        srsim(image, image, data_range=0)
    with pytest.raises(SpecError, match="crop"):
        SrsimReference.of(image).scores(_images(1, 64, 64))
    with pytest.raises(SpecError, match="one image"):
        SrsimReference.of(image).scores(_images(2))
