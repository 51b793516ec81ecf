"""There and back again: what leaves a file's grid returns to the same place."""

import itertools
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter
from tests.unit.tiny import write_rows

from allograft.cohort import Cohort
from allograft.cohort.geometry import Geometry, from_grid, geometry, to_grid
from allograft.cohort.preprocessing import Mirror, Preprocessing, normalise
from allograft.cohort.readers import Picture, read_image, read_mask
from allograft.errors import ImageError, ManifestError, SpecError

CODES = [
    "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for sides in itertools.product((0, 1), repeat=3)
]


def photograph(array):
    return Picture(array, None)


def blob(shape):
    """An off-centre ellipsoid, so that a flip or a shift would show."""
    places = np.meshgrid(*(np.linspace(0, 1, length) for length in shape), indexing="ij")
    return sum(((place - centre) / 0.25) ** 2 for place, centre in zip(places, (0.4, 0.55, 0.5), strict=False)) < 1


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def one_hot(labels, classes):
    return torch.from_numpy(np.stack([labels == value for value in range(classes)]).astype(np.float32))


@pytest.mark.parametrize("size", [None, (37, 41)])
def test_nothing_to_do_changes_nothing(size):
    image = np.random.default_rng(0).integers(0, 255, (3, 37, 41), dtype=np.uint8)
    place = geometry(photograph(image), Preprocessing(size=size), "a.png")
    assert place.identity
    np.testing.assert_array_equal(to_grid(image, place, nearest=False), image.astype(np.float32))
    kept = to_grid(image.astype(np.int64), place, nearest=True)
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, image)
    values = torch.rand(2, 37, 41)
    torch.testing.assert_close(from_grid(values, place), values, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(64, 48), (200, 211), (51, 300), (97, 131)])
def test_plane_masks_return_to_their_place(size):
    mask = blob((97, 131))
    place = geometry(photograph(mask[None]), Preprocessing(size=size), "a.png")
    grid = to_grid(mask[None].astype(np.uint8), place, nearest=True)
    assert grid.shape == (1, *size)
    assert grid.dtype == np.uint8
    back = from_grid(one_hot(grid[0], 2), place)
    assert dice(back[1].numpy() > 0.5, mask) > 0.97
    soft = from_grid(torch.from_numpy(to_grid(mask[None].astype(np.float32), place, nearest=False)), place)
    assert dice(soft[0].numpy() > 0.5, mask) > 0.97
    torch.testing.assert_close(back.sum(0), torch.ones(97, 131))


def test_volume_masks_return_to_their_place():
    mask = blob((35, 51, 40))
    picture = Picture(mask[None], np.diag([1.0, 1.0, 1.5, 1.0]))
    resized, spaced = Preprocessing(size=(28, 61, 40)), Preprocessing(spacing=(1.2, 0.9, 1.1))
    for preprocessing in (resized, spaced, Preprocessing(spacing=(1.0, 1.0, 1.0), size=(40, 48, 64))):
        place = geometry(picture, preprocessing, "a.nii")
        grid = to_grid(mask[None].astype(np.int16), place, nearest=True)
        assert grid.shape[1:] == place.size
        assert grid.dtype == np.int16
        back = from_grid(one_hot(grid[0], 2), place)
        assert dice(back[1].numpy() > 0.5, mask) > 0.97
        torch.testing.assert_close(back.sum(0), torch.ones(mask.shape))


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5), (4, 8), (9, 4), (1, 7), (7, 1)])
def test_nearest_takes_the_pixel_under_the_centre(before, after):
    line = np.arange(before)[None, :, None].repeat(2, -1)
    place = geometry(photograph(line), Preprocessing(size=(after, 2)), "a.png")
    wanted = [int((i + 0.5) * before / after + 1e-9) for i in range(after)]
    assert to_grid(line, place, nearest=True)[0, :, 0].tolist() == wanted
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(line[:, None].astype(np.float32)), size=(after, 2), mode="nearest-exact"
    )
    assert exact[0, 0, :, 0].tolist() == wanted


def test_enlarging_is_linear_between_pixel_centres():
    line = np.array([[[0.0, 0.0], [8.0, 8.0]]], np.float32)
    place = geometry(photograph(line), Preprocessing(size=(4, 2)), "a.png")
    assert to_grid(line, place, nearest=False)[0, :, 0].tolist() == [0, 2, 6, 8]


