"""Step n is always the same batch: after a resume, with workers, over processes."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch.utils._python_dispatch import TorchDispatchMode

from allograft.batch import Batch
from allograft.cohort import Cohort, Loader, Slices
from allograft.cohort.orders import Shares, Turns, by_cohort
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.seeds import Seeds
from allograft.transforms.sample import Sample, Tile


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Cohort]:
    cohort = read(write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 5, "b": 3}, (4, 4)))
    return cohort.site("a"), cohort.site("b")


def noisy(case: Batch, rng: torch.Generator) -> Batch:
    return replace(case, image=case.image + torch.rand(case.image.shape, generator=rng))


SEEDS = Seeds(3, ("x",))


def loader(cohorts: tuple[Cohort, ...], batch_size: int = 4, *, share: Any = None, **options: Any) -> Loader:
    groups = by_cohort(cohorts)
    order = Shares(groups, batch_size, SEEDS, share) if share else Turns(groups, batch_size, SEEDS)
    return Loader(cohorts, order, 1, SEEDS, noisy, **options)


def told(batches: Any) -> list[tuple[tuple[str, ...], list[float]]]:
    return [(batch.cases, batch.image.flatten().tolist()) for batch in batches]


def test_any_start_gives_the_same_batches(sites: tuple[Cohort, Cohort]) -> None:
    whole = told(islice(loader(sites)(0), 9))
    assert len({str(batch) for batch in whole}) == 9
    for start in (1, 4, 8):
        assert told(islice(loader(sites)(start), 9 - start)) == whole[start:]
    again = loader(sites)
    pieces = [told(islice(again(start), count)) for start, count in ((0, 2), (2, 3), (0, 1), (5, 4))]
    assert pieces == [whole[0:2], whole[2:5], whole[0:1], whole[5:9]]


def test_workers_change_nothing_and_live_on(sites: tuple[Cohort, Cohort]) -> None:
    expected = told(islice(loader(sites)(0), 6))
    made = loader(sites, workers=1)
    first = told(islice(made(0), 3))
    running = made.live["batches"]
    assert len(running._workers) == 1
    assert first + told(islice(made(3), 3)) == expected
    assert made.live["batches"] is running


def test_ranks_share_a_batch(sites: tuple[Cohort, Cohort]) -> None:
    whole = told(islice(loader(sites)(0), 5))
    ranks = [told(islice(loader(sites, rank=rank, world=2)(0), 5)) for rank in (0, 1)]
    for step, (cases, pixels) in enumerate(whole):
        size = len(pixels) // 4
        for rank in (0, 1):
            mine, values = ranks[rank][step]
            assert mine == cases[rank::2]
            assert values == [x for place in range(rank, 4, 2) for x in pixels[place * size : (place + 1) * size]]


def test_each_pass_sees_each_case_once_in_a_new_order(sites: tuple[Cohort, Cohort]) -> None:
    drawn = [case for batch in islice(loader(sites[:1], batch_size=1)(0), 20) for case in batch.cases]
    passes = [tuple(drawn[start : start + 5]) for start in range(0, 20, 5)]
    assert all(len(set(one)) == 5 for one in passes)
    assert len(set(passes)) > 1


def test_cohorts_take_turns_whatever_their_size(sites: tuple[Cohort, Cohort]) -> None:
    batches = list(islice(loader(sites)(0), 15))
    assert all(Counter(case[0] for case in batch.cases) == {"a": 2, "b": 2} for batch in batches)
    drawn = Counter(case for batch in batches for case in batch.cases)
    assert {drawn[case.name] for case in sites[0].cases} == {6}
    assert {drawn[case.name] for case in sites[1].cases} == {10}


def test_an_empty_cohort_has_no_turn(sites: tuple[Cohort, Cohort]) -> None:
    empty = sites[0].where(lambda case: False)
    assert all(case[0] == "b" for batch in islice(loader((empty, sites[1]))(0), 3) for case in batch.cases)
    with pytest.raises(SpecError, match="loader 'x' has no cases"):
        loader((empty,))


def test_share_decides_by_step(sites: tuple[Cohort, Cohort]) -> None:
    batches = islice(loader(sites, share=lambda step: (4 - step, step))(0), 5)
    assert [sum(case[0] == "b" for case in batch.cases) for batch in batches] == [0, 1, 2, 3, 4]
    with pytest.raises(SpecError, match=r"share\(0\) is \(1, 1\); expected 2 counts that add up to 4"):
        next(loader(sites, share=lambda step: (1, 1))(0))


def test_a_small_share_goes_through_every_case_before_any_comes_again(sites: tuple[Cohort, Cohort]) -> None:
    made = loader(sites, share=lambda step: (4 - step % 2, step % 2))
    size = len(sites[1])
    seen = [case for batch in islice(made(0), 2 * 2 * size) for case in batch.cases if case[0] == "b"]
    assert len(seen) == 2 * size
    assert sorted(seen[:size]) == sorted(seen[size:]) == sorted(case.name for case in sites[1].cases)
    later = [
        case
        for batch in islice(loader(sites, share=lambda step: (4 - step % 2, step % 2))(2 * size), 2 * size)
        for case in batch.cases
        if case[0] == "b"
    ]
    assert later == seen[size:]  # a run that goes on draws as one that never stopped


def test_a_case_met_twice_is_changed_anew(sites: tuple[Cohort, Cohort]) -> None:
    one = sites[0].of(["a0"])
    (batch,) = islice(loader((one,), batch_size=2)(0), 1)
    assert batch.cases[0] == batch.cases[1]
    assert not torch.equal(batch.image[0], batch.image[1])


def test_seeds_change_order_and_draws(sites: tuple[Cohort, Cohort]) -> None:
    other = replace(loader(sites), seeds=Seeds(4, ("x",)))
    assert told(islice(other(0), 2)) != told(islice(loader(sites)(0), 2))


@pytest.mark.parametrize(
    ("batch_size", "steps", "epoch"), [(4, None, 2), (8, None, 1), (3, None, 3), (100, None, 1), (4, 7, 7)]
)
def test_an_epoch_is_a_number_of_steps(
    batch_size: int, steps: int | None, epoch: int, sites: tuple[Cohort, Cohort]
) -> None:
    budget = Budget(batch_size=batch_size, steps_per_epoch=steps)
    assert a_context(budget=budget).loader(sites, "x").epoch == epoch


def test_a_batch_that_processes_cannot_share(sites: tuple[Cohort, Cohort]) -> None:
    with pytest.raises(SpecError, match="batch_size 3 cannot be divided among 2 processes"):
        loader(sites, 3, world=2)


def test_each_draw_is_that_of_its_own_cohort_and_place(sites: tuple[Cohort, Cohort]) -> None:
    made = loader(sites)
    for number, (cohort, item, draw) in enumerate(made.plan(3)):
        expected = noisy(sites[cohort].case(item), SEEDS.rng("transform", draw))
        batch = next(made(3))
        assert batch.cases[number] == sites[cohort].cases[item].name
        assert torch.equal(batch.image[number], expected.image[0])


class Allocated(TorchDispatchMode):
    """The bytes of the largest integer tensor that an operation makes."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.most = max(self.most, made.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("kept_on_disk", [True, False])
