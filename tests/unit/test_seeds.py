"""Draws are pure functions of (seed, path)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from allograft.seeds import Seeds


def drawn() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_a_draw_depends_on_seed_and_path_alone() -> None:
    torch.rand(3)
    first = Seeds(1).rng("a", 2)
    random.random()
    assert torch.rand(4, generator=first).tolist() == torch.rand(4, generator=Seeds(1).rng("a", 2)).tolist()


def test_child_is_a_longer_path() -> None:
    assert Seeds(1).child("a").child("b", 3).number("c") == Seeds(1).number("a", "b", 3, "c")


def test_paths_that_look_alike_differ() -> None:
    paths = [("a", "b"), ("ab",), ("a", "b", ""), ("1",), (1,), ("b", "a"), ()]
    numbers = {Seeds(seed).number(*path) for path in paths for seed in (0, 1)}
    assert len(numbers) == 2 * len(paths)
    assert all(0 <= number < 2**63 for number in numbers)


def test_everything_seeds_inside_and_restores_outside() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    expected = drawn()
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    with Seeds(3).everything("x"):
        inside = drawn()
    assert drawn() == expected
    with Seeds(3).everything("x"):
        assert drawn() == inside
    with Seeds(3).everything("y"):
        other = drawn()
    assert all(a != b for a, b in zip(other, inside, strict=True))


def test_everything_restores_after_an_error() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with pytest.raises(ZeroDivisionError), Seeds(3).everything("x"):
        _ = 1 / (0 * drawn()[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
