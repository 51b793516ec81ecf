"""The leakage gate: copies are found whatever holds them, patients that look alike are not, and
nothing is left across sides."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from allograft.cohort import Case, copies, near_duplicates, read_manifest
from allograft.cohort.copies import Findings, Pair, compare, find_duplicates
from allograft.cohort.gate import check_leakage, check_masks, contact_sheet, grouped, sides_of
from allograft.cohort.near_duplicates import (
    SIDE,
    Fingerprint,
    correlate,
    fingerprint,
    perceptual_hash,
    propose,
    standardised,
    thumbnail,
)
from allograft.cohort.readers import Picture, read_image
from allograft.cohort.splits import Assignment, draw_splits
from allograft.cohort.writers import write_mask
from allograft.errors import ImageError, LeakageError, ManifestError, SpecError


def blobs(seed: int, size: int = 96) -> np.ndarray:
    """Smooth noise, (size, size) uint8: natural enough for a perceptual hash."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=(size, size)))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    image = np.fft.irfft2(spectrum / (frequency + 0.01) ** 2.5, s=(size, size))
    return np.asarray((image - image.min()) / np.ptp(image) * 255, np.uint8)


def keep(
    folder: Path, images: dict[str, np.ndarray], subjects: Sequence[str] = (), splits: Sequence[str] = ()
) -> tuple[Case, ...]:
    for name, array in images.items():
        Image.fromarray(array).save(folder / name)
    rows = enumerate(images)
    return tuple(
        Case(name, subjects[i] if subjects else str(i), "a", (folder / name,), split=splits[i] if splits else None)
        for i, name in rows
    )


# ---------------------------------------------------------- finding
def test_a_copy_is_found_whatever_file_holds_it(tmp_path: Path) -> None:
    image = blobs(0)
    cases = keep(
        tmp_path, {"a.png": image, "b.tif": image, "c.bmp": np.repeat(image[..., None], 3, 2), "d.png": blobs(1)}
    )
    Image.fromarray(image).save(tmp_path / "a.png", compress_level=0)
    found = find_duplicates(cases)
    assert found.copies == (("a.png", "b.tif", "c.bmp"),)
    assert found.near == found.weak == ()


def test_one_changed_pixel_is_no_exact_copy_but_a_near_one(tmp_path: Path) -> None:
    image = blobs(0)
    other = image.copy()
    other[5, 5] ^= 255
    found = find_duplicates(keep(tmp_path, {"a.png": image, "b.png": other}))
    assert found.copies == ()
    assert [(pair.first, pair.second, pair.why) for pair in found.near] == [("a.png", "b.png", "near")]


@pytest.mark.parametrize("change", ["jpeg", "shift", "gamma", "half", "crop"])
def test_a_changed_copy_is_near(tmp_path: Path, change: str) -> None:
    image = blobs(3, 192)
    cases = keep(tmp_path, {"a.png": image, "c.png": blobs(4, 192)})
    path = tmp_path / "b.png"
    changed = {
        "jpeg": image,
        "shift": np.roll(image, (6, -3), (0, 1)),
        "gamma": np.asarray(255 * (image / 255) ** 1.1, np.uint8),
        "half": np.asarray(image.reshape(96, 2, 96, 2).mean((1, 3)), np.uint8),
        "crop": image[1:-1, 1:-1],
    }[change]
    if change == "jpeg":
        path = tmp_path / "b.jpg"
    Image.fromarray(changed).save(path, **({"quality": 60} if change == "jpeg" else {}))
    found = find_duplicates((*cases, Case("b", "9", "b", (path,))))
    assert [(pair.first, pair.second) for pair in found.near] == [("a.png", "b")]


def test_flips_constant_images_and_one_subjects_images_are_no_near_duplicates(tmp_path: Path) -> None:
    image = blobs(0)
    flat, other = np.zeros((8, 8), np.uint8), np.full((8, 8), 7, np.uint8)
    noisy = np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8)
    images = {"a.png": image, "b.png": image[:, ::-1], "c.png": flat, "d.png": other, "e.png": noisy}
    found = find_duplicates(keep(tmp_path, images, subjects=["1", "2", "3", "4", "1"]))
    assert (found.copies, found.near, found.weak) == ((), (), ())


