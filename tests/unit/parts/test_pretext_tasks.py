"""What each pretext makes of an image, visual words, and clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.pretraining import a_pretraining, pool_of, rng
from tests.unit.tiny import read, write_photographs, write_volumes
from torch import Tensor, nn

from allograft.batch import Batch, collate
from allograft.cohort import Slices
from allograft.errors import SpecError
from allograft.networks import build
from allograft.parts.deep_clusters import (
    Labelled,
    check_clusters,
    clusters_by_name,
    clusters_of,
    pooled_features,
    samples_of,
)
from allograft.parts.pretext_checks import check_pretext, crop_of
from allograft.parts.pretext_tasks import (
    CLEAN,
    FLAGS,
    LABEL,
    MIX,
    AtPlaces,
    Distorted,
    PretextHead,
    Shuffled,
    Turned,
    pretext_loss,
    task_of,
)
from allograft.parts.visual_words import SIDES, Autoencoder, codes, draw_words, restricted, words_in
from allograft.seeds import Seeds
from allograft.transforms.genesis import Genesis
from allograft.transforms.pretexts import clear_centre, permutation_set, shuffle_blocks, turn, turn_blocks, turns
from allograft.transforms.sample import Sample, Tile

STILL = Genesis(0, 0, 0)
"""Distorts nothing."""


def a_case(*size: int, channels: int = 1) -> Batch:
    image = torch.rand(1, channels, *size, generator=rng(3))
    mask = {"mask": (image[:, :1] > 0.5).long()}
    spacing = torch.ones(1, len(size))
    return Batch(image, torch.zeros(1).long(), ("a",), mask, spacing=spacing, region=image[:, :1] > 0)


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 8)])
def test_a_turned_image_is_restored_turned(size: tuple[int, ...]) -> None:
    case, seen = a_case(*size), set()
    for seed in range(80):
        made = Turned(Sample(), STILL)(case, rng(seed))
        label = int(made.attributes[LABEL])
        seen.add(label)
        assert torch.equal(made.views[CLEAN][0], turn(case.image[0], label))
        assert torch.equal(made.image, made.views[CLEAN])
        assert (made.labels, made.region, made.spacing) == ({}, None, None)
        assert 0 <= float(made.attributes[MIX]) < 1
    assert seen == set(range(len(turns(len(size)))))
    distorted = Turned(Sample(), Genesis(1, 1, 1))(case, rng())
    assert not torch.equal(distorted.image, distorted.views[CLEAN])


@pytest.mark.parametrize("size", [(8, 12), (8, 4, 12)])
def test_blocks_are_restored_in_true_order_and_without_the_gap(size: tuple[int, ...]) -> None:
    case, dims = a_case(*size, channels=2), len(size)
    image, table = case.image[0], permutation_set(2**dims, 5)
    gapped = clear_centre(image, 4 / 64, float(image.min()))
    flags, orders = set(), set()
    for seed in range(40):
        plain, cube = (Shuffled(Sample(), 5, 4 / 64, turned)(case, rng(seed)) for turned in (False, True))
        assert torch.equal(plain.views[CLEAN][0], image)
        assert torch.equal(plain.image[0], shuffle_blocks(gapped, table[int(plain.attributes[LABEL])].tolist()))
        assert FLAGS not in plain.attributes
        assert torch.equal(cube.views[CLEAN][0], image)
        assert cube.attributes[FLAGS].shape == (1, 2**dims)
        shuffled = shuffle_blocks(gapped, table[int(cube.attributes[LABEL])].tolist())
        turned = cube.attributes[FLAGS][0].tolist()
        flags |= set(turned)
        planes = range(1, 2 if dims == 2 else 4)
        choices = [[0] if not flag else planes for flag in turned]
        matched = torch.zeros_like(cube.image[0], dtype=torch.bool)
        for plane in range(3):
            drawn = [choice[min(plane, len(choice) - 1)] for choice in choices]
            matched |= turn_blocks(shuffled, drawn) == cube.image[0]
        assert matched.all()  # every block is turned in one of the planes if its flag says so, and else is not
        orders.add(int(plain.attributes[LABEL]))
    assert flags == {0.0, 1.0}
    assert orders == set(range(5))


def test_an_image_of_a_cluster_is_distorted_alone() -> None:
    case = a_case(8, 8)
    assert torch.equal(Distorted(Sample(), STILL)(case, rng()).image, case.image)
    made = Distorted(Sample(), Genesis(1, 1, 1))(case, rng())
    assert torch.equal(made.views[CLEAN], case.image)
    assert not torch.equal(made.image, case.image)


def test_the_loss_is_cross_entropy_and_that_of_flags() -> None:
    logits = torch.randn(3, 5 + 4, generator=rng(), dtype=torch.float64)
    labels, flags = torch.tensor([0, 4, 2]), torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).double()
    order = -sum(logits[n, :5].log_softmax(0)[labels[n]] for n in range(3)) / 3
    p = logits[:, 5:].sigmoid()
    turned = -(flags * p.log() + (1 - flags) * (1 - p).log()).mean()
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), tuple("abc"), attributes={LABEL: labels})
    torch.testing.assert_close(pretext_loss(logits[:, :5], batch), order)
    cube = Batch(batch.image, batch.site, batch.cases, attributes={LABEL: labels, FLAGS: flags})
    torch.testing.assert_close(pretext_loss(logits, cube), order + turned)


def test_the_head_sees_where_a_feature_is_and_is_drawn_again() -> None:
    head = PretextHead(3, 2, 4, [6], 0.0)
    feature = torch.randn(1, 3, 8, 8, generator=rng())
    assert head([feature]).shape == (1, 4)
    assert not torch.allclose(head([feature]), head([feature.flip(2)]))
    before = [parameter.detach().clone() for parameter in head.parameters()]
    with Seeds(0).everything():
        head.reset()
    assert all(not torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True))
    assert PretextHead(2, 3, 7, [], 0.0)([torch.zeros(2, 2, 4, 4, 4)]).shape == (2, 7)


@pytest.mark.parametrize("patch", [None, (8, 6)])
def test_a_task_is_made_of_the_studys_crop_augmentation_and_its_own_gap(patch: Any, tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "images", a=3, b=2).pool
    context = a_pretraining(tmp_path / "out")
    context = replace(context, settings=replace(context.settings, patch=patch, augmentation="light"))

    def task(pretext: Any, classes: int = 5) -> Any:
        return task_of(pretext, classes, 1, pool, (8, 6), context)

    cut = Sample("light", patch)
    assert (task("rotation").transform, task("rotation").classes) == (Turned(cut, Genesis()), 4)
    assert (task("jigsaw").transform, task("jigsaw").flags) == (Shuffled(cut, 5, 4 / 64), 0)
    assert (task("rubik").transform, task("rubik").flags) == (Shuffled(cut, 5, 10 / 64, turned=True), 4)
    assert task("rubik", 1000).classes == 24  # all that there are
    tiles = cut if patch is None else Tile(patch, "light")
    assert (task("deep_clustering").transform, task("deep_clustering").classes) == (Distorted(tiles, Genesis()), 5)
    words = task("transvw", 2)
    assert (words.transform.crop, words.transform.strength, words.classes) == ((8, 6), "light", 2)
    assert sum(map(len, words.pool)) == len(words.transform.classes) <= 4  # a reference and one neighbour each
    head = task("rubik").head(3, [6, 7], 0.25)
    layers = [layer for layer in head.layers if not isinstance(layer, nn.ReLU)]
    assert [getattr(layer, "p", getattr(layer, "out_features", 0)) for layer in layers] == [6, 0.25, 7, 0.25, 9]
    assert layers[0].in_features == 3 * 4
    last = torch.zeros(1, 3, 4, 4)
    assert head([torch.full_like(last, float("nan")), last]).isfinite().all()


def test_what_a_sample_had_stays_but_for_what_lies_on_the_grid() -> None:
    case = replace(a_case(8, 8), attributes={"age": torch.tensor([30])}, extent=torch.tensor([[8, 8]]))
    made = Turned(Sample(), STILL)(case, rng(2))
    assert made.attributes["age"].tolist() == [30]
    assert made.extent is None


def test_a_word_is_any_of_its_image_and_in_the_middle_where_the_crop_does_not_fit() -> None:
    case = a_case(8, 12)
    places = torch.tensor([[0.99, 0.99], [0.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    cut = AtPlaces({"a": (0, 2)}, places, (8, 5), "none", STILL)
    made = [cut(case, rng(seed)) for seed in range(20)]
    assert {int(one.attributes[LABEL]) for one in made} == {0, 2}
    for one in made:
        left = 7 if int(one.attributes[LABEL]) == 0 else 4  # of eight places
        torch.testing.assert_close(one.image, case.image[..., left : left + 5])
    large = AtPlaces({"a": (1,)}, places, (10, 5), "none", STILL)(case, rng())
    torch.testing.assert_close(large.views[CLEAN][..., 1:9, :], case.image[..., :5])


def test_crops_of_visual_words_have_half_the_sides_in_whole_multiples(tmp_path: Path) -> None:
    pool = (read(write_photographs(tmp_path, {"a": 2}, size=(44, 12))).unlabelled(),)
    context = a_pretraining(tmp_path / "out")
    patches = replace(context, settings=replace(context.settings, patch=(16, 8)))
    assert crop_of("transvw", pool, 8, context) == (16, 8)
    assert crop_of("transvw", pool, 4, context) == (20, 4)
    assert crop_of("rotation", pool, 8, context) == (44, 12)
    assert crop_of("transvw", pool, 4, patches) == crop_of("jigsaw", pool, 4, patches) == (16, 8)


def test_words_need_a_patient_each_and_a_side_along_which_a_crop_can_move(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 2, "b": 1}, per_subject=2)).unlabelled()
    pool, context = (cohort.site("a"), cohort.site("b")), a_pretraining(tmp_path / "out")
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8]}}})

    def check(classes: int, pretext: Any = "transvw", **settings: Any) -> int:
        given = replace(context, settings=replace(context.settings, **settings))
        return check_pretext(pretext, classes, pool, network, given)

    assert check(3) == 1  # of two sites together
    assert check(3, patch=(16, 8)) == 1  # it moves along one side
    with pytest.raises(SpecError, match="the pool has 3 patients, and each of the 4 classes"):
        check(4)
    with pytest.raises(SpecError, match="crops of 16x16 have one place in images of 16x16"):
        check(3, patch=(16, 16))
    with pytest.raises(SpecError, match="the pool has 6 images for 7 clusters"):
        check(7, "deep_clustering")
    assert check(24, "deep_clustering", patch=(8, 8)) == 1


# ------------------------------------------------------------------ visual words
def test_some_slices_of_a_cohort_are_those_of_their_scans(tmp_path: Path) -> None:
    def names(cohort: Any, which: Sequence[int]) -> list[str]:
        return [cohort.case(index).cases[0] for index in which]

    cohort = read(write_volumes(tmp_path, [(4, 4, 3), (4, 4, 2), (4, 4, 3)]), slices=Slices(2)).unlabelled()
    few = restricted(cohort, [1, 5, 7])
    assert names(few, range(len(few))) == names(cohort, [1, 5, 7])
    whole = read(tmp_path / "manifest.csv").unlabelled()
    assert names(restricted(whole, [0, 2]), range(2)) == ["v0.nii.gz", "v2.nii.gz"]


def test_a_word_has_a_reference_of_its_own_and_the_nearest_beside_it() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0], [6.0], [20.0], [20.5]])
    subjects = ["p", "p", "q", "r", "s", "t"]
    words = draw_words(points, subjects, 5, 2, 3, Seeds(0))
    assert 0 in words.members[:, 0]  # the first image of a patient
    assert words.places.shape == (5, 3)
    assert ((words.places >= 0) & (words.places < 1)).all()
    references = [subjects[n] for n in words.members[:, 0].tolist()]
    assert sorted(references) == ["p", "q", "r", "s", "t"]
    for reference, *others in words.members.tolist():
        apart = {n: abs(float(points[n] - points[reference])) for n in range(6) if n != reference}
        assert sorted(apart[n] for n in others) == sorted(apart.values())[:2]
    assert draw_words(points, subjects, 2, 99, 2, Seeds(0)).members.shape == (2, 6)
    with pytest.raises(SpecError, match="5 patients for 6 classes"):
        draw_words(points, subjects, 6, 2, 3, Seeds(0))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_autoencoder_finds_alike_what_is_alike(dims: int) -> None:
    """Two kinds of images, each nearest to its own."""
    side = SIDES[dims]
    noise = 0.05 * torch.randn(12, 1, *(side,) * dims, generator=rng())
    noise[:6, :, : side // 2] += 1.0
    noise[6:, :, :, side // 2 :] += 1.0
    found = codes(noise, Seeds(0))
    assert found.shape == (12, 64)
    assert dims == 3 or torch.equal(found, codes(noise, Seeds(0)))
    apart = torch.cdist(found, found)
    assert apart[:6, :6].max() < apart[:6, 6:].min()
    assert Autoencoder(2, dims)(torch.zeros(1, 2, *(side,) * dims)).shape == (1, 2, *(side,) * dims)


def test_the_autoencoder_learns_from_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[float] = set()
    real = Autoencoder.forward

    def watched(self: Autoencoder, image: Tensor) -> Tensor:
        seen.update(image.flatten(1).sum(1).tolist())
        return real(self, image)

    monkeypatch.setattr("allograft.parts.visual_words.STEPS", 20)
    monkeypatch.setattr("allograft.parts.visual_words.BATCH", 2)
    monkeypatch.setattr(Autoencoder, "forward", watched)
    codes(torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, SIDES[2], SIDES[2]), Seeds(0))
    assert len(seen) == 5


def test_words_of_a_pool_are_crops_at_their_places(tmp_path: Path) -> None:
    scenario, context = pool_of(tmp_path / "images", a=4, b=3), a_pretraining(tmp_path / "out")
    members, named, places = words_in(scenario.pool, 3, 1, context)
    assert sum(map(len, members)) == len(named)
    assert {word for own in named.values() for word in own} == {0, 1, 2}
    cut = AtPlaces(named, places, (8, 8), "none", STILL)
    seen = set()
    for cohort in members:
        for index in range(len(cohort)):
            case = cohort.case(index)
            for seed in range(8):
                made = cut(case, rng(seed))
                label = int(made.attributes[LABEL])
                assert label in named[case.cases[0]]
                top, left = (int(share * 9) for share in places[label].tolist())
                torch.testing.assert_close(made.image, case.image[..., top : top + 8, left : left + 8])
                seen.add(label)
    assert seen == {0, 1, 2}
    again = words_in(scenario.pool, 3, 1, a_pretraining(tmp_path / "other"))
    assert torch.equal(again[2], places)  # in whatever phase
    assert again[1] == named


# ------------------------------------------------------------------ clusters
def test_clusters_are_those_of_the_features() -> None:
    centres = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4]])
    truth = torch.arange(30) % 3
    found = clusters_of(centres[truth] + 0.1 * torch.randn(30, 3, generator=rng()), 3, 0)
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 3
    assert torch.equal(found, clusters_of(centres[truth] + 0.1 * torch.randn(30, 3, generator=rng()), 3, 0))


def test_samples_have_the_clusters_of_their_names(tmp_path: Path) -> None:
    scenario, context = pool_of(tmp_path / "images", a=5, b=2), a_pretraining(tmp_path / "out")
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8]}}})
    labels = clusters_by_name(network, scenario.pool, 3, context)
    assert set(labels) == {case.name for cohort in scenario.pool for case in cohort.cases}
    assert set(labels.values()) == {0, 1, 2}
    names, features = pooled_features(network, samples_of(scenario.pool, None), context)
    assert names == [*labels]
    with torch.no_grad():
        network.eval()
        (alone,) = (network.encoder(scenario.pool[0].case(1).image)[-1].mean((2, 3)),)
    torch.testing.assert_close(features[1:2], alone)
    cases = [scenario.pool[0].case(index) for index in (2, 0)]
    (batch,) = list(Labelled(lambda start: iter([collate(cases)]), labels, LABEL)(0))
    assert batch.attributes[LABEL].tolist() == [labels[case.cases[0]] for case in cases]
    tiles = [sample.cases[0] for sample in samples_of(scenario.pool, (8, 8))]
    assert len(tiles) == len(set(tiles)) == 7 * 4
    patches = replace(context, settings=replace(context.settings, patch=(8, 8)))
    task = task_of("deep_clustering", 3, 1, scenario.pool, (8, 8), patches)
    assert task.transform(scenario.pool[0].case(0), rng()).cases[0] in tiles


def test_fewer_samples_than_clusters_are_refused(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "images", a=5).pool
    check_clusters(5, pool, None)
    check_clusters(20, pool, (8, 8))
    with pytest.raises(SpecError, match="the pool has 5 images for 6 clusters; set classes to 2 or less"):
        check_clusters(6, pool, None)
    with pytest.raises(SpecError, match="the pool has 20 tiles for 21 clusters"):
        check_clusters(21, pool, (8, 8))