@pytest.mark.parametrize("shape", [(64, 60), (24, 26, 20)])
def test_ramps_keep_their_place_both_ways(shape):
    """Away from the borders a ramp is the same ramp on every grid, to 0.06 of a pixel; another
    convention slips by 0.2 and more.

    Not exactly: the weights of an anti-aliasing triangle at broken ratios are not symmetric about
    the centre.
    """
    for axis, length in enumerate(shape):
        ramp = np.broadcast_to(((np.arange(length) + 0.5) / length).reshape(-1, *(1,) * (len(shape) - axis - 1)), shape)
        for factor in (0.6, 1.7):
            size = tuple(round(factor * each) for each in shape)
            place = geometry(photograph(ramp[None]), Preprocessing(size=size), "a")
            grid = to_grid(ramp[None], place, nearest=False)
            wanted = (np.arange(size[axis]) + 0.5) / size[axis]
            line = np.moveaxis(grid[0], axis, 0).reshape(size[axis], -1)[:, 0]
            np.testing.assert_allclose(line[3:-3], wanted[3:-3], rtol=0, atol=0.06 / size[axis])
            back = from_grid(torch.from_numpy(grid), place).numpy()[0]
            inner = np.moveaxis(back, axis, 0)[5:-5]
            np.testing.assert_allclose(inner, np.moveaxis(ramp, axis, 0)[5:-5], rtol=0, atol=0.12 / size[axis])


@pytest.mark.parametrize("shape", [(80, 80), (32, 32, 32)])
def test_shrinking_does_not_alias(shape):
    """A board of 0 and 1 is grey from afar; picking pixels would give stripes."""
    board = (np.indices(shape).sum(0) % 2).astype(np.float32)[None]
    size = tuple(length * 3 // 8 for length in shape)
    grid = to_grid(board, geometry(photograph(board), Preprocessing(size=size), "a"), nearest=False)
    inner = grid[(0, *(slice(2, -2),) * len(shape))]
    assert abs(inner.mean() - 0.5) < 0.01
    assert inner.std() < 0.1


def oriented(array, affine, code):
    image = nibabel.Nifti1Image(array, affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(code))))


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(), Preprocessing("LPS", (1.2, 1.0, 1.7), (12, 10, 6)), Preprocessing(size=(9, 13, 7))],
)
def test_all_48_orientations_give_the_same_grid_and_return(preprocessing):
    random = np.random.default_rng(0)
    array = gaussian_filter(random.normal(size=(11, 9, 7)), 1).astype(np.float32)
    tilt = np.array([[0.98, 0.1, 0], [-0.1, 0.98, 0.05], [0, -0.05, 1]])  # oblique, as scanners are
    affine = np.eye(4)
    affine[:3, :3] = tilt * [1.0, 1.3, 2.0]
    affine[:3, 3] = 5, -8, 13
    grids, returns = [], []
    for code in CODES:
        stored = oriented(array, affine, code)
        volume = np.asarray(stored.dataobj)
        place = geometry(Picture(volume[None], stored.affine), preprocessing, code)
        grids.append(to_grid(volume[None], place, nearest=False))
        back = from_grid(torch.from_numpy(grids[-1]), place)
        assert tuple(back.shape[1:]) == volume.shape
        returns.append(np.asarray(oriented(back[0].numpy(), stored.affine, "RAS").dataobj))
    assert len(set(CODES)) == len(grids) == 48
    assert all(np.array_equal(grid, grids[0]) for grid in grids)
    assert all(np.array_equal(back, returns[0]) for back in returns)
    if preprocessing == Preprocessing():
        np.testing.assert_array_equal(grids[0][0], array)
        np.testing.assert_array_equal(returns[0], array)


def test_orientation_none_keeps_the_stored_axes():
    stored = oriented(np.arange(24.0).reshape(2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]), "SLP")
    volume = np.asarray(stored.dataobj)[None]
    place = geometry(Picture(volume, stored.affine), Preprocessing(None), "a")
    assert place.identity
    assert place.spacing == place.stored_spacing == (3.0, 1.0, 2.0)
    np.testing.assert_array_equal(to_grid(volume, place, nearest=True), volume)