@pytest.mark.parametrize("transform", [Sample("none", (8, 8, 8)), Tile((16, 16, 16))], ids=["sample", "tile"])
def test_a_crop_costs_the_bytes_of_the_crop(transform: Any, kept_on_disk: bool, tmp_path: Path) -> None:
    """Of a mask and region of 64^3 voxels nothing is copied but the crop."""
    manifest = write_volumes(tmp_path / "cohort", [(64, 64, 64)])
    text = manifest.read_text().replace("mask,", "mask,region,", 1)
    manifest.write_text(text.replace("v0-mask.nii.gz,", "v0-mask.nii.gz,v0-mask.nii.gz,"))
    cohort = read(manifest, cache=tmp_path / "cache" if kept_on_disk else None)
    batches = Loader((cohort,), Turns(by_cohort((cohort,)), 1, SEEDS), 1, SEEDS, transform)
    expected = transform(cohort.case(0), SEEDS.rng("transform", 0))
    tracemalloc.start()
    with Allocated() as torch_bytes:
        batch = next(batches(0))
    most = max(tracemalloc.get_traced_memory()[1], torch_bytes.most)
    tracemalloc.stop()
    assert most < 64**3  # a byte a voxel; the mask is kept in two, and given in eight
    assert batch.labels["mask"].dtype == torch.int64  # type: ignore[union-attr]
    assert torch.equal(batch.labels["mask"], expected.labels["mask"])  # type: ignore[arg-type]
    assert torch.equal(batch.region, expected.region)  # type: ignore[arg-type]
    assert batch.region.dtype == torch.bool  # type: ignore[union-attr]
    assert batch.labels["mask"].unique().tolist() == [0, 1]  # type: ignore[union-attr]


def test_one_slice_costs_the_bytes_of_a_slice(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path / "cohort", [(64, 64, 64)]), slices=Slices())
    cohort.case(0)
    with Allocated() as torch_bytes:
        tracemalloc.start()
        case = cohort.case(5)
        most = max(tracemalloc.get_traced_memory()[1], torch_bytes.most)
        tracemalloc.stop()
    assert most < 64**3
    assert case.labels["mask"].dtype == torch.int64  # type: ignore[union-attr]


def test_another_transform_is_given_masks_as_wide_as_they_are_documented(sites: tuple[Cohort, Cohort]) -> None:
    kinds = []

    def noted(case: Batch, rng: torch.Generator) -> Batch:
        kinds.append(case.labels["mask"].dtype)  # type: ignore[union-attr]
        return case

    loaded = replace(loader(sites), transform=noted)
    assert next(loaded(0)).labels["mask"].dtype == torch.int64  # type: ignore[union-attr]
    assert set(kinds) == {torch.int64}
    assert next(replace(loaded, transform=None)(0)).labels["mask"].dtype == torch.int64  # type: ignore[union-attr]
