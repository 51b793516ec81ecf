"""Classes of source images with the target's intensities: the equations, which pixels count, and
what reaches the network."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Slices
from allograft.context import Store
from allograft.errors import SpecError
from allograft.figure import Images
from allograft.methods.class_alignment import (
    Aligned,
    ClassAlignment,
    aligned_moments,
    class_moments,
    moments_by_case,
    new_moments,
    with_moments,
)
from allograft.recipe import Scenario
from allograft.seeds import Seeds
from allograft.step import GradientStep
from allograft.study.plan import scenario_of
from allograft.tasks.classification import Classification
from allograft.transforms.sample import Sample

CONTRACT = {"arguments": {}}

Domain = Sequence[tuple[Tensor, Tensor]]


# ---------------------------------------------------------- the equations
def align(source: Domain, target: Domain, classes: int = 3) -> list[Tensor]:
    """All source images aligned, one channel."""
    here, there = (
        torch.stack([class_moments(image[None], mask, classes) for image, mask in domain])
        for domain in (source, target)
    )
    new = aligned_moments(here, there)
    return [with_moments(image[None], mask, *given)[0] for (image, mask), *given in zip(source, here, new, strict=True)]


def a_domain(seed: int, cases: int, shift: float) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    made = []
    for number in range(cases):
        mask = torch.randint(3, (9, 7 + number), generator=rng)
        made.append(
            (shift + (1 + mask + number) * torch.randn(mask.shape, generator=rng, dtype=torch.float64) + 5 * mask, mask)
        )
    return made


def test_alignment_is_that_of_a_loop_over_the_equations() -> None:
    source, target = a_domain(0, 4, 10.0), a_domain(1, 3, -2.0)
    found = align(source, target)
    for label in range(3):
        domains = [[image[mask == label].tolist() for image, mask in domain] for domain in (source, target)]
        for moment in (statistics.fmean, statistics.pstdev):
            values = [[moment(pixels) for pixels in domain] for domain in domains]
            (here, there), (spread, wide) = map(statistics.fmean, values), map(statistics.pstdev, values)
            for (_, mask), aligned, value in zip(source, found, values[0], strict=True):
                expected = (
                    max((value - here) / spread * wide + there, 0)
                    if moment is statistics.pstdev
                    else (value - here) / spread * wide + there
                )
                assert moment(aligned[mask == label].tolist()) == pytest.approx(expected)


def test_a_domain_aligned_with_itself_is_itself() -> None:
    source = a_domain(0, 4, 3.0)
    before = [image.clone() for image, _ in source]
    for aligned, image, old in zip(align(source, source), [image for image, _ in source], before, strict=True):
        torch.testing.assert_close(aligned, image)
        assert torch.equal(image, old)


def test_a_class_that_a_case_lacks_does_not_count_there() -> None:
    source, target = a_domain(0, 3, 3.0), a_domain(1, 3, 0.0)
    image, mask = source[1]
    source[1] = (image, mask.where(mask != 2, 0))
    alone = align([source[0], source[2]], target)
    both = align(source, target)
    assert all(aligned.isfinite().all() for aligned in both)
    for one, other, (_, classes) in zip(alone, (both[0], both[2]), (source[0], source[2]), strict=True):
        torch.testing.assert_close(one[classes == 2], other[classes == 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_deviations_equal_but_for_rounding_standardise_to_zero(dtype: torch.dtype, scale: float) -> None:
    """x, x + 1 and x + 2 have one deviation: aligned, each has the mean of the target's, as a
    single case would."""
    rng = torch.Generator().manual_seed(3)
    x, mask = scale * torch.rand(40, 40, generator=rng, dtype=torch.float64), torch.zeros(40, 40, dtype=torch.int64)
    target = [(width * torch.randn(40, 40, generator=rng, dtype=torch.float64), mask) for width in (1.0, 4.0, 9.0)]
    expected = float(torch.stack([image.std(correction=0) for image, _ in target]).mean())
    found = align([((x + shift).to(dtype), mask) for shift in range(3)], target)
    assert [float(image.double().std(correction=0)) for image in found] == pytest.approx([expected] * 3, rel=1e-4)
    means = [float(image.double().mean()) for image in found]
    assert means[0] < means[1] < means[2]  # the means do differ


def test_pixels_without_a_class_stay_as_they_are() -> None:
    source, target = a_domain(0, 3, 3.0), a_domain(1, 3, 0.0)
    holes = [(image, mask.where(mask != 2, -100)) for image, mask in source]
    every, found = align(source, target), align(holes, target)
    for (image, mask), whole, aligned in zip(source, every, found, strict=True):
        assert torch.equal(aligned[mask == 2], image[mask == 2])
        assert torch.equal(aligned[mask < 2], whole[mask < 2])
    nothing = align([(image, torch.full_like(mask, -100)) for image, mask in source], target)
    assert all(torch.equal(aligned, image) for aligned, (image, _) in zip(nothing, source, strict=True))


def test_each_channel_has_moments_of_its_own() -> None:
    source, target = a_domain(0, 3, 3.0), a_domain(1, 3, 0.0)
    both = [
        align([(image * factor, mask) for image, mask in source], [(image * factor, mask) for image, mask in target])
        for factor in (1.0, -4.0)
    ]
    here, there = (
        torch.stack([class_moments(torch.stack([image, -4 * image]), mask, 3) for image, mask in domain])
        for domain in (source, target)
    )
    new = aligned_moments(here, there)
    for number, (image, mask) in enumerate(source):
        moved = with_moments(torch.stack([image, -4 * image]), mask, here[number], new[number])
        torch.testing.assert_close(moved, torch.stack([both[0][number], both[1][number]]))


@pytest.mark.parametrize(
    ("image", "mask"),
    [(torch.zeros(1, 2), torch.zeros(3)), (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(2))],
)
def test_images_without_moments_are_refused(image: Tensor, mask: Tensor) -> None:
    with pytest.raises(SpecError, match=r"class_moments: found an image of .* expected \(C, \*spatial\) floating"):
        class_moments(image, mask, 1)


# ---------------------------------------------------------- the row
def a_row_of(folder: Path, **changes: Any) -> tuple[Any, Any, Any]:
    """The session's context, the row's scenario and its network, in the contract's world."""
    session = session_of(write_cohort(folder / "cohort"), folder / "out", "class_alignment", **changes)
    world = session.prepare()
    row = row_of(session, world)
    return session.context(row.seed), scenario_of(world, row), session.start(world, row.seed)


