"""Where two files meet: turned where that is all, refused with the distance where it is not."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from allograft.cohort import Cohort, Preprocessing
from allograft.cohort.alignment import aligned, check_right_angles, shift
from allograft.cohort.picture import Grid, Picture
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import ImageError

SHAPE = (4, 5, 6)
TURN = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -3], [0, 0, 1, 7], [0, 0, 0, 1]]) @ np.diag([0.5, 1, 3, 1])
NUMBERS = np.arange(120, dtype=np.int16).reshape(SHAPE)


def save(path: Path, array: np.ndarray, affine: np.ndarray = TURN) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), affine), path)
    return path


def world(array: np.ndarray, affine: np.ndarray) -> dict[tuple[float, ...], int]:
    """Place in mm -> number, voxel by voxel."""
    return {
        tuple(np.round(affine[:3, :3] @ at + affine[:3, 3], 3)): int(array[tuple(at)]) for at in np.argwhere(array >= 0)
    }


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_permutation_and_flip_comes_back(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    # nibabel's own reorientation is the reference for where the voxels went
    turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    stored = nibabel.Nifti1Image(NUMBERS, TURN).as_reoriented(turn)
    assert world(np.asarray(stored.dataobj), stored.affine) == world(NUMBERS, TURN)
    nibabel.save(stored, tmp_path / "m.nii.gz")
    other = read_mask(tmp_path / "m.nii.gz")
    back = aligned(other, Picture(NUMBERS[None], TURN).grid, "m.nii.gz", "image")
    np.testing.assert_array_equal(back.array[0], NUMBERS)
    np.testing.assert_array_equal(back.affine, TURN)


MOVES = {
    "half a metre away": (np.array([500.0, 0, 0]), "up to 500.0 mm"),
    "one voxel away": (TURN[:3, 0], "up to 0.5 mm"),
    "half a voxel away": (TURN[:3, 0] / 2, "up to 0.2 mm"),
    "two slices up": (TURN[:3, 2] * 2, "up to 6.0 mm"),
}


@pytest.mark.parametrize("name", MOVES)
def test_another_place_is_refused_with_its_distance(tmp_path: Path, name: str) -> None:
    step, words = MOVES[name]
    moved = TURN.copy()
    moved[:3, 3] += step
    with pytest.raises(ImageError, match=words) as caught:
        aligned(
            read_mask(save(tmp_path / "m.nii", NUMBERS, moved)), Picture(NUMBERS[None], TURN).grid, "m.nii", "image.nii"
        )
    assert "m.nii" in str(caught.value)
    assert "image.nii" in str(caught.value)


@pytest.mark.parametrize(
    ("affine", "array", "words"),
    [
        (TURN @ np.diag([1, 1, 0.5, 1]), NUMBERS, "voxels of 0.5 x 1 x 1.5 mm, expected 0.5 x 1 x 3 mm"),
        (TURN @ np.diag([1.02, 1, 1, 1]), NUMBERS, "0.51 x 1 x 3"),
        (TURN, NUMBERS[:, :, :4], r"shape \(4, 5, 4\), expected \(4, 5, 6\)"),
        (TURN, NUMBERS[..., 0], r"shape \(4, 5\), expected \(4, 5, 6\)"),
        (np.array([[0.7, -0.7, 0, 5], [0.7, 0.7, 0, -3], [0, 0, 3, 7], [0, 0, 0, 1]]), NUMBERS, "mm"),
    ],
)
def test_other_grids_are_refused(tmp_path: Path, affine: np.ndarray, array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        aligned(
            read_mask(save(tmp_path / "m.nii", array, affine)), Picture(NUMBERS[None], TURN).grid, "m.nii", "image.nii"
        )


def test_the_roundings_of_a_header_pass(tmp_path: Path) -> None:
    rounded = np.round(TURN, 3)
    assert (
        aligned(
            read_mask(save(tmp_path / "m.nii", NUMBERS, rounded)), Picture(NUMBERS[None], TURN).grid, "m", "i"
        ).spatial
        == SHAPE
    )


@pytest.mark.parametrize("axis", range(3))
def test_planes_are_brought_to_their_image_too(tmp_path: Path, axis: int) -> None:
    plane = read_image([save(tmp_path / "image.nii", NUMBERS.take([2], axis))])
    turned = nibabel.load(tmp_path / "image.nii").as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(turned, tmp_path / "m.nii")
    mask = read_mask(tmp_path / "m.nii")
    np.testing.assert_array_equal(aligned(mask, plane.grid, "m", "i").array[0], NUMBERS.take(2, axis))
    moved = TURN.copy()
    moved[:3, 3] += TURN[:3, axis]
    save(tmp_path / "next.nii", NUMBERS.take([2], axis), moved)
    with pytest.raises(ImageError, match=f"up to {np.linalg.norm(TURN[:3, axis]):.1f} mm"):
        aligned(read_mask(tmp_path / "next.nii"), plane.grid, "next.nii", "i")
    thick = TURN.copy()
    thick[:3, axis] *= 2
    corrected = thick.copy()
    corrected[:3, 3] = TURN[:3, 3]
    save(tmp_path / "thick.nii", NUMBERS.take([2], axis), corrected)
    with pytest.raises(ImageError, match="voxels of"):
        aligned(read_mask(tmp_path / "thick.nii"), plane.grid, "thick.nii", "i")


def test_channels_are_brought_onto_the_first(tmp_path: Path) -> None:
    one = save(tmp_path / "a.nii", NUMBERS)
    nibabel.save(nibabel.load(one).as_reoriented(np.array([[1, 1], [0, -1], [2, 1]])), tmp_path / "b.nii")
    picture = read_image([one, tmp_path / "b.nii"])
    np.testing.assert_array_equal(picture.array, [NUMBERS, NUMBERS])


def test_a_picture_without_a_place_meets_only_its_like(tmp_path: Path) -> None:
    square = Picture(np.zeros((1, 4, 4)), None)
    with pytest.raises(ImageError, match="no voxel size and position"):
        aligned(square, Picture(np.zeros((1, 4, 4)), np.eye(4), dropped=2).grid, "m.png", "i.nii")
    with pytest.raises(ImageError, match=r"m\.nii: i\.npy has no voxel size and position, but m\.nii has"):
        aligned(Picture(np.zeros((1, 4, 4, 4)), np.eye(4)), Grid((4, 4, 4), None), "m.nii", "i.npy")
    with pytest.raises(ImageError, match=r"m\.npy: m\.npy has no voxel size and position, but i\.nii has"):
        aligned(Picture(np.zeros((1, 4, 4, 4)), None), Grid((4, 4, 4), np.eye(4)), "m.npy", "i.nii")
    shown = Picture(np.zeros((1, 4, 4)), np.eye(4), shown=True)
    assert aligned(square, shown.grid, "m.png", "i.dcm").affine is shown.affine
    with pytest.raises(ImageError, match="image's size"):
        aligned(Picture(np.zeros((1, 4, 5)), None), square.grid, "m.png", "i.png")


def cohort(folder: Path, **files: tuple[np.ndarray, np.ndarray]) -> Cohort:
    for name, (array, affine) in files.items():
        save(folder / f"{name}.nii", array, affine)
    columns = ["image", *(name for name in files if name != "image")]
    row = ",".join(f"{name}.nii" for name in columns)
    (folder / "manifest.csv").write_text(f"{','.join(columns)},subject,site\n{row},1,a\n")
    return Cohort.read(folder / "manifest.csv", preprocessing=Preprocessing(intensity="none", orientation=None))


def test_mask_region_and_pair_of_a_study_are_turned_and_checked(tmp_path: Path) -> None:
    mask = (NUMBERS % 7 == 0).astype(np.uint8)
    flipped, moved = NUMBERS[::-1], TURN.copy()
    moved[:3, 3] += moved[:3, 0] * 3
    moved[:3, 0] *= -1
    found = cohort(
        tmp_path, image=(NUMBERS, TURN), mask=(mask[::-1], moved), region=(mask[::-1], moved), paired=(flipped, moved)
    )
    np.testing.assert_array_equal(found.case(0).labels["mask"][0, 0], mask)
    np.testing.assert_array_equal(found.case(0).region[0, 0], mask == 1)
    np.testing.assert_array_equal(found.whole(0).mask, mask)
    far = moved.copy()
    far[:3, 3] += 100
    for what in ("mask", "region"):
        (tmp_path / what).mkdir()
        lost = cohort(tmp_path / what, image=(NUMBERS, TURN), **{what: (mask, far)})
        with pytest.raises(ImageError, match=r"up to \d+\.\d mm from its image 'image.nii'"):
            lost.case(0)


# ---------------------------------------------------------- right angles
def sheared(degrees: float, length: float = 2.0) -> np.ndarray:
    """Slices that a gantry tilted by some degrees shifts along the second axis."""
    affine = np.diag([1.0, 1, length * np.cos(np.radians(degrees)), 1])
    affine[1, 2] = length * np.sin(np.radians(degrees))
    return affine


def test_the_error_of_distances_along_sheared_axes_is_bounded_by_the_shift() -> None:
    for degrees in (1.0, 15.0, 40.0):
        affine, shape = sheared(degrees), (30, 40, 20)
        places = np.array(list(product((0, 29), (0, 39), (0, 19))), float)
        for one, two in product(places, repeat=2):
            true = np.linalg.norm(affine[:3, :3] @ (one - two))
            straight = np.linalg.norm((one - two) * np.linalg.norm(affine[:3, :3], axis=0))
            assert abs(true - straight) <= shift(affine, shape) + 1e-9
        assert shift(affine, shape) == pytest.approx(38 * np.sin(np.radians(degrees)))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [3.0, 15.0, 30.0])
def test_a_tilted_gantry_is_refused_in_nifti_as_in_dicom(tmp_path: Path, degrees: float, axis: int) -> None:
    affine = sheared(degrees)
    affine[:3] = np.roll(affine[:3], axis, axis=0)
    with pytest.raises(ImageError, match=rf"{degrees:g} degrees off a right angle .* by up to [\d.]+ mm"):
        read_image([save(tmp_path / "a.nii", np.zeros((30, 40, 20), np.uint8), affine)])


def test_less_than_a_voxel_over_the_whole_image_passes(tmp_path: Path) -> None:
    check_right_angles("a", sheared(1.0), (30, 40, 20))  # 38 mm * sin 1 degree = 0.66 mm
    with pytest.raises(ImageError):
        check_right_angles("a", sheared(1.0), (30, 400, 50))


def test_what_is_brought_onto_a_plane_has_the_facts_of_that_plane() -> None:
    affine = np.diag([1.0, 2.0, 5.0, 1.0])
    grid = Grid((3, 4), affine, dropped=2, thickness=5.0)
    plane = Picture(np.arange(12).reshape(1, 3, 4), affine, dropped=2, thickness=5.0)
    turned = Picture(plane.array.swapaxes(1, 2)[:, ::-1], affine[:, [1, 0, 2, 3]] @ flipped(4), 0, 5.0, sparse=False)
    for other in (plane, turned, Picture(plane.array, affine, shown=True)):
        found = aligned(other, grid, "m", "i")
        np.testing.assert_array_equal(found.array, plane.array)
        assert (found.dropped, found.thickness, found.shown, found.sparse) == (2, 5.0, False, False)
    with pytest.raises(ImageError, match=r"m: found voxels of 1 x 2 x 4 mm, expected 1 x 2 x 5 mm"):
        aligned(Picture(plane.array, np.diag([1.0, 2.0, 4.0, 1.0]), 2, 4.0), grid, "m", "i")
    shown = Grid((3, 4), affine, shown=True)
    drawn = aligned(Picture(plane.array, None), shown, "m.png", "i")
    assert (drawn.shown, drawn.affine is affine) == (True, True)
    for bare, placed in ((Picture(plane.array, None), grid), (plane, Grid((3, 4), None))):
        with pytest.raises(ImageError, match="has no voxel size and position"):
            aligned(bare, placed, "m", "i")


def flipped(length: int) -> np.ndarray:
    """The first axis of so many voxels the other way round."""
    return np.array([[-1.0, 0, 0, length - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_the_distance_is_between_corners_and_a_tenth_of_the_smallest_side_passes() -> None:
    grid = Grid((3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0]))
    array = np.zeros((1, 3, 4, 5))

    def other(step: float, *moved: float) -> Picture:
        affine = np.diag([1.0, 2.0, 3.0 * step, 1.0])
        affine[:3, 3] = moved
        return Picture(array, affine)

    assert aligned(other(1.0, 0, 0, 0.09), grid, "m", "i").affine is grid.affine
    with pytest.raises(ImageError, match=r"up to 0\.1 mm from i, expected at most 0\.1 mm"):
        aligned(other(1.0, 0, 0, 0.12), grid, "m", "i")
    assert aligned(other(1.008, 0, 0, 0), grid, "m", "i").array.shape == array.shape  # 0.096 mm at the last corner
    with pytest.raises(ImageError, match=r"found voxels of 1 x 2 x 3\.06 mm, expected 1 x 2 x 3 mm.*0\.2 mm away"):
        aligned(other(1.02, 0, 0, 0), grid, "m", "i")
