"""Turns, permutations and blocks: what must be equal, and what must differ."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.pretraining import rng

from allograft.errors import SpecError
from allograft.transforms.pretexts import (
    blocks,
    clear_centre,
    permutation_set,
    shuffle_blocks,
    turn,
    turn_blocks,
    turns,
)


@pytest.mark.parametrize("dims", [2, 3])
def test_turns_are_distinct_and_four_quarters_are_the_identity(dims: int) -> None:
    image = torch.randn(2, *(6,) * dims, generator=rng())
    every = [turn(image, label) for label in range(len(turns(dims)))]
    assert len(every) == {2: 4, 3: 10}[dims]
    assert torch.equal(every[0], image)
    for one, other in product(range(len(every)), repeat=2):
        assert torch.equal(every[one], every[other]) is (one == other)
    for label in range(1, len(every), 3):  # a quarter in each plane
        turned = image
        for count in range(1, 5):
            turned = turn(turned, label)
            assert torch.equal(turned, every[label + count - 1] if count < 4 else image)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_turn_keeps_the_axes_outside_its_plane(dims: int) -> None:
    image = torch.randn(1, *(4,) * dims, generator=rng())
    for label, (plane, quarters) in enumerate(turns(dims)):
        if not quarters:
            continue
        (outside,) = set(range(dims)) - set(plane) or {None}
        if outside is not None:
            for place in range(4):
                alone = image.select(outside + 1, place)
                assert torch.equal(turn(image, label).select(outside + 1, place), turn(alone, quarters))


def test_permutations_are_as_far_apart_as_stated() -> None:
    """The released table of 1000 holds pairs at distance 2."""
    for count, least, mean in ((50, 7, 7.13), (336, 5, 7.02), (1000, 4, 7.0)):
        rows = permutation_set(8, count)
        assert rows.shape == (count, 8)
        assert torch.equal(rows.sort(1).values, torch.arange(8).expand(count, 8))
        apart = (rows[:, None] != rows[None]).sum(2)[~torch.eye(count, dtype=torch.bool)]
        assert int(apart.min()) == least
        assert float(apart.double().mean()) > mean
    assert torch.equal(permutation_set(8, 50), permutation_set(8, 1000)[:50])
    assert permutation_set(4, 1000).shape == (24, 4)  # all there are
    assert len({tuple(row) for row in permutation_set(4, 1000).tolist()}) == 24


def test_every_permutation_is_the_farthest_that_was_left() -> None:
    """A slow loop over all of them."""
    every = [list(row) for row in product(range(4), repeat=4) if sorted(row) == list(range(4))]
    chosen = [list(range(4))]
    for _ in range(9):
        left = [row for row in every if row not in chosen]
        apart = [[sum(a != b for a, b in zip(row, one, strict=True)) for one in chosen] for row in left]
        best = max(range(len(left)), key=lambda n: (min(apart[n]), sum(apart[n]), -n))
        chosen.append(left[best])
    assert permutation_set(4, 10).tolist() == chosen


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=3), st.integers(0, 99))
def test_blocks_are_shuffled_and_turned_without_loss(shape: list[int], seed: int) -> None:
    image = torch.randn(2, *shape, generator=rng(seed))
    order = torch.randperm(2 ** len(shape), generator=rng(seed))
    shuffled = shuffle_blocks(image, order.tolist())
    assert torch.equal(shuffle_blocks(shuffled, order.argsort().tolist()), image)
    assert torch.equal(shuffle_blocks(image, range(len(order))), image)
    for position, place in enumerate(blocks(shape)):
        assert torch.equal(shuffled[place], image[blocks(shape)[order[position]]])
    planes = torch.randint(2 if len(shape) == 2 else 4, (len(order),), generator=rng(seed)).tolist()
    turned = turn_blocks(image, planes)
    assert torch.equal(turn_blocks(turned, planes), image)
    assert torch.equal(turn_blocks(image, [0] * len(order)), image)
    for place, plane in zip(blocks(shape), planes, strict=True):
        pairs = [(1, 2)] if len(shape) == 2 else [(1, 2), (1, 3), (2, 3)]
        expected = torch.rot90(image[place], 2, pairs[plane - 1]) if plane else image[place]
        assert torch.equal(turned[place], expected)


def test_the_gap_lies_in_the_middle_of_each_axis() -> None:
    image = torch.ones(1, 64, 64)
    for share, first, last in ((4 / 64, 30, 33), (10 / 64, 27, 36)):  # of the released codes
        cleared = clear_centre(image, share, 7.0)
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[first : last + 1] = inside[:, first : last + 1] = True
        assert torch.equal(cleared[0] == 7.0, inside)
    assert torch.equal(image, torch.ones(1, 64, 64))
    assert int((clear_centre(torch.ones(1, 8), 4 / 64) == 0).sum()) == 2  # never none


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match="blocks: an image of 6x5 cannot be cut into halves"):
        blocks((6, 5))
    with pytest.raises(SpecError, match=r"shuffle_blocks: found \[0, 0, 1, 2\]; expected each of 0 to 3 once"):
        shuffle_blocks(torch.zeros(1, 2, 2), [0, 0, 1, 2])