def test_each_source_site_has_the_moments_of_the_labelled_target(tmp_path: Path) -> None:
    _, scenario, _ = a_row_of(tmp_path)
    (target,) = [cohort for cohort in scenario.target if cohort.has_labels]
    assert len(scenario.source) == 2
    own = moments_by_case((*scenario.source, target), 3)
    transform = Aligned(
        Sample(),
        {case.name: own[case.name] for site in scenario.source for case in site.cases},
        new_moments(scenario.source, [target], own, ("background", "white", "grey")),
    )
    wanted = torch.stack([own[case.name] for case in target.cases])[..., :2]
    for site in scenario.source:
        after = []
        for case in site:
            moved, counts = transform.aligned(case), torch.ones(1, 1, *case.image.shape[2:], dtype=torch.bool)
            assert not torch.equal(moved.image, case.image)
            assert moved.labels is case.labels
            counts = counts if case.region is None else case.region
            after.append(class_moments(moved.image[0], case.labels["mask"].where(counts, -1)[0, 0], 3))
        found = torch.stack(after)[..., :2]
        torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=1e-4, atol=1e-4)
        spread = wanted[..., 0].std(0, correction=0) * (len(site) > 1)  # a single case has none
        torch.testing.assert_close(found[..., 0].std(0, correction=0), spread, rtol=1e-3, atol=1e-4)
    for case in target:
        assert transform.aligned(case) is case


def test_the_target_is_every_labelled_site_together(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2, "b": 2, "c": 3}))
    (source, first, second), names = map(cohort.site, "abc"), ("background", "vessel")
    own = moments_by_case([source, first, second], 2)
    new = new_moments([source], [first, second], own, names)
    together = replace(first, cases=first.cases + second.cases)
    assert all(torch.equal(new[name], one) for name, one in new_moments([source], [together], own, names).items())
    for alone in (first, second):
        assert any(not torch.equal(new[name], one) for name, one in new_moments([source], [alone], own, names).items())