def test_a_plane_of_a_volume_is_turned_within_itself():
    array = np.arange(12.0).reshape(1, 3, 4)
    affine = np.array(
        [[0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]
    )  # rows to posterior, columns to left
    place = geometry(Picture(array, affine), Preprocessing(), "a")
    assert place.axes == (1, 0)
    assert place.flips == (0, 1)
    assert place.spacing == (2.0, 3.0)
    assert place.stored_spacing == (3.0, 2.0)
    grid = to_grid(array, place, nearest=False)
    np.testing.assert_array_equal(grid[0], array[0].T[::-1, ::-1])
    np.testing.assert_array_equal(from_grid(torch.from_numpy(grid), place), array)


def test_spacing_sets_the_length_and_tells_the_truth():
    picture = Picture(np.zeros((1, 10, 20, 30)), np.diag([1.0, 0.7, 2.5, 1.0]))
    place = geometry(picture, Preprocessing(spacing=(2.0, 1.0, 1.0)), "a")
    assert place.resampled == place.size == (5, 14, 75)
    assert place.start == (0, 0, 0)
    np.testing.assert_allclose(np.multiply(place.spacing, place.size), np.multiply(place.stored_spacing, place.shape))
    single = Picture(picture.array, picture.affine.astype(np.float32).astype(np.float64))
    assert (
        geometry(single, Preprocessing(spacing=(0.8, 1.0, 1.0)), "a").resampled[0] == 13
    )  # 12.5 goes up, float32 or not


def test_cut_and_pad_around_the_centre():
    image = np.random.default_rng(0).normal(size=(2, 8, 5)).astype(np.float32)
    picture = Picture(image, np.eye(4))
    place = geometry(picture, Preprocessing(spacing=(1.0, 1.0), size=(4, 9)), "a")
    assert place.start == (2, -2)
    assert place.resampled == (8, 5)
    assert not place.identity
    grid = to_grid(image, place, nearest=False)
    np.testing.assert_array_equal(grid[:, :, 2:7], image[:, 2:6])
    for channel in (0, 1):
        assert (grid[channel][:, [0, 1, 7, 8]] == image[channel].min()).all()
    labels = to_grid(np.ones((1, 8, 5), np.int16), place, nearest=True)
    assert labels.sum() == 20
    assert labels.dtype == np.int16
    back = from_grid(torch.full((3, 4, 9), 1 / 3), place)
    torch.testing.assert_close(back[:, 2:6], torch.full((3, 4, 5), 1 / 3))
    for outside in (back[:, :2], back[:, 6:]):
        assert (outside[0] == 1).all()
        assert (outside[1:] == 0).all()
    assert (from_grid(torch.ones(1, 4, 9), place)[:, :2] == 0).all()


def test_from_grid_keeps_double_and_lifts_half():
    place = geometry(photograph(np.zeros((1, 6, 6))), Preprocessing(size=(3, 4)), "a")
    assert from_grid(torch.rand(2, 3, 4, dtype=torch.float64), place).dtype == torch.float64
    assert from_grid(torch.rand(2, 3, 4).half(), place).dtype == torch.float32


def test_geometry_and_settings_survive_json():
    picture = Picture(np.zeros((1, 5, 6, 7)), np.diag([-1.0, 1.0, 2.0, 1.0]))
    place = geometry(picture, Preprocessing(spacing=(1.0, 2.0, 1.5), size=(4, 4, 4)), "a")
    read = json.loads(json.dumps(asdict(place)))
    assert Geometry(**{key: tuple(value) for key, value in read.items()}) == place
    settings = Preprocessing("LPS", (1.0, 1.0, 2.0), (64, 64, 32), "percentile")
    assert TypeAdapter(Preprocessing).validate_json(json.dumps(asdict(settings)), strict=True) == settings
    with pytest.raises(ValidationError):
        TypeAdapter(Preprocessing).validate_python({"sise": (3, 3)})


@pytest.mark.parametrize(
    ("preprocessing", "error", "words"),
    [
        (
            Preprocessing(spacing=(1.0, 1.0)),
            ImageError,
            "eye.png.*remove spacing, or store the image with its voxel size",
        ),
        (Preprocessing(size=(4, 4, 4)), SpecError, "eye.png.*3 numbers, the image 2 axes; give one"),
        (Preprocessing(spacing=(1.0,)), SpecError, "1 numbers"),
        (Preprocessing(size=(0, 4)), SpecError, "whole numbers above 0"),
        (Preprocessing(size=(4.5, 4)), SpecError, "whole numbers above 0"),
        (Preprocessing(spacing=(-1.0, 1.0)), SpecError, "mm above 0"),
        (Preprocessing(spacing=(float("nan"), 1.0)), SpecError, "mm above 0"),
        (Preprocessing("RAX"), SpecError, "such as RAS"),
        (Preprocessing("RLA"), SpecError, "such as RAS"),
        (Preprocessing("RA"), SpecError, "such as RAS"),
    ],
)
def test_settings_that_make_no_sense_are_refused(preprocessing, error, words):
    with pytest.raises(error, match=words):
        geometry(photograph(np.zeros((3, 8, 8))), preprocessing, "eye.png")


def test_other_shapes_are_refused():
    place = geometry(photograph(np.zeros((3, 8, 8))), Preprocessing(size=(4, 4)), "a")
    with pytest.raises(SpecError, match=r"\(1, 8, 9\)"):
        to_grid(np.zeros((1, 8, 9)), place, nearest=True)
    with pytest.raises(SpecError, match="geometry"):
        from_grid(torch.zeros(2, 8, 8), place)


def test_normalise():
    random = np.random.default_rng(0)
    image = random.normal(size=(3, 40, 50)).astype(np.float32) * [[[1]], [[1e4]], [[1e-3]]] + [[[0]], [[1e6]], [[5]]]
    image = image.astype(np.float32)
    scaled = normalise(image, "zscore")
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std((1, 2)), 1, atol=1e-4)
    scaled = normalise(image, "minmax")
    assert (scaled.min((1, 2)) == 0).all()
    assert (scaled.max((1, 2)) == 1).all()
    scaled = normalise(image, "percentile")
    low, high = np.percentile(image[1].astype(np.float64), (1, 99))
    np.testing.assert_allclose(scaled[1], np.clip((image[1] - low) / (high - low), 0, 1), atol=1e-5)
    np.testing.assert_array_equal(normalise(image, "none"), image)
    with pytest.raises(SpecError, match="did you mean 'zscore'"):
        normalise(image, "z-score")


