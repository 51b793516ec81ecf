from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allograft.errors import SpecError
from allograft.transforms.genesis import (
    Genesis,
    Shuffle,
    Windows,
    bezier_curve,
    draw_curve,
    draw_inner,
    draw_outer,
    draw_shuffle,
    paint_in,
    paint_out,
    remap_intensity,
    shuffle_pixels,
)

SHAPES = [(32, 24), (18, 12, 20)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looped(image: torch.Tensor, drawn: Shuffle) -> torch.Tensor:
    """Block after block, pixel after pixel."""
    out, at = image.clone(), 0
    for start, size in zip(drawn.blocks.start.tolist(), drawn.blocks.size.tolist(), strict=True):
        box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        window = image[(slice(None), *box)]
        pixels = window.reshape(len(image), -1)
        length = pixels.shape[1]
        order = drawn.order[at : at + length]
        at += length
        out[(slice(None), *box)] = torch.stack([row[order] for row in pixels]).view(window.shape)
    assert at == len(drawn.order)
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_shuffling_is_a_loop_over_blocks(shape: tuple[int, ...]) -> None:
    image = torch.rand(2, *shape, generator=rng())
    drawn = draw_shuffle(shape, rng(1), count=60, share=3)
    torch.testing.assert_close(shuffle_pixels(image, drawn=drawn), looped(image, drawn), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_order_is_a_permutation_of_its_block(shape: tuple[int, ...], channels: int) -> None:
    drawn = draw_shuffle(shape, rng(), count=25, channels=channels, share=4)
    at = 0
    for length in (drawn.blocks.size.prod(1) * channels).tolist():
        assert sorted(drawn.order[at : at + length].tolist()) == list(range(length))
        at += length
    assert at == len(drawn.order)


def test_every_permutation_is_as_likely() -> None:
    drawn = draw_shuffle((1, 3), rng(), count=6000, share=1)
    whole = (drawn.blocks.size == torch.tensor([1, 3])).all(1)
    length = drawn.blocks.size.prod(1)
    first = length.cumsum(0) - length
    orders = torch.stack([drawn.order[first[whole] + place] for place in range(3)], 1)
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 6
    assert (counts / counts.sum() - 1 / 6).abs().max() < 0.03


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(2, 40), min_size=2, max_size=3), st.integers(0, 1000))
def test_windows_lie_inside_the_image(shape: list[int], seed: int) -> None:
    windows = [
        draw_shuffle(shape, rng(seed), count=20).blocks,
        draw_inner(shape, rng(seed)),
        draw_outer(shape, rng(seed)),
    ]
    for drawn in windows:
        assert (drawn.start >= 0).all()
        assert (drawn.size >= 1).all()
        assert (drawn.start + drawn.size <= torch.tensor(shape)).all()


