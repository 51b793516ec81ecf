"""Augmentation: what stays, what moves together, and what is drawn."""

import itertools
import math
from dataclasses import fields

import pytest
import torch

from allograft.errors import SpecError
from allograft.transforms.augmentation import RANGES, Draw, apply, draw

LARGE = 2**53 + 1  # no float holds it


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _case(*spatial, channels=2, seed=1):
    image = torch.randn(channels, *spatial, generator=_rng(seed))
    mask = torch.randint(0, 4, (1, *spatial), generator=_rng(seed + 1))
    return image, {"mask": mask, "region": mask > 1, "paired": image[:1].clone()}


def _blob(spatial, place, width=3.0):
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in spatial], indexing="ij")
    return torch.exp(-sum((a - p) ** 2 for a, p in zip(axes, place, strict=True)) / (2 * width**2))[None]


def _centre(weight):
    weight = weight[0].double()
    return [
        float((a * weight).sum() / weight.sum())
        for a in torch.meshgrid(*[torch.arange(n) for n in weight.shape], indexing="ij")
    ]


def _same(first, second):
    return torch.equal(first[0], second[0]) and all(torch.equal(first[1][k], second[1][k]) for k in second[1])


@pytest.mark.parametrize("spatial", [(7, 10), (4, 5, 6)])
def test_nothing_drawn_nothing_changed(spatial):
    image, labels = _case(*spatial)
    none = draw("none", len(spatial), _rng())
    assert none == Draw()
    moved = apply(image, labels, none, _rng())
    assert _same(moved, (image, labels))
    assert moved[0].data_ptr() != image.data_ptr()
    assert [moved[1][k].dtype for k in labels] == [torch.int64, torch.bool, torch.float32]


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_right_angles_are_rot90(turns):
    image, labels = _case(9, 9)
    turned, moved = apply(image, labels, Draw(angles=(90.0 * turns,)), _rng())
    torch.testing.assert_close(turned, torch.rot90(image, turns, (1, 2)), rtol=0, atol=1e-4)
    for name in ("mask", "region"):
        assert torch.equal(moved[name], torch.rot90(labels[name], turns, (1, 2)))