@pytest.mark.parametrize("intensity", ["zscore", "minmax", "percentile"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 3e38, 255])
def test_constant_channels_are_zeros_and_nothing_is_nan(intensity, value):
    image = np.full((2, 9, 11), value, np.float32)
    image[1, 4, 4] = 1e3 if value != 3e38 else -3e38
    scaled = normalise(image, intensity)
    assert (scaled[0] == 0).all()
    assert np.isfinite(scaled).all()
    if image[1, 4, 4] != image[1, 0, 0]:
        assert scaled[1].std() > 0  # one bright pixel is not a constant channel


def test_a_photograph_is_quick():
    """Far from the limit on purpose: this catches a wrong algorithm, not a busy machine."""
    image = np.random.default_rng(0).integers(0, 255, (3, 960, 999), dtype=np.uint8)
    place = geometry(photograph(image), Preprocessing(size=(384, 384)), "a")
    to_grid(image, place, nearest=False)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        to_grid(image, place, nearest=False)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5


def test_real_files_return_to_their_place():
    if "ALLOGRAFT_DATA" not in os.environ:
        pytest.skip("ALLOGRAFT_DATA is not set: no real data here")
    data = Path(os.environ["ALLOGRAFT_DATA"])
    vessels = read_mask(sorted((data / "vessels" / "regions").iterdir())[0])
    brain = sorted((data / "hippocampus" / "images").iterdir())[0]
    labels = read_mask(data / "hippocampus" / "masks" / brain.name)
    scaled = normalise(read_image([brain]).array, "zscore")
    assert abs(float(scaled.mean())) < 1e-4
    finer = Preprocessing(spacing=(0.8, 0.8, 0.8), size=(64, 72, 64))
    for mask, preprocessing in ((vessels, Preprocessing(size=(384, 384))), (labels, finer)):
        place = geometry(mask, preprocessing, "real")
        binary = (mask.array > 0).astype(np.uint8)
        back = from_grid(one_hot(to_grid(binary, place, nearest=True)[0], 2), place)
        assert dice(back.argmax(0).numpy() == 1, binary[0] == 1) > 0.97


