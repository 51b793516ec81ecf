"""Views of a cohort: what is hidden is absent, what is prepared is prepared once."""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import VESSEL, read, write_photographs, write_rows, write_volumes

from allograft.batch import Boxes
from allograft.cohort import Coding, Cohort, Preprocessing, Slices, prepared_images, stored_arrays
from allograft.cohort.alteration import Alteration
from allograft.cohort.geometry import to_grid
from allograft.cohort.preprocessing import Mirror
from allograft.cohort.readers import Series
from allograft.errors import ImageError, ManifestError, SpecError
from allograft.seeds import Seeds


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "cohort", {"a": 2, "b": 3}, (12, 10))


def test_views(manifest: Path) -> None:
    cohort = read(manifest)
    assert (len(cohort), cohort.sites, cohort.subjects) == (5, ("a", "b"), ("a0", "a1", "b0", "b1", "b2"))
    assert cohort.site("b").subjects == ("b0", "b1", "b2")
    assert cohort.of(["b2", "a0"]).subjects == ("a0", "b2")
    assert cohort.site("b").case(0).site.tolist() == [1]
    assert replace(cohort.site("b"), sites=("b",)).case(0).site.tolist() == [0]
    assert replace(cohort.site("b"), sites=("a",)).case(0).site.tolist() == [-1]


def test_sites_and_subjects_are_sorted_whatever_the_rows(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"b": 2, "a": 1}, (12, 10)))
    assert [case.subject for case in cohort.cases] == ["b0", "b1", "a0"]
    assert (cohort.sites, cohort.subjects) == (("a", "b"), ("a0", "b0", "b1"))
    assert cohort.case(0).subjects == ("b0",)
    assert repr(read(write_photographs(tmp_path, dict.fromkeys("gfedcba", 1), (12, 10)))) == (
        "Cohort(7 cases of 7 subjects at a, b, c, d, e, and 2 more; mask)"
    )


def test_the_root_of_a_manifest_may_be_a_folder_above(tmp_path: Path) -> None:
    write_photographs(tmp_path, {"a": 1}, (12, 10))
    (tmp_path / "tables").mkdir()
    manifest = write_rows(tmp_path / "tables" / "rows.csv", [{"image": "../a0.png", "subject": "a", "site": "a"}])
    assert len(read(manifest, root=tmp_path)) == 1
    for options in ({}, {"root": tmp_path / "tables"}):
        with pytest.raises(ManifestError, match="leaves the data folder"):
            read(manifest, **options)


def test_a_case_holds_image_and_mask(manifest: Path) -> None:
    cohort = read(manifest)
    case = cohort.case(1)
    assert (tuple(case.image.shape), case.image.dtype, tuple(case.labels["mask"].shape)) == (
        (1, 1, 12, 10),
        torch.float32,
        (1, 1, 12, 10),
    )
    assert torch.equal(
        case.image[0, 0], torch.from_numpy(np.asarray(Image.open(manifest.parent / "a1.png"), np.float32))
    )
    assert torch.equal(
        case.labels["mask"][0, 0], torch.tensor(np.array(Image.open(manifest.parent / "a1-mask.png"))).long()
    )
    assert case.cases == ("a1.png",)


def test_unlabelled_holds_no_label_and_no_path_to_one(manifest: Path) -> None:
    hidden = read(manifest).unlabelled()
    assert "mask" not in repr(hidden.cases)
    assert not hidden.has_labels
    assert hidden.case(0).labels == {}
    assert hidden.labelled("mask").cases == ()
    with pytest.raises(KeyError):
        _ = hidden.whole(0).mask


def test_all_or_none_have_labels(manifest: Path) -> None:
    rows = read(manifest).cases
    mixed = replace(read(manifest), cases=(rows[0].unlabelled(), *rows[1:]))
    assert read(manifest).has_labels
    assert not mixed.has_labels
    assert mixed.labelled("mask").has_labels
    assert not read(manifest).where(lambda case: False).has_labels