def test_three_axes_turn_one_after_another():
    image, labels = _case(6, 6, 6)
    _, moved = apply(image, labels, Draw(angles=(90.0, 0.0, 0.0)), _rng())
    assert torch.equal(moved["mask"], torch.rot90(labels["mask"], 1, (2, 3)))
    turned, moved = apply(image, labels, Draw(angles=(90.0, 90.0, -90.0), flips=(False, True, False)), _rng())

    def reference(tensor):
        return torch.rot90(torch.rot90(torch.rot90(tensor, 1, (2, 3)), 1, (1, 3)), -1, (1, 2)).flip(2)

    assert torch.equal(moved["mask"], reference(labels["mask"]))
    torch.testing.assert_close(turned, reference(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("spatial", [(5, 8), (3, 4, 5)])
def test_mirroring_alone_copies_voxels(spatial):
    image, labels = _case(*spatial)
    flips = (True, *[False] * (len(spatial) - 2), True)
    turned, moved = apply(image, labels, Draw(flips=flips), _rng())
    assert torch.equal(turned, image.flip(1, -1))
    assert torch.equal(moved["mask"], labels["mask"].flip(1, -1))


def test_mirroring_comes_after_rotation():
    image, labels = _case(8, 8)
    _, moved = apply(image, labels, Draw(angles=(90.0,), flips=(True, False)), _rng())
    assert torch.equal(moved["mask"], torch.rot90(labels["mask"], 1, (1, 2)).flip(1))


@pytest.mark.parametrize("size", [None, (24, 28)])
def test_a_blob_lands_where_it_should(size):
    spatial, place = (41, 49), (24.0, 20.0)
    angle, scale = 30.0, 1.2
    image = _blob(spatial, place, 2.0)
    labels = {"mask": (image > 0.3).long()}
    centre = None if size is None else (22.5, 23.5)
    turned, moved = apply(
        image, labels, Draw(angles=(angle,), log_scale=math.log(scale)), _rng(), size=size, centre=centre
    )
    # What lay at an offset (r, c) from the centre is turned like rot90, from the second axis to the
    # first, and enlarged.
    row, column = (p - m for p, m in zip(place, centre or (20.0, 24.0), strict=True))
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    offset = (scale * (cosine * row - sine * column), scale * (sine * row + cosine * column))
    expected = [(n - 1) / 2 + o for n, o in zip(size or spatial, offset, strict=True)]
    assert _centre(turned) == pytest.approx(expected, abs=0.1)
    assert _centre(moved["mask"].clamp_min(0)) == pytest.approx(expected, abs=0.3)
    assert float(turned.sum()) == pytest.approx(float(image.sum()) * scale**2, rel=0.03)


def test_image_and_mask_move_together_in_3d():
    image = _blob((24, 22, 20), (14.0, 9.0, 11.0), 2.0)
    settings = Draw(angles=(20.0, -15.0, 25.0), log_scale=-0.1, flips=(True, False, True))
    turned, moved = apply(image, {"mask": (image > 0.3).long()}, settings, _rng(), size=(18, 20, 16))
    assert _centre(turned) == pytest.approx(_centre(moved["mask"].clamp_min(0)), abs=0.4)
    assert math.dist(_centre(turned), (11.0, 6.5, 7.5)) > 1, "and it did move"


def test_with_spacing_the_rotation_is_rigid():
    # 3 mm along the first axis and 1 mm along the second: 90 degrees take 2 voxels down to 6 voxels
    # across, each now 3 wide.
    mask = torch.zeros(1, 9, 33, dtype=torch.int64)
    mask[0, 6, 16] = 1
    _, moved = apply(mask.float(), {"mask": mask}, Draw(angles=(90.0,)), _rng(), spacing=(3.0, 1.0))
    assert (moved["mask"][0] == 1).nonzero().tolist() == [[4, 21], [4, 22], [4, 23]]


@pytest.mark.parametrize(
    ("centre", "rows", "columns"), [(None, (1, 5), (2, 5)), ((2.0, 1.0), (0, 4), (0, 3)), ((1.5, 6.0), (0, 4), (5, 8))]
)
def test_a_crop_copies_voxels(centre, rows, columns):
    image, labels = _case(6, 8)
    cropped, moved = apply(image, labels, Draw(), _rng(), size=(4, 3), centre=centre)
    assert torch.equal(cropped, image[:, slice(*rows), slice(*columns)])
    assert torch.equal(moved["mask"], labels["mask"][:, slice(*rows), slice(*columns)])


@pytest.mark.parametrize("size", [(8, 6), (5, 7), (5, 6)])
@pytest.mark.parametrize("centre", [None, (4.0, 5.0), (4.3, 5.8), (2.5, 2.5)])
def test_resampling_and_slicing_cut_the_same_voxels(size, centre):
    image, labels = _case(11, 12)
    sliced = apply(image, labels, Draw(), _rng(), size=size, centre=centre)
    resampled = apply(image, labels, Draw(angles=(1e-9,)), _rng(), size=size, centre=centre)
    assert torch.equal(sliced[1]["mask"], resampled[1]["mask"])
    inside = sliced[1]["mask"] != -100
    torch.testing.assert_close(sliced[0] * inside, resampled[0] * inside, rtol=0, atol=1e-4)


def test_outside_the_image_labels_are_not_labelled():
    image, labels = _case(4, 4)
    for settings in (Draw(), Draw(angles=(45.0,))):
        cropped, moved = apply(image, labels, settings, _rng(), size=(10, 6))
        for corner in itertools.product((0,), (0, -1), (0, -1)):
            assert moved["mask"][corner] == -100
            assert not moved["region"][corner]
            assert moved["paired"][corner].isnan()
        assert cropped.isfinite().all()
    padded, _ = apply(image, labels, Draw(), _rng(), size=(10, 6))
    assert torch.equal(padded[:, 3:7, 1:5], image)
    assert padded.abs().sum() == image.abs().sum(), "zeros around"
    away, far = apply(image, labels, Draw(), _rng(), size=(3, 3), centre=(-20.0, 40.0))
    assert not away.any()
    assert (far["mask"] == -100).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_label_values_are_never_invented(dims):
    image, labels = _case(*[14, 12, 10][:dims])
    labels["mask"] = torch.where(labels["mask"] == 3, LARGE, labels["mask"])
    for seed in range(20):
        settings = draw("strong", dims, _rng(seed))
        turned, moved = apply(image, labels, settings, _rng(seed), size=(9, 11, 8)[:dims])
        assert set(moved["mask"].unique().tolist()) <= {-100, 0, 1, 2, LARGE}
        assert turned.isfinite().all()
        assert turned.shape == (2, *(9, 11, 8)[:dims])


@pytest.mark.parametrize("dims", [2, 3])
def test_same_draw_same_result_and_inputs_untouched(dims):
    image, labels = _case(*[12, 11, 10][:dims])
    before = image.clone(), {name: label.clone() for name, label in labels.items()}
    everything = Draw((10.0,) * (1 if dims == 2 else 3), 0.1, (True,) * dims, 0.1, 0.8, 0.1, 1.1, 0.9, 0.6)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second, other = (apply(image, labels, everything, _rng(seed), size=(8,) * dims) for seed in (3, 3, 4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1]["mask"], second[1]["mask"])
    assert not torch.equal(first[0], other[0]), "the noise is another one"
    assert _same((image, labels), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_intensity_change_does_what_it_says():
    image = torch.randn(2, 64, 64, generator=_rng()) * torch.tensor([1.0, 5.0])[:, None, None] + 3

    def changed(**settings):
        return apply(image, {}, Draw(**settings), _rng())[0]

    deviation, mean = torch.std_mean(image, dim=(1, 2), keepdim=True, correction=0)
    torch.testing.assert_close(changed(brightness=0.2), image + 0.2 * deviation)
    torch.testing.assert_close(changed(contrast=1.5), mean + 1.5 * (image - mean))
    noise = (changed(noise_sd=0.2) - image) / deviation
    torch.testing.assert_close(noise.std(dim=(1, 2)), torch.tensor([0.2, 0.2]), rtol=0.05, atol=0)
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    torch.testing.assert_close(changed(gamma=2.0), ((image - low) / (high - low)) ** 2 * (high - low) + low)
    for softened in (changed(blur_sigma=1.0), changed(zoom=0.5)):
        assert bool((softened.std(dim=(1, 2)) < 0.8 * image.std(dim=(1, 2))).all())
    flat = torch.full((1, 8, 8), 7.0)
    everything = Draw(noise_sd=0.1, blur_sigma=1.0, brightness=0.1, contrast=1.2, gamma=0.8, zoom=0.5)
    torch.testing.assert_close(apply(flat, {}, everything, _rng())[0], flat)


def test_blur_of_a_point_is_the_gaussian():
    image = torch.zeros(1, 15, 15, dtype=torch.float64)
    image[0, 7, 7] = 1
    blurred = apply(image, {}, Draw(blur_sigma=0.8), _rng())[0]
    assert float(blurred.sum()) == pytest.approx(1)
    assert float(blurred[0, 7, 8] / blurred[0, 7, 7]) == pytest.approx(math.exp(-1 / (2 * 0.8**2)))
    assert float(blurred[0, 8, 8] / blurred[0, 7, 7]) == pytest.approx(math.exp(-2 / (2 * 0.8**2)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("strength", ["light", "strong"])
def test_five_hundred_draws_stay_in_their_ranges(strength, dims):
    rng, ranges, defaults = _rng(7), RANGES[strength], Draw()
    draws = [draw(strength, dims, rng) for _ in range(500)]
    for field in fields(Draw):
        if field.name in ("angles", "flips"):
            continue
        chosen = ranges.get("scale" if field.name == "log_scale" else field.name)
        values = [
            getattr(each, field.name) for each in draws if getattr(each, field.name) != getattr(defaults, field.name)
        ]
        if chosen is None:
            assert not values
            continue
        low, high = (
            (math.log(chosen.low), math.log(chosen.high)) if field.name == "log_scale" else (chosen.low, chosen.high)
        )
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
        assert len(values) / 500 == pytest.approx(chosen.probability, abs=0.08)
    limit = ranges[f"angle_{dims}d"]
    turned = [each.angles for each in draws if any(each.angles)]
    assert len(turned) / 500 == pytest.approx(limit.probability, abs=0.08)
    for axis in range(1 if dims == 2 else 3):
        angles = [each[axis] for each in turned]
        assert limit.low <= min(angles) < 0.9 * limit.low
        assert 0.9 * limit.high < max(angles) <= limit.high
    flips = torch.tensor([each.flips for each in draws]).float().mean(0).tolist()
    assert flips == ([0.0] * dims if strength == "light" else pytest.approx([0.5] * dims, abs=0.08))


def test_draws_depend_on_the_generator_alone():
    assert draw("strong", 2, _rng(5)) == draw("strong", 2, _rng(5))
    assert draw("strong", 2, _rng(5)) != draw("strong", 2, _rng(6))
    after = []
    for strength in RANGES:
        rng = _rng(5)
        draw(strength, 3, rng)
        after.append(torch.rand(1, generator=rng).item())
    assert len(set(after)) == 1, "one strength uses as many numbers as another"


def test_wrong_arguments_are_named():
    image, labels = _case(4, 5)
    with pytest.raises(SpecError, match="did you mean 'strong'"):
        draw("stron", 2, _rng())
    with pytest.raises(SpecError, match="got 4"):
        draw("light", 4, _rng())
    with pytest.raises(SpecError, match="'mask' has shape"):
        apply(image, {"mask": torch.zeros(1, 5, 4)}, Draw(), _rng())
    with pytest.raises(SpecError, match="floating point"):
        apply(image.long(), labels, Draw(), _rng())
    wrong = {"size": (3,), "centre": (1.0, 1.0, 1.0), "spacing": (1.0,)}
    for name, value in [*wrong.items(), ("size", (0, 3)), ("spacing", (0.0, 1.0))]:
        with pytest.raises(SpecError, match=name):
            apply(image, labels, Draw(), _rng(), **{name: value})
    for settings, name in [(Draw(angles=(1.0, 2.0, 3.0)), "angles"), (Draw(flips=(True,)), "flips")]:
        with pytest.raises(SpecError, match=name):
            apply(image, labels, settings, _rng())