def test_unit_keeps_colours_as_shares_of_their_type() -> None:
    eight = np.array([[[0, 51, 255]]], np.uint8)
    assert np.allclose(normalise(eight, "unit"), [[[0.0, 0.2, 1.0]]])
    assert np.allclose(normalise(eight.astype(np.uint16) * 257, "unit"), normalise(eight, "unit"))
    shares = np.array([[[0.0, 0.5]]], np.float32)
    assert np.array_equal(normalise(shares, "unit"), shares)
    for wrong in (np.array([[[0.0, 2.0]]], np.float32), np.array([[[-1, 2]]], np.int16)):
        with pytest.raises(SpecError, match="unit takes whole numbers"):
            normalise(wrong, "unit")


def test_a_window_clips_before_intensities_are_scaled(tmp_path):
    values = np.array([[-1000, -150], [50, 3000]], np.int16)
    nibabel.save(nibabel.Nifti1Image(values[:, :, None], np.eye(4)), tmp_path / "a.nii.gz")  # type: ignore[attr-defined]
    manifest = write_rows(tmp_path / "manifest.csv", [{"image": "a.nii.gz", "subject": "a", "site": "a"}])
    seen = Cohort.read(manifest, preprocessing=Preprocessing(window=(-150, 250), intensity="minmax"))
    assert sorted(seen.case(0).image.flatten().tolist()) == [0.0, 0.0, 0.5, 1.0]
    without = Cohort.read(manifest, preprocessing=Preprocessing(intensity="minmax"))
    assert sorted(without.case(0).image.flatten().tolist())[1] > 0.2
    assert "window" not in Preprocessing().keyed
    assert Preprocessing(window=(-150, 250)).keyed["window"] == (-150, 250)
    for wrong in ((250, -150), (1, 1), (float("-inf"), 3)):
        with pytest.raises(SpecError, match=r"preprocessing.window: found .* expected the lowest value"):
            Preprocessing(window=wrong)


def test_a_crop_keeps_proportions_and_cuts_around_the_centre():
    """As DiffMIC's centre crop to a square that is then resized."""
    image = np.random.default_rng(0).random((1, 40, 64))
    place = geometry(photograph(image), Preprocessing(size=(20, 20), fit="crop"), "a.png")
    assert (place.resampled, place.start, place.size) == ((20, 32), (0, 6), (20, 20))
    square = geometry(photograph(image[:, :, 12:52]), Preprocessing(size=(20, 20)), "a.png")
    np.testing.assert_allclose(
        to_grid(image, place, nearest=False)[:, :, 1:-1],
        to_grid(image[:, :, 12:52], square, nearest=False)[:, :, 1:-1],
        rtol=1e-5,
    )
    assert place.share_cut_off == pytest.approx(1 - 20 / 32)
    for length in range(1, 40):  # never short of the size
        assert (
            min(geometry(photograph(np.zeros((1, length, 37))), Preprocessing(size=(13, 11), fit="crop"), "a").start)
            >= 0
        )
    for wrong in (
        {"fit": "crop"},
        {"fit": "crop", "size": (4, 4), "spacing": (1.0, 1.0)},
        {"fit": "crp", "size": (4, 4)},
    ):
        with pytest.raises(SpecError, match=r"preprocessing\.fit"):
            Preprocessing(**wrong)
    assert "fit" not in Preprocessing(size=(4, 4)).keyed


def test_the_99th_percentile_becomes_099_and_nothing_is_clipped():
    values = np.random.default_rng(0).gamma(2.0, 50.0, (2, 30, 30)) + 7
    found = normalise(values, "percentile99")
    assert found.min(axis=(1, 2)).tolist() == [0, 0]
    np.testing.assert_allclose(np.percentile(found, 99, axis=(1, 2)), 0.99, rtol=1e-5)
    assert (found.max(axis=(1, 2)) > 1).all()
    sparse = np.zeros((1, 30, 30))
    sparse[0, 0, 0] = 5.0
    assert normalise(sparse, "percentile99").max() == np.float32(0.99)
    assert not normalise(np.full((1, 4, 4), 3.0), "percentile99").any()