def test_fingerprints_are_per_case(manifest: Path) -> None:
    before = read(manifest).fingerprint()
    mask = manifest.parent / "b1-mask.png"
    Image.fromarray(1 - np.asarray(Image.open(mask))).save(mask)
    after = read(manifest).fingerprint()
    assert [i for i in range(5) if before[0][i] != after[0][i]] == [3]
    assert before[1:] == after[1:]
    hidden = [read(manifest).unlabelled().fingerprint()]
    Image.fromarray(0 * np.asarray(Image.open(mask))).save(mask)
    hidden.append(read(manifest).unlabelled().fingerprint())
    assert hidden[0] == hidden[1] != after


@pytest.mark.parametrize(
    "change",
    [
        lambda cohort: cohort.unlabelled(),
        lambda cohort: cohort.site("a"),
        lambda cohort: replace(cohort, sites=("b", "a")),
        lambda cohort: replace(cohort, slices=Slices()),
        lambda cohort: replace(cohort, chosen=frozenset({("a0.png", 0)})),
        lambda cohort: replace(
            cohort, prepared=replace(cohort.prepared, preprocessing=replace(cohort.prepared.preprocessing, size=(4, 4)))
        ),
        lambda cohort: replace(
            cohort, prepared=replace(cohort.prepared, coding=replace(cohort.prepared.coding, mask={"vessel": (2,)}))
        ),
        lambda cohort: replace(cohort, cases=(replace(cohort.cases[0], subject="x"), *cohort.cases[1:])),
        lambda cohort: replace(cohort, cases=(replace(cohort.cases[0], attributes={"age": "3"}), *cohort.cases[1:])),
        lambda cohort: replace(
            cohort, cases=(replace(cohort.cases[0], region=cohort.cases[0].labels["mask"]), *cohort.cases[1:])
        ),
    ],
)
def test_whatever_a_view_shows_is_in_its_fingerprint(change: Any, manifest: Path) -> None:
    cohort = read(manifest)
    assert change(cohort).fingerprint() != cohort.fingerprint() == read(manifest).fingerprint()


def test_views_that_show_different_things_have_different_fingerprints(manifest: Path) -> None:
    cohort = read(manifest)
    first, coding = cohort.cases[0], Coding(mask={"vessel": (1,)})
    one, two = Boxes(torch.ones(1, 4), torch.tensor([1])), Boxes(torch.ones(1, 4), torch.tensor([2]))
    shown = [
        cohort,
        replace(cohort, slices=Slices(0)),
        replace(cohort, slices=Slices(1)),
        replace(cohort, slices=Slices(1, neighbours=1)),
        cohort.relabelled({first.name: one}),
        cohort.relabelled({first.name: two}),
        *(
            replace(cohort, cases=(replace(first, **change), *cohort.cases[1:]))
            for change in ({"name": "x"}, {"subject": "x"}, {"site": "x"}, {"image": cohort.cases[1].image})
        ),
        *(
            replace(
                cohort,
                prepared=replace(cohort.prepared, coding=other),
                cases=(replace(first, attributes={"sex": "f"}), *cohort.cases[1:]),
            )
            for other in (
                coding,
                Coding(mask={"vein": (1,)}),
                Coding(mask={"vessel": (1, 2)}),
                replace(coding, label=("x", "y")),
                replace(coding, label=("y", "x")),
                replace(coding, label=("y", "x"), several=True),
                replace(coding, paired=1),
                replace(coding, paired=2),
                replace(coding, paired=1, paired_range=(0.0, 1.0)),
                replace(coding, paired=1, paired_range=(0.0, 2.0)),
                replace(coding, boxes=("x", "y")),
                replace(coding, boxes=("y", "x")),
                replace(coding, attributes={"sex": ("f", "m")}),
                replace(coding, attributes={"sex": ("m", "f")}),
            )
        ),
    ]
    assert len({str(view.fingerprint()) for view in shown}) == len(shown)


