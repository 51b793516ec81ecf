"""What stain jitter must leave equal."""

from __future__ import annotations

import pytest
import torch

from allograft.errors import SpecError
from allograft.transforms.stain import StainJitter, hed_from_rgb, jitter_hed, rgb_from_hed


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_no_jitter_is_the_image(dtype: torch.dtype, atol: float) -> None:
    image = torch.rand(2, 6, 5, 3, generator=rng(), dtype=torch.float64).to(dtype)
    before = image.clone()
    found = jitter_hed(image, torch.zeros(3), torch.zeros(3))
    assert found.dtype == dtype
    torch.testing.assert_close(found, image, rtol=0, atol=atol)
    assert torch.equal(image, before)


def test_black_and_white_stay() -> None:
    image = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(jitter_hed(image, torch.zeros(3), torch.zeros(3)), image, rtol=0, atol=2e-6)


def test_white_has_no_stain_to_scale() -> None:
    white = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(jitter_hed(white, torch.tensor([0.2, -0.2, 0.1]), torch.zeros(3)), white)


def test_a_jitter_and_its_opposite_cancel() -> None:
    image = rgb_from_hed(0.02 + 0.1 * torch.rand(6, 5, 3, generator=rng(), dtype=torch.float64))
    scale, bias = torch.tensor([0.2, -0.1, 0.05]), torch.tensor([0.01, 0.02, 0.03])
    there = jitter_hed(image, scale, bias)
    back = jitter_hed(there, 1 / (1 + scale.double()) - 1, -bias.double() / (1 + scale.double()))
    torch.testing.assert_close(back, image)


def test_one_stain_changes_alone() -> None:
    image = rgb_from_hed(0.02 + 0.1 * torch.rand(6, 5, 3, generator=rng(), dtype=torch.float64))
    found = hed_from_rgb(jitter_hed(image, torch.tensor([0.0, 0.5, 0.0]), torch.zeros(3)))
    torch.testing.assert_close(found, hed_from_rgb(image) * torch.tensor([1.0, 1.5, 1.0], dtype=torch.float64))


def test_a_batch_is_a_loop_of_images() -> None:
    image = torch.rand(5, 3, 7, 6, generator=rng(), dtype=torch.float64)
    scale, bias = StainJitter("strong").draw(5, rng(1))
    found = StainJitter("strong").apply(image, scale, bias)
    for i in range(5):
        torch.testing.assert_close(found[i].movedim(0, -1), jitter_hed(image[i].movedim(0, -1), scale[i], bias[i]))
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize(("preset", "limit"), [("light", 0.05), ("strong", 0.2)])
def test_draws_fill_the_presets_range_for_each_image_and_stain(preset: str, limit: float) -> None:
    scale, bias = StainJitter(preset).draw(400, rng())  # type: ignore[arg-type]
    for drawn in (scale, bias):
        assert drawn.shape == (400, 3)
        assert drawn.abs().max() <= limit
        assert (drawn.amin(0) < -0.95 * limit).all()
        assert (drawn.amax(0) > 0.95 * limit).all()
    assert not torch.equal(scale, bias)
    assert torch.equal(scale, StainJitter(preset).draw(400, rng())[0])  # type: ignore[arg-type]


def test_gradients_pass() -> None:
    image = (0.2 + 0.6 * torch.rand(2, 3, generator=rng(), dtype=torch.float64)).requires_grad_()
    scale = torch.tensor([0.1, -0.1, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: jitter_hed(x, scale, 0.1 * scale), image)


def test_what_does_not_fit_is_refused() -> None:
    zeros = torch.zeros(3)
    for image in (torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)):
        with pytest.raises(SpecError, match="channels last"):
            jitter_hed(image, zeros, zeros)
    with pytest.raises(SpecError, match="one draw"):
        StainJitter().apply(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(SpecError, match="strong"):
        StainJitter("stronk")  # type: ignore[arg-type]