def test_every_setting_that_is_set_is_part_of_a_key_and_no_other():
    assert set(Preprocessing().keyed) == {"orientation", "spacing", "size", "intensity"}
    changed = {"nan": 0.0, "channels": 3, "window": (0, 1), "fit": "crop", "mirror": Mirror("side", "right")}
    for name, value in changed.items():
        keyed = Preprocessing(size=(4, 4), **{name: value}).keyed
        assert set(keyed) == {"orientation", "spacing", "size", "intensity", name}
    assert keyed["mirror"] == {"attribute": "side", "value": "right", "axis": 1}


def test_each_channel_is_scaled_by_itself_and_the_whole_type_is_one():
    values = np.stack([np.linspace(0, 10, 101), np.linspace(-500, 4000, 101)])[:, None]
    for intensity in ("zscore", "minmax", "percentile", "percentile99"):
        one, two = normalise(values, intensity)
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert normalise(values, "percentile")[0, 0, 1:100].tolist() == pytest.approx(np.linspace(0, 1, 99).tolist())
    assert normalise(values, "percentile")[0, 0, [0, 100]].tolist() == [0, 1]
    sparse = np.zeros((1, 20, 20))
    sparse[0, 3, 4] = 8.0
    assert normalise(sparse, "percentile").tolist() == normalise(sparse, "minmax").tolist() == (sparse / 8).tolist()
    assert normalise(np.array([[[0, 2**15]]], np.uint16), "unit").max() == np.float32(2**15 / (2**16 - 1))


def test_a_mirror_reverses_an_axis_of_the_grid_that_orientation_may_have_reversed_already():
    picture = Picture(np.zeros((1, 3, 4, 5)), np.diag([-1.0, -1.0, 1.0, 1.0]))
    for axis, flips in ((0, (1,)), (1, (0,)), (2, (0, 1, 2))):
        settings = Preprocessing(mirror=Mirror("side", "right", axis))
        assert geometry(picture, settings, "a", mirrored=True).flips == flips
        assert geometry(picture, settings, "a").flips == (0, 1)


def test_images_are_mirrored_by_an_attribute_and_predictions_back(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        Image.fromarray(rng.integers(0, 255, (6, 8), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(0, 2, (6, 8), dtype=np.uint8)).save(tmp_path / f"{name}-mask.png")
    rows = [
        {"image": f"{side}.png", "mask": f"{side}-mask.png", "subject": side, "site": "a", "side": side}
        for side in ("left", "right")
    ]
    write_rows(tmp_path / "manifest.csv", rows)
    mirrored = Preprocessing(intensity="none", mirror=Mirror("side", "right"))
    plain = Cohort.read(tmp_path / "manifest.csv", preprocessing=Preprocessing(intensity="none"))
    cohort = Cohort.read(tmp_path / "manifest.csv", preprocessing=mirrored)
    for number, turned in ((0, False), (1, True)):
        for key in ("image", "mask"):
            ours, theirs = (
                one.image if key == "image" else one.labels["mask"] for one in (cohort.case(number), plain.case(number))
            )
            assert torch.equal(ours, theirs.flip(-1) if turned else theirs)
        whole = cohort.whole(number)
        found = torch.nn.functional.one_hot(cohort.case(number).labels["mask"][0, 0], 2).movedim(-1, 0)[None].float()
        assert torch.equal(whole.on_image(found)[1].long(), whole.mask)  # on the stored image again
    # a file and its copy on both sides are prepared once each
    (tmp_path / "copy.png").write_bytes((tmp_path / "right.png").read_bytes())
    rows[0]["image"] = "right.png"
    rows[1]["image"] = "copy.png"
    write_rows(tmp_path / "both.csv", rows)
    both = Cohort.read(tmp_path / "both.csv", preprocessing=mirrored)
    assert torch.equal(both.case(0).image, both.case(1).image.flip(-1))
    rows[1]["side"] = "unknown"
    write_rows(tmp_path / "unknown.csv", rows)
    with pytest.raises(ManifestError, match="by the column 'side', which is empty here"):
        Cohort.read(tmp_path / "unknown.csv", preprocessing=mirrored).case(1)
    beyond = Cohort.read(tmp_path / "manifest.csv", preprocessing=Preprocessing(mirror=Mirror("side", "right", 2)))
    with pytest.raises(SpecError, match="axis is 2; expected 0 to 1"):
        beyond.case(1)