def test_region_and_attributes(manifest: Path) -> None:
    folder = manifest.parent
    rows = [
        {
            "image": f"b{n}.png",
            "subject": f"b{n}",
            "site": "b",
            "region": f"b{n}-mask.png" if n else "",
            "sex": sex,
            "age": age,
        }
        for n, (sex, age) in enumerate((("m", "30"), ("f", "31.5"), ("", "")))
    ]
    cohort = read(write_rows(folder / "other.csv", rows))
    assert cohort.case(0).region is None
    assert torch.equal(
        cohort.case(1).region[0, 0], torch.from_numpy(np.asarray(Image.open(folder / "b1-mask.png")) > 0)
    )
    assert [cohort.case(i).attributes["sex"].item() for i in range(3)] == [1, 0, -100]
    assert [cohort.case(i).attributes["age"].item() for i in range(2)] == [30, 31.5]
    assert cohort.case(2).attributes["age"].isnan()


# ---------------------------------------------------------- slices
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_have_neighbours_as_channels_and_repeat_the_ends(axis: int, tmp_path: Path) -> None:
    shape = (3, 4, 5)
    cohort = read(write_volumes(tmp_path, [shape]), slices=Slices(axis, neighbours=1))
    i, j, k = np.indices(shape)
    volume = 100 * i + 10 * j + k
    depth = shape[axis]
    assert len(cohort) == depth
    for place in range(depth):
        case = cohort.case(place)
        near = [max(place - 1, 0), place, min(place + 1, depth - 1)]
        expected = np.moveaxis(np.take(volume, near, axis), axis, 0)
        assert np.array_equal(case.image[0].numpy(), expected)
        assert np.array_equal(case.labels["mask"][0, 0].numpy(), np.take(k % 2, place, axis))
        assert case.cases == (f"v0.nii.gz#{place}",)
        assert case.spacing[0].tolist() == [mm for d, mm in enumerate((1.0, 2.0, 3.0)) if d != axis]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_restack_inverts_whole(axis: int, tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(3, 4, 5), (2, 4, 5)]), slices=Slices(axis))
    for which in (0, 1):
        whole = cohort.whole(which)
        assert torch.equal(whole.restack(whole.batch.image), torch.from_numpy(cohort.prepared.image(whole.case)[0]))
        cuts = [cohort.case(item).labels["mask"] for item, (case, _) in enumerate(cohort.items) if case == which]
        assert torch.equal(whole.restack(torch.cat(cuts))[0], whole.mask)
        assert whole.batch.labels == {}  # a predictor is given it as it is


def test_whole_images_restack_to_themselves(manifest: Path) -> None:
    cohort = read(manifest)
    assert torch.equal(cohort.whole(0).restack(cohort.whole(0).batch.image), cohort.case(0).image[0])


def test_few_slices_are_nested(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(2, 3, 5), (2, 3, 4), (2, 3, 3)]), slices=Slices(2))
    assert len(cohort) == 12
    kept = []
    for count in (1, 4, 9, 12):
        few = cohort.few(count, Seeds(1))
        assert len(few) == count
        kept.append({few.case(i).cases[0] for i in range(count)})
        assert {name.split("#")[0] for name in kept[-1]} == {case.name for case in few.cases}
        assert len(few.whole(0).batch) in (5, 4, 3)  # the judge sees the volume whole
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert {cohort.few(4, Seeds(2)).case(i).cases[0] for i in range(4)} != kept[1]


def test_few_cases_are_nested(manifest: Path) -> None:
    cohort = read(manifest)
    kept = [{case.name for case in cohort.few(count, Seeds(0)).cases} for count in (1, 2, 4)]
    assert [len(one) for one in kept] == [1, 2, 4]
    assert kept[0] < kept[1] < kept[2]


def test_slices_of_a_photograph_and_of_no_axis(manifest: Path) -> None:
    with pytest.raises(SpecError, match=r"slices: image 'a0\.png' has 2 axes"):
        len(read(manifest, slices=Slices(1)))
    for wrong in ({"axis": 3}, {"axis": -1}, {"neighbours": -1}):
        with pytest.raises(SpecError, match="slices: found"):
            Slices(**wrong)