def test_volumes_are_compared_by_their_voxels_alone(tmp_path: Path) -> None:
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 50
    names = ("a.nii.gz", "b.nii", "c.nii.gz")
    for name, values in zip(names, (volume, volume, volume + (volume == 3)), strict=True):
        write_mask(tmp_path / name, values, np.eye(4))
    found = find_duplicates([Case(name, name, "a", (tmp_path / name,)) for name in names])
    assert (found.copies, found.near, found.weak) == ((("a.nii.gz", "b.nii"),), (), ())


def test_the_type_that_holds_whole_numbers_does_not_matter() -> None:
    array = blobs(0)[None]
    hashes = {
        fingerprint(Picture(array.astype(kind), None)).pixels for kind in (np.uint8, np.uint16, np.int32, np.float32)
    }
    assert len(hashes) == 1
    assert fingerprint(Picture(array + np.float32(0.5), None)).pixels not in hashes
    assert fingerprint(Picture(array.reshape(1, 48, 192), None)).pixels not in hashes


def test_every_pair_within_the_distance_is_proposed_and_no_other() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**20, 5000, dtype=np.uint64)
    found = {tuple(pair) for block in propose(hashes, 3) for pair in block.tolist()}
    some = rng.integers(0, 5000, (20000, 2))
    for i, j in np.sort(some[some[:, 0] != some[:, 1]], axis=1).tolist():
        assert ((i, j) in found) == (int(hashes[i] ^ hashes[j]).bit_count() <= 3)


def test_correlation_is_numpys_at_the_best_shift() -> None:
    first, second = (standardised(blobs(seed, 64).astype(np.float32)) for seed in (1, 2))
    slow = max(
        np.corrcoef(first[r : r + 58, c : c + 58].ravel(), second[3:61, 3:61].ravel())[0, 1]
        for r in range(7)
        for c in range(7)
    )
    assert correlate(first[None], second[None])[0] == pytest.approx(slow, abs=1e-4)
    assert perceptual_hash(first[None])[0] != perceptual_hash(second[None])[0]


def smooth(seed: int) -> np.ndarray:
    """(SIDE, SIDE) of mean 0 and norm 1."""
    return standardised(gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 4, mode="wrap"))


def prints_of(images: dict[str, np.ndarray]) -> dict[str, Fingerprint]:
    return {name: Fingerprint(str(image.tobytes()), standardised(image)) for name, image in images.items()}


