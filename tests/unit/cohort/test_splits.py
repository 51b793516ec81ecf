"""A subject's place is drawn once and never moves; label budgets are nested."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from allograft.cohort import Case
from allograft.cohort.splits import Assignment, budget_order, draw_splits, read_splits, write_splits
from allograft.errors import SplitError
from allograft.seeds import Seeds


def case(site: str, subject: str, split: str | None = None, picture: int = 0) -> Case:
    return Case(f"{site}/{subject}/{picture}.png", subject, site, (), split=split)


def site(name: str, subjects: int) -> list[Case]:
    return [case(name, f"{name}{number}", picture=picture) for number in range(subjects) for picture in range(2)]


def counts(places: dict[str, Assignment], prefix: str) -> dict[str, int]:
    return dict(Counter(place.split for subject, place in places.items() if subject.startswith(prefix)))


def test_shares_are_of_subjects_and_targets_do_not_validate() -> None:
    places = draw_splits([*site("a", 20), *site("b", 10)], ["a"], test=0.3, val=0.25)
    # a quarter of the 14 left: 3.5, to even
    assert counts(places, "a") == {"test": 6, "val": 4, "train": 10}
    assert counts(places, "b") == {"test": 3, "train": 7}


def test_each_site_has_its_own_share_and_its_own_draw() -> None:
    places = draw_splits([*site("a", 10), *site("b", 10)], ["a", "b"], test={"a": 0.2, "b": 0.5}, val=0.25)
    assert counts(places, "a") == {"test": 2, "val": 2, "train": 6}
    assert counts(places, "b") == {"test": 5, "val": 1, "train": 4}
    tested = [
        {
            subject
            for subject, place in draw_splits([case(name, str(n)) for n in range(12)], []).items()
            if place.split == "test"
        }
        for name in ("a", "b")
    ]
    assert tested == [{"0", "5", "6", "9"}, {"10", "11", "2", "9"}]  # as earlier versions drew them


def test_rows_in_any_order_give_the_same_places() -> None:
    cases = [*site("a", 9), *site("b", 9)]
    expected = draw_splits(cases, ["a"])
    random.Random(0).shuffle(cases)
    assert draw_splits(cases, ["a"]) == expected


@pytest.mark.parametrize("folds", [1, 3])
def test_no_subject_moves_when_subjects_are_added(folds: int) -> None:
    few = draw_splits([*site("a", 5), *site("b", 5)], ["a"], folds=folds)
    more = draw_splits([*site("a", 40), *site("b", 40)], ["a"], folds=folds, known=few)
    assert {subject: more[subject] for subject in few} == few
    assert counts(more, "a") == {"test": 12, "val": 6, "train": 22}
    if folds == 1:
        assert counts(more, "b") == {"test": 12, "train": 28}
    else:
        assert sorted(Counter(more[f"b{number}"].fold for number in range(40)).values()) == [13, 13, 14]


def test_a_known_place_is_kept_whatever_the_shares() -> None:
    known = {f"a{number}": Assignment("test") for number in range(4)}
    places = draw_splits(site("a", 5), ["a"], test=0.2, known=known)
    assert counts(places, "a") == {"test": 4, "val": 1} or counts(places, "a") == {"test": 4, "train": 1}
    assert all(places[subject] == place for subject, place in known.items())


def test_the_manifest_wins_for_all_images_of_a_subject_at_all_sites() -> None:
    cases = [case("z", "s", "val", 0), case("z", "s", None, 1), case("a", "s", None, 2), *site("a", 6)]
    for order in (cases, cases[::-1]):
        assert draw_splits(order, ["a", "z"], known={"s": Assignment("train")})["s"] == Assignment("val")


def test_what_the_manifest_says_counts_towards_the_shares() -> None:
    told = [case("a", f"t{number}", "test") for number in range(3)]
    assert counts(draw_splits([*told, *site("a", 7)], ["a"], test=0.3), "a").get("test", 0) == 0


def test_a_travelling_subject_has_one_place() -> None:
    cases = [*site("a", 6), *site("b", 6), case("a", "t"), case("b", "t")]
    places = draw_splits(cases, ["a"], test=0.5)
    assert len(places) == 13
    assert places["t"].split in ("train", "val", "test")


@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_tiny_sites_keep_a_training_subject(subjects: int) -> None:
    source = counts(draw_splits(site("a", subjects), ["a"], test=0.9, val=0.9), "a")
    assert source["train"] >= 1
    assert source.get("test", 0) == (0 if subjects == 1 else max(1, subjects - 1))
    assert counts(draw_splits(site("b", subjects), [], test=0.1), "b").get("test", 0) == min(1, subjects - 1)


def test_no_test_share_no_test_subjects() -> None:
    assert counts(draw_splits(site("b", 5), [], test=0.0), "b") == {"train": 5}


def test_folds_partition_the_target() -> None:
    places = draw_splits([*site("a", 6), *site("b", 7)], ["a"], folds=3)
    tested = [[s for s in places if s.startswith("b") and places[s].in_fold(fold) == "test"] for fold in range(3)]
    assert sorted(subject for fold in tested for subject in fold) == sorted(s for s in places if s.startswith("b"))
    assert sorted(map(len, tested)) == [2, 2, 3]
    for fold, inside in enumerate(tested):
        others = {places[s].in_fold(fold) for s in places if s.startswith("b") and s not in inside}
        assert others == {"train"}
    assert {places[s].split for s in places if s.startswith("a")} == {"train", "val", "test"}
    assert places["a0"].in_fold(0) == places["a0"].in_fold(2)


def test_more_folds_than_subjects() -> None:
    with pytest.raises(SplitError, match=r"site 'b' has 2 subjects; test: \{folds: 3\} needs at least 3"):
        draw_splits([*site("a", 3), *site("b", 2)], ["a"], folds=3)


def test_known_subjects_count_among_those_that_rotate() -> None:
    known = {"b0": Assignment("fold", 0), "b1": Assignment("fold", 1)}
    places = draw_splits(site("b", 3), [], folds=3, known=known)
    assert places["b2"] == Assignment("fold", 2)
    tested = {f"b{number}": Assignment("test") for number in range(3)}
    with pytest.raises(SplitError, match=r"site 'b': fold 1 has no test subject, .*never move; choose another --out"):
        draw_splits(site("b", 4), [], folds=2, known=tested)


def test_rows_of_subjects_without_a_place_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    write_splits(path, draw_splits(site("a", 3), []), site("a", 3))
    write_splits(path, {"a1": Assignment("val"), "b0": Assignment("fold", 2)}, [case("c", "b0")])
    assert path.read_text() == "subject,site,split,fold\na1,a,val,-1\nb0,c,fold,2\n"


def test_written_and_read(tmp_path: Path) -> None:
    cases = [*site("a", 4), *site("b", 5), case("b", "a0"), case("b", "Jos\u00e9")]
    places = draw_splits(cases, ["a"], folds=2)
    path = tmp_path / "splits.csv"
    assert read_splits(path) == {}
    write_splits(path, places, cases)
    assert read_splits(path) == places
    rows = path.read_text().splitlines()
    assert rows[0] == "subject,site,split,fold"
    assert rows[1:] == sorted(rows[1:], key=lambda row: (row.split(",")[1], row.split(",")[0]))
    assert sum(row.startswith("a0,") for row in rows) == 2


def test_a_subject_that_a_filter_leaves_out_keeps_its_row(tmp_path: Path) -> None:
    cases, path = site("a", 6), tmp_path / "splits.csv"
    places = draw_splits(cases, ["a"])
    write_splits(path, places, cases)
    fewer = draw_splits(cases[:4], ["a"], known=read_splits(path))
    write_splits(path, fewer, cases[:4])
    assert read_splits(path) == places


@pytest.mark.parametrize("row", ["s,a,tset,-1", "s,a,test,x", "s,a", "s"])
def test_a_row_that_was_mangled_by_hand(row: str, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text(f"subject,site,split,fold\nt,a,test,-1\n{row}\n")
    with pytest.raises(SplitError, match=r"splits\.csv, row 3"):
        read_splits(tmp_path / "splits.csv")


def test_budgets_are_nested_and_change_with_the_seed() -> None:
    names = [f"s{number}" for number in range(12)]
    order = budget_order(names, Seeds(0, ("budget", "b")))
    assert sorted(order) == sorted(names)
    assert budget_order([*names[::-1], "s3"], Seeds(0, ("budget", "b"))) == order
    others = {tuple(budget_order(names, seeds)) for seeds in (Seeds(1, ("budget", "b")), Seeds(0, ("budget", "c")))}
    assert tuple(order) not in others
    assert len(others) == 2