# ---------------------------------------------------------- prepared
@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read from image and mask files, in order."""
    seen: list[str] = []
    for name in ("read_image", "read_mask"):
        real = getattr(prepared_images, name)

        def noted(paths: Any, real: Any = real, **options: Any) -> Any:
            seen.append(paths.name if isinstance(paths, Path) else paths[0].name)
            return real(paths, **options)

        monkeypatch.setattr(prepared_images, name, noted)
    return seen


def test_prepared_once_kept_on_disk_and_remade_when_damaged(manifest: Path, tmp_path: Path, reads: list[str]) -> None:
    cohort = read(manifest, cache=tmp_path / "cache").site("a")
    first = [cohort.case(0), cohort.case(0), cohort.case(1)]
    assert sorted(reads) == ["a0-mask.png", "a0.png", "a1-mask.png", "a1.png"]

    again = read(manifest, cache=tmp_path / "cache").site("a")
    assert torch.equal(again.case(0).image, first[0].image)
    assert torch.equal(again.case(0).labels["mask"], first[0].labels["mask"])
    assert len(reads) == 4

    for path in (tmp_path / "cache").rglob("*.npy"):
        whole = path.read_bytes()
        path.unlink()  # the arrays above still lie on it
        path.write_bytes(whole[:-5])
    mended = read(manifest, cache=tmp_path / "cache").site("a")
    assert torch.equal(mended.case(1).image, first[2].image)
    assert reads[4:] == ["a1.png", "a1-mask.png"]


def test_other_preprocessing_is_another_array(manifest: Path, tmp_path: Path, reads: list[str]) -> None:
    one = read(manifest, cache=tmp_path / "cache")
    other = Cohort.read(manifest, one.prepared.coding, cache=tmp_path / "cache")
    assert not torch.equal(one.case(0).image, other.case(0).image)
    assert torch.equal(one.case(0).labels["mask"], other.case(0).labels["mask"])


def test_arrays_of_an_earlier_way_of_reading_are_made_again(
    manifest: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, count in ((1, 2), (2, 4), (1, 4)):
        monkeypatch.setattr(stored_arrays, "_READS", version)
        read(manifest, cache=tmp_path / "cache").case(0)
        assert len(reads) == count


def test_an_image_that_changed_is_read_again(manifest: Path, tmp_path: Path) -> None:
    before = read(manifest, cache=tmp_path / "cache").case(0).image
    Image.fromarray(np.full((12, 10), 9, np.uint8)).save(manifest.parent / "a0.png")
    after = read(manifest, cache=tmp_path / "cache").case(0).image
    assert not torch.equal(before, after)
    assert (after == 9).all()


def test_writing_into_a_case_does_not_change_what_is_kept(manifest: Path, tmp_path: Path) -> None:
    cohort = read(manifest, cache=tmp_path / "cache")
    before = cohort.case(0).image.clone()
    cohort.case(0).image.zero_()
    assert torch.equal(read(manifest, cache=tmp_path / "cache").case(0).image, before)


def _everything(folder: Path, coding: Coding, preprocessing: Preprocessing, cache: Path | None, **changes: Any) -> Any:
    """All arrays that are kept of one photograph of two files, with a mask, a region and a pair."""
    rng = np.random.default_rng(0)
    for name, top in (("a", 250), ("b", 250), ("mask", 3), ("region", 2), ("pair", 250)):
        if not (folder / f"{name}.png").exists():
            Image.fromarray(rng.integers(0, top, (9, 8), np.uint8) * (255 if top == 2 else 1)).save(
                folder / f"{name}.png"
            )
    row = {"image": "a.png;b.png", "mask": "mask.png", "region": "region.png", "paired": "pair.png"}
    manifest = write_rows(folder / "rows.csv", [{**row, "subject": "s", "site": "a", "side": "right"}])
    cohort = Cohort.read(manifest, coding, preprocessing=preprocessing, cache=cache)
    case, prepared = replace(cohort.cases[0], **changes), cohort.prepared
    stored = (prepared.stored_mask(case), prepared.stored_region(case), prepared.stored_pair(case))
    return [
        prepared.image(case)[0],
        prepared.image(case, uncut=True)[0],
        *(prepared.mask(case, uncut=uncut) for uncut in (False, True)),
        *(prepared.region(case, uncut=uncut) for uncut in (False, True)),
        prepared.paired(case),
        *(each.numpy() for each in stored),  # type: ignore[union-attr]
    ]


CODING = Coding(mask={"x": (1,), "y": (2,)}, paired=1, paired_range=(0.0, 255.0))
KEPT: tuple[tuple[Coding, Preprocessing, dict[str, Any]], ...] = (
    (CODING, Preprocessing(intensity="none"), {}),
    (CODING, Preprocessing(intensity="minmax"), {}),
    (CODING, Preprocessing(intensity="none", size=(6, 4)), {}),
    (CODING, Preprocessing(intensity="none", size=(6, 4), fit="crop"), {}),
    (CODING, Preprocessing(intensity="none", channels=1), {}),
    (CODING, Preprocessing(intensity="none", window=(20, 200)), {}),
    (CODING, Preprocessing(intensity="none", mirror=Mirror("side", "right")), {}),
    (CODING, Preprocessing(intensity="none", mirror=Mirror("side", "right", axis=0)), {}),
    (replace(CODING, mask={"x": (2,), "y": (1,)}), Preprocessing(intensity="none"), {}),
    (replace(CODING, paired_range=(0.0, 100.0)), Preprocessing(intensity="none"), {}),
    (
        CODING,
        Preprocessing(intensity="none"),
        {"alteration": Alteration(0.2, 0.8, (1.0,) * 3, (0.0,) * 3, (2.0, 1.0, 0.0))},
    ),
)


def test_no_array_that_is_kept_is_given_for_another(tmp_path: Path) -> None:
    """Whatever other settings kept before, and after each of the files has changed."""
    for number, name in enumerate(("", "b", "mask", "region", "pair")):
        if name:
            with Image.open(tmp_path / f"{name}.png") as picture:
                Image.fromarray(np.asarray(picture)[::-1].copy()).save(tmp_path / f"{name}.png")
        for coding, preprocessing, changes in KEPT[: 1 if number else None]:
            kept = _everything(tmp_path, coding, preprocessing, tmp_path / "cache", **changes)
            made = _everything(tmp_path, coding, preprocessing, None, **changes)
            assert all(map(np.array_equal, kept, made))


def test_every_setting_has_its_effect_on_all_arrays_of_a_case(tmp_path: Path) -> None:
    for setting, shown in ((2, (2, 6, 4)), (3, (2, 6, 4)), (4, (1, 9, 8))):
        assert _everything(tmp_path, *KEPT[setting][:2], None)[0].shape == shown
    uncut = _everything(tmp_path, *KEPT[3][:2], None)
    assert [array.shape[1:] for array in uncut[:6]] == [(6, 4), (6, 5)] * 3
    plain, altered, mirrored = (
        _everything(tmp_path, *KEPT[setting][:2], None, **KEPT[setting][2]) for setting in (0, 10, 6)
    )
    low, high = plain[0].min(), plain[0].max()
    assert altered[0].max() < high - 0.1 * (high - low)
    for place in (2, 4):
        np.testing.assert_array_equal(altered[place][:, 2:, 1:], plain[place][:, :-2, :-1])
        np.testing.assert_array_equal(mirrored[place], plain[place][:, :, ::-1])
    np.testing.assert_allclose(altered[6][:, 2:, 1:], plain[6][:, :-2, :-1], atol=1e-6)
    np.testing.assert_array_equal(plain[4][0], plain[8])  # a region of 0 and 255 counts where it is not 0
    assert plain[4].any()


def test_a_hash_is_of_every_file_that_an_image_is_made_of(tmp_path: Path) -> None:
    paths = tuple(tmp_path / "series" / f"{number}.dcm" for number in range(3))
    (tmp_path / "series").mkdir()
    for path in paths:
        path.write_bytes(b"same")
    header = tmp_path / "pair.mhd"
    header.write_text("ElementDataFile = pair.raw\n")
    (tmp_path / "pair.raw").write_bytes(b"same")
    images = (Series("s", paths), tmp_path / "series", header)
    case = replace(read(write_photographs(tmp_path, {"a": 1})).cases[0], labels={})
    prepared = read(tmp_path / "manifest.csv").prepared

    def hashes() -> list[str]:
        made = [prepared_images.file_hash(image) for image in images]
        return [*made, *(prepared.fingerprint(replace(case, image=(case.image[0], image))) for image in images)]

    before = hashes()
    for number, path in enumerate(paths):
        path.write_bytes(b"else")
        after = hashes()
        assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False] * 2, number
        before = after
    (tmp_path / "pair.raw").write_bytes(b"else")
    assert [old != new for old, new in zip(before, hashes(), strict=True)] == [False, False, True] * 2


def test_a_hash_is_read_again_when_the_size_or_the_time_of_a_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    seen = set()
    for content, time in ((b"one", 10), (b"two", 20), (b"three", 20)):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        seen.add(prepared_images.file_hash(path))
    assert len(seen) == 3


def test_nan_pixels_get_the_value_of_the_preprocessing_and_are_noted(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]], np.float32)
    for name in ("image", "pair"):
        np.save(tmp_path / f"{name}.npy", values)
    manifest = write_rows(
        tmp_path / "rows.csv", [{"image": "image.npy", "paired": "pair.npy", "subject": "s", "site": "a"}]
    )
    coding = Coding(paired=1, paired_range=(0.0, 10.0))
    cohort = Cohort.read(manifest, coding, preprocessing=Preprocessing(intensity="none", nan=7.0))
    batch = cohort.case(0)
    assert batch.image[0, 0].tolist() == [[1, 7, 3], [4, 5, 6]]
    torch.testing.assert_close(batch.labels["paired"], batch.image / 10)
    assert cohort.prepared.notes(cohort.cases[0]) == {"nan": "1 of 6 pixels are NaN"}
    with pytest.raises(ImageError, match="NaN"):
        Cohort.read(manifest, coding).case(0)


@pytest.mark.parametrize("column", ["mask", "region"])
def test_a_mask_of_another_size_names_both(column: str, manifest: Path) -> None:
    Image.fromarray(np.ones((12, 11), np.uint8)).save(manifest.parent / "wide.png")
    row = {"image": "a0.png", "subject": "a0", "site": "a", column: "wide.png"}
    with pytest.raises(
        ImageError, match=r"wide\.png: has shape \(12, 11\), expected \(12, 10\), that of its image 'a0\.png'"
    ):
        read(write_rows(manifest.parent / "other.csv", [row])).case(0)


@pytest.mark.parametrize("size", [(9, 8, 7), (9, 3, 4), (6, 5, 4), (7, 6, 5)])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_the_extent_says_what_is_padding(size: tuple[int, int, int], axis: int | None, tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=size, spacing=(1, 2, 3), intensity="none")
    manifest = write_volumes(tmp_path, [(6, 5, 4)])
    cohort = Cohort.read(
        manifest, VESSEL.coding, preprocessing=preprocessing, slices=None if axis is None else Slices(axis)
    )
    whole, place = cohort.whole(0).batch, cohort.prepared.image(cohort.cases[0])[1]
    assert (whole.extent is None) is (size == (6, 5, 4))
    expected = torch.from_numpy(to_grid(np.ones((1, 6, 5, 4), np.uint8), place, nearest=True)).bool()
    inside = whole.inside()
    assert torch.equal(inside[0] if axis is None else inside[:, 0].movedim(0, axis)[None], expected)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_an_uncut_case_shows_what_the_size_cuts_off_and_pads_what_is_short(axis: int | None, tmp_path: Path) -> None:
    """Of 6 x 5 x 4 voxels 2 are cut off along the first axis, and the last is padded by 3."""
    preprocessing = Preprocessing(size=(4, 5, 7), spacing=(1, 2, 3), intensity="none")
    manifest = write_volumes(tmp_path, [(6, 5, 4)])
    manifest.write_text(manifest.read_text().replace("mask,", "region,", 1))
    slices = None if axis is None else Slices(axis)
    whole = Cohort.read(manifest, VESSEL.coding, preprocessing=preprocessing, slices=slices).whole(0)
    assert (whole.is_cut, whole.geometry.size, whole.geometry.uncut.size) == (True, (4, 5, 7), (6, 5, 7))
    assert whole.cut_off == (pytest.approx(2 * 5 * 4 * 6), "mm3")
    i, j, k = np.indices((6, 5, 4))
    stored = (100 * i + 10 * j + k)[None]
    for batch, laid in ((whole.batch, whole.geometry), (whole.make_uncut(), whole.geometry.uncut)):
        assert np.array_equal(whole.restack(batch.image), to_grid(stored, laid, nearest=False))
        assert batch.region is not None
        assert np.array_equal(whole.restack(batch.region), to_grid(stored % 2, laid, nearest=True))
        true = to_grid(np.ones((1, 6, 5, 4), np.uint8), laid, nearest=True).astype(bool)
        assert np.array_equal(whole.restack(batch.inside()), true)
        back = whole.on_image(batch.image.repeat(1, 2, *[1] * (batch.image.ndim - 2)))
        kept = slice(1, 5) if batch is whole.batch else slice(None)
        assert np.array_equal(back[1][kept], stored[0][kept])
        assert batch.spacing is not None
        assert batch.spacing[0].tolist() == [mm for d, mm in enumerate((1.0, 2.0, 3.0)) if d != axis]


def test_a_cohort_on_disk_holds_no_file_open(tmp_path: Path) -> None:
    """At most sixteen more open files than now, and forty cases of two arrays: every one is used,
    and all stay valid at the same time."""
    manifest = write_photographs(tmp_path / "cohort", {"a": 40}, (64, 64))
    cohort = read(manifest, cache=tmp_path / "cache")
    cohort.case(0)
    before, limits = len(os.listdir("/dev/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 16, limits[1]))
    try:
        cases = [cohort.case(index) for index in range(40)]
        assert len(os.listdir("/dev/fd")) == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    again = read(manifest)
    assert all(torch.equal(case.image, again.case(index).image) for index, case in enumerate(cases))


def test_arrays_beyond_the_most_that_are_mapped_are_mapped_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_arrays, "MAPS", 4)
    manifest = write_photographs(tmp_path / "cohort", {"a": 5}, (64, 64))
    cohort, again = read(manifest, cache=tmp_path / "cache"), read(manifest)
    for index in (0, 1, 2, 3, 4, 0, 4):
        assert torch.equal(cohort.case(index).image, again.case(index).image)
        assert torch.equal(cohort.case(index).labels["mask"], again.case(index).labels["mask"])  # type: ignore[arg-type]
        assert len(cohort.prepared.memory) <= 4


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EMFILE, "Too many open files.*ulimit -n"), (errno.EACCES, "Permission denied.*permissions")],
)
def test_a_file_that_cannot_be_opened_is_reported_as_that(
    code: int, expected: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(manifest, cache=tmp_path / "cache").case(0)

    def refuse(path: Path) -> Any:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(stored_arrays, "_map", refuse)
    with pytest.raises(ImageError, match=rf"\.npy: cannot be opened \({expected}"):
        read(manifest, cache=tmp_path / "cache").case(0)


def test_a_map_that_fails_is_reported_as_that(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("unable to mmap 99 bytes")

    monkeypatch.setattr(torch, "from_file", refuse)
    monkeypatch.setattr(stored_arrays, "SHORT", 0)
    with pytest.raises(ImageError, match=r"cannot be mapped into memory .unable to mmap 99 bytes.*max_map_count"):
        read(manifest, cache=tmp_path / "cache").case(0)