def test_windows_have_the_papers_sizes() -> None:
    shape, inner, outer, shuffled = (70, 140), [], [], []
    for seed in range(200):
        inner.append(draw_inner(shape, rng(seed)).size)
        outer.append(draw_outer(shape, rng(seed)).size)
        shuffled.append(draw_shuffle(shape, rng(seed), count=10).blocks.size)
    for sizes, low, high in (
        (inner, [70 // 6, 140 // 6], [70 // 3, 140 // 3]),
        (outer, [70 - 40, 140 - 80], [70 - 30, 140 - 60]),
        (shuffled, [1, 1], [7, 14]),
    ):
        every = torch.cat(sizes)
        assert every.amin(0).tolist() == low
        assert every.amax(0).tolist() == high
    assert min(len(one) for one in outer) >= 1
    # a window is opened by chance 0.95 as long as the one before it was: 0.95^5 have all five
    assert abs(sum(len(one) == 5 for one in inner) / 200 - 0.95**5) < 0.1
    assert abs(sum(len(one) == 5 for one in outer) / 200 - 0.95**4) < 0.1


def test_a_rising_curve_rises_and_a_falling_one_inverts() -> None:
    for seed in range(50):
        points, _ = draw_curve(rng(seed))
        x, rising = bezier_curve(points)
        assert (x.diff() >= 0).all()
        assert (rising.diff() >= 0).all()
        assert rising[0] == 0
        assert rising[-1] == 1
        _, falling = bezier_curve(points, falls=True)
        assert falling[0] == 1
        assert falling[-1] == 0
    assert 60 < sum(draw_curve(rng(seed))[1] for seed in range(200)) < 140


def test_the_table_is_near_the_curve() -> None:
    image = torch.linspace(-0.1, 1.1, 20001)
    for seed in range(300):
        points, falls = draw_curve(rng(seed))
        exact = remap_intensity(image.double(), points=points, falls=falls)
        looked_up = remap_intensity(image, points=points, falls=falls, table=4096)
        assert (looked_up - exact).abs().max() < 0.01
        assert (looked_up - exact).abs().mean() < 1e-5
        if seed < 5:  # and it is the same curve, far from the steep ends
            middle = slice(6000, 14000)
            coarse = remap_intensity(image, points=points, falls=falls, table=64)
            assert (coarse[middle] - exact[middle]).abs().max() < 0.2


def test_a_straight_curve_changes_nothing() -> None:
    points = torch.tensor([[1 / 3, 1 / 3], [2 / 3, 2 / 3]])
    image = torch.rand(3, 8, 8, generator=rng())
    torch.testing.assert_close(remap_intensity(image, points=points), image, atol=1e-6, rtol=0)
    torch.testing.assert_close(remap_intensity(image, points=points, table=100), image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_inner_and_outer_painting_are_complements(shape: tuple[int, ...]) -> None:
    image, noise = torch.rand(2, *shape, generator=rng()), torch.rand(2, *shape, generator=rng(1))
    windows = draw_inner(shape, rng(2))
    inside = windows.inside(shape)
    inner, outer = paint_in(image, windows=windows, noise=noise), paint_out(image, windows=windows, noise=noise)
    torch.testing.assert_close(inner + outer, image + noise)
    assert torch.equal(inner[:, ~inside], image[:, ~inside])
    assert torch.equal(inner[:, inside], noise[:, inside])
    assert torch.equal(outer[:, inside], image[:, inside])


def test_noise_of_inner_windows_is_shared_by_channels() -> None:
    image = torch.stack([torch.zeros(32, 32), torch.ones(32, 32)])
    windows = draw_inner((32, 32), rng(3))
    inside = windows.inside((32, 32))
    inner = paint_in(image, rng(), windows=windows)
    assert torch.equal(inner[0][inside], inner[1][inside])
    outer = paint_out(image, rng(), windows=windows)
    assert not torch.equal(outer[0][~inside], outer[1][~inside])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mix_keeps_range_and_input_and_is_drawn_from_its_generator(shape: tuple[int, ...]) -> None:
    image = torch.randn(2, *shape, generator=rng()) * 40 - 7
    before, outside = image.clone(), torch.get_rng_state()
    mix = Genesis(shuffle=1, blocks=50)
    results = [mix(image, rng(seed)) for seed in range(8)]
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), outside)
    for seed, result in enumerate(results):
        assert result.shape == image.shape
        assert result.dtype == image.dtype
        assert result.min() >= image.min() - 1e-3
        assert result.max() <= image.max() + 1e-3
        assert torch.equal(result, mix(image, rng(seed)))
        assert not torch.equal(result, image)


def chances(**only: float) -> Genesis:
    return Genesis(**{"shuffle": 0, "remap": 0, "paint": 0, **only})  # type: ignore[arg-type]


def test_each_chance_opens_its_own_distortion() -> None:
    image = torch.rand(2, 32, 32, generator=rng())
    image[0, 0, 0], image[0, 0, 1] = 0, 1  # the range is [0, 1]
    assert torch.equal(chances()(image, rng()), image)
    for mixed in (False, True):
        shuffled = Genesis(1, 0, 0, mix_channels=mixed)(image, rng())
        assert set(shuffled.flatten().tolist()) <= set(image.flatten().tolist())
        assert (set(shuffled[0].flatten().tolist()) <= set(image[0].flatten().tolist())) is not mixed
    remapped = chances(remap=1)(image, rng())
    order = image.flatten().argsort()
    assert torch.equal(image[0] == image[1], remapped[0] == remapped[1])
    assert (remapped.flatten()[order].diff().abs() < 0.2).float().mean() > 0.9
    assert (chances(paint=1, inside=1)(image, rng()) == image).float().mean() > 0.4
    # outer: the border is never kept
    assert not (chances(paint=1, inside=0)(image, rng())[:, 0] == image[:, 0]).any()


def test_a_constant_image_stays() -> None:
    image = torch.full((1, 16, 16), 3.0)
    assert torch.equal(Genesis(1, 1, 1)(image, rng()), image)


@pytest.mark.parametrize("function", [shuffle_pixels, remap_intensity, paint_in, paint_out])
def test_draws_or_a_generator_must_be_given(function: Any) -> None:
    with pytest.raises(SpecError, match="neither a generator nor all draws"):
        function(torch.rand(1, 16, 16))


def test_an_order_of_another_length_is_refused() -> None:
    blocks = Windows(torch.tensor([[0, 0]]), torch.tensor([[2, 2]]))
    with pytest.raises(SpecError, match=r"found 5 entries .* expected 4, or 12 to mix"):
        shuffle_pixels(torch.rand(3, 4, 4), drawn=Shuffle(blocks, torch.arange(5)))