def test_a_weak_pair_is_alike_beyond_what_the_images_of_its_site_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sites of four images, all of a site alike; two of them share something of their own. And
    three images of a third site, too few to tell what they share."""
    monkeypatch.setattr(near_duplicates.propose, "__defaults__", (64,))
    images = {f"{site}{n}": smooth(s) + 0.15 * smooth(10 * s + n) for s, site in enumerate("pq", 1) for n in range(4)}
    images["q3"] = images["q0"] + 0.05 * smooth(30)
    images |= {f"r{n}": smooth(3) + 0.15 * smooth(40 + n) for n in range(3)}
    cases = [Case(name, f"{number}", name[0], ()) for number, name in enumerate(images)]
    found = compare(prints_of(images), cases, threshold=0.9995)
    assert found.near == ()
    assert {(pair.first, pair.second) for pair in found.weak} == {
        ("q0", "q3"),
        *combinations(("r0", "r1", "r2"), 2),
    }
    assert all(0.95 < pair.correlation < 0.9995 for pair in found.weak)
    assert [pair.correlation for pair in found.weak] == sorted((pair.correlation for pair in found.weak), reverse=True)
    lower = compare(prints_of(images), cases, threshold=0.96)
    assert {(pair.first[0], pair.second[0]) for pair in lower.near} == {("p", "p"), ("q", "q"), ("r", "r")}
    alone = [Case(name, "one" if name[0] == "q" else f"{number}", "x", ()) for number, name in enumerate(images)]
    pairs = compare(prints_of(images), alone, threshold=0.96).near
    assert {(pair.first[0], pair.second[0]) for pair in pairs} == {("p", "p"), ("r", "r")}  # one subject's are left out


def test_equal_pictures_of_two_subjects_are_each_compared_with_others() -> None:
    """Of a and b, which are equal, a is of the subject of c: c is alike to b alone."""
    images = {"c": smooth(1) + 0.05 * smooth(2), "b": smooth(1), "a": smooth(1)}
    prints = prints_of(images)
    prints["b"] = replace(prints["b"], pixels="same")
    prints["a"] = replace(prints["a"], pixels="same")
    cases = [Case(name, subject, "s", ()) for name, subject in (("c", "1"), ("b", "2"), ("a", "1"))]
    found = compare(prints, [*cases, Case("unread", "3", "s", ())])
    assert [(pair.first, pair.second) for pair in found.near] == [("b", "c")]
    assert {(pair.first, pair.second) for pair in found.alike()} == {("b", "c"), ("a", "c")}
    assert (found.copies, found.subjects) == ((("a", "b"),), {"c": "1", "b": "2", "a": "1"})
    several = compare(prints, [replace(case, subject=case.name) for case in cases])
    assert [(pair.first, pair.second) for pair in several.near] == [("a", "c"), ("b", "c")]


def test_the_kept_findings_are_of_all_channels_and_of_the_threshold(tmp_path: Path) -> None:
    """NaN pixels are no reason to refuse an image here."""
    names = ("a", "b", "c", "d")
    first = blobs(0).astype(np.float32)
    for name, array in zip(names, (first, blobs(1).astype(np.float32), first, blobs(2)), strict=True):
        np.save(tmp_path / f"{name}.npy", np.where(np.eye(96, dtype=bool), np.nan, array))
    cases = [
        Case("ab", "1", "s", (tmp_path / "a.npy", tmp_path / "b.npy")),
        Case("cd", "2", "s", (tmp_path / "c.npy", tmp_path / "d.npy")),
    ]
    cache = tmp_path / "cache"
    assert (
        find_duplicates(cases, cache=cache)
        == find_duplicates(cases)
        == Findings({"ab": "1", "cd": "2"}, find_duplicates(cases).pixels)
    )
    (tmp_path / "d.npy").write_bytes((tmp_path / "b.npy").read_bytes())
    assert find_duplicates(cases, cache=cache).copies == (("ab", "cd"),)
    np.save(tmp_path / "d.npy", np.where(np.eye(96, dtype=bool), np.nan, blobs(1) + 0.2 * blobs(9)))
    near, weak = (find_duplicates(cases, threshold=threshold, cache=cache) for threshold in (0.95, 0.99999))
    assert [pair.why for pair in (*near.near, *near.weak)] == ["near"]
    assert weak.near == ()


def test_a_thumbnail_is_of_all_channels_and_equal_ones_alone_are_grey() -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
    for array in (colour, colour.astype(np.float32), colour[:2]):
        np.testing.assert_allclose(thumbnail(array), array.mean(0), atol=1e-3)
    grey = colour[:1].repeat(3, 0)
    partly = np.stack([colour[0], colour[0], colour[2]])
    assert fingerprint(Picture(grey, None)).pixels == fingerprint(Picture(colour[:1], None)).pixels
    assert fingerprint(Picture(partly, None)).pixels != fingerprint(Picture(colour[:1], None)).pixels


def test_findings_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = keep(tmp_path, {"a.png": blobs(0), "b.png": blobs(0), "c.jpg": blobs(0)})
    first = find_duplicates(cases, cache=tmp_path / "cache")
    calls: list[object] = []
    monkeypatch.setattr(copies, "read_image", lambda paths, nan: calls.append(paths) or read_image(paths, nan=nan))
    assert find_duplicates(cases, cache=tmp_path / "cache") == first
    assert calls == []
    find_duplicates([replace(case, site="another") for case in cases], cache=tmp_path / "cache")
    assert len(calls) == 3  # what all images of a site share is another thing then
    moved = [replace(cases[0], subject="another"), *cases[1:]]
    assert find_duplicates(moved, cache=tmp_path / "cache").subjects["a.png"] == "another"
    Image.fromarray(blobs(7)).save(tmp_path / "b.png")
    assert find_duplicates(cases, cache=tmp_path / "cache").copies == ()
    (kept, *_) = (tmp_path / "cache").iterdir()
    for file in (tmp_path / "cache").iterdir():
        file.write_text('{"near": 3}')
    # a damaged file is made again
    assert find_duplicates(cases, cache=tmp_path / "cache").copies == ()
    assert kept.exists()


def test_an_unreadable_image_and_a_senseless_threshold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"a\.png"):
        find_duplicates([Case("a.png", "1", "a", (tmp_path / "a.png",))])
    with pytest.raises(SpecError, match="threshold"):
        find_duplicates([], threshold=0.5)
    assert find_duplicates([]) == Findings()


# ---------------------------------------------------------- deciding
FOUND = Findings(
    {"a": "1", "b": "2", "c": "3", "d": "4", "e": "1"},
    {"a": "x", "b": "x", "c": "y", "d": "z", "e": "w"},
    (Pair("b", "c", "near", 0.995),),
    (Pair("c", "d", "weak", 0.96),),
)


def test_within_one_side_nothing_happens() -> None:
    assert check_leakage(dict.fromkeys("abcde", "train"), FOUND) == ()
    assert check_leakage({"a": "train"}, FOUND) == ()


def test_every_kind_of_leak_stops_with_its_pair_and_the_mend() -> None:
    with pytest.raises(LeakageError, match=r"'a' and 'e' \(same subject\): train and test.*give them one split"):
        check_leakage({"a": "train", "e": "test"}, FOUND)
    with pytest.raises(LeakageError, match=r"'a' and 'b' \(same pixels\): pool and test.*near_duplicates: group"):
        check_leakage({"a": "pool", "b": "test"}, FOUND)
    with pytest.raises(
        LeakageError, match=r"2 pairs.*'a' and 'c' \(correlation 0\.995\): fold 0 and fold 1"
    ):  # through its copy b
        check_leakage({"a": "fold 0", "b": "fold 0", "c": "fold 1"}, FOUND)
    assert LeakageError.exit_code == 2


def test_warnings_come_back_and_allowed_pairs_pass() -> None:
    sides = {"b": "train", "c": "test", "d": "train"}
    with pytest.raises(LeakageError):
        check_leakage(sides, FOUND)
    warned = check_leakage(sides, FOUND, near_duplicates="warn")
    assert [(pair.first, pair.second, pair.why) for pair in warned] == [("b", "c", "near"), ("c", "d", "weak")]
    assert [pair.why for pair in check_leakage(sides, FOUND, allow=[("c", "b")])] == ["weak"]
    with pytest.raises(SpecError, match="allow_duplicates: no case 'q'"):
        check_leakage(sides, FOUND, allow=[("c", "q")])
    with pytest.raises(LeakageError, match="same pixels"):  # only near ones may be waved through
        check_leakage({"a": "train", "b": "test"}, FOUND, near_duplicates="warn")


def test_the_surest_leaks_are_named_first_and_the_fix_is_that_of_all() -> None:
    found = Findings(
        dict(zip("abcdefgh", "11234567", strict=True)),
        dict(zip("abcdefgh", "xyzzuvwt", strict=True)),
        (Pair("e", "f", "near", 0.991), Pair("g", "h", "near", 0.998)),
    )
    sides = {name: "train" if name in "aceg" else "test" for name in "abcdefgh"}
    with pytest.raises(LeakageError) as error:
        check_leakage(sides, found)
    told = str(error.value)
    pairs = (
        "'a' and 'b' (same subject)",
        "'c' and 'd' (same pixels)",
        "'g' and 'h' (correlation 0.998)",
        "'e' and 'f'",
    )
    places = [told.index(pair) for pair in pairs]
    assert places == sorted(places)
    assert "near_duplicates: group gives them one split" in told
    assert told.endswith("allow_duplicates: [['a', 'b']]")
    with pytest.raises(LeakageError, match="give them one split, remove one of each"):
        check_leakage(sides, found, near_duplicates="group")
    every = [("c", "d"), ("e", "f"), ("h", "g")]
    with pytest.raises(LeakageError, match=r"1 pair of cases.*'a' and 'b'.*give them one split, remove one of each"):
        check_leakage(sides, found, allow=every)
    assert [
        pair.first for pair in check_leakage({**sides, "b": "train"}, found, near_duplicates="warn", allow=every[:1])
    ] == ["e", "g"]
    assert check_leakage({name: side for name, side in sides.items() if name not in "bdfh"}, found) == ()


def test_each_case_has_the_side_of_its_subject_and_each_fold_is_one() -> None:
    cases = [Case(name, name, "s", ()) for name in "abcd"]
    assignments = {"a": Assignment("test"), "b": Assignment("fold", 0), "c": Assignment("fold", 1)}
    assert sides_of(cases, assignments) == {"a": "test", "b": "fold 0", "c": "fold 1"}


def test_one_mask_of_several_subjects_is_refused_unless_it_is_blank(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("two", 1), ("blank", 0)):
        write_mask(tmp_path / f"{name}.png", np.full((4, 5), value), None)
    rows = (("a", "1", "one"), ("b", "1", "one"), ("c", "2", "blank"), ("d", "3", "blank"))
    cases = [Case(name, subject, "s", (), {"mask": tmp_path / f"{mask}.png"}) for name, subject, mask in rows]
    check_masks(cases)
    third = Case("e", "4", "s", (), {"mask": tmp_path / "one.png"})
    with pytest.raises(ManifestError, match=r"'one\.png' is named for 2 subjects, by images 'a', 'b', 'e'; give each"):
        check_masks([*cases, third])
    others = [Case(name, name, "s", (), {"mask": tmp_path / "two.png"}) for name in "fg"]
    with pytest.raises(ManifestError, match=r"by images 'a', 'b', 'e' \(and 1 more such files\)"):
        check_masks([*cases, third, *others])


def test_at_most_ten_pairs_are_listed() -> None:
    names = [str(i) for i in range(30)]
    found = Findings({name: name for name in names}, dict.fromkeys(names, "x"))
    with pytest.raises(LeakageError, match=r"29 pairs.*and 19 more") as error:
        check_leakage({name: "test" if name == "0" else "train" for name in names}, found)
    assert str(error.value).count("same pixels") == 10


def cases_of(found: Findings, **splits: str) -> tuple[Case, ...]:
    return tuple(Case(name, subject, "a", (), split=splits.get(name)) for name, subject in found.subjects.items())


def test_grouping_follows_chains_and_keeps_whoever_is_placed() -> None:
    names = [case.subject for case in grouped(cases_of(FOUND), FOUND)]
    assert names == ["1", "1", "1", "4", "1"]
    known = {"3": Assignment("test"), "4": Assignment("train")}
    assert [case.subject for case in grouped(cases_of(FOUND), FOUND, known=known)] == ["3", "3", "3", "4", "3"]
    apart = grouped(cases_of(FOUND), FOUND, allow=[("a", "b"), ("a", "c")])
    assert [case.subject for case in apart] == ["1", "2", "2", "4", "1"]


def test_grouping_refuses_what_is_placed_apart() -> None:
    with pytest.raises(LeakageError, match="splits\\.csv"):
        grouped(cases_of(FOUND), FOUND, known={"2": Assignment("test"), "3": Assignment("train")})
    with pytest.raises(LeakageError, match="split column"):
        grouped(cases_of(FOUND, a="train", b="test"), FOUND)


def test_a_group_that_the_manifest_or_an_earlier_run_has_split_is_refused_unless_it_is_allowed() -> None:
    found = Findings({"a": "1", "b": "2", "c": "3"}, {"a": "x", "b": "x", "c": "y"}, (Pair("b", "c", "near", 0.995),))
    cases = cases_of(found, a="train", b="train", c="test")
    with pytest.raises(LeakageError, match=r"2 pairs.*'a' and 'c'"):
        grouped(cases, found)
    allow = [("b", "c"), ("a", "c")]
    assert [case.subject for case in grouped(cases, found, allow=allow)] == ["1", "1", "3"]
    # what the manifest says now is what counts
    known = {"1": Assignment("train"), "2": Assignment("test")}
    assert [case.subject for case in grouped(cases, found, allow=allow, known=known)] == ["1", "1", "3"]
    weak = replace(found, near=(), weak=(Pair("b", "c", "weak", 0.96),))
    assert [case.subject for case in grouped(cases, weak)] == ["1", "1", "3"]
    three = Findings(dict(zip("abc", "123", strict=True)), dict.fromkeys("abc", "x"))
    apart = grouped(cases_of(three), three, allow=[("a", "b"), ("b", "c")])
    assert [case.subject for case in apart] == ["1", "2", "1"]  # a and c are still equal
    one = grouped(cases_of(three)[:2], three)  # a filter leaves c out
    assert [case.subject for case in one] == ["1", "1"]


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Findings, list[str]]:
    size = draw(st.integers(2, 14))
    names = [f"c{i}" for i in range(size)]
    number = st.integers(0, size)
    subjects = {name: str(draw(number)) for name in names}
    pixels = {name: str(draw(number)) for name in names}
    pairs = draw(st.lists(st.sampled_from(list(combinations(names, 2))), max_size=6, unique=True))
    near = tuple(Pair(*pair, "near", 0.995) for pair in pairs if subjects[pair[0]] != subjects[pair[1]])
    return Findings(subjects, pixels, near), [draw(st.sampled_from("ab")) for _ in names]


@given(cohorts(), st.integers(1, 2))
def test_grouping_never_leaves_a_pair_across_sides(cohort: tuple[Findings, list[str]], folds: int) -> None:
    found, sites = cohort
    if folds > 1:  # one patient at a source and at a target that rotates is refused by draw_splits
        sites = ["b"] * len(sites)
    cases = [replace(case, site=site) for case, site in zip(cases_of(found), sites, strict=True)]
    merged = grouped(cases, found)
    enough = all(len({case.subject for case in merged if case.site == site}) >= folds for site in set(sites))
    sides = sides_of(merged, draw_splits(merged, ["a"], folds=folds if enough else 1))
    assert len(sides) == len(cases)
    assert check_leakage(sides, found) == ()


def test_a_contact_sheet_shows_each_pair(tmp_path: Path) -> None:
    cases = keep(tmp_path, {"a.png": blobs(0), "b.png": blobs(0)[1:]})
    contact_sheet([Pair("a.png", "b.png", "weak", 0.96)] * 5, cases, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 146, 4 * 274)
    assert np.ptp(sheet[146:, :128]) > 200
    assert np.ptp(sheet[146:, 300:]) == 0


def test_a_contact_sheet_has_the_first_image_left_the_second_right_and_no_more_than_asked(tmp_path: Path) -> None:
    dark, bright = np.zeros((128, 128), np.float32), np.zeros((128, 128), np.float32)
    dark[:64], bright[64:] = 1, 1
    dark[0, 0] = np.nan
    deep = np.stack([bright, dark, bright], -1)
    for name, array in (("a", dark[None]), ("b", bright[None]), ("c", np.nan_to_num(deep)[None])):
        np.save(tmp_path / f"{name}.npy", array)
    cases = [Case(name, name, "s", (tmp_path / f"{name}.npy",)) for name in "abc"]
    pairs = [
        Pair("a", "b", "near", 0.99),
        Pair("b", "c", "weak", 0.96),
        Pair("a", "gone", "weak", 0.95),
        Pair("a", "a", "x"),
    ]
    contact_sheet(pairs, cases, tmp_path / "sheet.png", most=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (146, 4 * 274)
    tops = [sheet[30:70, left + 10 : left + 118].mean() > 128 for left in (0, 128, 274, 402)]
    bottoms = [sheet[100:140, left + 10 : left + 118].mean() > 128 for left in (0, 128, 274, 402)]
    assert (tops, bottoms) == ([True, False, False, True], [False, True, True, False])
    assert (sheet[:, 2 * 274 :] == 255).all()


# ---------------------------------------------------------- real cohorts
def test_vessels_pass_untouched(data_root: Path) -> None:
    cases = read_manifest(data_root / "vessels" / "manifest.csv")
    found = find_duplicates(cases)
    prints = perceptual_hash(np.stack([fingerprint(read_image(case.image)).thumbnail for case in cases[:20]]))  # type: ignore[misc]
    assert any(len(block) for block in propose(prints, 4))  # the hash alone would pair patients
    assert (found.copies, found.near, found.weak) == ((), (), ())
    assert grouped(cases, found) == cases


def test_breast_ultrasound_holds_at_least_twenty_near_duplicates(data_root: Path) -> None:
    cases = read_manifest(data_root / "breast_ultrasound" / "manifest.csv")
    found = find_duplicates(cases)
    assert 20 <= len(found.near) <= 60
    with pytest.raises(LeakageError):
        check_leakage(sides_of(cases, draw_splits(cases, ["busi"])), found)
    merged = grouped(cases, found)
    check_leakage(sides_of(merged, draw_splits(merged, ["busi"])), found)
    assert len({case.subject for case in merged}) > 0.9 * len(cases)


def test_patients_of_chest_xray_are_not_taken_for_one_another(data_root: Path) -> None:
    cases = [case for case in read_manifest(data_root / "chest_xray" / "manifest.csv")][::2]
    found = find_duplicates(cases)
    assert found.near == ()
    assert len(found.weak) <= 5


def test_the_eight_leaks_of_pneumonia_mnist(data_root: Path, tmp_path: Path) -> None:
    stored = np.load(data_root / "pneumonia_mnist" / "pneumoniamnist.npz")
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "subject", "site", "split"])
        checked = {image.tobytes() for image in stored["val_images"]}
        for part in ("train", "val"):
            for number, image in enumerate(stored[f"{part}_images"]):
                if part == "train" and number % 12 and image.tobytes() not in checked:
                    continue  # a twelfth of those that leak nothing, to be quick
                Image.fromarray(image).save(tmp_path / f"{part}-{number}.png", compress_level=1)
                writer.writerow([f"{part}-{number}.png", f"{part}-{number}", "chest", part])
    cases = read_manifest(tmp_path / "manifest.csv")
    found = find_duplicates(cases)
    sides = {case.name: str(case.split) for case in cases}
    with pytest.raises(LeakageError) as error:
        check_leakage(sides, found)
    leaks = {
        name
        for group in found.copies
        for name in group
        if len({sides[other] for other in group}) > 1 and sides[name] == "val"
    }
    assert len(leaks) == 8
    assert "same pixels" in str(error.value)


def test_pairs_of_a_cohort_that_is_all_alike_are_correlated_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 images, 780 pairs that the hashes propose: none is looked at alone, and the numbers are the
    same as if each were."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 8)
    images = standardised(
        smooth + 0.1 * np.stack([gaussian_filter(rng.normal(size=(SIDE, SIDE)), 4) for _ in range(40)])
    )
    names = [str(number) for number in range(40)]
    looked: list[int] = []
    real = near_duplicates.correlate
    monkeypatch.setattr(
        near_duplicates, "correlate", lambda first, *rest: looked.append(len(first)) or real(first, *rest)
    )
    monkeypatch.setattr(near_duplicates, "_SQUARE", 16)
    monkeypatch.setattr(near_duplicates.propose, "__defaults__", (64,))
    blocks = list(near_duplicates.near_duplicate_pairs(images, names, 0.95))
    assert looked == []
    assert len(blocks) > 100
    monkeypatch.setattr(near_duplicates, "_DENSE", 2)  # more than all pairs
    alone = list(near_duplicates.near_duplicate_pairs(images, names, 0.95))
    assert sum(looked) > 780
    assert [pair[:2] for pair in blocks] == [pair[:2] for pair in alone]
    np.testing.assert_allclose([pair[2] for pair in blocks], [pair[2] for pair in alone], atol=2e-6)


def test_correlations_of_pairs_are_those_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense and sparse blocks, in any order, the last block a short one."""
    monkeypatch.setattr(near_duplicates, "_SQUARE", 8)
    monkeypatch.setattr(near_duplicates, "_DENSE", 0.3)
    rng = np.random.default_rng(1)
    images = standardised(rng.normal(size=(21, SIDE, SIDE)).cumsum(1).cumsum(2))
    pairs = rng.permutation(np.array([(i, j) for i in range(21) for j in range(i + 1, 21) if i < 12 or j == 20]))
    for shift in (0, 2):
        expected = [near_duplicates.correlate(images[i : i + 1], images[j : j + 1], shift)[0] for i, j in pairs]
        np.testing.assert_allclose(near_duplicates.correlate_pairs(images, pairs, shift), expected, atol=2e-6)
    assert near_duplicates.correlate_pairs(images, pairs[:0]).shape == (0,)
