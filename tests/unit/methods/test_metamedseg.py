"""MetaMedSeg: its weights, its tasks and its meta-update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tests.unit.tiny import a_context, read, write_photographs, write_rows

from allograft.batch import Batch
from allograft.cohort import Cohort, Slices
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.metamedseg import Metamedseg, volumetric_task
from allograft.networks import build
from allograft.parts.cross_domain import Companions, CrossDomain, feature_gap, foreground_entropy
from allograft.parts.foreground import Foreground
from allograft.parts.organs import chances, distance_map
from allograft.parts.volumes import CutIntoTiles, checked_volumes, foreground, tiles_of
from allograft.recipe import Scenario, parse_recipe
from allograft.tasks.segmentation import Segmentation

CONTRACT = {
    "arguments": {"tasks": 2, "shots": 4, "meta_epochs": 2, "local_epochs": 3, "tune_epochs": 3},
    "study": {
        "task": {"segmentation": {"classes": {"tissue": [1, 2]}}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "dropout": 0.2}},
    },
    "options": {
        "task": "standard",
        "rule": "average",
        "to": "others",
        "tasks": 1,
        "shots": 1,
        "meta_epochs": 1,
        "local_epochs": 1,
        "batch_size": 2,
        "optimizer": "sgd",
        "lr": 0.02,
        "meta_lr": 0.1,
        "weight_decay": 0.1,
        "gamma": 0.1,
        "decay": "meta-epochs",
        "meta_loss": "iou",
        "tune_loss": "bce",
        "entropy": 0.5,
        "distillation": 5.0,
        "foreground": 60,
        "organs": {"a": "brain", "e": "brain"},
        "tune_epochs": 1,
        "tune_lr": 0.01,
        "tune_weight_decay": 0.1,
    },
    # SGD, and a small rate of the tuning's Adam, by the rule of ``session_of_processes``; its tasks have odd sizes
    "processes": {"optimizer": "sgd", "tune_lr": 1e-4},
    "own_settings": ("optimizer", "schedule"),
    "own_optimizers": True,
    "marks": (2, 4),  # of the six steps of the tuning
    # of two sites the same organ or two are drawn as often
    "under": {"organs": {"study": {"cohort": "three.csv", "source": ["a", "e", "d"]}}},
}


def volumes(folder: Path, depths: list[int], empty: int = 0) -> Cohort:
    """Volumes of 8 x 8 pixels with a square of foreground in all slices but the first ``empty``."""
    folder.mkdir(parents=True)
    rows = []
    for number, depth in enumerate(depths):
        image, mask = np.random.default_rng(number).random((8, 8, depth), np.float32), np.zeros((8, 8, depth), np.uint8)
        mask[2:5, 2:5, empty:] = 1
        for name, values in (("image", image), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{number}-{name}.nii.gz")  # type: ignore[attr-defined]
        rows.append(
            {
                "image": f"{number}-image.nii.gz",
                "mask": f"{number}-mask.nii.gz",
                "subject": f"v{number}",
                "site": "organ",
            }
        )
    return read(write_rows(folder / "manifest.csv", rows), slices=Slices(axis=2))


def test_a_volumes_task_is_fixed_and_starts_after_slices_without_foreground(tmp_path: Path) -> None:
    cohort = volumes(tmp_path / "v", [10, 3], empty=2)
    loader, facts = Metamedseg(shots=3).episodes([cohort], a_context())
    seen = {tuple(cohort.items[item] for _, item, _ in loader.order(step)) for step in range(20)}
    assert seen == {((0, 2), (0, 5), (0, 8)), ((1, 2),)}  # 8 slices by 3; one slice is left of the other volume
    assert facts == {"fewest_shots": 1, "volumes": 2}
    assert len({key for step in range(20) for _, _, key in loader.order(step)}) == sum(
        len(loader.order(s)) for s in range(20)
    )


def test_a_standard_task_is_drawn_anew(tmp_path: Path) -> None:
    cohort = volumes(tmp_path / "v", [10, 3], empty=2)
    loader, _ = Metamedseg(shots=3, task="standard").episodes([cohort], a_context())
    tasks = {tuple(sorted(cohort.items[item] for _, item, _ in loader.order(step))) for step in range(20)}
    assert len(tasks) > 10
    assert all(len(set(task)) == 3 for task in tasks)
    assert {place for task in tasks for _, place in task} <= set(range(2, 10))


@pytest.mark.parametrize("depths", [[10, 3], [3, 10]])
def test_the_fewest_shots_of_a_standard_task_are_those_of_the_smallest_data_set(
    depths: list[int], tmp_path: Path
) -> None:
    cohorts = [volumes(tmp_path / str(depth), [depth]) for depth in depths]
    for shots, fewest in ((2, 2), (5, 3), (20, 3)):
        _, facts = Metamedseg(shots=shots, task="standard").episodes(cohorts, a_context())
        assert facts == {"fewest_shots": fewest, "volumes": 2}


def test_photographs_are_cut_into_tiles_that_show_foreground(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2}, size=(16, 16)))  # a square from row 2 to 9, column 3 to 10
    recipe = Metamedseg(shots=5, foreground=4)
    (volume, _) = checked_volumes([cohort], recipe.foreground, recipe.grid)
    assert recipe.grid == 2
    mask = cohort.case(0).labels["mask"]
    assert volume.tiles == tuple(place for place, tile in enumerate(tiles_of(mask, 2)) if foreground(tile) >= 4)
    loader, facts = recipe.episodes([cohort], a_context())
    batch = next(loader(0))
    assert batch.image.shape == (len(volume.tiles), 1, 8, 8)
    assert batch.labels["mask"].shape == batch.image.shape
    assert len(batch) == len(volume.tiles) == facts["fewest_shots"]


def test_a_tile_is_augmented_after_it_was_cut() -> None:
    """A flip of the whole image would bring other tiles to the places of those that are kept."""
    number = torch.arange(64).view(1, 1, 8, 8)
    case = Batch(number.float(), torch.zeros(1).long(), ("a",), {"mask": number})

    def flipped(tile: Batch, rng: torch.Generator) -> Batch:
        return replace(tile, image=tile.image.flip(-1), labels={"mask": tile.labels["mask"].flip(-1)})  # type: ignore[union-attr]

    made = CutIntoTiles(flipped, {"a": (4, 6)}, 4)(case, torch.Generator())
    kept = torch.cat([tiles_of(number, 4)[place] for place in (4, 6)]).flip(-1)
    assert torch.equal(made.image, kept.float())
    assert torch.equal(made.labels["mask"], kept)  # type: ignore[arg-type]
    other = CutIntoTiles(flipped, {"b": (4, 6)}, 4)(case, torch.Generator())
    assert torch.equal(other.image, case.image.flip(-1))


def test_organs_have_equal_shares_and_their_data_sets_divide_them(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path, {"t1": 1, "t2": 1, "liver": 1, "lung": 1})
    cohorts = [read(manifest).site(site) for site in ("liver", "lung", "t1", "t2")]
    assert chances(cohorts, {}) == [0.25] * 4
    assert chances(cohorts, {"t1": "brain", "t2": "brain"}) == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])
    named = [replace(c, cases=tuple(replace(k, site=f"mr/{k.site}") for k in c.cases)) for c in cohorts[2:]]
    assert chances([*cohorts[:2], *named], {}) == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])


def test_distances_between_data_sets_are_means_over_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_photographs(tmp_path / "p", {"a": 3, "b": 2}, size=(8, 8))
    a, b = (read(manifest).site(site) for site in "ab")
    found = distance_map([a, b], a_context().seeds)
    images = {name: [c.case(i).image.flatten().double() for i in range(len(c))] for name, c in (("a", a), ("b", b))}
    across = [float((x - y).norm()) for x in images["a"] for y in images["b"]]
    within = [float((x - y).norm()) for x in images["a"] for y in images["a"] if x is not y]
    assert found.rows == found.columns == ("a", "b")
    assert found.values[0][1] == pytest.approx(sum(across) / 6) == found.values[1][0]
    assert found.values[0][0] == pytest.approx(sum(within) / 6)
    small = read(write_photographs(tmp_path / "small", {"c": 1}, size=(8, 4)))
    assert distance_map([a, small], a_context().seeds).values[0][1] is None
    monkeypatch.setattr("allograft.parts.organs.PAIRED", 3)
    assert distance_map([a, a], a_context().seeds) == distance_map([a], a_context().seeds)  # three images of a site


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    cohort = volumes(tmp_path / "v", [4])
    scenario = Scenario(source=(cohort,))
    network = None
    with pytest.raises(SpecError, match=r"no slice or tile of 'organ' shows 10 pixels.*lower foreground: \{organ"):
        Metamedseg(foreground=10).check(scenario, network, a_context())  # type: ignore[arg-type]
    Metamedseg(foreground=9, shots=100).check(scenario, network, a_context())  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"'lung' is no source site or cohort; expected one of organ"):
        Metamedseg(organs={"lung": "x"}).check(scenario, network, a_context())  # type: ignore[arg-type]
    for term in ("entropy", "distillation"):
        with pytest.raises(SpecError, match=r"entropy and distillation need a second data set"):
            Metamedseg(**{term: 0.1}).check(scenario, network, a_context())  # type: ignore[arg-type]
    several = replace(a_context(), task=Segmentation(("one", "two")))
    with pytest.raises(SpecError, match=r"segments one foreground; give the task one class"):
        Metamedseg().check(scenario, network, several)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"volumetric_task: found 0 slices"):
        volumetric_task(0, 3)


def test_foreground_is_of_every_data_set_or_by_site_or_cohort(tmp_path: Path) -> None:
    cohort = volumes(tmp_path / "v", [4])  # 9 pixels in every slice
    named = replace(cohort, cases=tuple(replace(case, site=f"ct/{case.site}") for case in cohort.cases))
    for least in (9, {"ct": 9}, {"ct/organ": 9}, {"ct/organ": 9, "ct": 10}, {"mr": 10}):
        assert [volume.depth for volume in checked_volumes([named], least, 1)] == [4]
    for least in (10, {"ct": 10}, {"ct/organ": 10, "ct": 9}):
        with pytest.raises(SpecError, match=r"no slice or tile of 'ct/organ' shows 10 pixels"):
            checked_volumes([named], least, 1)


def test_images_that_make_no_task_are_refused_and_a_standard_task_has_them_whole(tmp_path: Path) -> None:
    uncut = replace(volumes(tmp_path / "v", [4]), slices=None)
    with pytest.raises(SpecError, match=r"the volumes of 'organ' are not cut.*set slices: \{axis: 2\}"):
        checked_volumes([uncut], 1, 1)
    cohort = read(write_photographs(tmp_path / "p", {"a": 2}, size=(16, 16)))
    with pytest.raises(SpecError, match=r"image of 'a' has 16 x 16 pixels.*20 x 20 tiles; ask for at most 256 shots"):
        Metamedseg(shots=400).check(Scenario(source=(cohort,)), None, a_context())  # type: ignore[arg-type]
    masks = [cohort.case(number).labels["mask"] for number in range(2)]
    whole = min(map(foreground, masks))
    assert whole > max(foreground(tile) for mask in masks for tile in tiles_of(mask, 2))
    tiny = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    with pytest.raises(SpecError, match=r"'a' is cut into 3 x 3 tiles of 5 x 5 pixels.*multiples of 2; .*size.* of 6,"):
        Metamedseg(shots=9).check(Scenario(source=(cohort,)), tiny, a_context())
    even = read(write_photographs(tmp_path / "e", {"a": 2}, size=(6, 6)))  # a multiple of 2, and its tiles are not
    with pytest.raises(SpecError, match="2 x 2 tiles of 3 x 3 pixels"):
        Metamedseg(shots=4).check(Scenario(source=(even,)), tiny, a_context())
    for fits in (Metamedseg(shots=4), Metamedseg(shots=9, task="standard")):
        fits.check(Scenario(source=(cohort,)), tiny, a_context())
    recipe = Metamedseg(shots=5, task="standard", foreground=whole)  # no tile shows as much
    loader, facts = recipe.episodes([cohort], a_context())
    assert next(loader(0)).image.shape == (2, 1, 16, 16)
    assert facts == {"fewest_shots": 2, "volumes": 2}
    for wrong in (0, {"a": 0}):
        with pytest.raises(SpecError, match="foreground"):
            parse_recipe({"metamedseg": {"foreground": wrong}})


def test_companions_are_of_other_data_sets_and_two_for_each_task() -> None:
    def tasks(step: int) -> list[tuple[int, int, int]]:
        return [(step % 3, 0, step)]

    groups = tuple(tuple((number, item) for item in range(4)) for number in range(3))
    order = Companions(tasks, groups, 5, a_context().seeds)
    seen = {number: set() for number in range(3)}  # type: ignore[var-annotated]
    for step in range(60):
        keys = order(step)
        assert len(keys) == 5
        seen[step // 2 % 3] |= {cohort for cohort, _, _ in keys}
    assert seen == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}
    assert order(7) == order(7) != order(6)
    assert len({draw for step in range(60) for *_, draw in order(step)}) == 300
    drawn = [[key[:2] for key in order(step)] for step in range(60)]
    assert any(one != other for one, other in zip(drawn[::2], drawn[1::2], strict=True))  # two of one task apart
    assert len({item for items in drawn for _, item in items[:1]}) == 4


def test_terms_of_other_data_sets_are_as_written() -> None:
    torch.manual_seed(0)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "num_res_units": 0}}}
    )
    own, unsure, paired = (torch.randn(n, 1, 8, 8) for n in (2, 3, 1))
    p = network(unsure)["mask"].double().softmax(1)[:, 1]
    assert foreground_entropy(network(unsure)["mask"]).item() == pytest.approx(float(-(p * p.log()).mean()), rel=1e-4)
    one, other = (network.encoder(x)[-1].double() for x in (own, paired))
    gap = sum(float(one[:, c].mean() - other[:, c].mean()) ** 2 for c in range(one.shape[1])) / one.shape[1]
    assert feature_gap(network, own, paired).item() == pytest.approx(gap, rel=1e-4)
    batch = Batch(own, torch.zeros(2).long(), ("a", "b"), {"mask": (own > 0).long()})
    terms = CrossDomain(Foreground("bce"), unsure, paired, 0.5, 3.0)(network, batch)
    assert float(terms["distillation"]) == pytest.approx(3 * gap, rel=1e-4)
    assert float(terms["entropy"]) == pytest.approx(0.5 * float(-(p * p.log()).mean()), rel=1e-4)
    assert set(CrossDomain(Foreground("bce"), unsure, paired, 0.0, 0.0)(network, batch)) == {"bce"}


def test_the_rate_of_the_tuning_falls_at_every_second_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *rest: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    scenario = Scenario(target=(volumes(tmp_path / "v", [4]),), sites=("organ",))
    spec = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1}
    context = a_context(budget=Budget(steps=1, batch_size=2))
    list(Metamedseg(meta_epochs=0, tune_epochs=5).run(scenario, build({"build": {"unet": spec}}), context))
    # two steps an epoch
    assert rates == pytest.approx([0.005] * 4 + [0.7 * 0.005] * 4 + [0.49 * 0.005] * 2)