def test_what_trains_is_aligned_and_the_target_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, scenario, network = a_row_of(tmp_path, augmentation="none", budget={"steps": 4, "batch_size": 6})
    seen: dict[str, Tensor] = {}
    real = GradientStep.__call__

    def watched(self: GradientStep, batch: Batch) -> Any:
        seen.update(zip(batch.cases, batch.image, strict=True))
        return real(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", watched)
    *_, stage = context.run(ClassAlignment(), scenario, network)
    stored = {case.cases[0]: case for cohort in (*scenario.source, *scenario.target) for case in cohort}
    assert len(seen) == 8
    target = {case.name for cohort in scenario.target if cohort.has_labels for case in cohort.cases}
    assert target & seen.keys()
    for name, image in seen.items():
        assert torch.equal(image, stored[name].image[0]) == (name in target)
    assert type(stage.predictor).__name__ == "Direct"


def test_the_moments_of_a_slice_are_those_of_its_scan(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(5, 4, 3), (6, 4, 7)]), slices=Slices(2))
    whole = replace(cohort, slices=None)
    sliced, uncut = (moments_by_case([each], 2) for each in (cohort, whole))
    for name, moments in uncut.items():
        torch.testing.assert_close(sliced[name], moments)
    some = cohort.few(2, Seeds(1))
    names = {case.name for case in some.cases}
    assert moments_by_case([some], 2).keys() == names
    seen = {name: [item for item in some if item.cases[0].startswith(f"{name}#")] for name in names}
    for name, items in seen.items():  # the other slices of a scan are beyond the label budget
        stacked = torch.stack([item.image[0] for item in items], 1), torch.stack([_mask(item) for item in items])
        torch.testing.assert_close(moments_by_case([some], 2)[name], class_moments(*stacked, 2), equal_nan=True)


def _mask(item: Batch) -> Tensor:
    mask = item.labels["mask"]
    assert isinstance(mask, Tensor)
    return mask[0, 0]


def test_padding_and_what_lies_outside_a_region_do_not_count(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2}))
    bare = moments_by_case([cohort], 2)
    region, real = torch.zeros(1, 1, 16, 16, dtype=torch.bool), type(cohort).whole
    region[..., :8, :] = True

    class Cut(type(cohort)):  # type: ignore[misc]
        def whole(self, number: int) -> Any:
            whole = real(self, number)
            return replace(whole, batch=replace(whole.batch, region=region, extent=torch.tensor([[16, 8]])))

    cut = moments_by_case([Cut(cohort.cases, cohort.sites, cohort.prepared)], 2)
    for number, case in enumerate(cohort.cases):
        item, counts = cohort.case(number), torch.zeros(16, 16, dtype=torch.bool)
        counts[:8, 4:12] = True
        torch.testing.assert_close(cut[case.name], class_moments(item.image[0], _mask(item).where(counts, -1), 2))
        assert not torch.allclose(cut[case.name], bare[case.name])


def test_it_shows_source_images_before_and_after(tmp_path: Path) -> None:
    context, scenario, network = a_row_of(tmp_path)
    running = context.run(ClassAlignment(), scenario, network)
    for _ in running:
        pass
    store = Store(tmp_path / "out" / "units" / context.unit(ClassAlignment(), scenario, network))
    figure = store.figures()["aligned"]
    assert isinstance(figure, Images)
    assert [name.split(",")[0] for name in figure.names] == ["source", "source", "difference", "target"]
    assert figure.subjects[0] == figure.subjects[1] == ("a-000", "d-002", "a-002")
    assert all(one != other for one, other in zip(*figure.rows[:2], strict=True))
    assert "aligned" not in store.figures(images=False)


# ---------------------------------------------------------- what is refused
def test_a_class_that_the_target_does_not_show_is_named(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2, "b": 2}))
    source, target = cohort.site("a"), cohort.site("b")
    own = moments_by_case([source, target], 2)
    own |= {case.name: own[case.name].index_fill(0, torch.tensor([1]), torch.nan) for case in target.cases}
    with pytest.raises(
        SpecError, match="class 'vessel' is in no labelled target case, and the source has it; label cases that show it"
    ):
        new_moments([source], [target], own, ("background", "vessel"))


def test_classes_and_neighbours_are_refused(tmp_path: Path) -> None:
    context = a_context()
    object.__setattr__(context, "task", Classification(("a", "b")))
    with pytest.raises(SpecError, match="the task predicts 'label', expected a segmentation; use joint"):
        ClassAlignment().check(Scenario(), torch.nn.Identity(), context)  # type: ignore[arg-type]
    cohort = read(write_volumes(tmp_path, [(5, 4, 3)]), slices=Slices(2, 1))
    with pytest.raises(SpecError, match=r"found slices with neighbours .* expected slices: \{neighbours: 0\}"):
        ClassAlignment().check(Scenario((cohort,)), torch.nn.Identity(), a_context())  # type: ignore[arg-type]
